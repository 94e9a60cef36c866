"""The spot check: which spots belong together, what is counted, which verdict follows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from steplib.spot_check import Tolerances, check_beam, compare, statistics
from steplib.spot_table import SpotTable

Row = tuple[int, float, float, float]
FACTS = {"mu_from": "absolute, from the record", "interlocks": 0, "positions_measured": True}
PLAN: list[Row] = [(1, 0, 0, 1.0), (1, 5, 0, 1.0), (1, 10, 0, 2.0), (2, 0, 5, 4.0), (2, 5, 5, 2.0)]


def table(rows: list[Row]) -> SpotTable:
    layer, x, y, mu = (np.asarray(column) for column in zip(*rows, strict=True)) if rows else ([np.zeros(0)] * 4)
    layer = layer.astype(np.int64)
    return SpotTable(layer, np.arange(len(layer)) + 1, 100.0 + layer, x.astype(float), y.astype(float), mu.astype(float))


def moved(rows: list[Row], dx: float, dy: float = 0.0, factor: float = 1.0, layer: int | None = None) -> list[Row]:
    return [(n, x + dx, y + dy, mu * factor) if layer in (None, n) else (n, x, y, mu) for n, x, y, mu in rows]


def check(delivered: list[Row] | None, facts: dict[str, Any] | None = None, **limits: float) -> dict[str, Any]:
    told = table(delivered) if delivered is not None else None
    return check_beam(2, table(PLAN), told, {**FACTS, **(facts or {})}, Tolerances(**limits))[0]


def counts(entry: dict[str, Any]) -> tuple[int, int, int]:
    return entry["missing"], entry["doubled"], entry["extra"]


@pytest.mark.parametrize(
    ("delivered", "expected", "verdict", "reason"),
    [
        pytest.param(PLAN, (0, 0, 0), "pass", "All spots are within the tolerances.", id="as planned"),
        pytest.param(PLAN[::-1], (0, 0, 0), "pass", "", id="another order"),
        pytest.param([(n, x, y, mu / 2) for n, x, y, mu in PLAN * 2], (0, 0, 0), "pass", "", id="two paintings"),
        pytest.param(moved(PLAN, 0.9), (0, 0, 0), "pass", "", id="0.9 mm off"),
        pytest.param(moved(PLAN, 1.5), (0, 0, 0), "conditional", "95 % of the spots are within 1.50 mm (tolerance 1)", id="1.5 mm off"),
        pytest.param(moved(PLAN, 2.1), (0, 0, 0), "fail", "95 % of the spots are within 2.10 mm (action level 2)", id="2.1 mm off"),
        pytest.param(moved(PLAN, 5.0), (0, 0, 0), "fail", "95 % of the spots are within 5.00 mm", id="one spacing off: not paired with the neighbour"),
        pytest.param(moved(PLAN, 0, -40), (0, 0, 0), "fail", "within 40.00 mm", id="far off"),
        pytest.param(moved(PLAN, 0, factor=1.03), (0, 0, 0), "conditional", "The beam's MU is off by +3.00 % (tolerance 2)", id="3 % more"),
        pytest.param(moved(PLAN, 0, factor=0.94), (0, 0, 0), "fail", "The beam's MU is off by -6.00 % (action level 5)", id="6 % less"),
        pytest.param(moved(PLAN, 0, factor=1.06, layer=1), (0, 0, 0), "fail", "The MU of layer 1 is off by +6.00 %", id="one layer 6 % more"),
        pytest.param(PLAN[1:], (1, 0, 0), "fail", "1 spots are missing, 0 doubled, 0 extra: 10.00 %", id="a spot is missing"),
        pytest.param([*PLAN, PLAN[0]], (0, 1, 0), "fail", "0 spots are missing, 1 doubled", id="a spot twice"),
        pytest.param([*PLAN, (1, 5, 20, 0.2)], (0, 0, 1), "fail", "1 extra: 2.00 %", id="a spot more"),
        pytest.param([*PLAN, (1, 5, 20, 0.05)], (0, 0, 1), "conditional", "1 extra: 0.50 %", id="a little more"),
        pytest.param([*PLAN, (1, 5, 20, 0.005)], (0, 0, 1), "pass", "", id="hardly anything more"),
        pytest.param([row for row in PLAN if row[0] == 1], (2, 0, 0), "fail", "2 spots are missing", id="a layer is missing"),
        pytest.param([], (5, 0, 0), "fail", "5 spots are missing", id="nothing"),
        pytest.param([*PLAN[:4], (1, 5, 5, 2.0)], (1, 0, 1), "fail", "1 spots are missing, 0 doubled, 1 extra", id="in another layer"),
        pytest.param([(n, x, y, mu * (1.3 if x else 0.7)) for n, x, y, mu in PLAN], (0, 0, 0), "conditional", "95 % of the spots' MU", id="spots uneven"),
    ],
)  # fmt: skip
def test_verdict(delivered: list[Row], expected: tuple[int, int, int], verdict: str, reason: str) -> None:
    limits = {"mu_tolerance_percent": 20.0, "mu_action_percent": 30.0} if "spots' MU" in reason else {}
    entry = check(delivered, **limits)
    assert (counts(entry), entry["verdict"]) == (expected, verdict), entry["reason"]
    assert reason in entry["reason"]


def test_no_record_is_not_comparable() -> None:
    entry = check_beam(7, table(PLAN), None, None, Tolerances())[0]
    assert (entry["verdict"], entry["reason"]) == ("not comparable", "Beam 7 has no delivery record.")


def test_a_record_that_repeats_the_plan_is_not_praised() -> None:
    entry = check(PLAN, {"positions_measured": False})
    assert entry["verdict"] == "conditional"
    assert "repeats the planned positions" in entry["reason"]


def test_normalised_doses_are_said_to_be_so() -> None:
    entry = check(PLAN, {"mu_from": "normalised to BeamMeterset of the plan: the absolute output is not known"})
    assert entry["verdict"] == "conditional"
    assert "the absolute output was not checked" in entry["reason"]


def test_numbers() -> None:
    found = statistics(compare(table(PLAN), table([(1, 0.3, 0.4, 1.1), *PLAN[1:]]), 3.0))
    assert found["position_mm"] == pytest.approx(
        {"n": 5, "mean": 0.1, "sd": 0.2, "p95": 0.4, "max": 0.5, "mean_x": 0.06, "mean_y": 0.08}
    )
    assert found["mu_percent"] == pytest.approx({"mean": 2.0, "sd": 4.0, "p95_abs": 8.0, "max_abs": 10.0, "total": 1.0})
    assert (found["planned_spots"], found["delivered_spots"], found["planned_mu"]) == (5, 5, 10.0)


def test_position_is_the_mean_of_the_visits_by_their_mu() -> None:
    found = compare(table([(1, 0, 0, 4.0)]), table([(1, 1.0, 0, 3.0), (1, -1.0, 0, 1.0)]), 3.0)
    assert (found.dx_mm.tolist(), found.delivered_mu.tolist()) == ([0.5], [4.0])


def test_planned_spots_at_one_place_are_one_and_spots_without_mu_none() -> None:
    plan = table([(1, 0, 0, 1.0), (1, 5, 0, 0.0), (1, 0.001, 0, 2.0)])
    found = compare(plan, table([(1, 0, 0, 3.0)]), 3.0)
    assert found.planned_mu.tolist() == [3.0]
    assert statistics(found)["missing"] == 0


def test_layers_are_told_apart() -> None:
    entry = check(moved(PLAN, 1.5, layer=2))
    assert [layer["position_mm"]["max"] for layer in entry["layers"]] == [0.0, 1.5]
    assert [layer["energy_MeV"] for layer in entry["layers"]] == [101.0, 102.0]


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_noise_that_is_put_in_is_what_comes_out(data: st.DataObject) -> None:
    """Any grid, any order, any split into visits: nothing missing, errors as made."""
    wide, high = data.draw(st.integers(1, 7)), data.draw(st.integers(1, 7))
    plan = [(1, 5.0 * x, 5.0 * y, data.draw(st.floats(0.1, 5.0))) for x in range(wide) for y in range(high)]
    offset = st.floats(-0.9, 0.9)
    visits: list[Row] = []
    errors = []
    for layer, x, y, mu in plan:
        dx, dy, factor = data.draw(offset), data.draw(offset), data.draw(st.floats(0.8, 1.2))
        parts = data.draw(st.integers(1, 3))
        visits += [(layer, x + dx, y + dy, mu * factor / parts)] * parts
        errors.append((np.hypot(dx, dy), 100.0 * (factor - 1.0)))
    found = compare(table(plan), table(data.draw(st.permutations(visits))), 3.0)
    numbers = statistics(found)
    assert counts(numbers) == (0, 0, 0)
    assert found.error_mm == pytest.approx([position for position, _ in errors], abs=1e-9)
    assert found.mu_percent == pytest.approx([percent for _, percent in errors], abs=1e-9)
    assert numbers["delivered_mu"] == pytest.approx(sum(row[3] for row in visits))
