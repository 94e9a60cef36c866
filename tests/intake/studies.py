"""Tiny study folders in the clinic's layout: a plan of a few layers, deliveries of a few bytes."""

from __future__ import annotations

import datetime
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as DicomSequence

from tests.intake.ion_plans import beam, dataset, write

PATIENT = "P001"
STUDY_UID = "1.2.826.0.1.3680043.8.498.77"
MARKER = "_CASE_READY"


def treatment(number: int, layers: int, delivery: str = "TREATMENT", name: str = "") -> Dataset:
    """A beam with so many layers: pairs of control points, the second with zero weights."""
    item = beam(number, name or f"1G{number}80:TX", delivery)
    points = []
    for layer in range(layers):
        for weights in ([1.0, 2.0], [0.0, 0.0]):
            point = Dataset()
            point.ControlPointIndex = len(points)
            point.NominalBeamEnergy = 150.0 - 2 * layer
            point.ScanSpotPositionMap = [0.0, 1.0, 2.0, 3.0]
            point.ScanSpotMetersetWeights = weights
            points.append(point)
    item.IonControlPointSequence = DicomSequence(points)
    return item


def plan(beams: Mapping[int, int], label: str = "plan") -> Dataset:
    """A setup beam as number 1, and treatment beams: number -> layers."""
    setup = treatment(1, 1, "SETUP", "SETUP")
    value = dataset(beams=[setup, *(treatment(number, layers) for number, layers in beams.items())])
    value.PatientID = PATIENT
    value.StudyInstanceUID = STUDY_UID
    value.RTPlanLabel = label
    return value


def stamp(text: str, hundredths: int = 0) -> str:
    """The name of a delivery at a time such as `2026-03-05 17:55`."""
    return f"{datetime.datetime.fromisoformat(text):%Y%m%d%H%M%S}{hundredths:02d}"


def plan_info(name: str, number: int, start: int, stop: int, **changes: object) -> str:
    """The text of PlanInfo.txt."""
    values: dict[str, object] = {
        "DICOM_PATIENT_ID": PATIENT, "DICOM_STUDY_INS_UID": STUDY_UID, "DICOM_BEAM_NUMBER": number,
        "TCSC_IRRAD_DATETIME": name, "TCSC_PATIENT_ID": 4711, "TCSC_PLAN_NUMBER": 1, "TCSC_FIELD_NUMBER": number,
        "START_LAYER_NUMBER": start, "STOP_LAYER_NUMBER": stop, "SHARE_DIR": "D:\\share", "ACTUAL_DIR": "x",
    }  # fmt: skip
    return "".join(f"{key},{value}\r\n" for key, value in {**values, **changes}.items())


class StudyFolder:
    """`patient/study` below a watch folder."""

    def __init__(self, watch: Path, path: str = "P001/S1") -> None:
        self.path = path
        self.folder = watch / path
        self.folder.mkdir(parents=True)

    def put_plan(self, beams: Mapping[int, int], label: str = "plan", name: str = "RP.1.dcm") -> Path:
        return write(self.folder / name, plan(beams, label))

    def ready(self) -> None:
        (self.folder.parent / MARKER).touch()

    def deliver(
        self,
        name: str,
        number: int,
        layers: Sequence[int],
        *,
        start: int | None = None,
        stop: int | None = None,
        room: str = "02",
        ranges: str = "PlanRange.txt",
        **info: object,
    ) -> Path:
        """A delivery of these layers of a beam."""
        folder = self.folder / name
        folder.mkdir()
        for layer in layers:
            stem = f"{room}_{number}{name[-6:]}_001_002_{layer:03d}"
            (folder / f"{stem}.ptn").write_bytes(name.encode() * layer)
            (folder / f"{stem}.mgn").write_bytes(b"planned")
        text = plan_info(
            name, number, layers[0] if start is None else start, layers[-1] if stop is None else stop, **info
        )
        (folder / "PlanInfo.txt").write_bytes(text.encode())
        (folder / ranges).write_text("RESULT_ID,LAYER_NO\n1,1\n")
        return folder

    def remove(self, name: str) -> None:
        shutil.rmtree(self.folder / name)
