"""Real plans: a planning system's dose in water, and a CT. Slow; figures are printed (pytest -s)."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
import yaml
from dose_runs import MACHINE, field_of
from doses import real_dose
from steplib.dose_grid import DoseGrid, read_grid
from steplib.gamma import Criteria, gamma

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


# plan06: depth of the isocentre in the water, mm, and where that is from.
DEPTHS_MM = {"the data's description": 43.7, "the planning system's dose": 45.35}
PLAN06_ISOCENTRE_Y = -55.0


def edges(line: Any, axis: Any) -> tuple[float, float]:
    """Where a lateral profile rises to and falls from half of its middle, mm."""
    half = 0.5 * float(line[np.abs(axis) < 30.0].mean())
    inside = np.flatnonzero(line >= half)
    low, high = inside[0], inside[-1]
    return (
        float(np.interp(half, line[low - 1 : low + 1], axis[low - 1 : low + 1])),
        float(np.interp(-half, -line[high : high + 2], axis[high : high + 2])),
    )


def test_plan06_against_the_planning_system_s_dose(real_data: Path, mcsquare: str, tmp_path: Path) -> None:
    """One SOBP field behind 34.3 mm of water equivalent in a water phantom; absolute, nothing fitted.

    docs/dose-validation.md tells the geometry and the figures of a run with 10,000,000 primaries. The dose is EFFECTIVE:
    RBE 1.1 is taken out. The data's description puts the isocentre at 43.7 mm. In the dose itself the water begins at
    y = -100.35 mm (the planes up to -101.6 mm follow the inverse square of the distance, as in air; from the plane at
    -99.1 mm on the dose rises as in water): 45.35 mm. Both are told. Water moved by so little changes nothing but the
    place of the dose.
    """
    folder = real_data / "dcpt-let-plans" / "plan06_sobp_4d"
    (plan,) = sorted(folder.glob("RP*.dcm"))
    case = field_of(tmp_path, plan, machine=dcpt(tmp_path))
    run = case.simulate(
        {
            "mcsquare_folder": mcsquare, "gantry": "zero", "isocentre_depth_mm": 43.7, "grid_mm": 2.5,
            "primaries": 2_000_000, "range_tolerance_mm": 3.0,
        },
        beam=1,
    )  # fmt: skip
    assert (run.code, run.error) == (0, "")
    told = run.json("summary.json")["doses"]["planned"]
    reference, computed = real_dose(real_data), read_grid(run.out / "dose_planned.npz")
    print(f"uncertainty {told['uncertainty_percent']:.2f} %, R80 {told['r80_mm']:.2f}, PSTAR {told['expected_r80_mm']:.2f}")
    x, y, z = reference.axes_mm()
    for source, depth in DEPTHS_MM.items():
        ours = moved_y(computed, 43.7 - depth)
        water = np.where(y[None, :, None] > PLAN06_ISOCENTRE_Y - depth + 1.24, reference.dose_gy, np.float32(0.0))
        planes, rows, columns = np.nonzero(water > 0.5 * water.max())
        same = at(ours.dose_gy, ours, np.stack([x[columns], y[rows], z[planes]], axis=1))
        ratio = float(same.mean() / water[planes, rows, columns].mean())
        rates = {}
        for name, dose in (("in the water", water), ("everywhere", reference.dose_gy)):
            found = gamma(replace(reference, dose_gy=dose), ours, Criteria())
            rates[name] = f"{found.pass_percent:.2f} % of {found.points} points {name} ({found.outside} outside)"
        print(f"isocentre at {depth} mm ({source}): ratio above 50 % {ratio:.4f}; gamma {'; '.join(rates.values())}")
        assert 0.95 < ratio < 1.05
    # The field lies where the planning system has it, to the left and right and to the head and feet: it is not symmetric.
    for axis in (0, 2):
        ours_and_theirs = []
        for grid in (computed, reference):
            places = grid.axes_mm()
            part = grid.dose_gy[:, (places[1] > -75.0) & (places[1] < -40.0), :]
            across = np.abs(places[2 - axis]) < 30.0
            part = part[across] if axis == 0 else part[:, :, across]
            ours_and_theirs.append(edges(part.mean(axis=(0, 1) if axis == 0 else (1, 2)), places[axis]))
        print(f"{'xyz'[axis]}: field edges {ours_and_theirs[0]} here, {ours_and_theirs[1]} by the planning system")
        assert ours_and_theirs[0] == pytest.approx(ours_and_theirs[1], abs=0.4)


def moved_y(grid: DoseGrid, by_mm: float) -> DoseGrid:
    x, y, z = grid.origin_mm
    return replace(grid, origin_mm=(x, y + by_mm, z))


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
