"""Plans made with pydicom, small but with everything that intake reads."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filewriter import dcmwrite
from pydicom.sequence import Sequence as DicomSequence
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

ION = "1.2.840.10008.5.1.4.1.1.481.8"
PHOTON = "1.2.840.10008.5.1.4.1.1.481.5"
UID = "1.2.826.0.1.3680043.8.498.1"
CT = "1.2.840.10008.5.1.4.1.1.2"


def beam(number: int | None, name: str = "", delivery: str | None = "TREATMENT", **more: Any) -> Dataset:
    item = Dataset()
    if number is not None:
        item.BeamNumber = number
    item.BeamName = name
    if delivery is not None:
        item.TreatmentDeliveryType = delivery
    item.TreatmentMachineName = more.pop("machine", "G1")
    for keyword, value in more.items():
        setattr(item, keyword, value)
    point = Dataset()
    point.ControlPointIndex = 0
    point.NominalBeamEnergy = 120.5
    point.ScanSpotPositionMap = [0.0, 1.0, 2.0, 3.0]
    item.IonControlPointSequence = DicomSequence([point])
    return item


def dataset(sop_class: str = ION, modality: str = "RTPLAN", beams: Sequence[Dataset] | None = ()) -> Dataset:
    plan = Dataset()
    plan.SpecificCharacterSet = "ISO_IR 192"
    plan.SOPClassUID = sop_class
    plan.SOPInstanceUID = UID
    plan.Modality = modality
    plan.PatientName = "Canary^Patient"
    plan.PatientID = "P001"
    plan.RTPlanLabel = "plan"
    if beams is not None:
        plan.IonBeamSequence = DicomSequence(list(beams))
    plan.ApprovalStatus = "APPROVED"
    return plan


def encoded(
    plan: Dataset,
    *,
    implicit: bool = False,
    undefined_lengths: bool = False,
    preamble: bool = True,
    syntax: str | None = None,
    change: Callable[[Dataset], None] | None = None,
) -> bytes:
    """The plan as the bytes of a DICOM file."""
    if change:
        change(plan)
    if undefined_lengths:
        _without_lengths(plan)
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = plan.get("SOPClassUID", ION)
    meta.MediaStorageSOPInstanceUID = UID
    meta.TransferSyntaxUID = syntax or (ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian)
    stream = io.BytesIO()
    if preamble:
        plan.file_meta = meta
        plan.preamble = b"\0" * 128
        dcmwrite(stream, plan, enforce_file_format=True)
    else:
        dcmwrite(stream, plan, implicit_vr=implicit, little_endian=True)
    return stream.getvalue()


def _without_lengths(item: Dataset) -> None:
    item.is_undefined_length_sequence_item = True
    for element in item:
        if element.VR == "SQ":
            element.is_undefined_length = True
            for below in element.value:
                _without_lengths(below)


def write(path: Path, plan: Dataset, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encoded(plan, **options))
    return path


def clinical(number_of_beams: int = 3) -> Dataset:
    """A setup beam as number 1, treatment beams from 2 on."""
    setup = beam(1, "SETUP", "SETUP")
    return dataset(beams=[setup, *(beam(n, f"1G{n}80:TX") for n in range(2, 2 + number_of_beams))])
