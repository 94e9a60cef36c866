"""Where a beam stands in the patient: IEC 61217 angles, DICOM patient coordinates. Pure.

IEC 61217:2011, for somebody who faces the gantry from the foot end of the couch:

    fixed system f     Xf to the right, Yf towards the gantry, Zf up; origin at the isocentre
    gantry system g    f turned about Yf by the gantry angle, clockwise: Zg points to the source. At 0 degrees the
                       beam comes from above, at 90 from Xf
    support system s   f turned about Zf by the couch angle, counterclockwise seen from above

A beam travels along -Zg, and spot positions (DICOM 300A,0394) are x, y of the gantry system in the plane of the
isocentre. DICOM patient coordinates (PS3.3 C.7.6.2.1.1): x to the patient's left, y to the back, z to the head.
How a patient lies on the couch (0018,5100) says how they stand to the support system:

    HFS  x = Xs   y = -Zs  z = Ys        (head first, supine)
    HFP  x = -Xs  y = Zs   z = Ys
    FFS  x = -Xs  y = -Zs  z = -Ys
    FFP  x = Xs   y = Zs   z = -Ys

Scanning magnets stand SADx, SADy upstream of the isocentre (300A,030A), so a spot's axis crosses the plane at z in
the gantry system at x (1 - z / SADx), y (1 - z / SADy).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Tuple

import numpy as np

from .report import BadInput

# Rows: patient x, y, z in terms of the support system's axes.
PATIENT_POSITIONS = {
    "HFS": ((1, 0, 0), (0, 0, -1), (0, 1, 0)),
    "HFP": ((-1, 0, 0), (0, 0, 1), (0, 1, 0)),
    "FFS": ((-1, 0, 0), (0, 0, -1), (0, -1, 0)),
    "FFP": ((1, 0, 0), (0, 0, 1), (0, -1, 0)),
}

Vector = Tuple[float, float, float]


def gantry_to_patient(gantry_deg: float, couch_deg: float, position: str = "HFS") -> Any:
    """The matrix (3, 3) whose columns are the gantry system's axes in patient coordinates.

    BadInput for a patient position that is not in the table.
    """
    if position not in PATIENT_POSITIONS:
        raise BadInput("The patient's position (0018,5100) is none of HFS, HFP, FFS, FFP.")
    cosine, sine = _turn(gantry_deg)
    gantry_to_fixed = np.array(((cosine, 0.0, sine), (0.0, 1.0, 0.0), (-sine, 0.0, cosine)))
    cosine, sine = _turn(couch_deg)
    fixed_to_support = np.array(((cosine, sine, 0.0), (-sine, cosine, 0.0), (0.0, 0.0, 1.0)))
    support_to_patient = np.array(PATIENT_POSITIONS[position], dtype=float)
    return support_to_patient @ fixed_to_support @ gantry_to_fixed


def _turn(degrees: float) -> Tuple[float, float]:
    """(cosine, sine), exact at the quarters, so that beams at right angles stay on the axes."""
    quarter = degrees / 90.0
    if quarter == round(quarter):
        return ((1.0, 0.0), (0.0, 1.0), (-1.0, 0.0), (0.0, -1.0))[round(quarter) % 4]
    angle = math.radians(degrees)
    return math.cos(angle), math.sin(angle)


@dataclass(frozen=True)
class BeamFrame:
    """A beam's gantry system in the patient. `rotation`: as from gantry_to_patient; isocentre in mm (patient)."""

    gantry_deg: float
    couch_deg: float
    isocentre_mm: Vector
    rotation: Any

    @staticmethod
    def of(gantry_deg: float, couch_deg: float, isocentre_mm: Vector, position: str = "HFS") -> BeamFrame:
        """The frame of these angles (IEC 61217, degrees)."""
        return BeamFrame(
            gantry_deg, couch_deg, isocentre_mm, gantry_to_patient(gantry_deg, couch_deg, position)
        )

    def to_patient(self, points_mm: Any) -> Any:
        """Points (…, 3) of the gantry system in patient coordinates, mm."""
        return np.asarray(points_mm, dtype=float) @ self.rotation.T + np.asarray(self.isocentre_mm)

    def to_gantry(self, points_mm: Any) -> Any:
        """Points (…, 3) of the patient in the gantry system, mm."""
        return (np.asarray(points_mm, dtype=float) - np.asarray(self.isocentre_mm)) @ self.rotation

    def coordinate(self, axis: int, axes_mm: Tuple[Any, Any, Any]) -> Any:
        """Gantry coordinate 0 (x), 1 (y) or 2 (z) of every voxel, mm, of shape (nz, ny, nx).

        `axes_mm`: the voxels' centres along patient x, y and z.
        """
        column = self.rotation[:, axis]
        x, y, z = ((centres - origin) for centres, origin in zip(axes_mm, self.isocentre_mm))
        return column[0] * x[None, None, :] + column[1] * y[None, :, None] + column[2] * z[:, None, None]


def at_isocentre(position: Any, z_mm: Any, source_mm: float) -> Any:
    """A coordinate at z (gantry system) followed along its ray to the plane of the isocentre, mm."""
    return position / (1.0 - z_mm / source_mm)
