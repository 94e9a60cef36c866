"""The deliveries of a sample fraction as RT Ion Beams Treatment Records, and as the CSV that the interpreter reads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from mqi.sample import MACHINE, decimal, fill, new_file, uid
from mqi.sample_delivery import DeliveredLayer, DeliveredSpot, SampleDelivery

if TYPE_CHECKING:
    from pydicom import Dataset

_RT_ION_RECORD = "1.2.840.10008.5.1.4.1.1.481.9"


def record_csv(deliveries: Sequence[SampleDelivery]) -> bytes:
    """All deliveries of a fraction in one CSV (steplib/delivered_csv.py)."""
    lines = ["beam,layer,spot,energy_MeV,x_mm,y_mm,mu,time_ms,paint"]
    for delivery in deliveries:
        clock = 0.0
        for layer in delivery.layers:
            for spot in layer.spots:
                numbers = (layer.energy_mev, spot.x_mm, spot.y_mm, spot.mu)
                told = ",".join(map(repr, numbers))
                lines.append(
                    f"{delivery.beam.number},{layer.number},{spot.place + 1},{told},{clock:.3f},{spot.painting + 1}"
                )
                clock += 4.0
            clock += 1500.0
    return ("\n".join(lines) + "\n").encode()


def records(
    plan: Dataset, deliveries: Sequence[SampleDelivery], seed: int, fraction: int
) -> tuple[Dataset, ...]:
    """One treatment record per delivery, in the order of time; a beam with an interlock has two: what came before it,
    and a CONTINUATION with the rest."""
    found = []
    for delivery in deliveries:
        parts = _parts(delivery)
        for place, layers in enumerate(parts):
            last = place == len(parts) - 1
            found.append(_record(plan, delivery, layers, place, last, seed, fraction))
    return tuple(found)


def _parts(delivery: SampleDelivery) -> list[tuple[DeliveredLayer, ...]]:
    """The layers, cut in two at the interlock: the spot in whose middle it came is in both parts, by half."""
    for place, layer in enumerate(delivery.layers):
        if layer.interlock_in is None:
            continue
        at = layer.interlock_in
        spot = layer.spots[at]
        half = DeliveredSpot(spot.place, spot.x_mm, spot.y_mm, 0.5 * spot.mu, spot.painting)
        before = DeliveredLayer(layer.number, layer.energy_mev, (*layer.spots[:at], half), None)
        after = DeliveredLayer(layer.number, layer.energy_mev, (half, *layer.spots[at + 1 :]), None)
        return [(*delivery.layers[:place], before), (after, *delivery.layers[place + 1 :])]
    return [delivery.layers]


def _record(
    plan: Dataset,
    delivery: SampleDelivery,
    layers: tuple[DeliveredLayer, ...],
    part: int,
    last: bool,
    seed: int,
    fraction: int,
) -> Dataset:
    from pydicom.dataset import Dataset

    record = new_file(_RT_ION_RECORD, uid(seed, f"record {fraction} {delivery.beam.number} {part}"))
    for keyword in (
        "SpecificCharacterSet", "StudyDate", "StudyTime", "AccessionNumber", "ReferringPhysicianName", "PatientName",
        "PatientID", "PatientBirthDate", "PatientSex", "PatientIdentityRemoved", "DeidentificationMethod",
        "StudyInstanceUID", "StudyID",
    ):  # fmt: skip
        setattr(record, keyword, plan[keyword].value)
    date, time = f"{delivery.started:%Y%m%d}", f"{delivery.started:%H%M%S}"
    if part:
        # Two minutes later the beam went on.
        time = f"{int(time) + 200:06d}"
    reference = fill(
        Dataset(), ReferencedSOPClassUID=plan.SOPClassUID, ReferencedSOPInstanceUID=plan.SOPInstanceUID
    )
    machine = fill(Dataset(), TreatmentMachineName=MACHINE, Manufacturer="mqi sample", InstitutionName="",
                   ManufacturerModelName="", DeviceSerialNumber="")  # fmt: skip
    fill(
        record,
        Modality="RTRECORD",
        Manufacturer="mqi sample",
        OperatorsName="",
        SeriesInstanceUID=uid(seed, f"records {fraction}"),
        SeriesNumber=str(100 + fraction),
        InstanceNumber="1",
        TreatmentDate=date,
        TreatmentTime=time,
        ReferencedRTPlanSequence=[reference],
        TreatmentMachineSequence=[machine],
        PrimaryDosimeterUnit="MU",
        NumberOfFractionsPlanned=30,
        TreatmentSessionIonBeamSequence=[_session_beam(delivery, layers, part, last, fraction)],
    )
    return record


def _session_beam(
    delivery: SampleDelivery, layers: tuple[DeliveredLayer, ...], part: int, last: bool, fraction: int
) -> Dataset:
    from pydicom.dataset import Dataset

    date, time = f"{delivery.started:%Y%m%d}", f"{delivery.started:%H%M%S}"
    points: list[Dataset] = []
    total = 0.0
    for layer in layers:
        flat = [coordinate for spot in layer.spots for coordinate in (spot.x_mm, spot.y_mm)]
        metersets = [spot.mu for spot in layer.spots]
        for second in (0, 1):
            total += sum(metersets) if second else 0.0
            points.append(
                fill(
                    Dataset(),
                    ReferencedControlPointIndex=2 * (layer.number - 1) + second,
                    TreatmentControlPointDate=date,
                    TreatmentControlPointTime=time,
                    SpecifiedMeterset=decimal(total),
                    DeliveredMeterset=decimal(total),
                    NominalBeamEnergy=decimal(layer.energy_mev),
                    NumberOfScanSpotPositions=len(metersets),
                    ScanSpotPositionMap=flat,
                    ScanSpotMetersetsDelivered=[0.0] * len(metersets) if second else metersets,
                    ScanSpotTuneID="4.0",
                    ScanningSpotSize=[9.0, 9.0],
                    NumberOfPaintings=1,
                )
            )
    fill(
        points[0],
        GantryAngle=decimal(delivery.beam.gantry_deg),
        GantryRotationDirection="NONE",
        BeamLimitingDeviceAngle="0",
        BeamLimitingDeviceRotationDirection="NONE",
        PatientSupportAngle=decimal(delivery.beam.couch_deg),
        PatientSupportRotationDirection="NONE",
        SnoutPosition=420.0,
    )
    return fill(
        Dataset(),
        ReferencedBeamNumber=delivery.beam.number,
        BeamName=delivery.beam.name,
        BeamType="STATIC",
        RadiationType="PROTON",
        ScanMode="MODULATED",
        TreatmentDeliveryType="CONTINUATION" if part else "TREATMENT",
        TreatmentTerminationStatus="NORMAL" if last else "MACHINE",
        TreatmentVerificationStatus="VERIFIED",
        CurrentFractionNumber=str(fraction),
        DeliveredPrimaryMeterset=decimal(total),
        NumberOfWedges=0,
        NumberOfCompensators=0,
        NumberOfBoli=0,
        NumberOfBlocks=0,
        NumberOfRangeShifters=0,
        NumberOfLateralSpreadingDevices=0,
        NumberOfRangeModulators=0,
        PatientSupportType="TABLE",
        NumberOfControlPoints=len(points),
        IonControlPointDeliverySequence=points,
    )
