"""What report.py takes from the steps before it: beams.json, spot_check.json, and per beam a summary and its doses.

needs.json maps each needed step to its out folders: {"interpreter": {"": DIR}, "moquisim": {"2": DIR, …}}.
Every dose must have the SHA-256 that its summary gives, and every summary must be of this plan and this beam.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

import numpy as np

from .dose_grid import DoseGrid, read_grid
from .parameters import read_object
from .report import BadInput

WHICH = ("planned", "delivered")


@dataclass(frozen=True)
class BeamDose:
    """One beam: its entries of beams.json, spot_check.json ({} without one) and summary.json, and its doses."""

    number: int
    entry: Mapping[str, Any]
    spot_check: Mapping[str, Any]
    summary: Mapping[str, Any]
    doses: Mapping[str, DoseGrid]
    folder: Path

    @property
    def name(self) -> str:
        """The plan's name of the beam."""
        return str(self.entry.get("name") or "")

    @property
    def geometry(self) -> Mapping[str, Any]:
        """What the beam went into; {} when the summary does not say."""
        found = self.summary.get("geometry")
        return found if isinstance(found, dict) else {}

    def of_dose(self, which: str) -> Mapping[str, Any]:
        """The summary's entry of one dose; {} without it."""
        doses = self.summary.get("doses")
        found = doses.get(which) if isinstance(doses, dict) else None
        return found if isinstance(found, dict) else {}

    def number_of(self, which: str, key: str) -> Optional[float]:
        """A number of the summary about one dose, None when it is not there."""
        value = self.of_dose(which).get(key)
        return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None


@dataclass(frozen=True)
class CaseDose:
    """All beams of the case, in the order of beams.json; `index` and `spots` are the interpreter's files."""

    index: Mapping[str, Any]
    spots: Mapping[str, Any]
    beams: Tuple[BeamDose, ...]
    interpreter: Path

    @property
    def plan_uid(self) -> str:
        """SOP Instance UID of the RT Ion Plan."""
        return str(self.index["plan"]["sop_instance_uid"])


def read_case(needs: Path) -> CaseDose:
    """Reads everything. BadInput names the beam whose files do not fit together."""
    folders = _folders(read_object(needs, "needs.json"))
    interpreter = folders.get("interpreter", {}).get("")
    if interpreter is None:
        raise BadInput("needs.json does not name the interpreter's results.")
    index = read_object(interpreter / "beams.json", "The interpreter's beams.json")
    entries, plan = index.get("beams"), index.get("plan")
    if not isinstance(entries, list) or not entries or not all(isinstance(each, dict) for each in entries):
        raise BadInput("The interpreter's beams.json names no beams.")
    if not isinstance(plan, dict) or not isinstance(plan.get("sop_instance_uid"), str):
        raise BadInput("The interpreter's beams.json does not name the plan.")
    path = interpreter / "spot_check.json"
    spots = read_object(path, "The interpreter's spot_check.json") if path.is_file() else {}
    simulated = folders.get("moquisim", {})
    numbers = [each.get("number") for each in entries]
    if sorted(map(str, numbers)) != sorted(simulated):
        raise BadInput(
            f"Treatment beams are {', '.join(map(str, numbers))}, and doses are there of "
            f"{', '.join(sorted(simulated)) or 'none'}."
        )
    beams = [_beam(entry, spots, simulated[str(entry["number"])], plan["sop_instance_uid"]) for entry in entries]
    return CaseDose(index, spots, tuple(beams), interpreter)


def _folders(needs: Mapping[str, Any]) -> Dict[str, Dict[str, Path]]:
    found: Dict[str, Dict[str, Path]] = {}
    for step, beams in needs.items():
        if not isinstance(beams, dict) or not all(isinstance(each, str) for each in beams.values()):
            raise BadInput("needs.json does not map steps and beams to folders.")
        found[step] = {str(beam): Path(folder) for beam, folder in beams.items()}
    return found


def _beam(entry: Mapping[str, Any], spots: Mapping[str, Any], folder: Path, plan_uid: str) -> BeamDose:
    number = entry["number"]
    if type(number) is not int:
        raise BadInput("The interpreter's beams.json has a beam whose number is no number.")
    summary = read_object(folder / "summary.json", f"The summary of beam {number}")
    if summary.get("beam") != number or summary.get("plan_sop_instance_uid") != plan_uid:
        raise BadInput(f"The summary of beam {number} is of another beam or of another plan.")
    checked = spots.get("beams")
    own = [
        each
        for each in (checked if isinstance(checked, list) else [])
        if isinstance(each, dict) and each.get("number") == number
    ]
    if len(own) > 1:
        raise BadInput(f"spot_check.json has beam {number} more than once.")
    beam = BeamDose(number, entry, own[0] if own else {}, summary, {}, folder)
    doses = {which: _dose(beam, which) for which in WHICH if beam.of_dose(which)}
    if len(doses) == 2 and not doses["planned"].same_grid(doses["delivered"]):
        raise BadInput(f"Planned and delivered dose of beam {number} are on different grids.")
    return BeamDose(number, entry, own[0] if own else {}, summary, doses, folder)


def _dose(beam: BeamDose, which: str) -> DoseGrid:
    path = beam.folder / f"dose_{which}.npz"
    told = beam.of_dose(which)
    try:
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
    except FileNotFoundError:
        raise BadInput(f"The {which} dose of beam {beam.number} is missing.") from None
    if digest != told.get("npz_sha256"):
        raise BadInput(f"The {which} dose of beam {beam.number} is not the one that its summary describes.")
    if told.get("passed") is not True:
        raise BadInput(f"The {which} dose of beam {beam.number} did not pass its own checks.")
    if which == "planned":
        spots, name = beam.entry.get("sha256"), "planned"
    else:
        delivered = beam.entry.get("delivered")
        spots, name = (delivered.get("sha256") if isinstance(delivered, dict) else None), "delivered"
    if told.get("spots_sha256") != spots:
        raise BadInput(f"The {name} dose of beam {beam.number} was computed from other spots than these.")
    return read_grid(path)


def one_phantom(beams: Sequence[BeamDose]) -> str:
    """Why the beams' doses cannot be added up, or "". In water, each beam has a phantom across its own axis."""
    if any("planned" not in beam.doses for beam in beams):
        return "not every beam has a dose on a grid"
    first = beams[0]
    kinds = {str(beam.geometry.get("kind")) for beam in beams}
    if len(kinds) > 1:
        return "the beams were computed in different kinds of geometry"
    if not all(beam.doses["planned"].same_grid(first.doses["planned"]) for beam in beams):
        return "the beams were computed on different grids"
    angles = {(beam.geometry.get("gantry_deg"), beam.geometry.get("couch_deg")) for beam in beams}
    if kinds == {"water"} and len(angles) > 1:
        return "each beam was computed in a water phantom across its own axis, so they share no phantom"
    return ""


def added(beams: Sequence[BeamDose], which: str) -> Optional[DoseGrid]:
    """The sum of the beams' doses (uncertainties in quadrature); None when a beam has no such dose."""
    grids: List[DoseGrid] = [beam.doses[which] for beam in beams if which in beam.doses]
    if len(grids) != len(beams):
        return None
    dose = np.sum([grid.dose_gy.astype(np.float64) for grid in grids], axis=0)
    variance = np.sum([grid.sigma_gy.astype(np.float64) ** 2 for grid in grids], axis=0)
    first = grids[0]
    return DoseGrid(
        dose.astype(np.float32), np.sqrt(variance).astype(np.float32), first.origin_mm, first.spacing_mm
    )
