"""moquisim.py with MCsquare: the files that it promises, and what it refuses before the engine starts."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from dose_runs import MACHINE, Field, field, field_of, one_spot
from step_runs import run_step
from steplib.dose_grid import read_grid

from mqi.sample import sample_beams, sample_plan

QUICK = {"primaries": 1000, "batches": 8, "grid_mm": 5.0, "isocentre_depth_mm": 40.0}


def quick(mcsquare: str, **changes: Any) -> dict[str, Any]:
    return {**QUICK, "mcsquare_folder": mcsquare, **changes}


def test_planned_and_delivered_dose_and_every_promised_file(mcsquare: str, tmp_path: Path) -> None:
    case = field(tmp_path, [(100.0, [(-10.0, 0.0, 2.0), (10.0, 5.0, 1.0)])], gantry=90.0)
    # Delivered: the same places, half of the monitor units.
    case.deliver(lambda row: {**row, "mu": repr(0.5 * float(row["mu"])), **({"protons": ""} if "protons" in row else {})})
    run = case.simulate(quick(mcsquare, rbe=1.1), process=True)
    assert (run.code, run.error, run.stderr) == (0, "", "")
    names = {path.relative_to(run.out).as_posix() for path in run.out.rglob("*") if path.is_file()}
    for which in ("planned", "delivered"):
        assert {f"dose_{which}.npz", f"RD_beam_2_{which}.dcm", f"depth_dose_{which}.csv"} <= names
        assert f"engine/{which}/plan.txt" in names
    assert {"summary.json", "depth_dose.png"} <= names
    assert not [name for name in names if name.endswith("~")]
    summary = run.json("summary.json")
    assert summary["format"] == 2
    assert "not a medical device" in summary["notice"]
    assert summary["engine"]["name"] == "MCsquare"
    assert len(summary["engine"]["binary_sha256"]) == 64
    assert summary["machine"]["file_sha256"] == hashlib.sha256(MACHINE.read_bytes()).hexdigest()
    assert summary["parameters"] == {**summary["parameters"], **quick(mcsquare, rbe=1.1)}
    planned, delivered = (read_grid(run.out / f"dose_{which}.npz") for which in ("planned", "delivered"))
    assert planned.same_grid(delivered)
    assert delivered.dose_gy.sum() == pytest.approx(0.5 * planned.dose_gy.sum(), rel=0.02)
    assert planned.sigma_gy.max() > 0.0
    for which, dose in (("planned", planned), ("delivered", delivered)):
        told = summary["doses"][which]
        assert told["passed"] is True
        assert {check["name"] for check in told["checks"]} == {
            "finite", "not_negative", "not_empty", "protons_outside", "energy_balance", "centroid_x", "centroid_y", "range",
        }  # fmt: skip
        assert told["npz_sha256"] == hashlib.sha256((run.out / f"dose_{which}.npz").read_bytes()).hexdigest()
        assert told["primaries"] >= 1000
        table = case.spots / ("beam_2.csv" if which == "planned" else "delivered_2.csv")
        assert told["spots_sha256"] == hashlib.sha256(table.read_bytes()).hexdigest()
        rtdose = pydicom.dcmread(run.out / f"RD_beam_2_{which}.dcm")
        assert rtdose.DoseType == "EFFECTIVE"
        values = rtdose.pixel_array * float(rtdose.DoseGridScaling)
        assert np.allclose(values, dose.dose_gy * 1.1, atol=1e-7 * float(dose.dose_gy.max()))
        assert rtdose.SOPInstanceUID == told["rtdose_sop_instance_uid"]
        assert np.allclose([float(value) for value in rtdose.ImagePositionPatient], dose.origin_mm)
        lines = (run.out / f"depth_dose_{which}.csv").read_text(encoding="ascii").splitlines()
        assert lines[0] == "depth_mm,relative_dose,energy_MeV_per_mm,dose_Gy_mm2"
    assert (run.out / "depth_dose.png").read_bytes().startswith(b"\x89PNG")
    assert run.progress["fraction"] == 1.0
    everything = run.stdout + json.dumps(run.progress) + json.dumps(summary)
    everything += "".join(path.read_text(encoding="utf-8") for path in run.out.rglob("*.txt"))
    for patient in ("Never", "MQI-SAMPLE", "Doe_Jane"):
        assert patient not in everything


def test_beams_of_a_plan_share_a_grid(mcsquare: str, tmp_path: Path) -> None:
    """So that their doses can be added, each in its own water, whatever their angles."""
    beams = [
        replace(beam, layers=tuple(replace(layer, spots=layer.spots[:5]) for layer in beam.layers))
        for beam in sample_beams(1, layers=2)
    ]
    case = field_of(tmp_path, sample_plan(1, tuple(beams)))
    runs = [case.simulate(quick(mcsquare), beam=beam) for beam in (2, 3)]
    assert [(run.code, run.error) for run in runs] == [(0, ""), (0, "")]
    first, second = (read_grid(run.out / "dose_planned.npz") for run in runs)
    assert first.same_grid(second)
    assert runs[1].json("summary.json")["geometry"]["range_shifter"]["wet_mm"] == 40.0
    assert not np.allclose(first.dose_gy, second.dose_gy)


@pytest.mark.parametrize(
    ("limits", "check"),
    [
        ({"range_tolerance_mm": 0.0}, "range: R80 is"),
        ({"energy_tolerance_percent": 0.0}, "energy_balance: The phantom takes up"),
        ({"centroid_tolerance_mm": 0.0}, "centroid_x: The dose's centre in x is"),
    ],
)
def test_a_failed_check_fails_the_job_and_leaves_the_files(
    limits: dict[str, float], check: str, mcsquare: str, tmp_path: Path
) -> None:
    run = field(tmp_path, one_spot(100.0, 10.0)).simulate(quick(mcsquare, **limits))
    assert run.code == 3
    assert run.error.startswith(f"The planned dose of beam 2 failed the check {check}")
    assert run.json("summary.json")["doses"]["planned"]["passed"] is False
    assert (run.out / "RD_beam_2_planned.dcm").is_file()


def machine(old: str, new: str) -> Callable[[Field], None]:
    """Changes the machine file."""

    def change(case: Field) -> None:
        path = case.work / "files" / "machines" / "G1.yaml"
        text = path.read_text(encoding="utf-8")
        assert old in text
        path.write_text(text.replace(old, new), encoding="utf-8")

    return change


def index(change: Callable[[Any], Any]) -> Callable[[Field], None]:
    """Changes beams.json."""
    return lambda case: case.change_index(change)


def table(old: bytes, new: bytes, *, signed: bool = True) -> Callable[[Field], None]:
    """Changes the planned spots; `signed`: and their digest, as a faulty interpreter would."""

    def change(case: Field) -> None:
        path = case.spots / "beam_2.csv"
        content = path.read_bytes()
        assert old in content
        content = content.replace(old, new)
        path.write_bytes(content)
        if signed:
            digest = hashlib.sha256(content).hexdigest()
            case.change_index(lambda found: found["beams"][0].update(sha256=digest))

    return change


def second_machine(case: Field) -> None:
    folder = case.work / "files" / "machines"
    shutil.copyfile(folder / "G1.yaml", folder / "G2.yaml")


REFUSALS = {
    "another machine": (machine('"G1 SAMPLE"', '"G2"'), {}, "The machine file is for another machine"),
    "two machine files": (second_machine, {}, "given 2 machine files"),
    "range shifter unknown": (machine("RS_4CM:", "RS_9CM:"), {}, "range shifter whose ID (300A,0318) is not in"),
    "other magnets": (machine("[1900, 2300]", "[2500, 2300]"), {}, "(300A,030A) are not those of the machine file"),
    "energy outside": (machine("    - [100,", "    - [1000,"), {}, "row 7"),
    "no such beam": (index(lambda found: found["beams"][0].update(number=9)), {}, "Beam 2 is not in the interpreter's"),
    "another plan": (index(lambda found: found["plan"].update(sop_instance_uid="1.2.3")), {}, "is not the one that the"),
    "an aperture": (index(lambda found: found["beams"][0].update(apertures=1)), {}, "has an aperture"),
    "no isocentre": (index(lambda found: found["beams"][0].update(isocentre_mm=None)), {}, "no IsocenterPosition"),
    "no angle": (index(lambda found: found["beams"][0].update(gantry_deg=None)), {}, "no GantryAngle"),
    "format": (index(lambda found: found.update(format=3)), {}, "another format than 1 or 2"),
    "table changed": (table(b"100.0", b"101.0", signed=False), {}, "its SHA-256 differs"),
    "two energies": (table(b"100.0", b"101.0"), {}, "give a layer two energies"),
    "no MU": (table(b",1.0", b",0.0"), {}, "has no monitor units"),
    "NaN": (table(b",1.0", b",nan"), {}, "finite numbers"),
    "layer unknown": (table(b"\n1,", b"\n4,"), {}, "has a layer that beams.json does not list"),
    "unknown parameter": (lambda case: None, {"primary": 5}, "did you mean primaries?"),
    "unknown engine": (lambda case: None, {"engine": "geant4"}, "must be one of mcsquare, moqui"),
    "too few batches": (lambda case: None, {"batches": 2}, "batches must be a whole number from 8"),
    "CT without CT": (lambda case: None, {"geometry": "ct"}, "needs a CT series, and the case holds none"),
    "CT upright": (lambda case: None, {"geometry": "ct", "gantry": "zero"}, "gantry: zero is for the water phantom"),
    "nozzle in the water": (machine("plane_mm: 500", "plane_mm: 41"), {}, "plane would lie in the water"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSALS)
def test_refused_before_the_engine_starts(name: str, mcsquare: str, tmp_path: Path) -> None:
    spoil, parameters, sentence = REFUSALS[name]
    case = field(tmp_path, one_spot(100.0), wet_mm=40.0)
    spoil(case)
    run = case.simulate(quick(mcsquare, **parameters))
    assert (run.code, run.error) == (2, run.error)
    assert sentence in run.error
    assert not list(run.out.rglob("*.npz"))


def test_a_grid_of_too_many_voxels_is_refused(mcsquare: str, tmp_path: Path) -> None:
    case = field(tmp_path, [(100.0, [(-200.0, -200.0, 1.0), (200.0, 200.0, 1.0)])])
    run = case.simulate(quick(mcsquare, grid_mm=0.5))
    assert run.code == 2
    assert "million voxels: give a larger grid_mm" in run.error


def test_an_engine_that_is_not_there_is_said(tmp_path: Path) -> None:
    run = field(tmp_path, one_spot(100.0)).simulate(quick(str(tmp_path / "nowhere")))
    assert run.code == 4
    assert run.error.startswith("The dose engine MCsquare is not on this host: get it with get_mcsquare.py")


def test_patient_positions_and_tilts_that_are_not_simulated(mcsquare: str, tmp_path: Path) -> None:
    for keyword, value, sentence in (("PatientPosition", "FFS", "position HFS"), ("TableTopPitchAngle", 2.0, "is tilted")):
        beams = tuple(beam for beam in sample_beams(1, layers=1)[:1])
        plan = sample_plan(1, beams)
        place = plan.PatientSetupSequence[0] if keyword == "PatientPosition" else plan.IonBeamSequence[1].IonControlPointSequence[0]
        setattr(place, keyword, value)
        run = field_of(tmp_path, plan).simulate(quick(mcsquare))
        assert run.code == 2
        assert sentence in run.error


def test_wrong_arguments_are_bad_input(tmp_path: Path) -> None:
    run = run_step("moquisim.py", tmp_path, ["--beam", "two"])
    assert run.code == 2
    assert run.error.startswith("The step was started with wrong arguments: ")
