"""Real plans: a planning system's dose in water, and a CT. Slow; figures are printed (pytest -s)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
import yaml
from dose_runs import MACHINE, field_of
from steplib.dose_grid import read_grid

pytestmark = pytest.mark.slow


def dcpt(work: Path, **changes: Any) -> Path:
    """The example machine file, made out for the real plans' machine."""
    machine = yaml.safe_load(MACHINE.read_text(encoding="utf-8"))
    machine["treatment_machines"] = ["TR2", "TR3"]
    machine["beam_model"]["virtual_source_mm"] = [2000, 2560]
    machine.update(changes)
    path = work / "machine.yaml"
    path.write_text(yaml.safe_dump(machine), encoding="utf-8")
    return path


def at(values: Any, grid: Any, points: Any) -> Any:
    """Trilinear interpolation of `values` on `grid` at points (n, 3) in mm; zero outside."""
    place = (points - np.array(grid.origin_mm)) / np.array(grid.spacing_mm)
    low = np.floor(place).astype(int)
    part = place - low
    total = np.zeros(len(points))
    shape = np.array(values.shape[::-1])
    for corner in ((a, b, c) for a in (0, 1) for b in (0, 1) for c in (0, 1)):
        index = low + corner
        inside = np.all((index >= 0) & (index < shape), axis=1)
        weight = np.prod(np.where(np.array(corner) == 1, part, 1.0 - part), axis=1)
        x, y, z = index[inside].T
        total[inside] += weight[inside] * values[z, y, x]
    return total


def test_plan06_against_the_planning_system_s_dose(real_data: Path, mcsquare: str, tmp_path: Path) -> None:
    """One SOBP field behind 34.3 mm of water in a water phantom. The RTDOSE is EFFECTIVE: RBE 1.1 is taken out.

    The geometry is found from the two doses alone: the planning system's grid, the plan's isocentre, and that the beam
    comes from -y (the dose is highest at the surface side and falls to nothing behind the range). The isocentre's
    depth is 43.7 mm (the data's own description); the surface is at y = isocentre - 43.7 mm.
    """
    folder = real_data / "dcpt-let-plans" / "plan06_sobp_4d"
    (plan,), (dose_file,) = sorted(folder.glob("RP*.dcm")), sorted(folder.glob("RD*.dcm"))
    reference = pydicom.dcmread(dose_file)
    fractions = pydicom.dcmread(plan).FractionGroupSequence[0].NumberOfFractionsPlanned
    case = field_of(tmp_path, plan, machine=dcpt(tmp_path))
    run = case.simulate(
        {
            "mcsquare_folder": mcsquare, "gantry": "zero", "isocentre_depth_mm": 43.7, "grid_mm": 2.5,
            "primaries": 1_000_000, "range_tolerance_mm": 3.0,
        },
        beam=1,
    )  # fmt: skip
    assert (run.code, run.error) == (0, "")
    told = run.json("summary.json")["doses"]["planned"]
    ours = read_grid(run.out / "dose_planned.npz")
    values = reference.pixel_array * float(reference.DoseGridScaling) / 1.1
    dy, dx = map(float, reference.PixelSpacing)
    x0, y0, z0 = map(float, reference.ImagePositionPatient)
    offsets = np.array([float(value) for value in reference.GridFrameOffsetVector])
    ny, nx = values.shape[1:]
    axes = (x0 + dx * np.arange(nx), y0 + dy * np.arange(ny), z0 + offsets)
    high = values > 0.5 * values.max()
    z, y, x = np.nonzero(high)
    points = np.stack([axes[0][x], axes[1][y], axes[2][z]], axis=1)
    same = at(ours.dose_gy, ours, points)
    ratios = same[same > 0] / values[high][same > 0]
    print(json.dumps({
        "summation": reference.DoseSummationType, "fractions": int(fractions), "uncertainty": told["uncertainty_percent"],
        "reference max Gy": float(values.max()), "ours max Gy": float(ours.dose_gy.max()),
        "mean ratio >50 %": float(ratios.mean()), "sd": float(ratios.std()),
        "r80": told["r80_mm"], "expected r80": told["expected_r80_mm"],
        "reference box": [[float(line[0]), float(line[-1])] for line in axes],
    }, indent=1))  # fmt: skip
    # As it is: absolute, nothing fitted.
    assert 0.95 < float(ratios.mean()) < 1.05


def test_head_phantom_on_its_ct(real_data: Path, mcsquare: str, tmp_path: Path) -> None:
    """177 slices, unsigned pixels, a field behind 57 mm of range shifter. The HU table is generic, not the scanner's."""
    folder = real_data / "dcpt-headphantom"
    (plan,) = sorted(folder.glob("RN*.dcm"))
    images = sorted(folder.glob("CT*.dcm"))
    first = pydicom.dcmread(images[0], stop_before_pixels=True)
    scanner = {
        "manufacturer": str(first.get("Manufacturer") or ""),
        "model": str(first.get("ManufacturerModelName") or ""),
        "density": [[-1000, 0.001], [-739, 0.28], [-97, 0.942], [0, 1.0], [213, 1.143], [1565, 1.825], [3000, 2.6]],
        "material": [[-1050, "Schneider_Air"], [-950, "Schneider_Lung"], [-120, "Water"], [200, "Schneider_Marrow_Bone05"]],
    }  # fmt: skip
    case = field_of(tmp_path, plan, machine=dcpt(tmp_path, ct_scanners=[scanner]), files=images)
    run = case.simulate(
        {"mcsquare_folder": mcsquare, "geometry": "ct", "grid_mm": 4.0, "primaries": 100_000}, beam=1
    )
    summary = run.json("summary.json") if (run.out / "summary.json").is_file() else {}
    print(run.code, run.error, json.dumps(summary.get("doses", {}), indent=1))
    assert (run.code, run.error) == (0, "")
    assert summary["geometry"]["kind"] == "ct"
    assert summary["geometry"]["slices"] == 177
    rtdose = pydicom.dcmread(run.out / "RD_beam_1_planned.dcm")
    assert rtdose.FrameOfReferenceUID == first.FrameOfReferenceUID
    grid = read_grid(run.out / "dose_planned.npz")
    axes = grid.axes_mm()
    # Whole CT: its first voxel's corner and its last.
    assert grid.origin_mm[0] - 2.0 == pytest.approx(float(first.ImagePositionPatient[0]) - 0.293, abs=0.05)
    assert axes[2][-1] - axes[2][0] == pytest.approx(177 * 1.5 - 4.0, abs=4.0)
