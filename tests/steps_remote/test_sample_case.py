"""The sample case: valid, invented, the same bytes for the same seed."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pydicom
import pytest

from mqi.sample import MACHINE, sample_beams, write_sample

# DICOM PS3.3, RT Ion Plan IOD (A.49): attributes of type 1 must have a value, those of type 2 must be there.
# Conditional ones (1C, 2C) are listed where their condition holds here.
PLAN_1 = """SOPClassUID SOPInstanceUID StudyInstanceUID SeriesInstanceUID Modality FrameOfReferenceUID RTPlanLabel
 RTPlanGeometry ApprovalStatus FractionGroupSequence IonBeamSequence PatientSetupSequence SpecificCharacterSet"""
PLAN_2 = """PatientName PatientID PatientBirthDate PatientSex StudyDate StudyTime StudyID AccessionNumber
 ReferringPhysicianName SeriesNumber OperatorsName Manufacturer RTPlanDate RTPlanTime PositionReferenceIndicator"""
GROUP_1 = "FractionGroupNumber NumberOfBeams NumberOfBrachyApplicationSetups ReferencedBeamSequence"
GROUP_2 = "NumberOfFractionsPlanned"
BEAM_1 = """BeamNumber BeamName BeamType RadiationType ScanMode PrimaryDosimeterUnit VirtualSourceAxisDistances
 TreatmentDeliveryType NumberOfWedges NumberOfCompensators NumberOfBoli NumberOfBlocks NumberOfRangeShifters
 NumberOfLateralSpreadingDevices NumberOfRangeModulators PatientSupportType NumberOfControlPoints
 IonControlPointSequence"""
BEAM_2 = "TreatmentMachineName"
FIRST_POINT_1 = """GantryAngle GantryRotationDirection BeamLimitingDeviceAngle BeamLimitingDeviceRotationDirection
 PatientSupportAngle PatientSupportRotationDirection"""
FIRST_POINT_2 = """GantryPitchAngle TableTopPitchAngle TableTopRollAngle TableTopVerticalPosition
 TableTopLongitudinalPosition TableTopLateralPosition IsocenterPosition SnoutPosition"""
SCANNED_1 = """NominalBeamEnergy ScanSpotTuneID NumberOfScanSpotPositions ScanSpotPositionMap
 ScanSpotMetersetWeights NumberOfPaintings"""


def demand(dataset: Any, with_value: str, present: str = "") -> None:
    for keyword in with_value.split():
        assert keyword in dataset, keyword
        assert dataset[keyword].value not in (None, "", []), keyword
    for keyword in present.split():
        assert keyword in dataset, keyword


@pytest.fixture
def plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    path = write_sample(tmp_path / "case", 11)
    # Every value must be valid for its representation.
    monkeypatch.setattr(pydicom.config.settings, "reading_validation_mode", pydicom.config.RAISE)
    dataset = pydicom.dcmread(path)
    for element in dataset.iterall():
        assert element.value is not NotImplemented
    return dataset


def test_attributes_that_the_standard_asks_for(plan: Any) -> None:
    demand(plan, PLAN_1, PLAN_2)
    demand(plan.FractionGroupSequence[0], GROUP_1, GROUP_2)
    demand(plan.PatientSetupSequence[0], "PatientSetupNumber PatientPosition")
    for beam in plan.IonBeamSequence:
        demand(beam, BEAM_1, BEAM_2)
        points = beam.IonControlPointSequence
        assert beam.NumberOfControlPoints == len(points)
        assert [point.ControlPointIndex for point in points] == list(range(len(points)))
        demand(points[0], FIRST_POINT_1, FIRST_POINT_2)
        for point in points:
            assert "CumulativeMetersetWeight" in point
            if beam.TreatmentDeliveryType == "TREATMENT":
                demand(point, SCANNED_1)
        assert beam.NumberOfRangeShifters == len(beam.get("RangeShifterSequence", []))


def test_meterset_adds_up_and_points_come_in_pairs(plan: Any) -> None:
    for beam in plan.IonBeamSequence[1:]:
        points = beam.IonControlPointSequence
        cumulative = 0.0
        for first, second in zip(points[::2], points[1::2], strict=True):
            assert first.NominalBeamEnergy == second.NominalBeamEnergy
            assert float(first.CumulativeMetersetWeight) == pytest.approx(cumulative)
            cumulative += sum(first.ScanSpotMetersetWeights)
            assert float(second.CumulativeMetersetWeight) == pytest.approx(cumulative)
            assert set(second.ScanSpotMetersetWeights) == {0.0}
        assert float(beam.FinalCumulativeMetersetWeight) == pytest.approx(cumulative)
        reference = plan.FractionGroupSequence[0].ReferencedBeamSequence[beam.BeamNumber - 1]
        assert reference.ReferencedBeamNumber == beam.BeamNumber
        # A reader that forgets the scale is wrong by more than a third.
        assert float(reference.BeamMeterset) > 1.3 * cumulative


def test_setup_beam_comes_first_and_fields_differ(plan: Any) -> None:
    kinds = [(beam.BeamNumber, beam.TreatmentDeliveryType) for beam in plan.IonBeamSequence]
    assert kinds == [(1, "SETUP"), (2, "TREATMENT"), (3, "TREATMENT")]
    first, second = (beam.IonControlPointSequence[0] for beam in plan.IonBeamSequence[1:])
    assert first.GantryAngle != second.GantryAngle
    assert first.NominalBeamEnergy != second.NominalBeamEnergy
    assert {beam.TreatmentMachineName for beam in plan.IonBeamSequence} == {MACHINE}


def test_same_seed_same_bytes_other_seed_other_case(tmp_path: Path) -> None:
    def content(name: str, seed: int) -> dict[str, bytes]:
        write_sample(tmp_path / name, seed)
        return {path.name: path.read_bytes() for path in (tmp_path / name).iterdir()}

    first, again, other = content("a", 1), content("b", 1), content("c", 2)
    assert first == again
    assert len(first) == 3
    assert not set(first.values()) & set(other.values())
    uids = [pydicom.dcmread(next((tmp_path / name).glob("RP.*"))) for name in ("a", "c")]
    for keyword in (
        "SOPInstanceUID",
        "StudyInstanceUID",
        "SeriesInstanceUID",
        "FrameOfReferenceUID",
        "PatientID",
    ):
        assert uids[0][keyword].value != uids[1][keyword].value


@pytest.mark.parametrize(("treatment_beams", "layers"), [(1, 1), (1, 4), (3, 2), (5, 12)])
def test_size_is_chosen(treatment_beams: int, layers: int, tmp_path: Path) -> None:
    plan = pydicom.dcmread(write_sample(tmp_path, 3, treatment_beams=treatment_beams, layers=layers))
    assert len(plan.IonBeamSequence) == treatment_beams + 1
    for beam, meant in zip(
        plan.IonBeamSequence[1:],
        sample_beams(3, treatment_beams=treatment_beams, layers=layers),
        strict=True,
    ):
        assert len(beam.IonControlPointSequence) == 2 * layers == 2 * len(meant.layers)


def test_validator_of_david_clunie_agrees(tmp_path: Path) -> None:
    program = shutil.which("dciodvfy")
    if program is None:
        pytest.skip("dciodvfy (dicom3tools) is not installed")
    path = write_sample(tmp_path, 4)
    done = subprocess.run([program, str(path)], capture_output=True, text=True, check=False)
    told = [line for line in (done.stdout + done.stderr).splitlines() if line.startswith("Error")]
    # Asked for by the standard with ScanMode MODULATED_SPEC only (PS3.3, C.8.8.25); the program asks always.
    assert [line for line in told if "ModulatedScanModeType" not in line] == []
