"""moqui's log layout: what the clinical build of moqui reads as `logFilePath`.

    log/beam_<number>/NN_EEE.EEMeV.csv      NN: the plan's layer from 01; sorted as text this is the plan's order

A file has no header; each row is one sample with beam (PTN) or one delivered spot (other records):

    time_ms,x_mm,y_mm,count,

with a comma after every value, since moqui splits at commas alone (jokh38/moqui_v2).
count is whole: dose1 x range factor, rounded (PTN), or MU x 10⁶. beams.json says how many counts an MU has. Time
goes on within a beam; pauses between layers are in no PTN and count as nothing.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, List, Tuple

import numpy as np

from .delivered import DeliveredBeam, DeliveredLayer

# Records without counts of their own.
COUNTS_PER_MU = 1e6
_BLOCK = 65536


def write_log(out: Path, delivered: DeliveredBeam) -> None:
    """Writes the files of one beam, one layer in memory at a time."""
    folder = out / f"log/beam_{delivered.beam.number}"
    folder.mkdir(parents=True)
    width = max(2, len(str(len(delivered.beam.layers))))
    written = None
    for offset, part in delivered.parts:
        energy = delivered.beam.layers[part.layer - 1].energy_mev
        path = folder / f"{part.layer:0{width}d}_{energy:06.2f}MeV.csv"
        # A layer that was delivered in parts is one file.
        with path.open("ab" if path == written else "wb") as stream:
            for block in _rows(offset, part):
                stream.write(block)
        written = path


def counts_per_mu(delivered: DeliveredBeam) -> float:
    """How many counts in the files make one MU."""
    return delivered.counts_per_mu if delivered.parts[0][1].samples else COUNTS_PER_MU


def _rows(offset: float, part: DeliveredLayer) -> List[bytes]:
    if part.samples is not None:
        time_ms, x_mm, y_mm, counts = part.samples()
    else:
        time_ms = np.zeros(len(part.x_mm)) if part.time_ms is None else part.time_ms
        x_mm, y_mm, counts = part.x_mm, part.y_mm, part.amount * COUNTS_PER_MU
    columns = (time_ms + offset, x_mm, y_mm, counts)
    return [
        csv_rows(tuple(column[begin : begin + _BLOCK] for column in columns))
        for begin in range(0, len(x_mm), _BLOCK)
    ]


def csv_rows(columns: Tuple[Any, Any, Any, Any]) -> bytes:
    """Rows of time (4 decimals), x, y (3 decimals), count (whole), formatted by arithmetic on whole columns: that is
    thirty times faster than row by row, and a case has millions."""
    comma = np.full(len(columns[0]), ord(","), dtype=np.uint8)
    characters: List[Any] = []
    for values, decimals in zip(columns, (4, 3, 3, 0)):
        characters += [*_decimal(values, decimals), comma]
    characters.append(np.full(len(comma), ord("\n"), dtype=np.uint8))
    flat = np.stack(characters, axis=1).ravel()
    # Zero bytes are the places that shorter numbers leave empty.
    return bytes(flat[flat != 0].tobytes())


def _decimal(values: Any, decimals: int) -> List[Any]:
    """The characters of the numbers, from left to right: one uint8 array per place, 0 where a place is empty."""
    whole = np.rint(np.asarray(values, dtype=np.float64) * 10**decimals).astype(np.int64)
    negative, rest = whole < 0, np.abs(whole)
    digits = len(str(int(rest.max()))) if len(rest) else 1
    places: List[Any] = []
    for place in range(max(digits, decimals + 1)):
        digit = (rest % 10 + ord("0")).astype(np.uint8)
        if place > decimals:
            digit[rest == 0] = 0
        places.append(digit)
        rest //= 10
        if place + 1 == decimals:
            places.append(np.full(len(rest), ord("."), dtype=np.uint8))
    # The sign stands before everything: the empty places between vanish.
    places.append(np.where(negative, np.uint8(ord("-")), np.uint8(0)))
    return places[::-1]
