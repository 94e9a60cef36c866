"""Deliveries of a beam, whatever they were read from, put together to what the beam delivered.

A delivery is one record of one beam: a PTN folder, a beam of a treatment record, a CSV. A beam may have several:
it was interrupted and went on. They are put in the order of time, whatever order the files came in. What could
only be guessed is refused: the same delivery twice, or two deliveries that share more than the layer at which
one was interrupted (two fractions in one case would be summed to twice the dose).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence, Tuple

import numpy as np

from .delivery_log import layer_range
from .plan import Beam, Plan
from .report import BadInput
from .spot_table import ProtonsPerMu, SpotTable, protons_of

_MU_ABSOLUTE = "absolute, from the record"


@dataclass(frozen=True)
class DeliveredLayer:
    """What one file, control point or group of rows says of one layer; arrays of one length.

    `layer`: the plan's delivering layer from 1. `amount`: MU, or counts when the delivery has no absolute MU.
    `time_ms`: since the layer part's begin; None: not told. `duration_ms`: how long the part took.
    `samples`: reads (time_ms, x_mm, y_mm, counts) of the samples again, for moqui's log; None: the spots are all.
    """

    layer: int
    x_mm: Any
    y_mm: Any
    amount: Any
    painting: Any
    time_ms: Optional[Any] = None
    duration_ms: float = 0.0
    interlocks: int = 0
    samples: Optional[Callable[[], Tuple[Any, Any, Any, Any]]] = None


@dataclass(frozen=True)
class Delivery:
    """One record of one beam. `where` begins sentences about it. `identity`: equal for copies of one record.

    `started`: sorts by time. `mu_per_count`: MU per unit of `amount`; None: to be normalised to the plan.
    `interrupted`: the record itself says that the beam did not end normally.
    """

    beam: int
    source: str
    where: str
    identity: str
    started: str
    layers: Tuple[DeliveredLayer, ...]
    mu_per_count: Optional[float] = 1.0
    interrupted: bool = False
    positions_measured: bool = True

    @property
    def numbers(self) -> Tuple[int, ...]:
        """The plan's layers that it holds, each once, rising."""
        return tuple(sorted({layer.layer for layer in self.layers}))


@dataclass(frozen=True)
class DeliveredBeam:
    """All deliveries of a beam together. `parts`: (time offset in ms, layer part), in the order of delivery."""

    beam: Beam
    table: SpotTable
    parts: Tuple[Tuple[float, DeliveredLayer], ...]
    facts: Mapping[str, Any]
    counts_per_mu: float


def demand_beam(plan: Plan, number: int, where: str) -> Beam:
    """The treatment beam with this number. BadInput when the plan has none such."""
    for beam in plan.beams:
        if beam.number == number:
            return beam
    known = ", ".join(str(beam.number) for beam in plan.beams)
    raise BadInput(
        f"{where} is for beam {number}, which is no treatment beam of the plan (treatment beams there: {known})."
    )


def demand_energy(beam: Beam, layer: int, energy_mev: float, tolerance_mev: float, where: str) -> None:
    """BadInput unless the plan's layer `layer` (from 1) has this energy."""
    if not 1 <= layer <= len(beam.layers):
        raise BadInput(
            f"{where} names layer {layer} of beam {beam.number}, which has {len(beam.layers)} layers in the plan."
        )
    planned = beam.layers[layer - 1].energy_mev
    if abs(planned - energy_mev) > tolerance_mev:
        raise BadInput(
            f"{where} gives layer {layer} of beam {beam.number} {energy_mev:g} MeV, and the plan {planned:g} MeV."
        )


def together(
    beam: Beam, deliveries: Sequence[Delivery], protons_per_mu: ProtonsPerMu
) -> Optional[DeliveredBeam]:
    """What the beam delivered; None without a delivery. BadInput where that could only be guessed."""
    if not deliveries:
        return None
    ordered = sorted(deliveries, key=lambda each: (each.started, each.numbers, each.identity))
    _demand_one_passage(beam, ordered)
    scale, mu_from = _scale(beam, ordered)
    parts: List[Tuple[float, DeliveredLayer]] = []
    clock = 0.0
    for delivery in ordered:
        for part in delivery.layers:
            parts.append((clock, part))
            clock += part.duration_ms
    # Stable: within a layer the order of delivery stays.
    parts.sort(key=lambda each: each[1].layer)
    table = _table(beam, parts, scale, protons_per_mu)
    return DeliveredBeam(
        beam=beam,
        table=table,
        parts=tuple(parts),
        facts=_facts(beam, ordered, parts, table, mu_from),
        counts_per_mu=1.0 / scale,
    )


def _demand_one_passage(beam: Beam, ordered: Sequence[Delivery]) -> None:
    """BadInput: two kinds of records, a record twice, or more than a continuation."""
    if len({each.source for each in ordered}) > 1:
        kinds = " and ".join(sorted({each.source for each in ordered}))
        raise BadInput(
            f"Beam {beam.number} has delivery records of two kinds ({kinds}); which one counts cannot be known."
        )
    if len({each.identity for each in ordered}) < len(ordered):
        raise BadInput(f"Beam {beam.number}: the same delivery record is there twice.")
    for first, second in zip(ordered, ordered[1:]):
        if second.numbers[0] >= first.numbers[-1]:
            continue
        shared = tuple(sorted(set(first.numbers) & set(second.numbers)))
        if shared:
            raise BadInput(
                f"Beam {beam.number} was delivered more than once ({layer_range(shared)} twice): a case must hold the "
                "deliveries of one fraction."
            )
        raise BadInput(
            f"Beam {beam.number}: a later delivery holds layers before those of an earlier one; in which order they "
            "were delivered cannot be known."
        )


def _scale(beam: Beam, ordered: Sequence[Delivery]) -> Tuple[float, str]:
    """MU per unit of amount, and the sentence that says where it comes from."""
    factors = {each.mu_per_count for each in ordered}
    factor = factors.pop()
    if factor is not None:
        return factor, _MU_ABSOLUTE
    numbers = {number for each in ordered for number in each.numbers}
    missing = tuple(sorted(set(range(1, len(beam.layers) + 1)) - numbers))
    if missing:
        raise BadInput(
            f"Beam {beam.number} was not delivered completely ({layer_range(missing)} missing), and the machine file "
            "says normalise_to: counts of a part cannot be normalised to the whole beam."
        )
    counts = sum(float(layer.amount.sum()) for each in ordered for layer in each.layers)
    if counts <= 0.0:
        raise BadInput(f"Beam {beam.number}: the delivery record holds no dose.")
    return beam.meterset / counts, "normalised to BeamMeterset of the plan: the absolute output is not known"


def _table(
    beam: Beam, parts: Sequence[Tuple[float, DeliveredLayer]], scale: float, protons_per_mu: ProtonsPerMu
) -> SpotTable:
    """One row per delivered spot, by layer, within a layer in the order of delivery."""
    rows = [len(part.x_mm) for _, part in parts]
    layer = np.repeat([part.layer for _, part in parts], rows).astype(np.int64)
    x_mm, y_mm, amount = (
        np.concatenate([np.zeros(0), *(getattr(part, name) for _, part in parts)])
        for name in ("x_mm", "y_mm", "amount")
    )
    energy = np.asarray([0.0, *(each.energy_mev for each in beam.layers)])[layer]
    first = np.searchsorted(layer, layer, side="left")
    time_ms = None
    times = [offset + part.time_ms for offset, part in parts if part.time_ms is not None]
    if len(times) == len(parts):
        time_ms = np.concatenate([np.zeros(0), *times])
        time_ms = time_ms - (time_ms.min() if len(time_ms) else 0.0)
    mu = amount * scale
    return SpotTable(
        layer=layer,
        spot=np.arange(len(layer)) - first + 1,
        energy_mev=energy,
        x_mm=x_mm,
        y_mm=y_mm,
        mu=mu,
        protons=protons_of(energy, mu, protons_per_mu),
        time_ms=time_ms,
    )


def _facts(
    beam: Beam,
    ordered: Sequence[Delivery],
    parts: Sequence[Tuple[float, DeliveredLayer]],
    table: SpotTable,
    mu_from: str,
) -> Dict[str, Any]:
    """What beams.json says of the delivery (steplib/tables.py)."""
    layers = []
    for number in sorted({part.layer for _, part in parts}):
        own = [part for _, part in parts if part.layer == number]
        here = table.layer == number
        layers.append(
            {
                "layer": number,
                "energy_MeV": beam.layers[number - 1].energy_mev,
                "spots": int(np.count_nonzero(here)),
                "mu": float(table.mu[here].sum()),
                "interlocks": sum(part.interlocks for part in own) + len(own) - 1,
                "paintings": len(np.unique(np.concatenate([part.painting for part in own]))),
            }
        )
    # A layer in two parts is one interruption (counted above), and so is a delivery that went on with the next
    # layer. Of a CSV in two files nothing like that is known.
    between = sum(
        1
        for first, second in zip(ordered, ordered[1:])
        if first.numbers[-1] != second.numbers[0] and second.source != "csv"
    )
    ended = 1 if ordered[-1].interrupted else 0
    return {
        "source": ordered[0].source,
        "spots": len(table),
        "layers": len(layers),
        "complete": len(layers) == len(beam.layers),
        "total_mu": float(table.mu.sum()),
        "interlocks": sum(layer["interlocks"] for layer in layers) + between + ended,
        "deliveries": len(ordered),
        "mu_from": mu_from,
        "positions_measured": all(each.positions_measured for each in ordered),
        "layer_table": layers,
    }
