"""The planning system's dose among a case's inputs, as physical dose of one fraction, or why it cannot be used.

RT Dose: DICOM PS3.3 A.18, RT Dose module C.8.8.3. A dose is used only when it says everything that a comparison
needs: Dose Units GY, Dose Type PHYSICAL or EFFECTIVE, Dose Summation Type PLAN, FRACTION or BEAM (all of them stand
for the entire delivery, that is for all fractions), the plan's UID and frame of reference, an axial grid.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, List, Mapping, Optional, Sequence, Tuple

import numpy as np

from .dicom import Item
from .dose_grid import DoseGrid
from .find_plan import Input, read_dicom, read_input
from .report import BadInput

if TYPE_CHECKING:
    from pydicom import Dataset

RT_DOSE = "1.2.840.10008.5.1.4.1.1.481.2"
_SUMMATIONS = ("PLAN", "FRACTION", "BEAM")
_AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)


@dataclass(frozen=True)
class PlanningDose:
    """`beam`: None for the plan's dose. `grid`: physical Gy of one fraction. `facts`: where it comes from."""

    beam: Optional[int]
    grid: DoseGrid
    facts: Mapping[str, Any]


@dataclass(frozen=True)
class Found:
    """The doses that can be used, and a sentence for each of the others."""

    doses: Tuple[PlanningDose, ...]
    refused: Tuple[str, ...]


def find_doses(
    inputs: Sequence[Input],
    classes: Mapping[str, Optional[str]],
    folder: Path,
    plan: Dataset,
    *,
    rbe: float,
    fractions: int,
    beams: Sequence[int],
) -> Found:
    """Every RT Dose of the case. `classes`: SOP class by input number; `rbe`: what EFFECTIVE doses contain."""
    doses: List[PlanningDose] = []
    refused: List[str] = []
    for each in inputs:
        if classes.get(each.number) != RT_DOSE:
            continue
        try:
            dose = _read(read_input(folder, each), each, plan, rbe, fractions, beams)
        except BadInput as problem:
            refused.append(str(problem))
            continue
        doses.append(dose)
    for beam in sorted({dose.beam for dose in doses}, key=lambda number: number or 0):
        same = [dose for dose in doses if dose.beam == beam]
        if len(same) > 1:
            what = "the plan" if beam is None else f"beam {beam}"
            refused.append(f"The case holds {len(same)} doses of {what}, and which one counts cannot be known.")
            doses = [dose for dose in doses if dose.beam != beam]
    return Found(tuple(doses), tuple(refused))


def _read(
    content: bytes, source: Input, plan: Dataset, rbe: float, fractions: int, beams: Sequence[int]
) -> PlanningDose:
    where = f"The RT Dose (input {source.number})"
    data = read_dicom(content, where, "RTDOSE")
    item = Item(data, where)
    summation, kind = _kind(item)
    beam = _reference(item, plan, summation, beams)
    if len(beams) == 1 and beam is None:
        beam = beams[0]  # the plan's only beam: the same question as the beam's
    grid = _grid(data, item, (rbe if kind == "EFFECTIVE" else 1.0) * fractions)
    facts = {
        "input": source.number,
        "sha256": source.sha256,
        "sop_instance_uid": item.text("SOPInstanceUID"),
        "summation": summation,
        "dose_type": kind,
        "divided_by_rbe": rbe if kind == "EFFECTIVE" else 1.0,
        "divided_by_fractions": fractions,
        "maximum_Gy": float(grid.dose_gy.max()),
    }
    return PlanningDose(beam, grid, facts)


def _kind(item: Item) -> Tuple[str, str]:
    units = item.text("DoseUnits")
    if units != "GY":
        raise item.problem("DoseUnits", "is not in GY:")
    kind = item.text("DoseType")
    if kind not in ("PHYSICAL", "EFFECTIVE"):
        raise item.problem("DoseType", "is neither PHYSICAL nor EFFECTIVE:")
    summation = item.text("DoseSummationType")
    if summation not in _SUMMATIONS:
        raise item.problem("DoseSummationType", f"is not one of {', '.join(_SUMMATIONS)}:")
    return summation, kind


def _reference(item: Item, plan: Dataset, summation: str, beams: Sequence[int]) -> Optional[int]:
    """The beam that the dose is of, None for all. BadInput unless the dose is of this plan."""
    ours = Item(plan, "The RT Ion Plan")
    plans = item.items("ReferencedRTPlanSequence", item.where + ", referenced plan {},")
    if [each.text("ReferencedSOPInstanceUID") for each in plans] != [ours.text("SOPInstanceUID")]:
        raise item.problem("ReferencedRTPlanSequence", "does not refer to this plan alone in")
    frame = ours.text("FrameOfReferenceUID")
    if not frame or item.text("FrameOfReferenceUID") != frame:
        raise item.problem("FrameOfReferenceUID", "is not in the plan's frame of reference:")
    if summation != "BEAM":
        return None
    numbers = [
        beam.integer("ReferencedBeamNumber")
        for group in plans[0].items("ReferencedFractionGroupSequence", item.where + ", fraction group {},")
        for beam in group.items("ReferencedBeamSequence", item.where + ", referenced beam {},")
    ]
    if len(numbers) == 1 and numbers[0] in beams:
        return numbers[0]
    if sorted(number or 0 for number in numbers) == sorted(beams):
        return None
    raise item.problem("ReferencedBeamSequence", "names neither one treatment beam nor all of them in")


def _grid(data: Dataset, item: Item, divisor: float) -> DoseGrid:
    orientation, position, spacing, scaling = (
        item.numbers(keyword)
        for keyword in ("ImageOrientationPatient", "ImagePositionPatient", "PixelSpacing", "DoseGridScaling")
    )
    if orientation is None or not np.allclose(orientation, _AXIAL, rtol=0.0, atol=1e-4):
        raise item.problem("ImageOrientationPatient", "has another orientation than 1\\0\\0\\0\\1\\0 as")
    if position is None or len(position) != 3:
        raise item.problem("ImagePositionPatient", "has no place as")
    if spacing is None or len(spacing) != 2 or min(spacing) <= 0.0:
        raise item.problem("PixelSpacing", "has no spacing as")
    if scaling is None or len(scaling) != 1 or scaling[0] <= 0.0:
        raise item.problem("DoseGridScaling", "has no factor as")
    offsets = np.array(item.numbers("GridFrameOffsetVector") or ())
    steps = np.diff(offsets)
    if len(offsets) < 2 or not np.all(steps > 0.0) or not np.allclose(steps, steps[0], rtol=0.0, atol=0.01):
        raise item.problem("GridFrameOffsetVector", "has no even, growing steps as")
    # Absolute when the first one is the position's z, else relative to it (C.8.8.3.2).
    first = float(offsets[0])
    if abs(first) > 1e-3 and abs(first - position[2]) > 1e-3:
        raise item.problem("GridFrameOffsetVector", "begins neither with 0 nor with the position's z:")
    try:
        stored = np.asarray(data.pixel_array, dtype=np.float64)
    except MemoryError:
        raise
    except Exception:  # noqa: BLE001 - whatever pydicom trips over, the dose cannot be read
        raise item.problem("PixelData", "has an unreadable") from None
    if stored.ndim != 3 or stored.shape[0] != len(offsets):
        raise item.problem("GridFrameOffsetVector", f"has {stored.shape[0]} frames and {len(offsets)} values in")
    if stored.min() < 0 or stored.max() <= 0:
        raise item.problem("PixelData", "has no dose, or a negative one, in")
    dose = (stored * scaling[0] / divisor).astype(np.float32)
    dy, dx = spacing
    return DoseGrid(dose, np.zeros_like(dose), position, (dx, dy, float(np.mean(steps))))
