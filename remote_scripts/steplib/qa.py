"""The judgement of a case: gamma of each beam, of the planning system's dose, the verdicts; and qa.json.

qa.json:

    {"format": 1, "notice", "verdict": one of steplib/verdict.py's WORDS, "reason",
     "plan": {"sop_instance_uid", "sha256", "fractions"},
     "criteria": in words, "parameters": {…},
     "beams": [{"number", "verdict", "reason", "gamma": {…} or null, "spot_check": verdict or null,
                "uncertainty_percent": {"planned", "delivered"}, "generated_outside_percent": {…},
                "mean_dose_ratio": delivered to planned, where their mean is above half of its maximum}],
     "planning": null (no RT Dose in the case) or {"verdict", "reason", "refused": [sentences],
                "doses": [{"beam": number or null, "gamma", "mean_dose_ratio", "source": {…}}]},
     "sums": {"planned": {"file", "sop_instance_uid", "sha256"} …, "reason": why there is none, or ""}}

    gamma: {"pass_percent", "points", "outside", "mean", "max", "normalisation_Gy"}
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable, Dict, List, Mapping, Optional, Sequence, Tuple

import numpy as np

from . import verdict as words
from .case_dose import WHICH, BeamDose, CaseDose, added, one_phantom
from .dose_grid import DoseGrid
from .find_plan import FoundPlan, Input
from .gamma import Criteria, Gamma, gamma
from .planning_dose import Found, PlanningDose, find_doses
from .rtdose import write_rtdose
from .verdict import Levels, Verdict

if TYPE_CHECKING:
    from pydicom import Dataset

NOTICE = "Research tool, not a medical device and not cleared for clinical decisions."
Told = Callable[[float, str], None]


@dataclass(frozen=True)
class Compared:
    """One dose against another. `ratio`: mean of evaluated to mean of reference, above half of the maximum."""

    reference: DoseGrid
    evaluated: DoseGrid
    gamma: Gamma
    ratio: float


@dataclass(frozen=True)
class BeamResult:
    """Verdict of a beam and the comparison of delivered with planned dose, None without a delivered one."""

    beam: BeamDose
    verdict: Verdict
    compared: Optional[Compared]


@dataclass(frozen=True)
class PlanningResult:
    """The second question: the doses that were compared, and a sentence for each that was not."""

    verdict: Verdict
    compared: Tuple[Tuple[PlanningDose, Compared], ...]
    refused: Tuple[str, ...]


@dataclass(frozen=True)
class Result:
    """The whole judgement; `planning` None: the case holds no RT Dose."""

    verdict: Verdict
    beams: Tuple[BeamResult, ...]
    planning: Optional[PlanningResult]
    criteria: Criteria


def judge(
    case: CaseDose,
    plan: FoundPlan,
    inputs: Sequence[Input],
    folder: Path,
    parameters: Mapping[str, Any],
    told: Told,
) -> Result:
    """Compares and judges everything."""
    criteria = Criteria(
        dose_percent=parameters["gamma_dose_percent"],
        distance_mm=parameters["gamma_distance_mm"],
        local=parameters["gamma_normalisation"] == "local",
        threshold_percent=parameters["gamma_threshold_percent"],
    )
    levels = Levels(
        parameters["tolerance_percent"],
        parameters["action_percent"],
        parameters["uncertainty_limit_percent"],
        parameters["outside_limit_percent"],
    )
    beams = []
    for place, beam in enumerate(case.beams):
        told(0.7 * place / len(case.beams), f"gamma of beam {beam.number}")
        beams.append(judge_beam(beam, criteria, levels))
    told(0.7, "the planning system's dose")
    fractions = int(case.index["plan"].get("fractions") or 1)
    doses = find_doses(
        inputs,
        plan.classes,
        folder,
        plan.dataset,
        rbe=parameters["planning_dose_rbe"],
        fractions=fractions,
        beams=[beam.number for beam in case.beams],
    )
    planning = judge_planning(case, doses, criteria, levels, parameters["planning_dose_phantom"])
    whole = words.of_case(
        [(each.beam.number, each.verdict) for each in beams], planning.verdict if planning else None
    )
    return Result(whole, tuple(beams), planning, criteria)


def compare(reference: DoseGrid, evaluated: DoseGrid, criteria: Criteria) -> Compared:
    """Gamma and mean dose ratio."""
    from .qa_figures import resample

    here = reference.dose_gy.astype(np.float64)
    there = resample(evaluated, reference.axes_mm())
    # Chosen by one of two noisy doses, the points would be those where its noise points upwards.
    high = (here + there) / 2.0 if np.any(reference.sigma_gy) else here
    known = np.isfinite(there) & (here > 0.0)
    known &= high >= 0.5 * float(np.max(high[known], initial=0.0))
    ratio = float(np.mean(there[known]) / np.mean(here[known])) if np.any(known) else float("nan")
    return Compared(reference, evaluated, gamma(reference, evaluated, criteria), ratio)


def judge_beam(beam: BeamDose, criteria: Criteria, levels: Levels) -> BeamResult:
    """The first question for one beam."""
    verdicts = [spot_verdict(beam)]
    compared = None
    if "delivered" not in beam.doses or "planned" not in beam.doses:
        missing = "no delivery record" if beam.entry.get("delivered") is None else "no delivered dose on a grid"
        verdicts = [Verdict(words.NOT_COMPARABLE, f"there is {missing}")]
    else:
        compared = compare(beam.doses["planned"], beam.doses["delivered"], criteria)
        found = compared.gamma
        verdicts.append(
            words.of_gamma(found.pass_percent, found.points, found.outside, levels, criteria=str(criteria))
        )
        uncertainty = {which: beam.number_of(which, "uncertainty_percent") for which in WHICH}
        verdicts.append(words.of_uncertainty(uncertainty, levels))
    return BeamResult(beam, words.worst(verdicts), compared)


def spot_verdict(beam: BeamDose) -> Verdict:
    """The interpreter's spot check as a verdict."""
    word, reason = beam.spot_check.get("verdict"), beam.spot_check.get("reason")
    if word not in words.WORDS or not isinstance(reason, str):
        return Verdict(words.NOT_COMPARABLE, "the interpreter made no spot check")
    return Verdict(word, "spots: " + " ".join(reason.split()).rstrip(".") if word != words.PASS else "spots good")


def judge_planning(
    case: CaseDose, found: Found, criteria: Criteria, levels: Levels, phantom: str
) -> Optional[PlanningResult]:
    """The second question. `phantom`: what the planning system's dose was computed in, as the site says."""
    if not found.doses and not found.refused:
        return None
    ours = {str(beam.geometry.get("kind")) for beam in case.beams}
    wanted = "water" if phantom == "water" else "ct"
    if ours != {wanted}:
        reason = (
            f"the planning system's dose was computed in {'water' if phantom == 'water' else 'the patient'}, and ours "
            f"in {' and '.join('water' if each == 'water' else 'the CT' for each in sorted(ours))} "
            "(parameters: planning_dose_phantom of report, geometry of moquisim)"
        )
        return PlanningResult(Verdict(words.NOT_COMPARABLE, reason), (), (*found.refused,))
    no_sum = one_phantom(case.beams)
    refused, compared, verdicts = list(found.refused), [], []
    for dose in found.doses:
        if dose.beam is None and no_sum:
            refused.append(f"The plan's dose cannot be compared: {no_sum}.")
            continue
        own = [beam for beam in case.beams if dose.beam in (None, beam.number)]
        total = added(own, "planned")
        if total is None:
            refused.append("The planning system's dose cannot be compared: a beam has no planned dose on a grid.")
            continue
        one = compare(dose.grid, total, criteria)
        compared.append((dose, one))
        what = "planned dose" if dose.beam is None else f"planned dose of beam {dose.beam}"
        verdicts.append(
            words.of_gamma(
                one.gamma.pass_percent,
                one.gamma.points,
                one.gamma.outside,
                levels,
                criteria=str(criteria),
                what=f"{what} against the planning system's, gamma",
            )
        )
    verdicts += [Verdict(words.NOT_COMPARABLE, each.rstrip(".")) for each in refused]
    return PlanningResult(words.worst(verdicts), tuple(compared), tuple(refused))


def write_sums(out: Path, case: CaseDose, plan: Dataset) -> Dict[str, Any]:
    """RD_plan_planned.dcm and RD_plan_delivered.dcm, and what qa.json says of them."""
    reason = one_phantom(case.beams)
    sums: Dict[str, Any] = {"reason": reason}
    if reason:
        return sums
    for which in WHICH:
        total = added(case.beams, which)
        if total is None:
            sums["reason"] = f"not every beam has a {which} dose"
            continue
        rbe = {beam.summary.get("parameters", {}).get("rbe", 1.0) for beam in case.beams}
        written = write_rtdose(
            out / f"RD_plan_{which}.dcm",
            total,
            plan,
            beam_numbers=[beam.number for beam in case.beams],
            summation="PLAN",
            which=which,
            rbe=float(rbe.pop()) if len(rbe) == 1 else 1.0,
        )
        sums[which] = {
            "file": f"RD_plan_{which}.dcm",
            "sop_instance_uid": written.sop_instance_uid,
            "sha256": written.sha256,
        }
    return sums


def to_json(
    case: CaseDose, result: Result, sums: Mapping[str, Any], parameters: Mapping[str, Any]
) -> Dict[str, Any]:
    """The content of qa.json; see the module's text."""
    plan = case.index["plan"]
    beams: List[Dict[str, Any]] = []
    for each in result.beams:
        beam, compared = each.beam, each.compared
        beams.append(
            {
                "number": beam.number,
                "verdict": each.verdict.word,
                "reason": each.verdict.reason,
                "gamma": _gamma(compared.gamma) if compared else None,
                "mean_dose_ratio": _finite(compared.ratio) if compared else None,
                "spot_check": beam.spot_check.get("verdict"),
                "uncertainty_percent": {w: beam.number_of(w, "uncertainty_percent") for w in WHICH},
                "generated_outside_percent": {w: outside_percent(beam, w) for w in WHICH},
            }
        )
    planning = result.planning
    return {
        "format": 1,
        "notice": NOTICE,
        "verdict": result.verdict.word,
        "reason": result.verdict.reason,
        "plan": {key: plan.get(key) for key in ("sop_instance_uid", "sha256", "fractions")},
        "criteria": str(result.criteria),
        "parameters": dict(parameters),
        "beams": beams,
        "planning": None
        if planning is None
        else {
            "verdict": planning.verdict.word,
            "reason": planning.verdict.reason,
            "refused": list(planning.refused),
            "doses": [
                {
                    "beam": dose.beam,
                    "gamma": _gamma(one.gamma),
                    "mean_dose_ratio": _finite(one.ratio),
                    "source": dict(dose.facts),
                }
                for dose, one in planning.compared
            ],
        },
        "sums": dict(sums),
    }


def outside_percent(beam: BeamDose, which: str) -> Optional[float]:
    """Protons that were generated outside the geometry, in % of all; None when it is not known."""
    outside, all_of_them = beam.number_of(which, "generated_outside"), beam.number_of(which, "primaries")
    return None if outside is None or not all_of_them else 100.0 * outside / all_of_them


def _finite(value: float) -> Optional[float]:
    return value if np.isfinite(value) else None


def _gamma(found: Gamma) -> Dict[str, Any]:
    return {
        "pass_percent": _finite(found.pass_percent),
        "points": found.points,
        "outside": found.outside,
        "mean": _finite(found.mean),
        "max": _finite(found.greatest),
        "normalisation_Gy": found.normalisation_gy,
    }
