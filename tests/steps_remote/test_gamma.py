"""Gamma: against pymedphys, and the properties that any gamma index has."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from doses import evaluated_on, field, real_dose, shifted
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from steplib.dose_grid import DoseGrid
from steplib.gamma import Criteria, gamma

CRITERIA = Criteria()


# Fractions of the DTA that pymedphys steps by, and the gamma from which on a point is not searched again. (Measured:
# no point came to pass by half the step from more than 1.009, 1.005 and 1.003.)
STAGES = ((10, 1.03), (20, 1.015), (40, 1.007), (80, 1.003))


def by_pymedphys(
    reference: DoseGrid, evaluated: DoseGrid, criteria: Criteria, fraction: int, *, cap: float, points: Any, skip: bool
) -> Any:
    """The gamma of pymedphys at `points` of the reference; `cap` from there on; NaN elsewhere.

    `skip`: a point's search ends as soon as gamma is below 1.
    """
    pymedphys = pytest.importorskip("pymedphys")
    axes = [tuple(reversed(grid.axes_mm())) for grid in (reference, evaluated)]
    doses = [np.asarray(grid.dose_gy, dtype=np.float64) for grid in (reference, evaluated)]
    return pymedphys.gamma(
        axes[0], np.where(points, doses[0], 0.0), axes[1], doses[1],
        criteria.dose_percent, criteria.distance_mm,
        lower_percent_dose_cutoff=criteria.threshold_percent, global_normalisation=float(doses[0].max()),
        interp_fraction=fraction, max_gamma=cap, local_gamma=criteria.local, interp_algo="scipy",
        skip_once_passed=skip, ram_available=2**28,
    )  # fmt: skip


def above_threshold(reference: DoseGrid, criteria: Criteria) -> Any:
    dose = np.asarray(reference.dose_gy, dtype=np.float64)
    return dose >= criteria.threshold_percent / 100.0 * dose.max()


def passed_by_pymedphys(reference: DoseGrid, evaluated: DoseGrid, criteria: Criteria) -> list[Any]:
    """Which points pass, per stage, in ever finer steps, until half the step changes less than 0.05 % of the points.

    A place that gives gamma <= 1 is a proof, and a finer search cannot take it back. pymedphys looks on spheres around
    the point; where dose is steep, the place that passes may lie between two of them, and the sphere at the DTA itself
    gives a little more than 1. Only points that are that near to passing are searched again.
    """
    points = undecided = above_threshold(reference, criteria)
    least, before, known = np.full(points.shape, np.inf), math.inf, 0
    passed: list[Any] = []
    for fraction, cap in STAGES:
        index = by_pymedphys(reference, evaluated, criteria, fraction, cap=cap, points=undecided, skip=True)
        turned = least[undecided & (index <= 1.0) & np.isfinite(least)]
        # What was left out before did not come near to passing: what turned is well within what is searched again.
        assert not turned.size or turned.max() < 1.0 + 0.7 * (before - 1.0)
        least = np.where(undecided, np.minimum(least, index), least)
        passed.append(least <= 1.0)
        count = np.count_nonzero(passed[-1])
        if known and count - known < 0.0005 * np.count_nonzero(points):
            break
        undecided, before, known = (least > 1.0) & (least < cap), cap, count
    return passed


def noisy_pair(count: int) -> tuple[DoseGrid, DoseGrid]:
    """A range shift at the distal edge, a lateral shift and noise. (A harder one: docs/dose-validation.md.)"""
    reference = field(count, 2.0)
    return reference, shifted(reference, (1.2, -0.8, 1.5), scale=1.02, noise=0.015)


def resampled_pair(count: int) -> tuple[DoseGrid, DoseGrid]:
    """Grids of other spacing, origin and extent."""
    reference = field(count, 2.0)
    return reference, evaluated_on(reference, 2.5, shift_mm=(0.9, 1.4, -1.6), scale=0.985)


def real_pair(data: Path) -> tuple[DoseGrid, DoseGrid]:
    """plan06's dose in six planes against itself, moved, scaled and noisy."""
    reference = real_dose(data, planes=6)
    return reference, shifted(reference, (1.0, 1.3, -0.7), scale=1.015, noise=0.01)


# Each pair and each normalisation once; the other two take seconds more each, and the full size has all.
@pytest.mark.parametrize(
    ("pair", "local"),
    [
        pytest.param(noisy_pair, False, id="noisy-global"),
        pytest.param(resampled_pair, True, id="resampled-local"),
        pytest.param(noisy_pair, True, id="noisy-local", marks=pytest.mark.slow),
        pytest.param(resampled_pair, False, id="resampled-global", marks=pytest.mark.slow),
    ],
)
def test_agrees_with_pymedphys(pair: Any, local: bool) -> None:
    reference, evaluated = pair(8)
    criteria = replace(CRITERIA, local=local, cap=1.2)
    points = above_threshold(reference, criteria)
    ours = gamma(reference, evaluated, criteria)
    theirs = by_pymedphys(reference, evaluated, criteria, 20, cap=criteria.cap, points=points, skip=False)
    assert ours.points == np.count_nonzero(points)
    # On so few points 0.1 % is less than one point: gamma itself is compared.
    differences = (ours.index - theirs)[points]
    assert differences.max() < 0.2
    assert abs(np.mean(differences)) < 0.02


@pytest.mark.slow
@pytest.mark.parametrize("local", [False, True], ids=["global", "local"])
@pytest.mark.parametrize("name", ["noisy", "resampled", "real"])
def test_passes_the_points_that_pymedphys_passes(name: str, local: bool, request: pytest.FixtureRequest) -> None:
    """Within 0.1 percentage points of pymedphys, as it converges; on 7,056, 7,056 and 11,000 points."""
    if name == "real":
        reference, evaluated = real_pair(request.getfixturevalue("real_data"))
    else:
        reference, evaluated = {"noisy": noisy_pair, "resampled": resampled_pair}[name](28)
    criteria = replace(CRITERIA, local=local)
    points = above_threshold(reference, criteria)
    index = gamma(reference, evaluated, criteria).index
    own = np.where(points, index, np.inf) <= 1.0
    stages = passed_by_pymedphys(reference, evaluated, criteria)
    rates = [100.0 * np.count_nonzero(each) / np.count_nonzero(points) for each in (own, *stages)]
    told = ", ".join(f"DTA/{stage[0]} {rate:.3f} %" for stage, rate in zip(STAGES, rates[1:], strict=False))
    print(f"{name} {'local' if local else 'global'}: {np.count_nonzero(points)} points, here {rates[0]:.3f} %, pymedphys {told}")
    print(f"  only here {np.count_nonzero(own & ~stages[-1])}, only pymedphys {np.count_nonzero(stages[-1] & ~own)}")
    assert np.count_nonzero(points) > 5000
    assert abs(rates[0] - rates[-1]) <= 0.1


def test_a_dose_against_itself_is_zero() -> None:
    dose = field(16, 2.0)
    for local in (False, True):
        found = gamma(dose, dose, replace(CRITERIA, local=local))
        assert found.greatest == 0.0
        assert found.pass_percent == 100.0
        assert found.points == np.count_nonzero(dose.dose_gy >= 0.1 * dose.dose_gy.max())


@pytest.mark.parametrize(("percent", "expected"), [(1.5, 0.5), (3.0, 1.0), (4.5, 1.5), (9.0, 2.0)])
def test_a_flat_dose_gives_the_dose_difference(percent: float, expected: float) -> None:
    flat = np.ones((8, 8, 8), dtype=np.float32)
    one = DoseGrid(flat, 0 * flat, (0.0, 0.0, 0.0), (2.0, 2.0, 2.0))
    other = DoseGrid(flat * (1 + percent / 100), 0 * flat, (0.0, 0.0, 0.0), (2.0, 2.0, 2.0))
    assert gamma(one, other, CRITERIA).greatest == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize(
    ("axis", "sign"),
    [
        (0, 1.0), (1, -1.0), (2, 1.0),
        *(pytest.param(axis, sign, marks=pytest.mark.slow) for axis, sign in ((0, -1.0), (1, 1.0), (2, -1.0))),
    ],
)  # fmt: skip
def test_a_steep_ramp_gives_the_distance(axis: int, sign: float) -> None:
    """On a ramp of 20 % per mm a shift by 1 mm costs nearly nothing but its distance, half of the DTA."""
    ramp = np.broadcast_to(np.linspace(0.0, 1.0, 16)[:, None, None], (16, 16, 16))
    dose = np.moveaxis(ramp, 0, 2 - axis).astype(np.float32)
    origin = [0.0, 0.0, 0.0]
    reference = DoseGrid(dose, 0 * dose, (0.0, 0.0, 0.0), (0.3333, 0.3333, 0.3333))
    origin[axis] += sign
    moved = DoseGrid(dose, 0 * dose, (origin[0], origin[1], origin[2]), (0.3333, 0.3333, 0.3333))
    found = gamma(reference, moved, replace(CRITERIA, cap=1.2))
    inner = found.index[5:11, 5:11, 5:11]
    # |g| = 20 %/mm x 2 mm / 3 % = 13.3 per DTA: gamma = d g / sqrt(1 + g²), a little less than d = 0.5.
    assert inner == pytest.approx(0.5 * 13.33 / math.sqrt(1 + 13.33**2), abs=2e-3)


def test_shifts_to_and_fro_are_alike() -> None:
    reference = field(12, 2.0)
    ahead = gamma(reference, shifted(reference, (0.7, 0.0, 0.0)), CRITERIA)
    back = gamma(reference, shifted(reference, (-0.7, 0.0, 0.0)), CRITERIA)
    assert ahead.index == pytest.approx(back.index[:, :, ::-1], abs=2e-3, nan_ok=True)


@settings(max_examples=2, deadline=None, phases=(Phase.generate,))
@given(
    dose=st.floats(1.0, 4.0),
    distance=st.floats(1.0, 3.0),
    factor=st.floats(1.0, 2.0),
    local=st.booleans(),
    shift=st.tuples(*[st.floats(-2.0, 2.0)] * 3),
)
def test_a_wider_dose_criterion_makes_no_gamma_greater(
    dose: float, distance: float, factor: float, local: bool, shift: tuple[float, float, float]
) -> None:
    """Within what the search misses of the least: its descents end elsewhere. (With another DTA the lattice is another, too.)"""
    reference = field(7, 3.0)
    evaluated = shifted(reference, shift, scale=1.01, noise=0.01)
    narrow = Criteria(dose, distance, local)
    wide = replace(narrow, dose_percent=dose * factor)
    assert np.nanmax(gamma(reference, evaluated, wide).index - gamma(reference, evaluated, narrow).index) < 0.08


@settings(max_examples=2, deadline=None)
@given(shift=st.tuples(*[st.floats(-1.5, 1.5)] * 3), local=st.booleans())
def test_brute_force_finds_nothing_much_smaller(shift: tuple[float, float, float], local: bool) -> None:
    reference = field(8, 2.5)
    evaluated = shifted(reference, shift, scale=0.98, noise=0.03)
    criteria = replace(CRITERIA, local=local, cap=1.0)
    found = gamma(reference, evaluated, criteria)
    assert np.nanmax(found.index - brute_force(reference, evaluated, criteria)) < 0.06


def brute_force(reference: DoseGrid, evaluated: DoseGrid, criteria: Criteria) -> Any:
    """Every place of a lattice of DTA/12 around every point, by scipy's interpolation."""
    from scipy.interpolate import RegularGridInterpolator

    axes = tuple(reversed(evaluated.axes_mm()))
    there = RegularGridInterpolator(axes, evaluated.dose_gy.astype(float), bounds_error=False, fill_value=np.inf)
    steps = np.linspace(-1.0, 1.0, 25) * criteria.distance_mm * criteria.cap
    offsets = np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), axis=-1).reshape(-1, 3)
    squares = np.sum(offsets**2, axis=1) / criteria.distance_mm**2
    highest = float(reference.dose_gy.max())
    index = np.full(reference.dose_gy.shape, np.nan)
    own = tuple(reversed(reference.axes_mm()))
    for place in np.argwhere(reference.dose_gy >= criteria.threshold_percent / 100 * highest)[::9]:
        dose = float(reference.dose_gy[tuple(place)])
        scale = criteria.dose_percent / 100 * (dose if criteria.local else highest)
        point = np.array([axis[at] for axis, at in zip(own, place, strict=True)])
        values = np.sqrt(squares + ((there(point + offsets) - dose) / scale) ** 2)
        index[tuple(place)] = min(criteria.cap, values.min())
    return index


def test_points_outside_the_other_grid_fail_and_are_counted() -> None:
    reference = field(16, 2.0)
    half = DoseGrid(reference.dose_gy[:8], reference.sigma_gy[:8], reference.origin_mm, reference.spacing_mm)
    found = gamma(reference, half, CRITERIA)
    beyond = reference.dose_gy[8:] >= 0.1 * reference.dose_gy.max()
    assert found.outside == np.count_nonzero(beyond)
    assert np.all(found.index[10:][beyond[2:]] == CRITERIA.cap)
    assert np.nanmax(found.index[:8]) == 0.0


@pytest.mark.parametrize("shape", [(1, 6, 6), (6, 1, 6), (6, 6, 1), (1, 1, 1)])
def test_flat_grids_have_a_gamma_too(shape: tuple[int, int, int]) -> None:
    dose = np.ones(shape, dtype=np.float32)
    grid = DoseGrid(dose, 0 * dose, (0.0, 0.0, 0.0), (2.0, 2.0, 2.0))
    assert gamma(grid, replace(grid, dose_gy=1.03 * dose), CRITERIA).greatest == pytest.approx(1.0, abs=1e-3)


def test_no_dose_no_points() -> None:
    dose = np.zeros((4, 4, 4), dtype=np.float32)
    grid = DoseGrid(dose, dose, (0.0, 0.0, 0.0), (2.0, 2.0, 2.0))
    found = gamma(grid, grid, CRITERIA)
    assert (found.points, found.outside) == (0, 0)
    assert math.isnan(found.pass_percent)


def test_doses_that_do_not_meet_at_all() -> None:
    here = field(8, 2.0)
    found = gamma(here, replace(here, origin_mm=(900.0, 0.0, 0.0)), CRITERIA)
    assert found.outside == found.points > 0
    assert found.pass_percent == 0.0
