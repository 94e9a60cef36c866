"""What the protons go through: a grid of Hounsfield units with the tables that say what they mean.

Water. Each beam meets a half-space of water of its own: the surface is perpendicular to the beam's axis and lies
`isocentre_depth_mm` upstream of the isocentre. The grid is the patient's, the same for all beams of a plan, so
that their doses can be added; voxels that the surface cuts get the density of their share of water. This is a QA
phantom and not the patient: a sum of beams is the sum of what each would do in it.

Hounsfield units stand for density along the table's points, linearly, and for a material from a point upwards.
Materials have MCsquare's names.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Dict, Optional, Sequence, Tuple

import numpy as np

from .geometry import BeamFrame, Vector
from .report import BadInput

# HU -> g/cm³: linear, so that the mean of HU is the mean of densities.
WATER_DENSITY = ((-2000.0, 0.001), (-1000.0, 0.001), (0.0, 1.0), (100.0, 1.0))
# Whatever holds some water is water of low density, not thick air.
WATER_MATERIAL = ((-1050.0, "Schneider_Air"), (-999.0, "Water"))
AIR_HU = -1000.0
# Beyond the outermost spots: five standard deviations of a wide beam at the end of its range.
LATERAL_MARGIN_MM = 45.0
DISTAL_MARGIN_MM = 30.0
# More voxels than this are a mistake in the parameters, not a wish.
VOXEL_LIMIT = 60_000_000


@dataclass(frozen=True)
class Phantom:
    """Hounsfield units float32 (nz, ny, nx); centre of the first voxel and spacing in mm, x y z (patient).

    `kind`: "water" or "ct". `facts`: what summary.json tells about it. `frame_of_reference_uid`: of the CT.
    """

    kind: str
    hu: Any
    origin_mm: Vector
    spacing_mm: Vector
    density_table: Tuple[Tuple[float, float], ...]
    material_table: Tuple[Tuple[float, str], ...]
    facts: Dict[str, Any]
    frame_of_reference_uid: Optional[str] = None

    def axes_mm(self) -> Tuple[Any, Any, Any]:
        """The voxels' centres along x, y and z, mm."""
        nz, ny, nx = self.hu.shape
        x, y, z = (
            origin + spacing * np.arange(count)
            for origin, spacing, count in zip(self.origin_mm, self.spacing_mm, (nx, ny, nz))
        )
        return x, y, z

    def density(self) -> Any:
        """g/cm³ of every voxel."""
        points = np.array(self.density_table)
        return np.interp(self.hu, points[:, 0], points[:, 1])

    @property
    def voxel_mm3(self) -> float:
        """A voxel's volume."""
        dx, dy, dz = self.spacing_mm
        return dx * dy * dz


@dataclass(frozen=True)
class Extent:
    """What of the gantry system a beam can reach in water, mm: spots at the isocentre, and depth below the surface."""

    frame: BeamFrame
    x_mm: Tuple[float, float]
    y_mm: Tuple[float, float]
    depth_mm: float

    def corners(self, isocentre_depth_mm: float, spacing_mm: float) -> Any:
        """The eight corners of the box, with margins, in patient coordinates: (8, 3)."""
        # Two voxels of air in front of the surface.
        upstream = isocentre_depth_mm + 2.0 * spacing_mm
        downstream = isocentre_depth_mm - self.depth_mm - DISTAL_MARGIN_MM
        ranges = (
            (self.x_mm[0] - LATERAL_MARGIN_MM, self.x_mm[1] + LATERAL_MARGIN_MM),
            (self.y_mm[0] - LATERAL_MARGIN_MM, self.y_mm[1] + LATERAL_MARGIN_MM),
            (downstream, upstream),
        )
        corners = [(x, y, z) for x in ranges[0] for y in ranges[1] for z in ranges[2]]
        return self.frame.to_patient(np.array(corners))


def water_phantom(
    extents: Sequence[Extent], frame: BeamFrame, isocentre_depth_mm: float, spacing_mm: float
) -> Phantom:
    """The water of the beam that `frame` is of, on the grid that all of `extents` need.

    Voxel boundaries go through the isocentre. BadInput when the grid would be unreasonably large.
    """
    corners = np.concatenate([each.corners(isocentre_depth_mm, spacing_mm) for each in extents])
    isocentre = np.array(extents[0].frame.isocentre_mm)
    low = np.floor((corners.min(axis=0) - isocentre) / spacing_mm).astype(int)
    high = np.ceil((corners.max(axis=0) - isocentre) / spacing_mm).astype(int)
    counts = high - low
    if int(np.prod(counts)) > VOXEL_LIMIT:
        raise BadInput(
            f"The water phantom would have {int(np.prod(counts)) / 1e6:.0f} million voxels: give a larger grid_mm."
        )
    origin = isocentre + (low + 0.5) * spacing_mm
    x, y, z = (float(origin[axis]) + spacing_mm * np.arange(int(counts[axis])) for axis in range(3))
    depth = isocentre_depth_mm - frame.coordinate(2, (x, y, z))
    # Over one voxel's width, which for a beam along an axis is the share of water. For an oblique beam the ramp is
    # steeper than the share, but has the same mean along every ray, and so the same depth of water.
    hu = (AIR_HU * (1.0 - np.clip(0.5 + depth / spacing_mm, 0.0, 1.0))).astype(np.float32)
    facts = {
        "kind": "water",
        "isocentre_depth_mm": isocentre_depth_mm,
        "surface": "perpendicular to the beam's axis",
        "density_g_cm3": 1.0,
    }
    return Phantom(
        "water",
        hu,
        (float(origin[0]), float(origin[1]), float(origin[2])),
        (spacing_mm, spacing_mm, spacing_mm),
        WATER_DENSITY,
        WATER_MATERIAL,
        facts,
    )
