"""Depth dose: of a computed dose, along its beam; and what the same spots should give, from PSTAR and Bortfeld 1997.

Depth is water-equivalent, from the entrance into the phantom along the beam's axis. In the water phantom that is
the distance from the surface. In a CT it is the integral of the relative stopping power, which is taken from the
density alone (1 at water, as in `relative_stopping_power`): good enough to see a wrong range, not to measure one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, List, Optional, Tuple

import numpy as np

from .beam_model import BeamModel
from .bragg import Protons
from .geometry import BeamFrame
from .phantom import Phantom
from .spots import Spots

JOULE_PER_MEV = 1.602176634e-13  # CODATA 2018, exact
WATER_KG_PER_MM3 = 1e-6
# Air at 20 degrees, relative to water: density x mass stopping power ratio (ICRU 49), within 1 % from 70 to 250 MeV.
AIR_WATER_EQUIVALENT = 1.205e-3 * 0.88


@dataclass(frozen=True)
class Curve:
    """Depths in mm (centres of bins) and dose integrated over the plane at each, Gy mm²."""

    depth_mm: Any
    dose_gy_mm2: Any

    @property
    def energy_mev_per_mm(self) -> Any:
        """The same as energy deposited per depth in water."""
        return self.dose_gy_mm2 * (WATER_KG_PER_MM3 / JOULE_PER_MEV)

    def distal(self, share: float) -> Optional[float]:
        """The greatest depth where the curve still is `share` of its maximum, mm; None: not on the curve."""
        level = share * float(np.max(self.dose_gy_mm2))
        above = np.flatnonzero(self.dose_gy_mm2 >= level)
        if level <= 0.0 or not above.size or above[-1] + 1 >= self.dose_gy_mm2.size:
            return None
        last = int(above[-1])
        high, low = float(self.dose_gy_mm2[last]), float(self.dose_gy_mm2[last + 1])
        step = float(self.depth_mm[last + 1] - self.depth_mm[last])
        return float(self.depth_mm[last]) + step * (high - level) / (high - low)


def water_depth(phantom: Phantom, frame: BeamFrame) -> Any:
    """Water-equivalent depth of every voxel's centre, mm, (nz, ny, nx); negative in front of a water surface."""
    if phantom.kind == "water":
        return float(phantom.facts["isocentre_depth_mm"]) - frame.coordinate(2, phantom.axes_mm())
    return _traced(phantom, frame)


def relative_stopping_power(density: Any) -> Any:
    """Relative to water, from density in g/cm³: the fit of Fippel and Soukup, Med. Phys. 31 (2004) 2263, at 150 MeV,
    linear below 0.9."""
    heavy = np.maximum(density, 0.9)
    mass = 1.0123 - 3.386e-5 * 150.0 + 0.291 * (1.0 + 150.0**-0.3421) * (heavy**-0.7 - 1.0)
    return density * mass


def _traced(phantom: Phantom, frame: BeamFrame) -> Any:
    """Parallel rays along the beam through the nearest voxels, on a grid that stands with the gantry."""
    power = relative_stopping_power(phantom.density())
    step = min(phantom.spacing_mm)
    shape = np.array(phantom.hu.shape[::-1])
    origin, spacing = np.array(phantom.origin_mm), np.array(phantom.spacing_mm)
    corners = [
        origin + (np.array(corner) * shape - 0.5) * spacing
        for corner in ((a, b, c) for a in (0, 1) for b in (0, 1) for c in (0, 1))
    ]
    turned = frame.to_gantry(np.array(corners))
    # Centres of a grid that fills the turned box; for a beam along an axis they are the voxels' own.
    low, high = turned.min(axis=0) + 0.5 * step, turned.max(axis=0) - 0.5 * step
    counts = np.ceil((high - low) / step - 1e-6).astype(int) + 1
    x, y = (low[axis] + step * np.arange(counts[axis]) for axis in (0, 1))
    depth = np.zeros((counts[2], counts[1], counts[0]), dtype=np.float32)
    passed = np.zeros((counts[1], counts[0]))
    points = np.empty((counts[1], counts[0], 3))
    points[..., 0], points[..., 1] = x[None, :], y[:, None]
    for plane in range(int(counts[2])):
        points[..., 2] = high[2] - step * plane
        place = np.rint((frame.to_patient(points) - origin) / spacing).astype(int)
        inside = np.all((place >= 0) & (place < shape), axis=-1)
        here = np.where(
            inside, power[tuple(np.clip(place, 0, shape - 1)[..., axis] for axis in (2, 1, 0))], 0.0
        )
        depth[plane] = passed + 0.5 * step * here
        passed += step * here
    axes = phantom.axes_mm()
    gantry = [frame.coordinate(axis, axes) for axis in range(3)]
    columns, rows, planes = (
        np.clip(np.rint(way / step).astype(int), 0, count - 1)
        for way, count in zip((gantry[0] - low[0], gantry[1] - low[1], high[2] - gantry[2]), counts)
    )
    # From the nearest plane's centre to the voxel's own.
    return depth[planes, rows, columns] + (high[2] - step * planes - gantry[2]) * power


def depth_dose(dose_gy: Any, depth_mm: Any, voxel_mm3: float, step_mm: float) -> Curve:
    """The dose summed over the planes of equal depth. A voxel's dose goes to the two nearest bins.

    Bins are `step_mm` wide and lie on the first voxel's plane, so that beams along an axis are not smeared.
    """
    offset = float(depth_mm.flat[0]) % step_mm
    place = (depth_mm - offset) / step_mm
    inside = place > -1.0
    place, dose = place[inside], dose_gy[inside].astype(float)
    # Depths of voxels in one plane differ in the last digits.
    low = np.floor(place + 1e-6).astype(int)
    part = np.clip(place - low, 0.0, 1.0)
    count = int(low.max()) + 2
    total = np.bincount(low + 1, weights=dose * (1.0 - part), minlength=count + 1)
    total += np.bincount(low + 2, weights=dose * part, minlength=count + 1)[: len(total)]
    return Curve(offset + step_mm * np.arange(count), total[1 : count + 1] * (voxel_mm3 / step_mm))


def exit_depth(depth_mm: Any, phantom: Phantom, frame: BeamFrame, spots: Spots) -> Any:
    """Where each spot's axis leaves the phantom, mm of water: the greatest `depth_mm` of the voxels that it passes."""
    axes = phantom.axes_mm()
    x, y = frame.coordinate(0, axes).ravel(), frame.coordinate(1, axes).ravel()
    reach = max(phantom.spacing_mm)
    columns = np.rint(x / reach).astype(int), np.rint(y / reach).astype(int)
    low = [int(column.min()) for column in columns]
    greatest = np.zeros([int(column.max()) - start + 1 for column, start in zip(columns, low)])
    np.maximum.at(greatest, (columns[0] - low[0], columns[1] - low[1]), depth_mm.ravel())
    place = [
        np.clip(np.rint(at / reach).astype(int) - start, 0, size - 1)
        for at, start, size in zip((spots.x_mm, spots.y_mm), low, greatest.shape)
    ]
    return greatest[place[0], place[1]]


def expected(
    spots: Spots, model: BeamModel, air_mm: float, depth_mm: Any, exit_mm: Optional[Any] = None
) -> Curve:
    """What the spots should give in water on bins centred at `depth_mm`, by the analytic model (bragg.py).

    `air_mm`: the way from the beam model's plane to the surface. `exit_mm`: where each spot leaves the phantom.
    """
    step = float(depth_mm[1] - depth_mm[0])
    # Each bin is the mean over its width, as in the computed dose.
    parts = (np.arange(6) + 0.5) / 6.0 - 0.5
    fine = (depth_mm[:, None] + step * parts[None, :]).ravel()
    total = np.zeros_like(fine)
    for energy, wet, ends, protons in _layers(spots, exit_mm):
        row = model.at(energy)
        curve = Protons(row.mean_mev, row.sigma_mev, protons)
        water = fine + wet + air_mm * AIR_WATER_EQUIVALENT
        inside = (fine > 0.0) & (fine < ends)
        total += np.where(inside, curve.dose(np.maximum(water, 0.0) / 10.0) / 10.0, 0.0)
    per_mm = total.reshape(len(depth_mm), len(parts)).mean(axis=1)
    return Curve(depth_mm, per_mm * (JOULE_PER_MEV / WATER_KG_PER_MM3))


def deepest_mm(spots: Spots, model: BeamModel) -> float:
    """The greatest range of the spots behind their range shifters, mm of water, straggling included."""
    depths = []
    for energy, wet, _, _ in _layers(spots, None):
        row = model.at(energy)
        curve = Protons(row.mean_mev, row.sigma_mev, 1.0)
        depths.append(10.0 * (curve.range_cm + 3.0 * curve.sigma_cm) - wet)
    return max(depths)


def _layers(spots: Spots, exit_mm: Optional[Any]) -> List[Tuple[float, float, float, float]]:
    """(nominal energy, range shifter mm, exit depth to 2 mm, protons) of what differs in range."""
    ends = np.full(len(spots.mu), 1e6) if exit_mm is None else 2.0 * np.rint(np.asarray(exit_mm) / 2.0)
    triples = np.stack([spots.energy_mev, spots.wet_mm, ends], axis=1)
    different, which = np.unique(triples, axis=0, return_inverse=True)
    protons = np.bincount(which.ravel(), weights=spots.protons)
    return [
        (float(energy), float(wet), float(end), float(count))
        for (energy, wet, end), count in zip(different, protons)
    ]
