"""A dose grid cut into small boxes, for gamma.py: what trilinear interpolation gives in each of them."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any, List, Optional, Tuple

import numpy as np

from .dose_grid import DoseGrid


@dataclass(frozen=True)
class Boxes:
    """The evaluated dose around some reference points, refined: corner doses (nz, ny, nx) and each box's range."""

    corners: Any
    low: Any
    high: Any
    origin_mm: Any
    edge_mm: Any


def refine(
    evaluated: DoseGrid, factors: Tuple[int, int, int], points_mm: Any, reach_mm: float
) -> Optional[Boxes]:
    """The part of a grid within reach of the points, each voxel cut by `factors` (x, y, z); None: no part is."""
    origin, spacing = np.array(evaluated.origin_mm), np.array(evaluated.spacing_mm)
    counts = np.array(evaluated.dose_gy.shape[::-1])
    first = np.floor((points_mm.min(axis=0) - reach_mm - origin) / spacing).astype(int)
    last = np.ceil((points_mm.max(axis=0) + reach_mm - origin) / spacing).astype(int)
    first, last = np.maximum(first, 0), np.minimum(last, counts - 1)
    if np.any(first > last):
        return None
    part = evaluated.dose_gy[first[2] : last[2] + 1, first[1] : last[1] + 1, first[0] : last[0] + 1]
    dose = np.asarray(part, dtype=np.float32)
    for axis, factor in zip((2, 1, 0), factors):
        dose = _finer(dose, axis, factor)
    low = high = dose
    for axis in range(3):
        # A grid of one plane has boxes without thickness.
        ahead, behind = (_sides(low, axis), _sides(high, axis))
        low, high = np.minimum(*ahead), np.maximum(*behind)
    return Boxes(dose, low, high, origin + first * spacing, spacing / np.array(factors))


def _finer(dose: Any, axis: int, factor: int) -> Any:
    """The array with factor - 1 linearly interpolated values between neighbours along `axis`."""
    if factor == 1 or dose.shape[axis] == 1:
        return dose
    left, right = _sides(dose, axis)
    shape = list(dose.shape)
    shape[axis] = (dose.shape[axis] - 1) * factor + 1
    finer = np.empty(shape, dtype=np.float32)
    place: List[Any] = [slice(None)] * 3
    for step in range(factor):
        place[axis] = slice(step, shape[axis] - 1, factor)
        share = np.float32(step / factor)
        finer[tuple(place)] = left if step == 0 else left + share * (right - left)
    place[axis], end = slice(-1, None), [slice(None)] * 3
    end[axis] = slice(-1, None)
    finer[tuple(place)] = dose[tuple(end)]
    return finer


def _sides(array: Any, axis: int) -> Tuple[Any, Any]:
    """Neighbours along an axis, each as long as there are boxes between them (one, where there is one value)."""
    if array.shape[axis] == 1:
        return array, array
    left: List[Any] = [slice(None)] * 3
    right: List[Any] = [slice(None)] * 3
    left[axis], right[axis] = slice(None, -1), slice(1, None)
    return array[tuple(left)], array[tuple(right)]


def dose_and_slope(boxes: Boxes, where: Any) -> Tuple[Any, Any]:
    """(dose (count), its derivatives (count, 3) per box edge) at places (count, 3: x, y, z) in boxes."""
    limit = np.maximum(np.array(boxes.corners.shape[::-1]) - 2, 0)
    base = np.clip(np.floor(where + 1e-9).astype(np.int64), 0, limit)
    x, y, z = (where - base).T
    corners = corner_doses(boxes, base)
    along_x = corners[1::2] - corners[0::2]
    lines = corners[0::2] + x * along_x
    along_y = lines[1::2] - lines[0::2]
    planes = lines[0::2] + y * along_y
    slope_x = (along_x[0] + y * (along_x[1] - along_x[0])) * (1.0 - z)
    slope_x += (along_x[2] + y * (along_x[3] - along_x[2])) * z
    slope_y = along_y[0] + z * (along_y[1] - along_y[0])
    slope_z = planes[1] - planes[0]
    return planes[0] + z * slope_z, np.stack([slope_x, slope_y, slope_z], axis=1)


def flat_index(place: Any, shape: Tuple[int, int, int]) -> Any:
    return (place[:, 2] * shape[1] + place[:, 1]) * shape[2] + place[:, 0]


def weights_of(nodes: Any) -> Any:
    """Trilinear weights (count, 8) of places (count, 3: x, y, z within 0..1), in the order of corner_doses."""
    x, y, z = nodes[:, 0], nodes[:, 1], nodes[:, 2]
    pairs = itertools.product(((1.0 - z), z), ((1.0 - y), y), ((1.0 - x), x))
    return np.stack([c * b * a for c, b, a in pairs], axis=1)


def corner_doses(boxes: Boxes, place: Any) -> Any:
    """Doses (8, count) at the corners of boxes; x runs fastest."""
    nz, ny, nx = boxes.corners.shape
    first = flat_index(place, boxes.corners.shape)
    steps = ((0, ny * nx * (nz > 1)), (0, nx * (ny > 1)), (0, 1 * (nx > 1)))
    flat = boxes.corners.reshape(-1)
    return np.stack([flat[first + (dz + dy + dx)] for dz, dy, dx in itertools.product(*steps)])
