"""The gamma index of one dose against another, on grids of any two spacings.

Definition: Low et al., Med Phys 25 (1998) 656. For a reference point with dose D_r,

    gamma = min over r_e of sqrt(|r_e - r_r|² / DTA² + (D_e(r_e) - D_r)² / dD²),

with dD a share of the greatest reference dose (global) or of D_r itself (local). D_e is the evaluated dose,
interpolated trilinearly; nothing is extrapolated beyond its grid. The minimum is sought on a lattice of DTA/10,
and at the reference point itself: coarser lattices corrupt local gamma where the dose is steep (measured:
DTA/5 loses 6 percentage points). From the best place, descents go on between the lattice's points: the definition
knows no lattice. Programs that stop at DTA/10 let fewer points pass, and approach ours with finer steps
(docs/dose-validation.md).

The search, in the spirit of Wendling et al., Med Phys 34 (2007) 1647, goes outwards and stops early, by boxes
instead of points. The evaluated grid is cut into boxes of at most DTA/2 (trilinear interpolation of a trilinear
piece is the piece itself). A box is looked into only when its distance and the range of its corners' doses allow a
smaller gamma than the one known; its lattice is then computed for many reference points at once, as one product of
the interpolation weights with the corners' doses.
"""

from __future__ import annotations

import itertools
import math
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Iterator, List, Tuple

import numpy as np

from .boxes import Boxes, corner_doses, dose_and_slope, flat_index, refine, weights_of
from .dose_grid import DoseGrid

# The lattice per DTA, and the greatest edge of a box per DTA.
STEPS_PER_DTA = 10
BOXES_PER_DTA = 2
_WORKERS = min(4, os.cpu_count() or 1)
# How many voxels of the refined evaluated grid, and how many lattice values, each worker holds at once.
_VOXELS = 8_000_000
_VALUES = 100_000
# The search goes outwards by these distances, in DTA.
_SHELLS = (0.15, 0.25, 0.35, 0.45, 0.6, 0.8, 1.0, 1.25, 1.5)
_DESCENTS = 6
# A gamma that is smaller by less than this is not worth looking into a box.
_CLOSE = 1e-6


@dataclass(frozen=True)
class Criteria:
    """Dose difference in %, distance to agreement in mm, lower threshold in % of the greatest reference dose.

    Gamma is not followed beyond `cap`: what lies farther counts as `cap`.
    """

    dose_percent: float = 3.0
    distance_mm: float = 2.0
    local: bool = False
    threshold_percent: float = 10.0
    cap: float = 2.0

    def __str__(self) -> str:
        kind = "local" if self.local else "global"
        return f"{self.dose_percent:g} %/{self.distance_mm:g} mm {kind}, {self.threshold_percent:g} % threshold"


@dataclass(frozen=True)
class Gamma:
    """The outcome. `index`: float32 (nz, ny, nx) on the reference grid, NaN below the threshold.

    `points`: those at or above the threshold. `outside`: those of them that lie outside the evaluated grid; they
    count as failed. `normalisation_gy`: the dose that the percentages refer to (global and threshold).
    """

    index: Any
    points: int
    passed: int
    outside: int
    mean: float
    greatest: float
    normalisation_gy: float

    @property
    def pass_percent(self) -> float:
        """Percentage of points with gamma <= 1; NaN without any point."""
        return 100.0 * self.passed / self.points if self.points else math.nan


def gamma(reference: DoseGrid, evaluated: DoseGrid, criteria: Criteria) -> Gamma:
    """Gamma of `evaluated` against `reference`, at the voxels of `reference` at or above the threshold.

    A reference without any dose has no such voxel: `points` is 0.
    """
    doses = np.asarray(reference.dose_gy, dtype=np.float64)
    highest = float(doses.max())
    chosen = doses >= criteria.threshold_percent / 100.0 * highest if highest > 0.0 else np.zeros(doses.shape, bool)
    index = np.full(doses.shape, np.nan, dtype=np.float32)

    def work(planes: slice) -> int:
        places = np.argwhere(chosen[planes])
        if not len(places):
            return 0
        places[:, 0] += planes.start
        index[tuple(places.T)], absent = _gamma_at(reference, evaluated, criteria, places, highest)
        return absent

    # numpy lets go of the interpreter's lock while it computes.
    with ThreadPoolExecutor(max_workers=_WORKERS) as pool:
        outside = sum(pool.map(work, _slabs(chosen, reference, evaluated, criteria)))
    values = index[chosen]
    return Gamma(
        index=index,
        points=int(values.size),
        passed=int(np.count_nonzero(values <= 1.0)),
        outside=outside,
        mean=float(values.mean(dtype=np.float64)) if values.size else math.nan,
        greatest=float(values.max()) if values.size else math.nan,
        normalisation_gy=highest,
    )


def _slabs(chosen: Any, reference: DoseGrid, evaluated: DoseGrid, criteria: Criteria) -> Iterator[slice]:
    """Planes of the reference grid that are worked on together, so that memory stays bounded."""
    factors = _factors(evaluated, criteria)
    _, ny, nx = evaluated.dose_gy.shape
    plane = max(1, ny * factors[1] * nx * factors[0])
    margin_mm = 2.0 * criteria.cap * criteria.distance_mm
    reach = _VOXELS / plane * evaluated.spacing_mm[2] / factors[2] - margin_mm
    used = np.flatnonzero(chosen.any(axis=(1, 2)))
    if not len(used):
        return
    first, behind = int(used[0]), int(used[-1]) + 1
    count = max(1, min(int(reach / reference.spacing_mm[2]), math.ceil((behind - first) / _WORKERS)))
    for start in range(first, behind, count):
        yield slice(start, min(start + count, behind))


def _factors(evaluated: DoseGrid, criteria: Criteria) -> Tuple[int, int, int]:
    """Into how many boxes a voxel is cut along x, y, z."""
    edge = criteria.distance_mm / BOXES_PER_DTA
    x, y, z = (max(1, math.ceil(spacing / edge - 1e-9)) for spacing in evaluated.spacing_mm)
    return x, y, z


def _gamma_at(
    reference: DoseGrid, evaluated: DoseGrid, criteria: Criteria, places: Any, highest: float
) -> Tuple[Any, int]:
    """(gamma at the voxels `places` of the reference, how many of them lie outside the evaluated grid)."""
    points_mm = np.array(reference.origin_mm) + places[:, ::-1] * np.array(reference.spacing_mm)
    doses = np.asarray(reference.dose_gy[tuple(places.T)], dtype=np.float64)
    scale = criteria.dose_percent / 100.0 * (doses if criteria.local else np.full(doses.shape, highest))
    low = np.array(evaluated.origin_mm)
    high = low + (np.array(evaluated.dose_gy.shape[::-1]) - 1) * np.array(evaluated.spacing_mm)
    inside = np.all((points_mm >= low - 1e-6) & (points_mm <= high + 1e-6), axis=1)
    boxes = refine(evaluated, _factors(evaluated, criteria), points_mm, criteria.cap * criteria.distance_mm)
    best = np.full(doses.shape, criteria.cap**2, dtype=np.float32)
    if boxes is not None:
        _search(boxes, points_mm, doses, scale, inside, criteria, best)
    return np.sqrt(best), int(np.count_nonzero(~inside))


@dataclass(frozen=True)
class _Shell:
    """Nodes of one box that lie between two distances from the points of a group; all squared, in DTA.

    `least`: no node is nearer than that. `weights` (nodes, 8); `places` (nodes, 3) in units of DTA from the box's
    first corner; `squares`: their distances when all points of the group lie alike in their boxes, else None.
    """

    least: float
    shift: Any
    weights: Any
    places: Any
    squares: Any


def _search(
    boxes: Boxes, points_mm: Any, doses: Any, scale: Any, inside: Any, criteria: Criteria, best: Any
) -> None:
    """Lowers `best`, the squared gamma of each point, to the least value on the lattice."""
    unit = boxes.edge_mm / criteria.distance_mm
    counts = np.array(boxes.low.shape[::-1])
    within = (points_mm - boxes.origin_mm) / boxes.edge_mm
    # The box that a point lies in; a point on the upper face of the grid belongs to the last box.
    base = np.floor(within + 1e-6).astype(np.int64)
    base = np.where(inside[:, None], np.clip(base, 0, counts - 1), base)
    share = within - base
    at = np.zeros_like(within)
    _descend(boxes, within, unit, doses, scale, np.flatnonzero(inside), at, best)
    known = best.copy()
    for group in _groups(share):
        low, high = share[group].min(axis=0), share[group].max(axis=0)
        alive = group
        for shell in _shells(unit, low, high, math.sqrt(float(best[group].max()))):
            alive = alive[best[alive] > shell.least + _CLOSE]
            if not len(alive):
                break
            _look_into(boxes, shell, alive, base, share, unit, doses, scale, at, best)
    _descend(boxes, within, unit, doses, scale, np.flatnonzero(best < known), at, best)


def _descend(
    boxes: Boxes, within: Any, unit: Any, doses: Any, scale: Any, chosen: Any, at: Any, best: Any
) -> None:
    """Lowers `best` of the chosen points by Gauss-Newton steps from where `at` says (relative to the point, DTA).

    With the dose taken as linear, a + g·u in units of dD, the place of least |u|² + (a + g·u)² is -a g / (1 + |g|²).
    Every place on the way is a place in the evaluated dose; the best of them counts.
    """
    last = np.array(boxes.corners.shape[::-1]) - 1
    for who in _parts(chosen, 50_000):
        start = within[who]
        low, high = -start * unit, (last - start) * unit
        place = at[who]
        for step in range(_DESCENTS):
            values, slopes = dose_and_slope(boxes, start + place / unit)
            off = (values - doses[who]) / scale[who]
            slope = slopes / (unit * scale[who][:, None])
            found = (np.sum(place**2, axis=1) + off**2).astype(np.float32)
            better = found < best[who]
            best[who[better]] = found[better]
            at[who[better]] = place[better]
            flat = off - np.sum(slope * place, axis=1)
            target = -slope * (flat / (1.0 + np.sum(slope**2, axis=1)))[:, None]
            # A whole step may jump over a bend of the dose to and fro; from the third on, half of it is taken.
            place = np.clip(target if step < 2 else (target + place) / 2.0, low, high)


def _groups(share: Any) -> List[Any]:
    """The points by where in their boxes they lie. On grids of like spacing that is one place, or a few."""
    label = np.zeros(len(share), dtype=np.int64)
    for axis in range(3):
        places, which = np.unique(np.round(share[:, axis], 4), return_inverse=True)
        if len(places) > 3:
            which = (share[:, axis] >= 0.5).astype(np.int64)
        label = label * 3 + which.reshape(-1)
    return [np.flatnonzero(label == each) for each in np.unique(label)]


def _shells(unit: Any, low: Any, high: Any, cap: float) -> List[_Shell]:
    """The lattice around points that lie between `low` and `high` in their boxes, nearest first, up to `cap`."""
    steps = [max(1, math.ceil(float(each) * STEPS_PER_DTA - 1e-9)) for each in unit]
    nodes = np.array(list(itertools.product(*(np.arange(count + 1) / count for count in steps))))
    alike = bool(np.all(high - low < 1e-4))
    edges = np.array([*(edge**2 for edge in _SHELLS if edge < cap), cap**2])
    weights, own_places = weights_of(nodes).astype(np.float32), (nodes * unit).astype(np.float32)
    found = []
    reach = [range(-math.ceil(cap / each) - 1, math.ceil(cap / each) + 2) for each in unit]
    for shift in itertools.product(*reach):
        if any(np.maximum(np.maximum(low - shift - 1.0, shift - high), 0.0) * unit >= cap):
            continue
        places = nodes + np.array(shift)
        squares = np.sum((np.maximum(np.maximum(low - places, places - high), 0.0) * unit) ** 2, axis=1)
        which = np.searchsorted(edges, squares, side="right")
        for shell in range(len(edges)):
            own = np.flatnonzero(which == shell)
            if len(own):
                distances = squares[own].astype(np.float32)[:, None] if alike else None
                least = float(squares[own].min())
                found.append(_Shell(least, np.array(shift), weights[own], own_places[own], distances))
    return sorted(found, key=lambda each: each.least)


def _look_into(
    boxes: Boxes, shell: _Shell, alive: Any, base: Any, share: Any, unit: Any, doses: Any,
    scale: Any, at: Any, best: Any
) -> None:
    """Lowers `best` of the points `alive` to the least value at the nodes of one shell in one box."""
    counts = np.array(boxes.low.shape[::-1])
    place = base[alive] + shell.shift
    fits = np.all((place >= 0) & (place < counts), axis=1)
    who, place = alive[fits], place[fits]
    flat = flat_index(place, boxes.low.shape)
    target = doses[who]
    off = np.maximum(np.maximum(np.take(boxes.low, flat) - target, target - np.take(boxes.high, flat)), 0.0)
    useful = np.flatnonzero(shell.least + (off / scale[who]) ** 2 < best[who] - _CLOSE)
    for some in _parts(useful, max(1, _VALUES // len(shell.weights))):
        one = who[some]
        # The weights of a node add up to 1: the difference of doses is interpolated like the dose.
        corners = (corner_doses(boxes, place[some]) - doses[one]) / scale[one]
        values = shell.weights @ corners.astype(np.float32)
        np.square(values, out=values)
        if shell.squares is not None:
            values += shell.squares
        else:
            values += _squared_distances(shell.places, (share[one] - shell.shift) * unit)
        least = values.min(axis=0)
        better = np.flatnonzero(least < best[one])
        if len(better):
            node = shell.places[values[:, better].argmin(axis=0)]
            best[one[better]] = least[better]
            at[one[better]] = node - (share[one[better]] - shell.shift) * unit


def _squared_distances(nodes: Any, points: Any) -> Any:
    """(nodes, points): squared distances between two sets of places."""
    total = np.zeros((len(nodes), len(points)), dtype=np.float32)
    for axis in range(3):
        gap = nodes[:, axis, None] - points[:, axis].astype(np.float32)
        total += np.square(gap, out=gap)
    return total


def _parts(indices: Any, length: int) -> Iterator[Any]:
    for start in range(0, len(indices), length):
        yield indices[start : start + length]
