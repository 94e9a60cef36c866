"""Finds the RT Ion Plan of a unit and reads which beams it delivers.

The plan is known by its contents, whatever its file is called. Everything that does not fit is an
IntakeProblem: its sentence names no file, so it may be logged; its hint does.
"""

from __future__ import annotations

import io
import logging
import os
import warnings
import zlib
from collections.abc import Iterator, MutableSequence, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mqi.errors import IntakeProblem
from mqi.intake.files import open_plain, reason_of
from mqi.intake.unit import FileStat, shown

ION_PLAN = "1.2.840.10008.5.1.4.1.1.481.8"  # RT Ion Plan Storage
RT_PLAN = "1.2.840.10008.5.1.4.1.1.481.5"  # RT Plan Storage: photons and electrons
MAX_PLAN_BYTES = 256 * 2**20  # the largest plans we know have 1 MB

_DICOM_CLASSES = "1.2.840.10008."
_PREAMBLE = 132  # 128 free bytes, then DICM
_HEAD = 16 * 2**10  # where the class and the modality of every DICOM file are
_MAX_DEFLATED = 8 * 2**20  # bytes on disk; in memory they are up to a thousand times as many
_SOP_CLASS, _SOP_INSTANCE, _MODALITY, _ION_BEAMS = 0x00080016, 0x00080018, 0x00080060, 0x300A03A2
_UNDEFINED_LENGTH = 0xFFFFFFFF
_SHOWN_FILES = 3


@dataclass(frozen=True)
class PlanBeam:
    """A beam of the plan: its DICOM BeamNumber and BeamName ("" when it has none).

    `layers`: how many of its control points deliver, that is, have spots whose weights are not all zero
    (ScanSpotMetersetWeights, 300A,0396); the same count as in remote_scripts/steplib/plan.py.
    """

    number: int
    name: str
    layers: int = 0


@dataclass(frozen=True)
class PlanFacts:
    """The plan's file (`path` relative to the unit) and its treatment beams, by number."""

    path: str
    sop_instance_uid: str
    beams: tuple[PlanBeam, ...]
    machine: str  # TreatmentMachineName, "" when the plan names none
    setup_beams: tuple[PlanBeam, ...] = ()  # left out: they deliver no treatment dose
    patient_id: str = field(default="", repr=False)  # PatientID (0010,0020)
    study_uid: str = field(default="", repr=False)  # StudyInstanceUID (0020,000D)


def read_plan(folder: Path, files: Sequence[FileStat]) -> PlanFacts:
    """The one RT Ion Plan among `files` (paths relative to `folder`).

    Raises IntakeProblem: no DICOM file, something else called *.dcm, no plan, several, a photon plan, a
    damaged or cut-off file, no treatment beam, beam numbers that are missing or not unique.
    """
    logging.getLogger("pydicom").setLevel(logging.CRITICAL + 1)  # its messages quote paths and values
    dicom_files = 0
    others = 0  # plans, but not for ions
    plans: list[tuple[FileStat, Any]] = []
    for file in files:
        with _reading(file.path):
            kind = _kind(folder / file.path)
            dicom_files += kind != ""
            if kind != "plan":
                continue
            plan = _whole_plan(folder / file.path)
            sop_class = _text(plan.get("SOPClassUID"))
            # A file that calls itself a photon plan is refused, whatever else it holds: it contradicts itself.
            if sop_class == ION_PLAN or (sop_class != RT_PLAN and _ION_BEAMS in plan):
                plans.append((file, plan))
            else:
                others += 1
    if len(plans) != 1:
        raise _no_single_plan([file.path for file, _ in plans], dicom_files, others)
    file, plan = plans[0]
    with _reading(file.path):
        return _facts(file.path, plan)


@contextmanager
def _reading(path: str) -> Iterator[None]:
    """Whatever goes wrong with this file becomes a sentence."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # they quote values
            yield
    except IntakeProblem:
        raise
    except OSError as error:
        raise IntakeProblem(
            f"A file cannot be read: {reason_of(error)}.",
            f"Let the account that runs mqi read {shown(path)}, and check the disk it lies on.",
        ) from error
    except Exception as error:
        raise _damaged(path) from error


def _damaged(path: str) -> IntakeProblem:
    return IntakeProblem("A DICOM file is damaged or cut off.", f"Copy {shown(path)} again.")


def _kind(path: Path) -> str:
    """A radiotherapy plan of any sort is a "plan", other DICOM "other", the rest "". Reads the head only."""
    named = path.name.lower().endswith(".dcm")
    with open_plain(path) as stream:
        start = stream.read(_PREAMBLE)
        marked = start[128:] == b"DICM"
        if not marked and not named:
            return ""
        head = start + stream.read(_HEAD - len(start))
        if marked:
            try:
                sop_class, modality = _class_and_modality(head)
            except zlib.error:  # a deflated file cannot be read by its head alone
                sop_class, modality = _class_and_modality(head + stream.read(_MAX_DEFLATED))
        else:
            sop_class, modality = _class_without_preamble(head)
    if sop_class.startswith(_DICOM_CLASSES):
        return "plan" if sop_class in (ION_PLAN, RT_PLAN) or modality == "RTPLAN" else "other"
    if marked:
        raise _damaged(path.name)
    raise IntakeProblem(
        "A file called *.dcm is not a DICOM file.", f"Copy {shown(path.name)} again, or remove it."
    )


def _class_without_preamble(head: bytes) -> tuple[str, str]:
    """Old systems leave the preamble out; whatever cannot be read that way is no DICOM file."""
    try:
        return _class_and_modality(head, force=True)
    except Exception:  # noqa: BLE001 - pydicom raises almost anything when it reads what is not DICOM
        return "", ""


def _class_and_modality(head: bytes, *, force: bool = False) -> tuple[str, str]:
    from pydicom.filereader import read_partial

    dataset = read_partial(
        io.BytesIO(head),
        stop_when=lambda tag, vr, length: tag > _MODALITY,
        force=force,
        specific_tags=[_SOP_CLASS, _MODALITY],
    )
    meta = dataset.file_meta.get("MediaStorageSOPClassUID")
    return _text(dataset.get("SOPClassUID")) or _text(meta), _text(dataset.get("Modality")).upper()


class _Bytes(io.BytesIO):
    """A file in memory that notices when its end is in the middle of an element's header (8 bytes)."""

    cut = False

    def read(self, size: int | None = -1, /) -> bytes:
        data = super().read(size)
        if size == 8 and 0 < len(data) < 8:
            self.cut = True
        return data


def _whole_plan(path: Path) -> Any:
    """The plan's data set. pydicom takes a file that ends too early for a shorter one; here it is damaged."""
    from pydicom import dcmread

    with open_plain(path) as stream:
        size = os.fstat(stream.fileno()).st_size
        content = stream.read(size) if size <= MAX_PLAN_BYTES else b""  # takes memory for what it is told
    if size > MAX_PLAN_BYTES:
        raise IntakeProblem(
            f"A plan is larger than {MAX_PLAN_BYTES // 2**20} MiB, which no plan is.",
            f"Is {shown(path.name)} the right file?",
        )
    data = _Bytes(content)
    plan = dcmread(data, force=True, stop_before_pixels=True)
    if data.cut or any(_is_cut(plan.get_item(tag)) for tag in list(plan.keys())):
        raise _damaged(path.name)
    return plan


def _is_cut(element: Any) -> bool:
    from pydicom.dataelem import RawDataElement

    if not isinstance(element, RawDataElement) or element.length == _UNDEFINED_LENGTH:
        return False
    return len(element.value or b"") < element.length


def _no_single_plan(plans: list[str], dicom_files: int, others: int) -> IntakeProblem:
    if plans:
        names = ", ".join(shown(path) for path in plans[:_SHOWN_FILES])
        more = f" and {len(plans) - _SHOWN_FILES} more" if len(plans) > _SHOWN_FILES else ""
        return IntakeProblem(
            f"There are {len(plans)} RT Ion Plans in the folder; mqi does not guess which one was delivered.",
            f"Leave only one of {names}{more}.",
        )
    if others:
        return IntakeProblem(
            "The plan in the folder is not an RT Ion Plan: it is for photons, electrons or a source.",
            "Put the RT Ion Plan of the case into the folder.",
        )
    if dicom_files:
        return IntakeProblem(
            "There is no RT Ion Plan among the DICOM files of the folder.",
            "Put the RT Ion Plan of the case into the folder.",
        )
    return IntakeProblem(
        "There is no DICOM file in the folder.", "Put the RT Ion Plan of the case into the folder."
    )


def _facts(path: str, plan: Any) -> PlanFacts:
    uid = _text(plan.get("SOPInstanceUID"))
    if not uid:
        raise _damaged(path)
    beams = list(plan.get("IonBeamSequence") or ())
    again = "Copy the plan again; if that does not help, export it again from the planning system."
    if not beams:
        raise IntakeProblem("The RT Ion Plan has no beams.", again)
    numbered = [(PlanBeam(_number(beam), _text(beam.get("BeamName")), _layers(beam)), beam) for beam in beams]
    numbers = [beam.number for beam, _ in numbered]
    for number in numbers:
        if numbers.count(number) > 1:
            raise IntakeProblem(f"The RT Ion Plan has more than one beam with the number {number}.", again)
    treatment = [(beam, item) for beam, item in numbered if _delivers(item)]
    if not treatment:
        raise IntakeProblem(
            f"None of the beams of the RT Ion Plan ({len(beams)}) is a treatment beam.",
            "Beams count whose TreatmentDeliveryType is TREATMENT. " + again,
        )
    machines = sorted({_text(item.get("TreatmentMachineName")) for _, item in treatment})
    if len(machines) > 1:
        raise IntakeProblem(
            "The beams of the RT Ion Plan are for different machines.", f"It names {', '.join(machines)}."
        )
    return PlanFacts(
        path=path,
        sop_instance_uid=uid,
        beams=tuple(sorted((beam for beam, _ in treatment), key=lambda beam: beam.number)),
        machine=machines[0],
        setup_beams=tuple(beam for beam, item in numbered if not _delivers(item)),
        patient_id=_text(plan.get("PatientID")),
        study_uid=_text(plan.get("StudyInstanceUID")),
    )


def _number(beam: Any) -> int:
    value = beam.get("BeamNumber")
    if value is None or value == "" or int(value) < 0:
        raise IntakeProblem(
            "A beam of the RT Ion Plan has no usable beam number.",
            "Export the plan again from the planning system.",
        )
    return int(value)


def _layers(beam: Any) -> int:
    count = 0
    for point in beam.get("IonControlPointSequence") or ():
        weights = point.get("ScanSpotMetersetWeights")
        if weights is None or weights == "":
            continue
        values = weights if isinstance(weights, MutableSequence) else [weights]
        count += any(float(weight) != 0.0 for weight in values)
    return count


def _delivers(beam: Any) -> bool:
    """Whether the beam treats. Plans have beams for setup and imaging too, commonly as the first."""
    delivery = _text(beam.get("TreatmentDeliveryType")).upper()
    if delivery:
        return delivery == "TREATMENT"
    name, description = _text(beam.get("BeamName")), _text(beam.get("BeamDescription"))
    return name.upper() != "SETUP" and description.upper() != "SITE SETUP"


def _text(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, MutableSequence):  # a backslash separates values in DICOM; in a name it was meant
        return "\\".join(str(part) for part in value)
    return str(value).strip(" \0")
