"""PTN: the samples of one energy layer, and the spots that they make up.

A file is rows of eight big-endian unsigned 16-bit numbers (LOGFILE_SPEC.md of jokh38/ptn_checker):

    x, y        position counts: mm = (count - centre) x gain     size x, size y   not used here
    dose1       x the layer's range factor = counts               dose2            not used here
    layer       the same in every row
    status      bit 15 plan on, bit 14 actual on, bits 6 to 0 number of the rescan (painting)

Only rows with bit 14 are dose: after an interlock the machine goes through the layer again with "idle shots"
(plan on, actual off) up to where it stopped.

**From samples to spots.** In the order of time, a spot begins where the beam was off in between, where the
rescan number changes, and where a sample lies farther than `spot_radius_mm` from the spot's anchor, the mean of
its first (at most four) samples. A spot's position is the mean of its samples weighted by counts, its counts
their sum, its time that of its first sample. So the sum of counts and their centre of gravity are kept exactly,
the plan has no say in it, a spot that was visited twice gives two rows, and samples between two spots with the
beam on become rows of their own.

**What damage shows.** PTN has no checksum. Refused are: a size that is no multiple of 16, no rows, a wrong layer
column, a saturated dose, beam outside the field, and dose above the background where the status says that the
beam was off. A changed bit within the plausible values of one sample's position or dose cannot be told from a
delivery that really was so; it moves that spot by as much and meets the tolerances of the spot check. (From
intake on, the SHA-256 of every input protects against that as well.)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, List

import numpy as np

from .delivery_log import Axis, DeliveryLog
from .report import BadInput

_ROW_BYTES = 16
_ACTUAL_ON, _RESCAN = 0x4000, 0x007F
_SATURATED = 0xFFFF
_ANCHOR_SAMPLES = 4


@dataclass(frozen=True)
class Samples:
    """The rows with beam, in the order of time; arrays of one length. ms since the file's first row, mm, counts.

    `row`: number in the file, from 0. `rescan`: as in the status. `rows`: how many the file has in all.
    """

    row: Any
    time_ms: Any
    x_mm: Any
    y_mm: Any
    counts: Any
    rescan: Any
    rows: int
    interlocks: int


@dataclass(frozen=True)
class LogSpots:
    """Spots as delivered, in the order of time; arrays of one length."""

    x_mm: Any
    y_mm: Any
    counts: Any
    time_ms: Any
    rescan: Any


def read_samples(content: bytes, layer: int, range_factor: float, log: DeliveryLog, where: str) -> Samples:
    """The samples with beam of a PTN file. `layer`: the plan's layer from 1. BadInput, beginning with `where`, for
    everything that the module's text calls refused."""
    if not content or len(content) % _ROW_BYTES:
        raise BadInput(
            f"{where} is cut short: {len(content)} bytes are not whole rows of {_ROW_BYTES} bytes."
        )
    table = np.frombuffer(content, dtype=">u2").reshape(-1, 8)
    column = layer - 1 + log.first_layer
    if not np.all(table[:, 6] == column):
        raise BadInput(f"{where} has rows of another layer than {column}.")
    status, dose = table[:, 7], table[:, 4]
    on = (status & _ACTUAL_ON) != 0
    if np.any(dose[~on] > log.background_counts):
        raise BadInput(
            f"{where} has rows without beam that show more dose than the background: the status and the dose "
            "contradict each other."
        )
    if np.any(dose[on] == _SATURATED):
        raise BadInput(f"{where} has rows where the dose counter was saturated: the dose cannot be known.")
    row = np.flatnonzero(on)
    x_mm, y_mm = _position(table[row, 0], log.x), _position(table[row, 1], log.y)
    if np.any(np.abs(x_mm) > log.x.limit_mm) or np.any(np.abs(y_mm) > log.y.limit_mm):
        raise BadInput(f"{where} has beam outside the field that the scanner reaches.")
    rescan = (status[row] & _RESCAN).astype(np.int64)
    return Samples(
        row=row,
        time_ms=row * log.time_gain_ms,
        x_mm=x_mm,
        y_mm=y_mm,
        counts=dose[row] * range_factor,
        rescan=rescan,
        rows=len(table),
        interlocks=count_interlocks(row, rescan, log.interlock_ms / log.time_gain_ms),
    )


def _position(counts: Any, axis: Axis) -> Any:
    return (counts.astype(np.float64) - axis.centre) * axis.mm_per_count


def count_interlocks(row: Any, rescan: Any, rows: float) -> int:
    """Gaps of `rows` rows or more between two samples with beam of one painting. Moving from spot to spot takes far
    less, and a machine may rest between paintings."""
    return int(np.count_nonzero((np.diff(row) - 1 >= rows) & (np.diff(rescan) == 0)))


def group(samples: Samples, radius_mm: float) -> LogSpots:
    """The spots, as the module's text says. Spots without counts are left out: they carry no dose."""
    if not len(samples.row):
        nothing = np.zeros(0)
        return LogSpots(nothing, nothing, nothing, nothing, np.zeros(0, dtype=np.int64))
    starts = spot_starts(samples, radius_mm)
    counts = np.add.reduceat(samples.counts, starts)
    kept = counts > 0.0
    weight = np.where(kept, counts, 1.0)
    x_mm, y_mm = (
        np.add.reduceat(samples.counts * position, starts) / weight
        for position in (samples.x_mm, samples.y_mm)
    )
    return LogSpots(
        x_mm[kept], y_mm[kept], counts[kept], samples.time_ms[starts][kept], samples.rescan[starts][kept]
    )


def spot_starts(samples: Samples, radius_mm: float) -> Any:
    """The indices of the samples with which a spot begins."""
    x, y, limit = samples.x_mm, samples.y_mm, radius_mm * radius_mm
    breaks = np.flatnonzero((np.diff(samples.row) > 1) | (np.diff(samples.rescan) != 0)) + 1
    begins = np.concatenate([[0], breaks])
    ends = np.append(breaks, len(x))
    # Most passages with beam are one spot; that is seen for all of them at once.
    starts = [begins]
    for passage in np.flatnonzero(~_compact(x, y, begins, ends, limit)).tolist():
        starts.append(_cut(x, y, int(begins[passage]), int(ends[passage]), limit))
    return np.unique(np.concatenate(starts))


def _compact(x: Any, y: Any, begins: Any, ends: Any, limit: float) -> Any:
    """Whether all samples of a passage lie around its anchor: one bool per passage."""
    length = ends - begins
    passage = np.repeat(np.arange(len(begins)), length)
    place = np.arange(len(x)) - begins[passage]
    anchored = place < _ANCHOR_SAMPLES
    weight = np.minimum(length, _ANCHOR_SAMPLES)
    squares = np.zeros(len(x))
    for values in (x, y):
        anchor = np.add.reduceat(np.where(anchored, values, 0.0), begins) / weight
        # The anchor's own samples must lie around the first of them.
        squares += (values - np.where(anchored, values[begins][passage], anchor[passage])) ** 2
    return np.maximum.reduceat(squares, begins) <= limit


def _cut(x: Any, y: Any, begin: int, end: int, limit: float) -> List[int]:
    """Where the spots of one passage begin."""
    starts = []
    while begin < end:
        starts.append(begin)
        anchored = min(begin + _ANCHOR_SAMPLES, end)
        near = (x[begin:anchored] - x[begin]) ** 2 + (y[begin:anchored] - y[begin]) ** 2 <= limit
        if near.all():
            begin = _first_outside(x, y, begin, anchored, end, limit)
        else:
            # A jump within the anchor's own samples begins a spot too.
            begin += int(near.argmin())
    return starts


def _first_outside(x: Any, y: Any, begin: int, anchored: int, end: int, limit: float) -> int:
    """The first index from `anchored` on whose sample is farther than the limit from the mean of begin … anchored;
    `end` when there is none. Looks ahead in growing steps: a spot is much shorter than a layer."""
    x_anchor, y_anchor = x[begin:anchored].mean(), y[begin:anchored].mean()
    step = 128
    while anchored < end:
        stop = min(anchored + step, end)
        outside = (x[anchored:stop] - x_anchor) ** 2 + (y[anchored:stop] - y_anchor) ** 2 > limit
        first = int(outside.argmax())
        if outside[first]:
            return anchored + first
        anchored, step = stop, 4 * step
    return end
