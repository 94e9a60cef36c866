from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.crash.cases import PHASES, Case, Phase, boundaries, carry_out, prepare
from tests.crash.lab import Lab

# A process that is killed loses nothing that it has written: whether there is a real disk below is no matter
# here, and without one these tests take half the time.
MEMORY = Path("/dev/shm")
ROOM = 1 << 30


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

    def check(self, phase: str, role: str, chosen: list[tuple[str, str]]) -> None:
        """Carry out every (boundary, fault), and fail with all that was wrong after them."""
        outcomes = [carry_out(self._lab, Case(PHASES[phase], role, *one)) for one in chosen]
        wrong = [
            f"{outcome.case}:\n    " + "\n    ".join(outcome.wrong) for outcome in outcomes if outcome.wrong
        ]
        assert not wrong, f"{len(wrong)} of {len(outcomes)} cases:\n" + "\n".join(wrong)
        # Which of two processes comes first is a matter of luck, and a few boundaries are only in one's way.
        missed = [str(outcome.case) for outcome in outcomes if not outcome.reached]
        assert len(missed) <= 1 + len(outcomes) // 5, "never came there:\n" + "\n".join(missed)


@pytest.fixture(scope="session")
def crashes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Crashes]:
    if sys.platform != "linux":
        pytest.skip("these tests find processes in /proc")
    base = tmp_path_factory.mktemp("crash")
    if MEMORY.is_dir() and shutil.disk_usage(MEMORY).free > ROOM:
        base = Path(tempfile.mkdtemp(prefix="mqi-crash-", dir=MEMORY))
    lab = Lab(base / "lab")
    try:
        yield Crashes(lab)
    finally:
        lab.close()
        shutil.rmtree(base, ignore_errors=True)
