"""A dose on a regular grid, and the file that carries it from moquisim.py to report.py.

`dose_planned.npz` and `dose_delivered.npz` hold, without pickled objects:

    dose_Gy      float32 (nz, ny, nx)   physical dose to water of one fraction, RBE 1
    sigma_Gy     float32 (nz, ny, nx)   its statistical uncertainty, one standard deviation
    origin_mm    float64 (3)            centre of the first voxel: x, y, z in DICOM patient coordinates
    spacing_mm   float64 (3)            dx, dy, dz, all greater than zero
"""

from __future__ import annotations

import io
import os
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Tuple

import numpy as np

from .report import BadInput

_NAMES = ("dose_Gy", "sigma_Gy", "origin_mm", "spacing_mm")


@dataclass(frozen=True)
class DoseGrid:
    """Dose and uncertainty in Gy, float32 (nz, ny, nx); the first voxel's centre and the spacing in mm, x y z."""

    dose_gy: Any
    sigma_gy: Any
    origin_mm: Tuple[float, float, float]
    spacing_mm: Tuple[float, float, float]

    def axes_mm(self) -> Tuple[Any, Any, Any]:
        """The centres of the voxels along x, y and z, mm."""
        nz, ny, nx = self.dose_gy.shape
        x, y, z = (
            origin + spacing * np.arange(count)
            for origin, spacing, count in zip(self.origin_mm, self.spacing_mm, (nx, ny, nz))
        )
        return x, y, z

    def same_grid(self, other: "DoseGrid") -> bool:
        """Whether the voxels of both lie at the same places, within a thousandth of a millimetre."""
        ours, theirs = (self.origin_mm, self.spacing_mm), (other.origin_mm, other.spacing_mm)
        return self.dose_gy.shape == other.dose_gy.shape and bool(
            np.allclose(ours, theirs, rtol=0.0, atol=1e-3)
        )


def write_grid(path: Path, grid: DoseGrid) -> None:
    """Writes the file under a temporary name, then renames it."""
    content = io.BytesIO()
    np.savez_compressed(
        content,
        dose_Gy=np.asarray(grid.dose_gy, dtype=np.float32),
        sigma_Gy=np.asarray(grid.sigma_gy, dtype=np.float32),
        origin_mm=np.asarray(grid.origin_mm, dtype=np.float64),
        spacing_mm=np.asarray(grid.spacing_mm, dtype=np.float64),
    )
    temporary = path.with_name(path.name + ".part~")
    temporary.write_bytes(content.getvalue())
    os.replace(str(temporary), str(path))


def read_grid(path: Path) -> DoseGrid:
    """The grid in the file. Raises BadInput when it is not such a file, or a value is not finite."""
    try:
        with np.load(str(path), allow_pickle=False) as archive:
            dose, sigma, origin, spacing = (archive[name] for name in _NAMES)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise BadInput(f"{path.name} is not a dose grid ({type(error).__name__}).") from error
    good = (
        dose.ndim == 3
        and sigma.shape == dose.shape
        and origin.shape == spacing.shape == (3,)
        and dose.size > 0
    )
    if not good or not all(np.all(np.isfinite(array)) for array in (dose, sigma, origin, spacing)):
        raise BadInput(f"{path.name} is not a dose grid (shapes or values).")
    if not np.all(spacing > 0.0):
        raise BadInput(f"{path.name} is not a dose grid (spacing).")
    x, y, z = (float(value) for value in origin)
    dx, dy, dz = (float(value) for value in spacing)
    return DoseGrid(dose.astype(np.float32), sigma.astype(np.float32), (x, y, z), (dx, dy, dz))
