"""MCsquare, the real program: where its dose lies, how much it is, and what becomes of its failures."""

from __future__ import annotations

import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from dose_runs import MACHINE
from steplib.beam_model import read_machine
from steplib.depth import deepest_mm
from steplib.engines import mcsquare_files, mcsquare_folder
from steplib.engines.base import BatchMean, Dose, ShifterInBeam, Task
from steplib.engines.mcsquare import MCsquare
from steplib.geometry import BeamFrame, at_isocentre
from steplib.phantom import Extent, water_phantom
from steplib.report import BadInput, EngineFailed
from steplib.spots import Spots

from mqi.resources import remote_scripts

MODEL = read_machine(MACHINE.read_bytes()).model
SOURCE = (1900.0, 2300.0)
ISOCENTRE = (12.0, -30.0, 7.0)


def spots_of(rows: list[tuple[int, float, float, float, float]], wet_mm: float = 0.0) -> Spots:
    """Spots from (layer, energy MeV, x mm, y mm, MU)."""
    layer, energy, x, y, mu = (np.array(column) for column in zip(*rows, strict=True))
    protons = mu * np.array([MODEL.protons_per_mu(float(each)) for each in energy])
    return Spots(layer.astype(int), energy, x, y, mu, protons, np.full(len(rows), wet_mm), "0" * 64)


def task_of(
    work: Path,
    spots: Spots,
    *,
    gantry: float = 0.0,
    couch: float = 0.0,
    depth: float = 60.0,
    grid: float = 4.0,
    primaries: int = 2000,
    shifter: ShifterInBeam | None = None,
) -> Task:
    frame = BeamFrame.of(gantry, couch, ISOCENTRE)
    reach = Extent(
        frame,
        (spots.x_mm.min(), spots.x_mm.max()),
        (spots.y_mm.min(), spots.y_mm.max()),
        deepest_mm(spots, MODEL),
    )
    phantom = water_phantom([reach], frame, depth, grid)
    work.mkdir(parents=True, exist_ok=True)
    return Task(spots, frame, phantom, MODEL, SOURCE, shifter, primaries, 2, 2, 11, work, lambda share, text: None)


def centre(dose: Dose, task: Task) -> tuple[float, float]:
    """Centre of the dose in the plane of the isocentre, x and y of the gantry system."""
    axes = task.phantom.axes_mm()
    weight = dose.dose_gy * (task.phantom.density() > 0.5)
    z = task.frame.coordinate(2, axes)
    return tuple(
        float((weight * at_isocentre(task.frame.coordinate(axis, axes), z, SOURCE[axis])).sum() / weight.sum())
        for axis in (0, 1)
    )  # type: ignore[return-value]


@pytest.mark.parametrize(("gantry", "couch"), [(130, 20), (310, 340)])
def test_an_off_axis_spot_lands_where_it_was_aimed(
    gantry: float, couch: float, mcsquare: str, tmp_path: Path
) -> None:
    """Oblique beams, by the geometry that test_geometry.py holds against IEC 61217. (The others: test_dose_physics.py.)"""
    task = task_of(tmp_path, spots_of([(1, 110.0, 25.0, -15.0, 1.0)]), gantry=gantry, couch=couch)
    dose = MCsquare(mcsquare).simulate(task)
    x, y = centre(dose, task)
    assert (x, y) == (pytest.approx(25.0, abs=1.0), pytest.approx(-15.0, abs=1.0))
    # It enters from the source's side, and stops where it must.
    axes = task.phantom.axes_mm()
    highest = np.unravel_index(int(np.argmax(dose.dose_gy)), dose.dose_gy.shape)
    peak = np.array([axes[2 - axis][highest[axis]] for axis in (2, 1, 0)])
    assert task.frame.to_gantry(peak)[2] < 60.0 - 75.0
    assert dose.generated_outside == 0


def test_same_seed_same_bytes_and_uncertainty(mcsquare: str, tmp_path: Path) -> None:
    spots = spots_of([(1, 100.0, 0.0, 0.0, 1.0)])
    tasks = [task_of(tmp_path / name, spots) for name in ("a", "b", "c")]
    tasks[2] = replace(tasks[2], seed=10_000)
    a, b, c = (MCsquare(mcsquare).simulate(task) for task in tasks)
    assert a.dose_gy.tobytes() == b.dose_gy.tobytes()
    assert a.dose_gy.tobytes() != c.dose_gy.tobytes()
    assert a.primaries >= 2000
    assert 0.0 < a.uncertainty_percent < 60.0


def test_the_dose_is_absolute(mcsquare: str, tmp_path: Path) -> None:
    """The energy in the water is the protons' own less what neutrons take."""
    task = task_of(tmp_path, spots_of([(1, 100.0, 0.0, 0.0, 1.0)]))
    dose = MCsquare(mcsquare).simulate(task)
    kilograms = task.phantom.density() * task.phantom.voxel_mm3 * 1e-6
    per_proton = float((dose.dose_gy * kilograms).sum()) / 1.602176634e-13 / task.protons
    assert 0.95 < per_proton / 100.84 < 1.0


def test_layers_in_and_out_of_a_range_shifter(tmp_path: Path) -> None:
    """The plan text: only the layers with thickness are IN."""
    spots = replace(
        spots_of([(1, 130.0, 0.0, 0.0, 1.0), (2, 120.0, 1.0, 2.0, 3.0)]), wet_mm=np.array([40.0, 0.0])
    )
    shifter = ShifterInBeam("RS", MODEL.range_shifters["RS_4CM"], 40.0, 300.0)
    lines = mcsquare_files.plan(spots, BeamFrame.of(10.0, 0.0, ISOCENTRE), (1.0, 2.0, 3.0), shifter).splitlines()
    settings = [lines[place + 1] for place, line in enumerate(lines) if line == "####RangeShifterSetting"]
    assert settings == ["IN", "OUT"]
    weights = [float(lines[place + 1].split()[2]) for place, line in enumerate(lines) if line == "####X Y Weight"]
    assert weights[1] / weights[0] == pytest.approx(3.0 * MODEL.protons_per_mu(120) / MODEL.protons_per_mu(130))


def test_texts_hold_nothing_that_mcsquare_misreads() -> None:
    """Carriage returns and comments make 100 % of the protons miss the phantom, without any message."""
    shifter = ShifterInBeam("RS", MODEL.range_shifters["RS_4CM"], 40.0, 300.0)
    text = mcsquare_files.beam_model(MODEL, [120.0, 100.0, 120.0], SOURCE, shifter, {"PMMA": 64})
    assert "\r" not in text
    assert "#" not in text
    lines = text.splitlines()
    count = int(lines[lines.index("Beam parameters") + 1].split()[0])
    rows = [list(map(float, line.split())) for line in lines[lines.index("Beam parameters") + 4 :]]
    assert len(rows) == count == 4
    assert [row[0] for row in rows] == [99.0, 100.0, 120.0, 121.0]
    assert rows[1][1:4] == pytest.approx([100.84, 1.14, 1e6])
    assert rows[2][2] == pytest.approx(100.0 * 0.98 / 120.0)
    assert all(len(row) == 18 for row in rows)


def test_no_protons_in_the_phantom_is_seen(mcsquare: str, tmp_path: Path) -> None:
    """MCsquare ends with 0 when every proton misses; the count says so."""
    task = task_of(tmp_path, spots_of([(1, 100.0, 0.0, 0.0, 1.0)]))
    away = replace(task, frame=replace(task.frame, isocentre_mm=(2000.0, -30.0, 7.0)))
    dose = MCsquare(mcsquare).simulate(away)
    assert dose.generated_outside == dose.primaries


def test_a_material_that_mcsquare_does_not_know(mcsquare: str, tmp_path: Path) -> None:
    task = task_of(tmp_path, spots_of([(1, 100.0, 0.0, 0.0, 1.0)]))
    table = ((-1000.0, "Water"), (0.0, "Unobtainium"))
    with pytest.raises(BadInput, match="no material called Unobtainium"):
        MCsquare(mcsquare).simulate(replace(task, phantom=replace(task.phantom, material_table=table)))


FAILURES = {
    "ends with an error": ("echo ' ERROR: no such thing'; exit 1", EngineFailed, "ended with code 1: ERROR: no such"),
    "ends well and says nothing": ("exit 0", EngineFailed, "without saying how many protons"),
    "simulates too few": ("echo 'Nbr primaries simulated: 10'", EngineFailed, "simulated 10 protons of 1000"),
    "writes no dose": ("echo 'Nbr primaries simulated: 1000'", EngineFailed, "left no dose of the grid's size"),
    "writes half a dose": (
        "echo 'Nbr primaries simulated: 1000'; for o in out_*; do "
        "printf 'DimSize = 1 1 1\\nElementType = MET_FLOAT\\n' > $o/Dose.mhd; printf xxxx > $o/Dose.raw; done",
        EngineFailed,
        "left no dose of the grid's size",
    ),
    "crashes": ("kill -SEGV $$", EngineFailed, "ended with signal SIGSEGV"),
    "is killed for memory": ("kill -KILL $$", None, "too little memory"),
}


@pytest.mark.skipif(sys.platform != "linux", reason="the stand-in is a shell script")
@pytest.mark.parametrize("name", FAILURES)
def test_every_way_to_fail_is_told_apart(name: str, mcsquare: str, tmp_path: Path) -> None:
    script, kind, sentence = FAILURES[name]
    program = tmp_path / "stand-in"
    program.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    program.chmod(0o755)
    engine = MCsquare(mcsquare)
    engine._program = program
    with pytest.raises(kind or Exception) as failed:
        engine.simulate(task_of(tmp_path / "work", spots_of([(1, 100.0, 0.0, 0.0, 1.0)])))
    assert sentence in str(failed.value)
    assert getattr(failed.value, "exit_code", None) == (4 if kind else 75)


def test_altered_files_are_refused(mcsquare: str, tmp_path: Path) -> None:
    folder = tmp_path / "mcsquare"
    with pytest.raises(EngineFailed, match="MCsquare is not on this host: get it with"):
        mcsquare_folder.find_program(str(folder))
    (folder / "Materials").mkdir(parents=True)
    with pytest.raises(EngineFailed, match="files that were altered"):
        mcsquare_folder.find_program(str(folder))
    other = tmp_path / "other.whl"
    with zipfile.ZipFile(other, "w") as archive:
        archive.writestr("opentps/x", "y")
    with pytest.raises(EngineFailed, match="its SHA-256 differs"):
        mcsquare_folder.unpack(other, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_get_mcsquare_finds_it_there(mcsquare: str, capsys: pytest.CaptureFixture[str]) -> None:
    import get_mcsquare

    assert Path(get_mcsquare.__file__).parent == remote_scripts()
    assert get_mcsquare.main(["--to", mcsquare]) == 0
    assert mcsquare in capsys.readouterr().out


def test_batches_mean_and_its_deviation() -> None:
    values = np.random.default_rng(3).random((9, 2, 3))
    mean = BatchMean((2, 3))
    for each in values:
        mean.add(each)
    found, sigma = mean.result()
    assert np.allclose(found, values.mean(axis=0), rtol=1e-6)
    assert np.allclose(sigma, values.std(axis=0, ddof=1) / 3.0, rtol=1e-6)


@pytest.mark.slow
def test_spot_size_in_air_is_the_beam_model_s(mcsquare: str, tmp_path: Path) -> None:
    """A positive correlation widens the beam on its way: the size at the isocentre tells the sign."""
    spots = spots_of([(1, 160.0, 0.0, 0.0, 1.0)])
    task = task_of(tmp_path, spots, depth=6.0, grid=2.0, primaries=60_000)
    dose = MCsquare(mcsquare).simulate(task)
    axes = task.phantom.axes_mm()
    z = task.frame.coordinate(2, axes)
    entrance = (z > 0.0) & (z < 6.0)
    widths = []
    for axis in (0, 1):
        place = task.frame.coordinate(axis, axes)
        weight = dose.dose_gy * (entrance & (np.hypot(*(task.frame.coordinate(one, axes) for one in (0, 1))) < 20.0))
        widths.append(float(np.sqrt((weight * place**2).sum() / weight.sum() - 2.0**2 / 12.0)))
    assert widths == pytest.approx(MODEL.at(160.0).size_at(500.0, 3.0), rel=0.03)
