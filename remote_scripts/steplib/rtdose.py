"""A dose grid as an RT Dose object (DICOM PS3.3 A.18, RT Dose module C.8.8.3).

The stored dose is the grid's physical dose of one fraction x `rbe` x `fractions`. Dose Type (3004,0004) says
PHYSICAL at RBE 1 and EFFECTIVE otherwise; Dose Comment (3004,0006) tells in words what the numbers are, since
DICOM has no attribute for the number of fractions that a dose stands for.

Patient and study are copied from the RT Ion Plan, which the object refers to by its own UID. A dose has the
UIDs that follow from its contents: the same dose written twice is the same object, another dose is another one.
The grid is axial (Image Orientation (Patient) 1\\0\\0\\0\\1\\0), its first voxel's centre is Image Position.
"""

from __future__ import annotations

import hashlib
import io
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, List, Optional, Sequence

import numpy as np

from .dicom import Item
from .dose_grid import DoseGrid
from .plan import is_treatment
from .report import BadInput, FailedCheck

if TYPE_CHECKING:
    from pydicom import Dataset

RT_DOSE = "1.2.840.10008.5.1.4.1.1.481.2"
RT_ION_PLAN = "1.2.840.10008.5.1.4.1.1.481.8"
MANUFACTURER = "mqi (research tool, not for clinical use)"

# Copied from the plan; absent ones are written empty, which DICOM allows for them (type 2).
_FROM_PLAN = (
    "StudyDate",
    "StudyTime",
    "AccessionNumber",
    "ReferringPhysicianName",
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "StudyID",
)
# Copied when the plan has them (type 3).
_FROM_PLAN_IF_THERE = (
    "SpecificCharacterSet",
    "StudyDescription",
    "PatientIdentityRemoved",
    "DeidentificationMethod",
)


@dataclass(frozen=True)
class WrittenDose:
    """What was written: UID, SHA-256 of the file as hex, Gy per stored unit, greatest dose in Gy."""

    sop_instance_uid: str
    sha256: str
    gy_per_unit: float
    maximum_gy: float


def write_rtdose(
    path: Path,
    grid: DoseGrid,
    plan: Dataset,
    *,
    beam_numbers: Sequence[int],
    summation: str,
    which: str,
    rbe: float = 1.0,
    fractions: int = 1,
    frame_of_reference_uid: Optional[str] = None,
    bits: int = 32,
) -> WrittenDose:
    """Writes `grid` as RT Dose under a temporary name, reads it back, compares, renames.

    `plan`: the original RT Ion Plan. `beam_numbers`: the DICOM numbers of the beams whose dose this is; with
    `summation` "PLAN" all treatment beams of the plan, with "BEAM" one or more. `which`: "planned" or "delivered"
    spots. `frame_of_reference_uid`: that of the CT; default: the plan's. `bits`: 32, or 16 for a twin that
    validators can read.
    BadInput: the grid or the references make no RT Dose. FailedCheck: the file does not read back as written.
    """
    dataset, stored = _dataset(
        grid, plan, list(beam_numbers), summation, which, rbe, fractions, frame_of_reference_uid, bits
    )
    stream = io.BytesIO()
    dataset.save_as(stream, enforce_file_format=True)
    temporary = path.with_name(path.name + ".part~")
    with temporary.open("wb") as file:
        file.write(stream.getvalue())
        file.flush()
        os.fsync(file.fileno())
    _compare(temporary, dataset, stored, grid, rbe * fractions)
    os.replace(str(temporary), str(path))
    scaling = float(dataset.DoseGridScaling)
    digest = hashlib.sha256(stream.getvalue()).hexdigest()
    return WrittenDose(str(dataset.SOPInstanceUID), digest, scaling, float(stored.max()) * scaling)


def _dataset(
    grid: DoseGrid,
    plan: Dataset,
    beam_numbers: List[int],
    summation: str,
    which: str,
    rbe: float,
    fractions: int,
    frame_of_reference_uid: Optional[str],
    bits: int,
) -> Any:
    """(data set, stored integers of shape (nz, ny, nx))."""
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import UID, ExplicitVRLittleEndian

    _check_references(plan, beam_numbers, summation)
    if which not in ("planned", "delivered"):
        raise ValueError(which)
    if not 0.0 < rbe <= 10.0 or not 1 <= fractions <= 1000:
        raise BadInput("An RT Dose needs an RBE above 0 and at least one fraction.")
    stored, scaling = _quantise(grid.dose_gy, rbe * fractions, bits)
    nz, ny, nx = stored.shape
    dx, dy, dz = grid.spacing_mm

    dose = Dataset()
    for keyword in _FROM_PLAN:
        setattr(dose, keyword, plan.get(keyword, "") or "")
    for keyword in _FROM_PLAN_IF_THERE:
        if plan.get(keyword):
            setattr(dose, keyword, plan.get(keyword))
    dose.SOPClassUID = RT_DOSE
    dose.StudyInstanceUID = plan.StudyInstanceUID
    dose.Modality = "RTDOSE"
    dose.Manufacturer = MANUFACTURER
    dose.SeriesDescription = f"mqi {which} dose"
    dose.SeriesNumber = 1 if which == "planned" else 2
    # One series per kind of dose: the sum has the number 0, a beam its own.
    dose.InstanceNumber = 0 if summation == "PLAN" else beam_numbers[0]
    dose.OperatorsName = ""
    dose.FrameOfReferenceUID = frame_of_reference_uid or plan.get("FrameOfReferenceUID") or ""
    dose.PositionReferenceIndicator = ""
    dose.ImagePositionPatient = [_decimal(value) for value in grid.origin_mm]
    dose.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    dose.PixelSpacing = [_decimal(dy), _decimal(dx)]
    dose.SliceThickness = _decimal(dz)
    dose.SamplesPerPixel = 1
    dose.PhotometricInterpretation = "MONOCHROME2"
    dose.Rows, dose.Columns, dose.NumberOfFrames = ny, nx, nz
    dose.FrameIncrementPointer = 0x3004000C
    dose.GridFrameOffsetVector = [_decimal(dz * frame) for frame in range(nz)]
    dose.BitsAllocated = dose.BitsStored = bits
    dose.HighBit = bits - 1
    dose.PixelRepresentation = 0
    dose.DoseUnits = "GY"
    dose.DoseType = "PHYSICAL" if rbe == 1.0 else "EFFECTIVE"
    dose.DoseSummationType = summation
    dose.DoseGridScaling = scaling
    dose.TissueHeterogeneityCorrection = "IMAGE"
    plural = "" if fractions == 1 else "s"
    # 64 characters at most.
    dose.DoseComment = f"Dose to water, {fractions} fraction{plural}, RBE {rbe:g}, from {which} spots"
    dose.ReferencedRTPlanSequence = [_reference(plan, beam_numbers, summation)]
    if not dose.FrameOfReferenceUID:
        # Without a frame of reference the positions would mean nothing; a plan without CT makes its own.
        dose.FrameOfReferenceUID = _uid("frame", str(plan.SOPInstanceUID))
    dose.SeriesInstanceUID = _uid(
        "series", str(plan.SOPInstanceUID), which, str(rbe), str(fractions), str(bits)
    )
    dose.PixelData = stored.tobytes()
    dose["PixelData"].VR = "OW"
    dose.SOPInstanceUID = _uid("dose", dose.to_json(bulk_data_threshold=1, bulk_data_element_handler=_bulk))

    dose.file_meta = FileMetaDataset()
    dose.file_meta.FileMetaInformationVersion = b"\x00\x01"
    dose.file_meta.MediaStorageSOPClassUID = UID(RT_DOSE)
    dose.file_meta.MediaStorageSOPInstanceUID = dose.SOPInstanceUID
    dose.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dose.file_meta.ImplementationClassUID = UID(_uid("implementation"))
    dose.file_meta.ImplementationVersionName = "MQI"
    return dose, stored


def _check_references(plan: Dataset, beam_numbers: Sequence[int], summation: str) -> None:
    if summation not in ("BEAM", "PLAN"):
        raise ValueError(summation)
    if not plan.get("SOPInstanceUID") or not plan.get("StudyInstanceUID"):
        raise BadInput(
            "The RT Ion Plan has no SOPInstanceUID (0008,0018) or no StudyInstanceUID (0020,000D)."
        )
    treatment = {
        beam.integer("BeamNumber")
        for beam in Item(plan, "The RT Ion Plan").items("IonBeamSequence", "The plan's beam in place {}")
        if is_treatment(beam)
    }
    unknown = sorted(set(beam_numbers) - treatment)
    if unknown or not beam_numbers or len(set(beam_numbers)) != len(beam_numbers):
        named = f"beam {unknown[0]}, which is no treatment beam" if unknown else "no beam, or one twice"
        raise BadInput(f"The RT Dose would refer to {named} of the RT Ion Plan.")
    if summation == "PLAN" and set(beam_numbers) != treatment:
        raise BadInput(
            f"The sum of {len(beam_numbers)} of {len(treatment)} treatment beams is not the plan's dose."
        )


def _reference(plan: Dataset, beam_numbers: Sequence[int], summation: str) -> Dataset:
    """Referenced RT Plan Sequence (300C,0002); down to the beams unless the whole plan is meant."""
    from pydicom.dataset import Dataset

    reference = Dataset()
    reference.ReferencedSOPClassUID = str(plan.get("SOPClassUID") or RT_ION_PLAN)
    reference.ReferencedSOPInstanceUID = plan.SOPInstanceUID
    if summation == "BEAM":
        beams = []
        for number in beam_numbers:
            beam = Dataset()
            beam.ReferencedBeamNumber = number
            beams.append(beam)
        group = Dataset()
        group.ReferencedFractionGroupNumber = _fraction_group(plan, beam_numbers)
        group.ReferencedBeamSequence = beams
        reference.ReferencedFractionGroupSequence = [group]
    return reference


def _fraction_group(plan: Dataset, beam_numbers: Sequence[int]) -> int:
    """The number of the one fraction group that delivers these beams."""
    found = []
    for group in Item(plan, "The RT Ion Plan").items("FractionGroupSequence", "Fraction group {}"):
        named = {
            each.integer("ReferencedBeamNumber")
            for each in group.items("ReferencedBeamSequence", group.where + ", referenced beam {},")
        }
        number = group.integer("FractionGroupNumber")
        if number is not None and set(beam_numbers) <= named:
            found.append(number)
    if not found:
        raise BadInput("No fraction group of the RT Ion Plan delivers the beams that the RT Dose refers to.")
    return found[0]


def _quantise(dose_gy: Any, factor: float, bits: int) -> Any:
    """(whole numbers of shape (nz, ny, nx), the factor to Gy as DS text)."""
    if bits not in (16, 32):
        raise ValueError(bits)
    dose = np.asarray(dose_gy, dtype=np.float64) * factor
    if dose.ndim != 3 or not dose.size or not np.all(np.isfinite(dose)) or dose.min() < 0.0:
        raise BadInput("A dose with values that are negative or not finite makes no RT Dose.")
    if max(dose.shape[1:]) > 65535:
        raise BadInput("A dose grid of more than 65535 rows or columns makes no RT Dose.")
    highest = float(dose.max())
    if highest <= 0.0:
        raise BadInput("A dose that is zero everywhere makes no RT Dose.")
    top = 2**bits - 2
    scaling = f"{highest / top:.10e}"
    # With the rounded factor, since that is the one that a reader has.
    stored = np.rint(dose / float(scaling))
    return stored.astype("<u4" if bits == 32 else "<u2"), scaling


def _compare(path: Path, written: Dataset, stored: Any, grid: DoseGrid, factor: float) -> None:
    """FailedCheck unless the file holds the dose, where it lies, and what it refers to."""
    from pydicom import dcmread

    back = dcmread(str(path))
    values = np.frombuffer(back.PixelData, dtype=stored.dtype)[: stored.size].reshape(
        int(back.NumberOfFrames), int(back.Rows), int(back.Columns)
    )
    scaling = float(back.DoseGridScaling)
    wanted = np.asarray(grid.dose_gy, dtype=np.float64) * factor
    geometry = (*map(float, back.ImagePositionPatient), *map(float, back.PixelSpacing))
    meant = (*grid.origin_mm, grid.spacing_mm[1], grid.spacing_mm[0])
    good = (
        np.array_equal(values, stored)
        and float(np.abs(values * scaling - wanted).max()) <= 0.5001 * scaling
        and np.allclose(geometry, meant, rtol=0.0, atol=1e-3)
        and str(back.SOPInstanceUID) == str(written.SOPInstanceUID)
        and back.ReferencedRTPlanSequence == written.ReferencedRTPlanSequence
    )
    if not good:
        raise FailedCheck("The RT Dose does not read back as it was written; its temporary file was kept.")


def _bulk(element: Any) -> str:
    return hashlib.sha256(element.value).hexdigest()


def _uid(*facts: str) -> str:
    """A UID that follows from facts (the 2.25 root of ISO/IEC 9834-8, for 128-bit numbers)."""
    digest = hashlib.sha256("\0".join(("mqi rtdose", *facts)).encode("utf-8")).digest()
    return f"2.25.{int.from_bytes(digest[:16], 'big')}"


def _decimal(value: float) -> str:
    """A number as DS text, 16 characters at most."""
    for digits in range(15, 3, -1):
        text = f"{value:.{digits}g}"
        if len(text) <= 16:
            return text
    raise BadInput("A position of the dose grid does not fit into a DICOM number.")
