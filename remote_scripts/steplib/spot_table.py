"""Tables of spots as CSV: beam_<number>.csv (planned) and delivered_<number>.csv (delivered).

UTF-8, LF, one header line, one line per spot:

    layer,spot,energy_MeV,x_mm,y_mm,mu,protons,time_ms
    layer       the plan's delivering layer, from 1 (control points without weight do not count)
    spot        from 1 within the layer; planned: in the order of the position map; delivered: in the order
                of delivery, with as many rows for a planned spot as it had visits (steplib/ptn_spots.py)
    energy_MeV  nominal, from the plan
    x_mm, y_mm  at the isocentre, IEC gantry system
    mu          monitor units per fraction
    protons     mu x protons per MU of the room's beam model at that energy; empty without a beam model
    time_ms     since the beam's first delivered spot, as far as the record tells; empty when it does not,
                and for planned spots

Numbers are written in full: the shortest decimal that reads back as the same binary number.
"""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from typing import Any, Callable, List, Optional

import numpy as np

from .plan import Beam
from .report import BadInput

HEADER = ("layer", "spot", "energy_MeV", "x_mm", "y_mm", "mu", "protons", "time_ms")

ProtonsPerMu = Optional[Callable[[float], float]]


@dataclass(frozen=True)
class SpotTable:
    """One beam's spots. Arrays of one length: int64 for layer and spot, float64 for the others.

    `protons` and `time_ms` are None when the whole column is empty.
    """

    layer: Any
    spot: Any
    energy_mev: Any
    x_mm: Any
    y_mm: Any
    mu: Any
    protons: Optional[Any] = None
    time_ms: Optional[Any] = None

    def __len__(self) -> int:
        return len(self.layer)


def planned_spots(beam: Beam, protons_per_mu: ProtonsPerMu) -> SpotTable:
    """The spots of a planned beam, in the plan's order."""
    rows = [
        (number, place, layer.energy_mev, spot.x_mm, spot.y_mm, spot.mu)
        for number, layer in enumerate(beam.layers, 1)
        for place, spot in enumerate(layer.spots, 1)
    ]
    layer, place, energy_mev, x_mm, y_mm, mu = (np.asarray(column) for column in zip(*rows))
    return SpotTable(
        layer, place, energy_mev, x_mm, y_mm, mu, protons_of(energy_mev, mu, protons_per_mu), None
    )


def protons_of(energy_mev: Any, mu: Any, protons_per_mu: ProtonsPerMu) -> Optional[Any]:
    """Protons per spot, float64; None without a beam model."""
    if protons_per_mu is None:
        return None
    energies, place = np.unique(energy_mev, return_inverse=True)
    factors = np.asarray([protons_per_mu(float(energy)) for energy in energies])
    return mu * factors[place]


def spot_csv(table: SpotTable) -> bytes:
    """The content of the file."""
    count = len(table)
    columns: List[List[str]] = [list(map(str, column.tolist())) for column in (table.layer, table.spot)]
    for numbers in (table.energy_mev, table.x_mm, table.y_mm, table.mu, table.protons, table.time_ms):
        columns.append([""] * count if numbers is None else list(map(repr, numbers.tolist())))
    lines = [",".join(HEADER), *map(",".join, zip(*columns))]
    return ("\n".join(lines) + "\n").encode("ascii")


def read_spot_csv(content: bytes, name: str) -> SpotTable:
    """The table in the file. BadInput when it is not such a table, or a number is not finite or an MU negative."""
    wrong = BadInput(f"{name} is not a table of {','.join(HEADER)} with finite numbers.")
    try:
        lines = list(csv.reader(io.StringIO(content.decode("utf-8"), newline="")))
        if not lines or tuple(lines[0]) != HEADER or any(len(line) != len(HEADER) for line in lines):
            raise wrong
        columns = list(zip(*lines[1:])) or [()] * len(HEADER)
        layer, spot = (np.asarray(list(map(int, column)), dtype=np.int64) for column in columns[:2])
        numbers: List[Any] = [
            np.asarray(list(map(float, column)), dtype=np.float64) for column in columns[2:6]
        ]
        # A column is empty as a whole or not at all.
        numbers += [
            None if not any(column) else np.asarray(list(map(float, column)), dtype=np.float64)
            for column in columns[6:]
        ]
    except (ValueError, OverflowError, csv.Error):
        raise wrong from None
    if any(column is not None and not np.all(np.isfinite(column)) for column in numbers):
        raise wrong
    table = SpotTable(layer, spot, *numbers)
    if len(table) and (table.mu.min() < 0.0 or table.layer.min() < 1):
        raise wrong
    return table
