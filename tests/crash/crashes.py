"""What the tests here ask for: boundaries of a phase, and a process stopped at each of some of them."""

from __future__ import annotations

from tests.crash.cases import PHASES, Case, Outcome, Phase, boundaries, carry_out, prepare
from tests.crash.lab import Lab

TRIES = 3


class Crashes:
    """A lab with its stages, and the boundaries of every phase as they were counted once."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self._counted: dict[Phase, dict[str, list[str]]] = {}
        prepare(lab)

    def boundaries(self, phase: str) -> dict[str, list[str]]:
        """Role -> boundaries."""
        found = PHASES[phase]
        if found not in self._counted:
            self._counted[found] = boundaries(self._lab, found)
        return self._counted[found]

    def boundaries_cold(self, phase: str) -> dict[str, list[str]]:
        """The same for an mqi that a fresh interpreter runs."""
        return boundaries(self._lab, PHASES[phase], self._lab.cold_mqi)

    def check(self, phase: str, role: str, chosen: list[tuple[str, str]]) -> None:
        """Carry out every (boundary, fault), and fail with all that was wrong after them."""
        outcomes = [self._outcome(Case(PHASES[phase], role, *one)) for one in chosen]
        wrong = [
            f"{outcome.case}:\n    " + "\n    ".join(outcome.wrong) for outcome in outcomes if outcome.wrong
        ]
        assert not wrong, f"{len(wrong)} of {len(outcomes)} cases:\n" + "\n".join(wrong)
        # A few boundaries are crossed only when two processes get in each other's way.
        missed = [str(outcome.case) for outcome in outcomes if not outcome.reached]
        assert len(missed) <= 1 + len(outcomes) // 5, "never came there:\n" + "\n".join(missed)

    def _outcome(self, case: Case) -> Outcome:
        """Which of two processes comes first is a matter of luck: a few tries to come to the boundary."""
        for _try in range(TRIES):
            outcome = carry_out(self._lab, case)
            if outcome.reached or outcome.wrong:
                break
        return outcome
