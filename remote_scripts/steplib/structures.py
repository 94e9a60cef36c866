"""Structures of an RT Structure Set (DICOM PS3.3 A.19, C.8.8.5, C.8.8.6): outlines, masks on a dose grid, DVHs.

A voxel belongs to a structure when its centre lies in it, by the even-odd rule over all contours of the nearest
contour plane (so holes drawn as inner contours are holes). A structure whose contours are not closed, planar and
axial is left out with a sentence.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Dict, List, Mapping, Tuple

import numpy as np

from .dicom import Item
from .dose_grid import DoseGrid
from .report import BadInput

if TYPE_CHECKING:
    from pydicom import Dataset

RT_STRUCTURE_SET = "1.2.840.10008.5.1.4.1.1.481.3"
# A DVH of fewer voxels than this says little.
FEW_VOXELS = 100


@dataclass(frozen=True)
class Structure:
    """`planes`: z mm -> polygons (n, 2) of x, y mm. `thickness_mm`: the distance between its planes."""

    name: str
    planes: Mapping[float, Tuple[Any, ...]]
    thickness_mm: float

    def at(self, z_mm: float) -> Tuple[Any, ...]:
        """The polygons of the contour plane that z belongs to: each stands for half a thickness below it, included,
        and above it, excluded. So voxels half way between two planes count once, and n planes are n thick."""
        half = self.thickness_mm / 2.0
        below = [z for z in self.planes if z - half - 1e-3 <= z_mm]
        nearest = max(below, default=None)
        return self.planes[nearest] if nearest is not None and z_mm < nearest + half - 1e-3 else ()


def read_structures(data: Dataset, frame_of_reference_uid: str) -> Tuple[List[Structure], List[str]]:
    """(structures in the plan's frame of reference, why others are left out)."""
    whole = Item(data, "The RT Structure Set")
    names: Dict[int, str] = {}
    for roi in whole.items("StructureSetROISequence", "Structure {}"):
        number = roi.integer("ROINumber")
        if number is not None and roi.text("ReferencedFrameOfReferenceUID") == frame_of_reference_uid:
            names[number] = roi.text("ROIName") or f"structure {number}"
    if not names:
        return [], ["The RT Structure Set has no structure in the plan's frame of reference."]
    found: List[Structure] = []
    left_out: List[str] = []
    for place, roi in enumerate(whole.items("ROIContourSequence", "Structure {}"), 1):
        name = names.get(roi.integer("ReferencedROINumber") or 0)
        contours = roi.items("ContourSequence", f"Structure {place}, contour {{}}")
        if name is None or not contours:
            continue
        try:
            found.append(_structure(name, contours))
        except BadInput as problem:
            left_out.append(str(problem))
    return found, left_out


def _structure(name: str, contours: List[Item]) -> Structure:
    planes: Dict[float, List[Any]] = {}
    for contour in contours:
        if contour.text("ContourGeometricType") not in ("CLOSED_PLANAR", "CLOSEDPLANAR_XOR"):
            raise contour.problem("ContourGeometricType", "is not CLOSED_PLANAR:")
        points = np.array(contour.numbers("ContourData") or ())
        if points.size < 9 or points.size % 3:
            raise contour.problem("ContourData", "has no polygon as")
        points = points.reshape(-1, 3)
        if np.ptp(points[:, 2]) > 0.01:
            raise contour.problem("ContourData", "is not axial:")
        planes.setdefault(round(float(points[0, 2]), 2), []).append(points[:, :2])
    heights = sorted(planes)
    thickness = float(np.median(np.diff(heights))) if len(heights) > 1 else 1.0
    return Structure(name, {z: tuple(polygons) for z, polygons in planes.items()}, thickness)


def mask(structure: Structure, grid: DoseGrid) -> Any:
    """The voxels in the structure, bool (nz, ny, nx)."""
    from matplotlib.path import Path as Polygon

    x, y, z = grid.axes_mm()
    inside = np.zeros(grid.dose_gy.shape, dtype=bool)
    for plane, height in enumerate(z):
        for corners in structure.at(float(height)):
            low, high = corners.min(axis=0), corners.max(axis=0)
            columns = slice(*np.searchsorted(x, (low[0], high[0] + 1e-9)))
            rows = slice(*np.searchsorted(y, (low[1], high[1] + 1e-9)))
            across, up = np.meshgrid(x[columns], y[rows])
            if not across.size:
                continue
            points = np.column_stack([across.ravel(), up.ravel()])
            inside[plane, rows, columns] ^= Polygon(corners).contains_points(points).reshape(across.shape)
    return inside


def volume_histogram(dose: Any) -> Tuple[Any, Any]:
    """(dose Gy, % of the volume that gets at least this) of the doses of a structure's voxels."""
    high = np.sort(dose.astype(np.float64))[::-1]
    places = np.unique(np.linspace(0, len(high) - 1, min(len(high), 400)).astype(int))
    return np.concatenate([high[places], [0.0]]), np.concatenate([100.0 * (places + 1) / len(high), [100.0]])


def characteristics(dose: Any) -> Dict[str, float]:
    """Mean, D98, D95, D50 and D2 in Gy; Dn is the least dose of the hottest n % of the volume."""
    values = dose.astype(np.float64)
    found = {"mean": float(values.mean())}
    for percent in (98, 95, 50, 2):
        found[f"D{percent}"] = float(np.percentile(values, 100 - percent))
    return found
