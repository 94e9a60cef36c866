"""The CT among a case's inputs as a phantom on the dose grid.

One axial series is needed (DICOM PS3.3 A.3): orientation 1\\0\\0\\0\\1\\0, slices without gaps, HFS, in the plan's
frame of reference, from a scanner that the machine file describes. Anything else is refused: a Hounsfield unit means
nothing without its scanner's table. Signed or unsigned pixels, slope and intercept are followed.

The dose grid's voxels get the mean of the Hounsfield units in them, weighted by overlap.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict, List, Sequence, Tuple

import numpy as np

from .beam_model import Machine
from .dicom import Item
from .find_plan import Input
from .geometry import Vector
from .parameters import is_number
from .phantom import VOXEL_LIMIT, Phantom
from .report import BadInput

if TYPE_CHECKING:
    from pydicom import Dataset

CT_IMAGE = "1.2.840.10008.5.1.4.1.1.2"
_HEAD = (
    "SOPClassUID",
    "SeriesInstanceUID",
    "FrameOfReferenceUID",
    "PatientPosition",
    "ImageOrientationPatient",
    "ImagePositionPatient",
    "PixelSpacing",
    "Rows",
    "Columns",
    "RescaleSlope",
    "RescaleIntercept",
    "Manufacturer",
    "ManufacturerModelName",
    "StudyInstanceUID",
)


@dataclass(frozen=True)
class _Slice:
    path: Path
    number: str
    item: Item
    position: Tuple[float, ...]


def ct_phantom(
    inputs: Sequence[Input], folder: Path, plan: Dataset, machine: Machine, grid_mm: float
) -> Phantom:
    """The CT series on a grid of `grid_mm`. BadInput when there is none, or it cannot be trusted."""
    slices = _slices(inputs, folder)
    first = slices[0].item
    _demand_one_series(slices)
    if first.text("FrameOfReferenceUID") != str(plan.get("FrameOfReferenceUID") or ""):
        raise BadInput("The CT is not in the RT Ion Plan's frame of reference (0020,0052).")
    if first.text("PatientPosition") != "HFS":
        raise first.problem("PatientPosition", "is not HFS according to")
    density, material = _tables(first, machine)
    spacing = first.numbers("PixelSpacing")
    rows, columns = first.integer("Rows"), first.integer("Columns")
    if spacing is None or len(spacing) != 2 or min(spacing) <= 0.0 or not rows or not columns:
        raise first.problem("PixelSpacing", "has no usable")
    step = _slice_step(slices)
    # Pixel Spacing is rows first: (0028,0030).
    own = (spacing[1], spacing[0], step)
    counts = (columns, rows, len(slices))
    shape = [max(1, round(count * size / grid_mm)) for count, size in zip(counts, own)]
    if int(np.prod(shape)) > VOXEL_LIMIT:
        raise BadInput("The CT would have too many voxels on this grid: give a larger grid_mm.")
    corner = [place - size / 2.0 for place, size in zip(slices[0].position, own)]
    hu = _resampled(slices, counts, own, shape, grid_mm)
    origin: Vector = (corner[0] + grid_mm / 2.0, corner[1] + grid_mm / 2.0, corner[2] + grid_mm / 2.0)
    facts: Dict[str, Any] = {
        "kind": "ct",
        "slices": len(slices),
        "series_instance_uid": first.text("SeriesInstanceUID"),
        "pixel_mm": [own[0], own[1]],
        "slice_mm": step,
        "hu_density": [list(point) for point in density],
        "hu_material": [list(point) for point in material],
    }
    return Phantom(
        "ct",
        hu,
        origin,
        (grid_mm, grid_mm, grid_mm),
        density,
        material,
        facts,
        first.text("FrameOfReferenceUID"),
    )


def _slices(inputs: Sequence[Input], folder: Path) -> List[_Slice]:
    """The CT images by rising z."""
    from pydicom import dcmread

    found = []
    for each in inputs:
        path = folder / each.number
        with path.open("rb") as stream:
            if stream.read(132)[128:] != b"DICM":
                continue
        try:
            dataset = dcmread(str(path), stop_before_pixels=True, specific_tags=list(_HEAD))
        except MemoryError:
            raise
        except Exception:  # noqa: BLE001 - whatever pydicom trips over, the answer is the same
            raise BadInput(f"Input {each.number} is a damaged DICOM file.") from None
        item = Item(dataset, f"The CT image in input {each.number}")
        if item.text("SOPClassUID") != CT_IMAGE:
            continue
        position = item.numbers("ImagePositionPatient")
        if position is None or len(position) != 3:
            raise item.problem("ImagePositionPatient", "has no")
        found.append(_Slice(path, each.number, item, position))
    if len(found) < 2:
        raise BadInput("geometry: ct needs a CT series, and the case holds none.")
    return sorted(found, key=lambda one: one.position[2])


def _demand_one_series(slices: Sequence[_Slice]) -> None:
    first = slices[0].item
    if first.numbers("ImageOrientationPatient") != (1.0, 0.0, 0.0, 0.0, 1.0, 0.0):
        raise first.problem("ImageOrientationPatient", "is not axial according to")
    for each in slices[1:]:
        for keyword in ("SeriesInstanceUID", "FrameOfReferenceUID", "PatientPosition", "Manufacturer"):
            if each.item.text(keyword) != first.text(keyword):
                raise each.item.problem(keyword, "is not of the series of the others according to")
        for keyword in ("ImageOrientationPatient", "PixelSpacing", "Rows", "Columns"):
            if each.item.numbers(keyword) != first.numbers(keyword):
                raise each.item.problem(keyword, "differs from the others in")
        if any(abs(a - b) > 0.01 for a, b in zip(each.position[:2], slices[0].position[:2])):
            raise each.item.problem("ImagePositionPatient", "does not lie above the others according to")


def _slice_step(slices: Sequence[_Slice]) -> float:
    steps = np.diff([each.position[2] for each in slices])
    step = float(np.median(steps))
    if step <= 0.0 or float(np.abs(steps - step).max()) > 0.02 * step:
        raise BadInput("The CT's slices are not evenly spaced: one is missing, or there twice.")
    return float((slices[-1].position[2] - slices[0].position[2]) / (len(slices) - 1))


def _tables(
    image: Item, machine: Machine
) -> Tuple[Tuple[Tuple[float, float], ...], Tuple[Tuple[float, str], ...]]:
    """(HU, g/cm³) and (HU, material) of the scanner that made the image."""
    scanner = (image.text("Manufacturer"), image.text("ManufacturerModelName"))
    for entry in machine.scanners:
        if not isinstance(entry, dict) or (entry.get("manufacturer"), entry.get("model")) != scanner:
            continue
        density: Any = entry.get("density")
        material: Any = entry.get("material")
        if not _ascending(density) or not all(is_number(point[1]) and point[1] > 0.0 for point in density):
            raise BadInput(
                "In the machine file, ct_scanners has a density that is no rising list of (HU, g/cm³)."
            )
        if not _ascending(material) or not all(isinstance(point[1], str) for point in material):
            raise BadInput(
                "In the machine file, ct_scanners has a material that is no rising list of (HU, name)."
            )
        return (
            tuple((float(point[0]), float(point[1])) for point in density),
            tuple((float(point[0]), str(point[1])) for point in material),
        )
    raise BadInput("The CT's scanner (0008,0070), (0008,1090) is not in the machine file's ct_scanners.")


def _ascending(points: Any) -> bool:
    if not isinstance(points, list) or len(points) < 2:
        return False
    if not all(isinstance(point, list) and len(point) == 2 and is_number(point[0]) for point in points):
        return False
    return all(before[0] < after[0] for before, after in zip(points, points[1:]))


def _resampled(
    slices: Sequence[_Slice],
    counts: Sequence[int],
    own: Sequence[float],
    shape: Sequence[int],
    grid_mm: float,
) -> Any:
    """HU float32 (nz, ny, nx), one slice in memory at a time."""
    across_x, across_y, across_z = (
        _overlaps(count, size, wanted, grid_mm) for count, size, wanted in zip(counts, own, shape)
    )
    hu = np.zeros((shape[2], shape[1], shape[0]))
    for place, each in enumerate(slices):
        plane = across_y @ _pixels(each) @ across_x.T
        for layer in np.flatnonzero(across_z[:, place]):
            hu[layer] += across_z[layer, place] * plane
    return hu.astype(np.float32)


def _overlaps(count: int, size: float, wanted: int, grid_mm: float) -> Any:
    """(wanted, count): the share of each new voxel that each old one fills; rows sum to 1."""
    low, new = size * np.arange(count), grid_mm * np.arange(wanted)
    ends = np.minimum(low[None, :] + size, new[:, None] + grid_mm)
    starts = np.maximum(low[None, :], new[:, None])
    shares = np.maximum(ends - starts, 0.0)
    return shares / shares.sum(axis=1, keepdims=True)


def _pixels(each: _Slice) -> Any:
    from pydicom import dcmread

    try:
        dataset = dcmread(str(each.path))
        values = dataset.pixel_array.astype(np.float64)
        slope, intercept = float(dataset.RescaleSlope), float(dataset.RescaleIntercept)
    except MemoryError:
        raise
    except Exception:  # noqa: BLE001
        raise BadInput(f"The CT image in input {each.number} cannot be read.") from None
    return values * slope + intercept
