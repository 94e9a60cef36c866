"""Delivery record as CSV: for machines whose own log is converted elsewhere.

UTF-8, comma, one header line, then one row per delivered spot, in any order:

    beam,layer,spot,energy_MeV,x_mm,y_mm,mu,time_ms,paint
    beam        DICOM beam number
    layer       the plan's delivering layer, from 1 (control points without weight do not count)
    spot        number of the spot within the layer, from 1; orders the rows, is not used to find the planned spot
    energy_MeV  must be the plan's for that layer, within 0.05
    x_mm, y_mm  at the isocentre, IEC gantry system
    mu          monitor units of this visit, not negative
    time_ms     since the beam's begin; empty throughout when it is not known
    paint       number of the painting, from 1

A file is told by its header. A text whose first line has four of the nine names or more but is not this header is
refused, rather than passed over as something else.
"""

from __future__ import annotations

from typing import Dict, List, Optional, Tuple

import numpy as np

from .delivered import DeliveredLayer, Delivery, demand_beam, demand_energy
from .plan import POSITION_LIMIT_MM, Plan
from .report import BadInput

HEADER = ("beam", "layer", "spot", "energy_MeV", "x_mm", "y_mm", "mu", "time_ms", "paint")
_ENERGY_TOLERANCE_MEV = 0.05

# layer, paint, time (0 when empty), spot, x, y, mu, energy: sorts in the order of delivery within a layer
_Row = Tuple[int, int, float, int, float, float, float, float]


def is_delivery_csv(head: bytes, where: str) -> bool:
    """Whether a file that begins with `head` is such a record. BadInput when it nearly is."""
    line = head.splitlines()[0] if head else b""
    names = [name.strip() for name in line.decode("latin-1").lstrip("ï»¿").split(",")]
    if tuple(names) == HEADER:
        return True
    # A result of this step (steplib/spot_table.py) that somebody put beside the case is no record.
    if len(set(names) & set(HEADER)) >= 4 and "protons" not in names:
        raise BadInput(f"{where} looks like a delivery record, but its header is not {','.join(HEADER)}.")
    return False


def read_delivery_csv(content: bytes, sha256: str, plan: Plan, where: str) -> Tuple[Delivery, ...]:
    """One delivery per beam in the file. BadInput for a row that is none, or contradicts the plan."""
    try:
        lines = content.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise BadInput(f"{where} is not UTF-8 text.") from None
    found: Dict[int, List[_Row]] = {}
    timed = set()
    for place, line in enumerate(lines[1:], 2):
        if not line.strip():
            continue
        beam, row, has_time = _row(line, f"{where}, line {place},")
        timed.add(has_time)
        found.setdefault(beam, []).append(row)
    if not found:
        raise BadInput(f"{where} is a delivery record without a row.")
    if len(timed) > 1:
        raise BadInput(f"{where} has time_ms in some rows and not in others.")
    return tuple(
        _delivery(plan, beam, rows, sha256, where, timed == {True}) for beam, rows in sorted(found.items())
    )


def _row(line: str, where: str) -> Tuple[int, _Row, bool]:
    values = [value.strip() for value in line.split(",")]
    if len(values) != len(HEADER):
        raise BadInput(f"{where} has {len(values)} values instead of {len(HEADER)}.")
    try:
        beam, layer, spot, paint = (int(values[place]) for place in (0, 1, 2, 8))
        energy, x_mm, y_mm, mu = (float(value) for value in values[3:7])
        time_ms = float(values[7]) if values[7] else 0.0
    except ValueError:
        raise BadInput(f"{where} has something else than numbers.") from None
    numbers = (energy, x_mm, y_mm, mu, time_ms)
    if not np.all(np.isfinite(numbers)) or mu < 0.0 or time_ms < 0.0 or min(spot, paint) < 1:
        raise BadInput(f"{where} has a number that is not possible.")
    if max(abs(x_mm), abs(y_mm)) > POSITION_LIMIT_MM:
        raise BadInput(f"{where} has a spot more than a metre off the axis.")
    return beam, (layer, paint, time_ms, spot, x_mm, y_mm, mu, energy), values[7] != ""


def _delivery(plan: Plan, number: int, rows: List[_Row], sha256: str, where: str, timed: bool) -> Delivery:
    beam = demand_beam(plan, number, where)
    rows.sort()
    if any(row == after for row, after in zip(rows, rows[1:])):
        raise BadInput(f"{where} has the same row of beam {number} twice.")
    by_layer: Dict[int, List[_Row]] = {}
    for row in rows:
        demand_energy(beam, row[0], row[7], _ENERGY_TOLERANCE_MEV, where)
        by_layer.setdefault(row[0], []).append(row)
    layers = []
    for layer, own in sorted(by_layer.items()):
        _, paint, time_ms, _, x_mm, y_mm, mu, _ = (np.asarray(column) for column in zip(*own))
        kept = mu > 0.0
        time: Optional[object] = time_ms[kept] if timed else None
        layers.append(DeliveredLayer(layer, x_mm[kept], y_mm[kept], mu[kept], paint[kept], time))
    if not any(len(layer.x_mm) for layer in layers):
        raise BadInput(f"{where} holds no dose for beam {number}.")
    # Rows carry no date: files are put in order by their layers.
    return Delivery(number, "csv", where, f"{sha256}:{number}", "", tuple(layers))
