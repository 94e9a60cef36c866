"""RT Dose: what a reader finds in it, what a validator says, and what is refused."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from steplib.dose_grid import DoseGrid
from steplib.report import BadInput, FailedCheck
from steplib.rtdose import write_rtdose

from mqi.sample import sample_beams, sample_plan

PLAN = sample_plan(1, sample_beams(1))


def grid(seed: int = 1) -> DoseGrid:
    """3 x 4 x 5 voxels (z, y, x), 0 to 2 Gy, with different spacings and an odd origin."""
    dose = 2.0 * np.random.default_rng(seed).random((3, 4, 5), dtype=np.float32)
    return DoseGrid(dose, np.zeros_like(dose), (-1.0 / 3.0, 20.0, -300.125), (1.5, 2.0, 2.5))


def write(path: Path, **changes: Any) -> Any:
    wanted: dict[str, Any] = {"beam_numbers": [2], "summation": "BEAM", "which": "planned"}
    written = write_rtdose(path, changes.pop("grid", grid()), changes.pop("plan", PLAN), **{**wanted, **changes})
    return written, pydicom.dcmread(path)


def test_dose_geometry_and_references(tmp_path: Path) -> None:
    written, dose = write(tmp_path / "RD.dcm")
    assert [path.name for path in tmp_path.iterdir()] == ["RD.dcm"]
    values = dose.pixel_array * float(dose.DoseGridScaling)
    assert values.shape == (3, 4, 5)
    assert np.abs(values - grid().dose_gy).max() < 1e-9
    assert written.maximum_gy == pytest.approx(float(grid().dose_gy.max()), rel=1e-9)
    assert (dose.Rows, dose.Columns, dose.NumberOfFrames) == (4, 5, 3)
    assert [float(value) for value in dose.PixelSpacing] == [2.0, 1.5]  # rows first: dy, dx
    assert [float(value) for value in dose.GridFrameOffsetVector] == [0.0, 2.5, 5.0]
    assert np.allclose([float(value) for value in dose.ImagePositionPatient], grid().origin_mm, atol=1e-9)
    assert list(dose.ImageOrientationPatient) == [1, 0, 0, 0, 1, 0]
    assert (dose.BitsAllocated, dose.BitsStored, dose.HighBit, dose.PixelRepresentation) == (32, 32, 31, 0)
    assert dose.FrameIncrementPointer == 0x3004000C
    assert (dose.DoseUnits, dose.DoseType, dose.DoseSummationType) == ("GY", "PHYSICAL", "BEAM")
    assert len(str(dose.DoseGridScaling)) <= 16
    reference = dose.ReferencedRTPlanSequence[0]
    assert reference.ReferencedSOPInstanceUID == PLAN.SOPInstanceUID
    assert reference.ReferencedSOPClassUID == PLAN.SOPClassUID
    group = reference.ReferencedFractionGroupSequence[0]
    assert group.ReferencedFractionGroupNumber == 1
    assert [beam.ReferencedBeamNumber for beam in group.ReferencedBeamSequence] == [2]
    for keyword in ("PatientID", "PatientName", "StudyInstanceUID", "FrameOfReferenceUID"):
        assert dose[keyword].value == PLAN[keyword].value
    assert dose.SOPInstanceUID == written.sop_instance_uid
    assert dose.SOPInstanceUID not in (PLAN.SOPInstanceUID, dose.SeriesInstanceUID)


@pytest.mark.parametrize(
    ("rbe", "fractions", "kind", "factor"),
    [(1.0, 1, "PHYSICAL", 1.0), (1.1, 1, "EFFECTIVE", 1.1), (1.0, 30, "PHYSICAL", 30.0), (1.1, 30, "EFFECTIVE", 33.0)],
)
def test_rbe_and_fractions_multiply(rbe: float, fractions: int, kind: str, factor: float, tmp_path: Path) -> None:
    _, dose = write(tmp_path / "RD.dcm", rbe=rbe, fractions=fractions)
    assert dose.DoseType == kind
    values = dose.pixel_array * float(dose.DoseGridScaling)
    assert np.allclose(values, grid().dose_gy * factor, rtol=1e-6)
    assert f"{fractions} fraction" in dose.DoseComment
    assert f"RBE {rbe:g}" in dose.DoseComment
    assert len(dose.DoseComment) <= 64


def test_sum_of_all_beams_is_the_plan_s(tmp_path: Path) -> None:
    _, dose = write(tmp_path / "RD.dcm", beam_numbers=[2, 3], summation="PLAN", which="delivered")
    assert dose.DoseSummationType == "PLAN"
    assert "ReferencedFractionGroupSequence" not in dose.ReferencedRTPlanSequence[0]
    assert dose.SeriesDescription == "mqi delivered dose"


def test_the_same_dose_is_the_same_object_and_another_is_another(tmp_path: Path) -> None:
    first, again = (write(tmp_path / name)[0] for name in ("a.dcm", "b.dcm"))
    assert (tmp_path / "a.dcm").read_bytes() == (tmp_path / "b.dcm").read_bytes()
    others = [
        write(tmp_path / "c.dcm", grid=grid(seed=2)),
        write(tmp_path / "c.dcm", which="delivered"),
        write(tmp_path / "c.dcm", rbe=1.1),
        write(tmp_path / "c.dcm", beam_numbers=[3]),
        write(tmp_path / "c.dcm", frame_of_reference_uid="1.2.3"),
        write(tmp_path / "c.dcm", grid=replace(grid(), origin_mm=(0.0, 0.0, 0.0))),
    ]
    uids = {first.sop_instance_uid, again.sop_instance_uid, *(one[0].sop_instance_uid for one in others)}
    assert len(uids) == 1 + len(others)
    assert others[4][1].FrameOfReferenceUID == "1.2.3"


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"beam_numbers": []}, "no beam, or one twice"),
        ({"beam_numbers": [2, 2]}, "no beam, or one twice"),
        ({"beam_numbers": [7]}, "beam 7, which is no treatment beam"),
        ({"beam_numbers": [1]}, "beam 1, which is no treatment beam"),
        ({"summation": "PLAN"}, "The sum of 1 of 2 treatment beams is not the plan's dose."),
        ({"rbe": 0.0}, "needs an RBE above 0"),
        ({"fractions": 0}, "at least one fraction"),
        ({"grid": replace(grid(), dose_gy=-grid().dose_gy)}, "negative or not finite"),
        ({"grid": replace(grid(), dose_gy=grid().dose_gy * np.nan)}, "negative or not finite"),
        ({"grid": replace(grid(), dose_gy=grid().dose_gy * 0.0)}, "zero everywhere"),
    ],
)
def test_what_is_no_dose_is_refused(changes: dict[str, Any], sentence: str, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=sentence):
        write(tmp_path / "RD.dcm", **changes)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_reads_back_differently_never_gets_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that drops a byte: the file is altered between writing and reading."""
    original = os.fsync

    def lose(descriptor: int) -> None:
        original(descriptor)
        path = tmp_path / "RD.dcm.part~"
        content = bytearray(path.read_bytes())
        content[-9] ^= 0x40
        path.write_bytes(content)

    monkeypatch.setattr(os, "fsync", lose)
    with pytest.raises(FailedCheck, match="does not read back"):
        write(tmp_path / "RD.dcm")
    assert not (tmp_path / "RD.dcm").exists()


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"rbe": 1.1, "fractions": 30},
        {"beam_numbers": [2, 3], "summation": "PLAN", "which": "delivered"},
        {"beam_numbers": [2, 3]},
    ],
    ids=["beam", "effective", "plan", "two beams"],
)
def test_dciodvfy_finds_nothing_in_the_16_bit_twin(changes: dict[str, Any], tmp_path: Path) -> None:
    """It asserts on 32-bit pixels, so it gets a twin that differs in nothing else."""
    if shutil.which("dciodvfy") is None:
        assert os.environ.get("CI") != "true", "dciodvfy is missing, and CI must have it"
        pytest.skip("dciodvfy (Debian: dicom3tools) is not here")
    _, dose = write(tmp_path / "RD.dcm", bits=16, **changes)
    assert dose.BitsAllocated == 16
    done = subprocess.run(["dciodvfy", str(tmp_path / "RD.dcm")], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip(), done.stderr.strip()) == (0, "", "RTDose")
    _, whole = write(tmp_path / "RD.dcm", **changes)
    different = {one.keyword for one in whole if one.keyword not in dose or dose[one.keyword] != one}
    assert different == {
        "SOPInstanceUID", "SeriesInstanceUID", "BitsAllocated", "BitsStored", "HighBit", "DoseGridScaling", "PixelData",
    }  # fmt: skip
