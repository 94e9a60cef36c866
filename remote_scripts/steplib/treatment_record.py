"""RT Ion Beams Treatment Record (SOP class 1.2.840.10008.5.1.4.1.1.481.9) -> deliveries.

What is read (DICOM PS3.3, C.8.8.21 RT General Treatment Record and C.8.8.26 RT Ion Beams Session Record):

- The record is the plan's when Referenced RT Plan Sequence (300C,0002) names the plan's SOP Instance UID and the
  patient's ID is the same. It may lie in another study than the plan: DICOM allows that.
- Treatment Session Ion Beam Sequence (3008,0021), one item per delivered beam, is mapped by Referenced Beam Number
  (300C,0006). Treatment Delivery Type (300A,00CE) is TREATMENT, or CONTINUATION for a beam that went on.
- Ion Control Point Delivery Sequence (3008,0041): Referenced Control Point Index (300C,00F0) says which layer of
  the plan, and Nominal Beam Energy must be that layer's. Spots are Scan Spot Position Map (300A,0394) with Scan
  Spot Metersets Delivered (3008,0047), in MU. As in plans, a layer may have one control point or two, and points
  whose metersets sum to zero deliver nothing.
- The metersets must sum to Delivered Primary Meterset (3008,0036) within 0.5 %: records that hold weights in place
  of MU exist, and would be wrong by a factor.

Some machines write the planned positions into the record. Where every position equals the plan's exactly,
`positions_measured` is false, and a spot check must not call them right. Times of spots are not read: Scan Spot
Time Offset (300A,038F) is optional and was found in no record that could be checked.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Dict, List, Optional, Tuple

import numpy as np

from .delivered import DeliveredLayer, Delivery, demand_beam, demand_energy
from .dicom import Item
from .plan import POSITION_LIMIT_MM, Beam, Plan
from .report import BadInput

if TYPE_CHECKING:
    from pydicom import Dataset

RT_ION_RECORD = "1.2.840.10008.5.1.4.1.1.481.9"
_METERSET_TOLERANCE = 5e-3
# DICOM's NominalBeamEnergy is a decimal string in both objects: equal but for how it was rounded.
_ENERGY_TOLERANCE_MEV = 0.01


def read_record(dataset: Dataset, plan: Plan, number: str) -> Tuple[Delivery, ...]:
    """The deliveries of treatment beams in the record; what it says of setup beams is left out.

    `number`: of the input. BadInput when the record is another plan's, or cannot be trusted.
    """
    record = Item(dataset, f"The treatment record (input {number})")
    references = record.items("ReferencedRTPlanSequence", record.where)
    if len(references) != 1 or references[0].text("ReferencedSOPInstanceUID") != plan.sop_instance_uid:
        raise BadInput(f"{record.where} is the record of another plan.")
    if record.text("PatientID") != plan.patient_id:
        raise record.problem("PatientID", "and the plan disagree in")
    if record.text("PrimaryDosimeterUnit").upper() not in ("MU", ""):
        raise record.problem("PrimaryDosimeterUnit", "is not counted in MU according to")
    uid = record.text("SOPInstanceUID")
    started = record.text("TreatmentDate") + record.text("TreatmentTime").ljust(6, "0")
    deliveries = []
    for place, item in enumerate(
        record.items("TreatmentSessionIonBeamSequence", record.where + ", beam {},"), 1
    ):
        beam_number = item.integer("ReferencedBeamNumber")
        if beam_number is None:
            raise item.problem("ReferencedBeamNumber", "has no")
        if beam_number in plan.other_beams:
            continue
        where = f"{record.where}, beam {beam_number},"
        beam = demand_beam(plan, beam_number, record.where)
        deliveries.append(_delivery(item.called(where), beam, started, f"{uid}:{place}"))
    return tuple(deliveries)


def _delivery(item: Item, beam: Beam, started: str, identity: str) -> Delivery:
    if item.text("TreatmentDeliveryType").upper() not in ("TREATMENT", "CONTINUATION"):
        raise item.problem("TreatmentDeliveryType", "is neither TREATMENT nor CONTINUATION in")
    layers = _layers(item, beam)
    total = sum(float(layer.amount.sum()) for layer in layers)
    told = item.number("DeliveredPrimaryMeterset")
    if total <= 0.0:
        raise BadInput(f"{item.where} holds no dose.")
    if told is not None and abs(told - total) > _METERSET_TOLERANCE * max(told, total):
        raise BadInput(
            f"{item.where} has spots that sum to {total:.6g} MU, and Delivered Primary Meterset (3008,0036) says "
            f"{told:.6g} MU."
        )
    return Delivery(
        beam=beam.number,
        source="record",
        where=item.where,
        identity=identity,
        started=started,
        layers=layers,
        interrupted=item.text("TreatmentTerminationStatus").upper() not in ("NORMAL", ""),
        positions_measured=not all(_echoes(layer, beam) for layer in layers),
    )


def _layers(item: Item, beam: Beam) -> Tuple[DeliveredLayer, ...]:
    points = item.items("IonControlPointDeliverySequence", item.where + " control point {},")
    if not points:
        raise item.problem("IonControlPointDeliverySequence", "has no")
    layers: Dict[int, List[Tuple[Any, Any, Any]]] = {}
    energy: Optional[float] = None
    positions: Optional[Tuple[float, ...]] = None
    for point in points:
        before, told = energy, point.number("NominalBeamEnergy")
        energy = before if told is None else told
        map_here = point.numbers("ScanSpotPositionMap")
        positions = map_here if map_here is not None else (positions if energy == before else None)
        metersets = point.numbers("ScanSpotMetersetsDelivered")
        if metersets is None:
            continue
        if min(metersets) < 0.0:
            raise point.problem("ScanSpotMetersetsDelivered", "has a negative meterset in")
        if sum(metersets) == 0.0:
            continue
        if positions is None or len(positions) != 2 * len(metersets):
            raise point.problem(
                "ScanSpotPositionMap", f"has {len(metersets)} metersets, and not as many positions in"
            )
        if max(map(abs, positions)) > POSITION_LIMIT_MM:
            raise point.problem("ScanSpotPositionMap", "has a spot more than a metre off the axis in")
        if energy is None:
            raise point.problem("NominalBeamEnergy", "has no")
        layer = _layer_number(point, beam, energy)
        flat, mu = np.asarray(positions), np.asarray(metersets)
        kept = mu > 0.0
        layers.setdefault(layer, []).append((flat[0::2][kept], flat[1::2][kept], mu[kept]))
    found = []
    for layer, parts in sorted(layers.items()):
        x_mm, y_mm, mu = (np.concatenate(column) for column in zip(*parts))
        found.append(DeliveredLayer(layer, x_mm, y_mm, mu, np.ones(len(mu), dtype=np.int64)))
    return tuple(found)


def _layer_number(point: Item, beam: Beam, energy_mev: float) -> int:
    """Which layer of the plan, from 1: by control point where the record tells it, and by energy."""
    index = point.integer("ReferencedControlPointIndex")
    if index is not None:
        # The second of a pair belongs to the layer that the first began.
        before = [place for place, layer in enumerate(beam.layers, 1) if layer.control_point <= index]
        if not before:
            raise point.problem("ReferencedControlPointIndex", "names no layer of the plan by")
        demand_energy(beam, before[-1], energy_mev, _ENERGY_TOLERANCE_MEV, point.where)
        return before[-1]
    same = [
        place
        for place, layer in enumerate(beam.layers, 1)
        if abs(layer.energy_mev - energy_mev) <= _ENERGY_TOLERANCE_MEV
    ]
    if len(same) != 1:
        raise point.problem("ReferencedControlPointIndex", f"fits {len(same)} layers of the plan and has no")
    return same[0]


def _echoes(layer: DeliveredLayer, beam: Beam) -> bool:
    """Whether every position is one of the plan's, to the last bit."""
    planned = {(spot.x_mm, spot.y_mm) for spot in beam.layers[layer.layer - 1].spots}
    pairs: Any = zip(layer.x_mm.tolist(), layer.y_mm.tolist())
    return all(pair in planned for pair in pairs)
