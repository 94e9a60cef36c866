"""Spot check: a beam's delivered spots against its planned ones, per layer, with a verdict. Pure functions.

**What belongs together.** Per layer, planned spots at one place (within 0.01 mm) count as one. A delivered row
belongs to the nearest planned spot, when that is within `spot_match_mm`; several rows (paintings, a spot that was
interrupted) add up. A shift of a whole layer by more than half the spot spacing would pair neighbours; therefore
the layer is also paired after moving the delivered spots' centre of gravity (by MU) onto the planned one, and that
pairing holds when it leaves fewer spots over. Errors are those of the unmoved positions either way.

**What is counted.**

    missing   planned spots that got less than 10 % of their MU
    doubled   planned spots that got more than 150 %
    extra     delivered rows that belong to no planned spot
    position  distance in mm of a planned spot and the MU-weighted mean of its rows: n, mean, SD, 95th percentile, max
    MU        100 x (delivered - planned) / planned per spot that is not missing: mean, SD, the largest, and of the
              whole (`total`, extra spots included)

**Verdict.** `fail`: a position error's 95th percentile above position_action_mm; the MU of the beam or of a layer
off by more than mu_action_percent; missing, doubled and extra spots that concern more than count_action_percent of
the beam's MU. `pass`: no missing and no doubled spot, extra MU within count_tolerance_percent, the 95th percentile
within position_tolerance_mm and the largest within position_action_mm, the MU of beam and layers within
mu_tolerance_percent, and the 95th percentile of the spots' MU errors within spot_mu_tolerance_percent. Between
them `conditional`, and also when the record does not measure positions. `not comparable`: there is no record.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Dict, List, Mapping, Optional, Tuple

import numpy as np

from .spot_table import SpotTable

MISSING_BELOW, DOUBLED_ABOVE = 0.1, 1.5
_SAME_PLACE_MM = 0.01
# Distances are computed in blocks of so many pairs.
_BLOCK = 2_000_000


@dataclass(frozen=True)
class Tolerances:
    """Limits of the spot check; the module's text says what they are for. mm and percent."""

    spot_match_mm: float = 3.0
    position_tolerance_mm: float = 1.0
    position_action_mm: float = 2.0
    mu_tolerance_percent: float = 2.0
    mu_action_percent: float = 5.0
    spot_mu_tolerance_percent: float = 10.0
    count_tolerance_percent: float = 0.1
    count_action_percent: float = 1.0


@dataclass(frozen=True)
class Comparison:
    """Planned spots of a layer (those with MU, each place once) and what they got; arrays of one length.

    `error_mm`: NaN for missing ones. `dx_mm`, `dy_mm`: delivered minus planned. `extra_*`: rows without a planned
    spot. `layer`: the plan's layer of each spot.
    """

    layer: Any
    x_mm: Any
    y_mm: Any
    planned_mu: Any
    delivered_mu: Any
    dx_mm: Any
    dy_mm: Any
    extra_layer: Any
    extra_x_mm: Any
    extra_y_mm: Any
    extra_mu: Any

    @property
    def error_mm(self) -> Any:
        return np.hypot(self.dx_mm, self.dy_mm)

    @property
    def missing(self) -> Any:
        return self.delivered_mu < MISSING_BELOW * self.planned_mu

    @property
    def doubled(self) -> Any:
        return self.delivered_mu > DOUBLED_ABOVE * self.planned_mu

    @property
    def mu_percent(self) -> Any:
        """MU error of each spot in percent of its planned MU."""
        return 100.0 * (self.delivered_mu - self.planned_mu) / self.planned_mu

    def of(self, layer: int) -> "Comparison":
        """One layer of it."""
        own, extra = self.layer == layer, self.extra_layer == layer
        return Comparison(
            *(
                values[own]
                for values in (self.layer, self.x_mm, self.y_mm, self.planned_mu, self.delivered_mu)
            ),
            *(values[own] for values in (self.dx_mm, self.dy_mm)),
            *(
                values[extra]
                for values in (self.extra_layer, self.extra_x_mm, self.extra_y_mm, self.extra_mu)
            ),
        )


def compare(planned: SpotTable, delivered: SpotTable, match_mm: float) -> Comparison:
    """The two tables of one beam, layer by layer of either."""
    layers = sorted(set(planned.layer.tolist()) | set(delivered.layer.tolist()))
    found = [
        _compare_layer(_layer(planned, each), _layer(delivered, each), match_mm, each) for each in layers
    ]
    return Comparison(*(np.concatenate(column) for column in zip(*found)))


def _layer(table: SpotTable, layer: int) -> Tuple[Any, Any, Any]:
    """x, y, MU of the spots with MU."""
    own = (table.layer == layer) & (table.mu > 0.0)
    return table.x_mm[own], table.y_mm[own], table.mu[own]


def _compare_layer(
    planned: Tuple[Any, Any, Any], delivered: Tuple[Any, Any, Any], match_mm: float, layer: int
) -> Tuple[Any, ...]:
    """The fields of Comparison for one layer."""
    x, y, mu = _one_per_place(*planned)
    rows_x, rows_y, rows_mu = delivered
    place = np.full(len(rows_x), -1)
    if len(x) and len(rows_x):
        shift_x = np.average(rows_x, weights=rows_mu) - np.average(x, weights=mu)
        shift_y = np.average(rows_y, weights=rows_mu) - np.average(y, weights=mu)
        as_is = nearest(x, y, rows_x, rows_y, match_mm)
        moved = nearest(x, y, rows_x - shift_x, rows_y - shift_y, match_mm)
        place = moved if _left_over(moved, len(x)) < _left_over(as_is, len(x)) else as_is
    own = place >= 0
    got = np.bincount(place[own], weights=rows_mu[own], minlength=len(x))
    weight = np.where(got > 0.0, got, np.nan)
    mean_x, mean_y = (
        np.bincount(place[own], weights=(rows_mu * values)[own], minlength=len(x)) / weight
        for values in (rows_x, rows_y)
    )
    missing = got < MISSING_BELOW * mu
    dx, dy = np.where(missing, np.nan, mean_x - x), np.where(missing, np.nan, mean_y - y)
    extra = ~own
    return (
        *(np.full(len(x), layer), x, y, mu, got, dx, dy),
        *(np.full(int(extra.sum()), layer), rows_x[extra], rows_y[extra], rows_mu[extra]),
    )


def _one_per_place(x: Any, y: Any, mu: Any) -> Tuple[Any, Any, Any]:
    """Spots at one place as one, in the order of their first."""
    keys = np.rint(np.stack([x, y], axis=1) / _SAME_PLACE_MM).astype(np.int64)
    _, first, place = np.unique(keys, axis=0, return_index=True, return_inverse=True)
    total = np.bincount(place.ravel(), weights=mu, minlength=len(first))
    order = np.argsort(first)
    return x[first[order]], y[first[order]], total[order]


def _left_over(place: Any, planned: int) -> int:
    """Rows without a spot and spots without a row."""
    return int(np.count_nonzero(place < 0)) + planned - len(np.unique(place[place >= 0]))


def nearest(x: Any, y: Any, rows_x: Any, rows_y: Any, match_mm: float) -> Any:
    """For each row the index of the nearest spot, -1 when none is within `match_mm`. There must be spots."""
    place = np.empty(len(rows_x), dtype=np.int64)
    block = max(1, _BLOCK // len(x))
    for begin in range(0, len(rows_x), block):
        rows = slice(begin, begin + block)
        squares = (rows_x[rows, None] - x[None, :]) ** 2 + (rows_y[rows, None] - y[None, :]) ** 2
        best = squares.argmin(axis=1)
        far = squares[np.arange(len(best)), best] > match_mm * match_mm
        place[rows] = np.where(far, -1, best)
    return place


def statistics(found: Comparison) -> Dict[str, Any]:
    """The numbers of spot_check.json for a beam or a layer; None where there is nothing to tell."""
    there = ~found.missing
    error, percent = found.error_mm[there], found.mu_percent[there]
    planned, delivered = float(found.planned_mu.sum()), float(found.delivered_mu.sum() + found.extra_mu.sum())
    return {
        "planned_spots": len(found.layer),
        "delivered_spots": int(np.count_nonzero(there)),
        "missing": int(np.count_nonzero(found.missing)),
        "doubled": int(np.count_nonzero(found.doubled)),
        "extra": len(found.extra_mu),
        "extra_mu": float(found.extra_mu.sum()),
        "planned_mu": planned,
        "delivered_mu": delivered,
        "position_mm": {
            "n": len(error),
            "mean": _or_none(error, np.mean),
            "sd": _or_none(error, np.std),
            "p95": _or_none(error, _p95),
            "max": _or_none(error, np.max),
            "mean_x": _or_none(found.dx_mm[there], np.mean),
            "mean_y": _or_none(found.dy_mm[there], np.mean),
        },
        "mu_percent": {
            "mean": _or_none(percent, np.mean),
            "sd": _or_none(percent, np.std),
            "p95_abs": _or_none(np.abs(percent), _p95),
            "max_abs": _or_none(np.abs(percent), np.max),
            "total": 100.0 * (delivered - planned) / planned if planned > 0.0 else None,
        },
    }


def _p95(values: Any) -> float:
    return float(np.percentile(values, 95.0))


def _or_none(values: Any, what: Any) -> Optional[float]:
    return float(what(values)) if len(values) else None


def check_beam(
    number: int,
    planned: SpotTable,
    delivered: Optional[SpotTable],
    facts: Optional[Mapping[str, Any]],
    tolerances: Tolerances,
) -> Tuple[Dict[str, Any], Optional[Comparison]]:
    """The beam's entry of spot_check.json (figures to be added), and what it was made from.

    `facts`: what beams.json says of the delivery.
    """
    if delivered is None or facts is None:
        reason = f"Beam {number} has no delivery record."
        return {"number": number, "verdict": "not comparable", "reason": reason, "figures": []}, None
    found = compare(planned, delivered, tolerances.spot_match_mm)
    whole = statistics(found)
    energies = dict(zip(planned.layer.tolist(), planned.energy_mev.tolist()))
    layers = [
        {"layer": layer, "energy_MeV": energies.get(layer), **statistics(found.of(layer))}
        for layer in sorted(energies)
    ]
    failed, remarks = findings(whole, layers, found, facts, tolerances)
    verdict = "fail" if failed else "conditional" if remarks else "pass"
    reason = " ".join([*failed, *remarks]) or "All spots are within the tolerances."
    entry = {
        "number": number,
        "verdict": verdict,
        "reason": reason,
        "mu_from": facts["mu_from"],
        "interlocks": facts["interlocks"],
        **whole,
        "layers": layers,
        "figures": [],
    }
    return entry, found


def findings(
    whole: Mapping[str, Any],
    layers: List[Dict[str, Any]],
    found: Comparison,
    facts: Mapping[str, Any],
    limits: Tolerances,
) -> Tuple[List[str], List[str]]:
    """Sentences: why the beam fails, and what else is worth a look."""
    failed: List[str] = []
    remarks: List[str] = []

    def judge(sentence: str, value: Optional[float], tolerance: float, action: float) -> None:
        if value is not None and value > action:
            failed.append(f"{sentence} (action level {action:g}).")
        elif value is not None and value > tolerance:
            remarks.append(f"{sentence} (tolerance {tolerance:g}).")

    odd_mu = float(found.planned_mu[found.missing].sum() + found.extra_mu.sum())
    odd_mu += float((found.delivered_mu - found.planned_mu)[found.doubled].sum())
    counts = f"{whole['missing']} spots are missing, {whole['doubled']} doubled, {whole['extra']} extra"
    share = 100.0 * odd_mu / whole["planned_mu"] if whole["planned_mu"] > 0.0 else 100.0
    tolerated = 0.0 if whole["missing"] or whole["doubled"] else limits.count_tolerance_percent
    judge(f"{counts}: {share:.2f} % of the beam's MU", share, tolerated, limits.count_action_percent)
    position = whole["position_mm"]
    if not facts["positions_measured"]:
        remarks.append("The record repeats the planned positions: where the spots really were is not known.")
    elif position["n"]:
        p95, largest = position["p95"], position["max"]
        judge(
            f"95 % of the spots are within {p95:.2f} mm",
            p95,
            limits.position_tolerance_mm,
            limits.position_action_mm,
        )
        judge(
            f"The farthest spot is off by {largest:.2f} mm", largest, limits.position_action_mm, float("inf")
        )
    levels = (limits.mu_tolerance_percent, limits.mu_action_percent)
    total = whole["mu_percent"]["total"]
    judge(f"The beam's MU is off by {total or 0.0:+.2f} %", abs(total or 0.0), *levels)
    off = max(layers, key=lambda each: abs(each["mu_percent"]["total"] or 0.0))
    worst = off["mu_percent"]["total"] or 0.0
    judge(f"The MU of layer {off['layer']} is off by {worst:+.2f} %", abs(worst), *levels)
    spread, wide = whole["mu_percent"]["p95_abs"], limits.spot_mu_tolerance_percent
    judge(f"95 % of the spots' MU are within {spread or 0.0:.1f} %", spread, wide, float("inf"))
    if "normalised" in facts["mu_from"]:
        remarks.append("The MU are normalised to the plan: the absolute output was not checked.")
    return failed, remarks
