"""Doses to compare: a field with penumbra and distal edge as a formula, and the dose of a real plan."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from steplib.dose_grid import DoseGrid

Shift = tuple[float, float, float]


def _field(x: Any, y: Any, z: Any, reach: float) -> Any:
    """Gy: along z an entrance plateau, a peak and a distal edge of 3 mm; across, a penumbra of 4 mm."""
    across = 1.0 / (1.0 + np.exp((np.abs(x) - 0.55 * reach) / 2.0))
    across *= 1.0 / (1.0 + np.exp((np.abs(y) - 0.5 * reach) / 2.5))
    along = (0.6 + 0.4 * np.exp(-(((z - 0.35 * reach) / 8.0) ** 2))) / (1.0 + np.exp((z - 0.5 * reach) / 1.5))
    return 2.0 * across * along


def field(count: int, spacing: float) -> DoseGrid:
    """A cube of `count` voxels around the origin."""
    start = -(count - 1) / 2.0 * spacing
    axis = start + spacing * np.arange(count)
    z, y, x = np.meshgrid(axis, axis, axis, indexing="ij")
    dose = _field(x, y, z, count * spacing / 2.0).astype(np.float32)
    return DoseGrid(dose, np.zeros_like(dose), (start, start, start), (spacing, spacing, spacing))


def evaluated_on(reference: DoseGrid, spacing: float, *, shift_mm: Shift, scale: float) -> DoseGrid:
    """The formula of `field`, moved, on a grid of another spacing that covers the reference."""
    size = reference.dose_gy.shape[0] * reference.spacing_mm[0]
    count = int(np.ceil(size / spacing)) + 3
    start = -(count - 1) / 2.0 * spacing + 0.3
    axis = start + spacing * np.arange(count)
    z, y, x = np.meshgrid(axis, axis, axis, indexing="ij")
    dose = scale * _field(x - shift_mm[0], y - shift_mm[1], z - shift_mm[2], size / 2.0)
    return DoseGrid(dose.astype(np.float32), 0 * dose, (start, start, start), (spacing, spacing, spacing))


def shifted(grid: DoseGrid, shift_mm: Shift, *, scale: float = 1.0, noise: float = 0.0, seed: int = 7) -> DoseGrid:
    """The dose moved by interpolation, scaled, with relative noise; on the same grid."""
    from scipy.ndimage import shift

    voxels = [move / step for move, step in zip(shift_mm, grid.spacing_mm, strict=True)][::-1]
    moved = shift(grid.dose_gy.astype(np.float64), voxels, order=1, mode="nearest")
    random = np.random.default_rng(seed)
    dose = scale * moved * (1.0 + noise * random.standard_normal(moved.shape))
    return DoseGrid(dose.astype(np.float32), grid.sigma_gy, grid.origin_mm, grid.spacing_mm)


def real_dose(data: Path, planes: int = 0) -> DoseGrid:
    """The planning system's dose of plan06, in physical Gy; `planes` > 0: so many around the middle."""
    import pydicom

    path = next((data / "dcpt-let-plans" / "plan06_sobp_4d").glob("RD*.dcm"))
    file = pydicom.dcmread(path)
    dose = (file.pixel_array * float(file.DoseGridScaling) / 1.1).astype(np.float32)
    x, y, z = (float(value) for value in file.ImagePositionPatient)
    dy, dx = (float(value) for value in file.PixelSpacing)
    dz = float(file.GridFrameOffsetVector[1]) - float(file.GridFrameOffsetVector[0])
    first = (dose.shape[0] - planes) // 2 if planes else 0
    part = dose[first : first + planes] if planes else dose
    return DoseGrid(part, np.zeros_like(part), (x, y, z + first * dz), (dx, dy, dz))
