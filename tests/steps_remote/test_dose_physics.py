"""Physics through the steps themselves, as a host runs them: RT Ion Plan, interpreter.py, moquisim.py with MCsquare.

What is expected comes from elsewhere: ranges from PSTAR, directions from IEC 61217 and DICOM, read off by hand.
"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
import yaml
from dose_runs import MACHINE, Field, centroid, field, field_of, one_spot
from step_runs import Run
from steplib.dose_grid import read_grid

from mqi.sample import SampleBeam, SampleLayer, sample_plan

QUICK = {"primaries": 2000, "batches": 8, "threads": 2, "seed": 11, "grid_mm": 4.0, "isocentre_depth_mm": 60.0}
# What the sample plan says (300A,012C), mm.
ISOCENTRE = np.array([0.0, -80.0, 12.5])

# NIST PSTAR, liquid water: CSDA range in mm at these energies (https://physics.nist.gov/Star).
PSTAR_MM = {70.0: 40.80, 100.0: 77.18, 150.0: 157.7, 200.0: 259.6, 225.0: 317.4}


def simulated(case: Field, mcsquare: str, **changes: Any) -> Run:
    run = case.simulate({**QUICK, "mcsquare_folder": mcsquare, **changes})
    assert (run.code, run.error) == (0, "")
    return run


def r80_mm(run: Run) -> float:
    """The depth behind the peak where the written curve falls to 80 %, mm."""
    with (run.out / "depth_dose_planned.csv").open(encoding="ascii", newline="") as stream:
        rows = [(float(row["depth_mm"]), float(row["dose_Gy_mm2"])) for row in csv.DictReader(stream)]
    depth, dose = (np.array(column) for column in zip(*rows, strict=True))
    last = int(np.flatnonzero(dose >= 0.8 * dose.max())[-1])
    return float(np.interp(-0.8 * dose.max(), -dose[last : last + 2], depth[last : last + 2]))


def exact_machine(path: Path, energy: float) -> Path:
    """The example machine with a beam of exactly this mean energy, 0.5 % wide, that begins just before the water."""
    machine = yaml.safe_load(MACHINE.read_text(encoding="utf-8"))
    model = machine["beam_model"]
    optics = model["rows"][0][3:]
    model["rows"] = [[value, value, 0.005 * value, *optics] for value in (energy - 5.0, energy, energy + 5.0)]
    model["reference_plane_mm"] = 64
    path.write_text(yaml.safe_dump(machine), encoding="utf-8")
    return path


def plan_of(layers: list[tuple[float, Any]]) -> Any:
    """The sample plan with one treatment beam of (energy MeV, [(x mm, y mm, MU), …])."""
    made = tuple(SampleLayer(energy, tuple(spots)) for energy, spots in layers)
    return sample_plan(1, (SampleBeam(2, "field", 0.0, 0.0, 0.0, made),))


@pytest.mark.slow
@pytest.mark.parametrize("energy", sorted(PSTAR_MM))
def test_r80_is_pstar_s_range(energy: float, mcsquare: str, tmp_path: Path) -> None:
    """R80 within 1 mm of the CSDA range, and so is what the range check of every dose compares with."""
    machine = exact_machine(tmp_path / "machine.yaml", energy)
    case = field_of(tmp_path, plan_of(one_spot(energy)), machine=machine)
    run = simulated(case, mcsquare, grid_mm=1.0, primaries=40_000)
    found, told = r80_mm(run), run.json("summary.json")["doses"]["planned"]
    print(f"{energy:g} MeV: R80 {found:.2f} mm, PSTAR {PSTAR_MM[energy]:.2f} mm, {found - PSTAR_MM[energy]:+.2f}")
    assert found == pytest.approx(told["r80_mm"], abs=0.01)
    assert found == pytest.approx(PSTAR_MM[energy], abs=1.0)
    assert told["expected_r80_mm"] == pytest.approx(PSTAR_MM[energy], abs=0.5)


# Patient coordinates (DICOM, head first supine): x to the left, y to the back, z to the head.
LEFT, RIGHT, BACK, FRONT, HEAD, FEET = np.vstack([np.eye(3), -np.eye(3)])[[0, 3, 1, 4, 2, 5]]


@pytest.mark.parametrize(
    ("gantry", "couch", "source", "x", "y"),
    [
        (0, 0, FRONT, LEFT, HEAD),
        (90, 0, LEFT, BACK, HEAD),
        (180, 0, BACK, RIGHT, HEAD),
        (270, 0, RIGHT, FRONT, HEAD),
        (0, 90, FRONT, FEET, LEFT),
        (90, 270, HEAD, BACK, RIGHT),
    ],
)
def test_an_off_axis_spot_in_the_patient(
    gantry: float, couch: float, source: Any, x: Any, y: Any, mcsquare: str, tmp_path: Path
) -> None:
    """A spot at (25, -15) mm, seen in the RT Dose, which knows patient coordinates only."""
    case = field(tmp_path, one_spot(110.0, 25.0, -15.0), gantry=gantry, couch=couch)
    run = simulated(case, mcsquare)
    rtdose = pydicom.dcmread(run.out / "RD_beam_2_planned.dcm")
    dose = rtdose.pixel_array * float(rtdose.DoseGridScaling)
    (dy, dx), start = map(float, rtdose.PixelSpacing), [float(value) for value in rtdose.ImagePositionPatient]
    _, ny, nx = dose.shape
    offsets = np.array([float(value) for value in rtdose.GridFrameOffsetVector])
    axes = (start[0] + dx * np.arange(nx), start[1] + dy * np.arange(ny), start[2] + offsets)
    middle = centroid(dose, axes) - ISOCENTRE
    assert (middle @ x, middle @ y) == (pytest.approx(25.0, abs=1.0), pytest.approx(-15.0, abs=1.0))
    # The peak lies beyond the isocentre, seen from the source: 60 mm of water before it, about 90 mm of range.
    place = np.unravel_index(int(np.argmax(dose)), dose.shape)
    peak = np.array([axes[2 - axis][place[axis]] for axis in (2, 1, 0)]) - ISOCENTRE
    assert -34.0 < peak @ source < -26.0


def test_range_shifter_pulls_the_range_back(mcsquare: str, tmp_path: Path) -> None:
    runs = [
        simulated(field(tmp_path / str(wet), one_spot(130.0), wet_mm=wet), mcsquare, grid_mm=2.0, primaries=4000)
        for wet in (0.0, 40.0)
    ]
    without, behind = map(r80_mm, runs)
    print(f"R80 {without:.2f} mm, behind 40 mm {behind:.2f} mm")
    assert without - behind == pytest.approx(40.0, abs=1.0)


def test_twice_the_monitor_units_twice_the_dose(mcsquare: str, tmp_path: Path) -> None:
    runs = [simulated(field(tmp_path / str(mu), one_spot(100.0, mu=mu)), mcsquare) for mu in (1.0, 2.0)]
    once, twice = (read_grid(run.out / "dose_planned.npz").dose_gy for run in runs)
    assert np.allclose(twice, 2.0 * once, rtol=1e-5)


def test_the_dose_is_that_of_one_fraction(mcsquare: str, tmp_path: Path) -> None:
    """BeamMeterset is per fraction (300A,0086): the number of fractions changes nothing, and the RT Dose says so."""
    found = []
    for fractions in (1, 30):
        plan = plan_of(one_spot(100.0))
        plan.FractionGroupSequence[0].NumberOfFractionsPlanned = fractions
        run = simulated(field_of(tmp_path, plan), mcsquare)
        rtdose = pydicom.dcmread(run.out / "RD_beam_2_planned.dcm")
        assert "1 fraction," in rtdose.DoseComment
        found.append(rtdose.pixel_array * float(rtdose.DoseGridScaling))
    assert np.array_equal(*found)
    assert found[0].max() > 0.0
