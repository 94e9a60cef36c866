"""From figures to a word: pass, conditional, not comparable, fail. Pure.

Action levels after AAPM TG-218 (Miften et al., Med Phys 45 (2018) e53): at or above the tolerance limit a beam
passes, between it and the action limit it is conditional, below it fails. TG-218 concerns measurements; here the
levels are applied to recalculated doses, and they are parameters of the step.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Mapping, Optional, Sequence, Tuple

PASS, CONDITIONAL, NOT_COMPARABLE, FAIL = "pass", "conditional", "not comparable", "fail"
# From harmless to worst: what is known to be wrong counts more than what is not known, and what is not known more
# than what is nearly right.
WORDS = (PASS, CONDITIONAL, NOT_COMPARABLE, FAIL)


@dataclass(frozen=True)
class Verdict:
    """One of WORDS, and the reason: a clause without a full stop."""

    word: str
    reason: str


@dataclass(frozen=True)
class Levels:
    """In %: pass rates of gamma, the greatest statistical uncertainty, the greatest share of points that lie
    outside the other dose's grid."""

    tolerance: float = 95.0
    action: float = 90.0
    uncertainty: float = 3.0
    outside: float = 1.0


def worst(verdicts: Sequence[Verdict]) -> Verdict:
    """The worst word with every reason for it. Nothing to judge is not comparable, never a pass."""
    if not verdicts:
        return Verdict(NOT_COMPARABLE, "there is nothing to compare")
    word = max((each.word for each in verdicts), key=WORDS.index)
    reasons = dict.fromkeys(each.reason for each in verdicts if each.word == word and each.reason)
    return Verdict(word, "; ".join(reasons))


def of_gamma(
    pass_percent: float, points: int, outside: int, levels: Levels, *, criteria: str, what: str = "gamma"
) -> Verdict:
    """`points` above the threshold, `outside` of them beyond the other grid; `criteria` in words."""
    if not points or not math.isfinite(pass_percent):
        return Verdict(NOT_COMPARABLE, f"{what}: no point of the reference dose lies above the threshold")
    if 100.0 * outside > levels.outside * points:
        share = 100.0 * outside / points
        return Verdict(
            NOT_COMPARABLE, f"{what}: {share:.1f} % of the dose lies outside the other dose's grid"
        )
    # Never rounded up to a limit: 94.96 % is not 95.0 %.
    shown = f"{math.floor(10.0 * pass_percent) / 10.0:.1f} %"
    if pass_percent >= levels.tolerance:
        return Verdict(PASS, f"{what} {shown} ({criteria})")
    if pass_percent >= levels.action:
        return Verdict(CONDITIONAL, f"{what} {shown} is below {levels.tolerance:g} % ({criteria})")
    return Verdict(FAIL, f"{what} {shown} is below {levels.action:g} % ({criteria})")


def of_uncertainty(percent: Mapping[str, Optional[float]], levels: Levels) -> Verdict:
    """`percent`: dose -> its statistical uncertainty, None where it is not known.

    A noisy dose is never a pass: noise in the evaluated dose makes gamma smaller than it is.
    """
    unknown = [name for name, value in percent.items() if value is None or not math.isfinite(value)]
    if unknown:
        return Verdict(CONDITIONAL, f"the statistical uncertainty of the {' and '.join(unknown)} dose is unknown")
    high = [(name, value) for name, value in percent.items() if value is not None and value > levels.uncertainty]
    if high:
        told = " and ".join(f"{name} {value:.1f} %" for name, value in high)
        return Verdict(
            CONDITIONAL, f"the statistical uncertainty ({told}) is above {levels.uncertainty:g} %"
        )
    return Verdict(PASS, "")


def of_case(beams: Sequence[Tuple[int, Verdict]], planning: Optional[Verdict]) -> Verdict:
    """The case's verdict. `planning`: that of the planned dose against the planning system's, None: not asked.

    A case passes when every beam does. The second question cannot make it better; a planning system's dose that is
    there and cannot be compared keeps the case from passing.
    """
    told = [Verdict(each.word, f"beam {number}: {each.reason}") for number, each in beams]
    if planning is not None:
        word = CONDITIONAL if planning.word == NOT_COMPARABLE else planning.word
        told.append(Verdict(word, planning.reason))
    case = worst(told) if beams else worst([])
    if case.word == PASS:
        return Verdict(PASS, "; ".join(each.reason for each in told))
    return case
