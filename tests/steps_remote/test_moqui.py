"""moqui's rules with a stand-in for tps_env that can be told every documented failure (fake_tps_env.py)."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from dose_runs import Field, field, one_spot
from hypothesis import given, settings
from hypothesis import strategies as st
from step_runs import Run
from steplib.dose_grid import read_grid
from steplib.engines import moqui, moqui_case
from steplib.engines.moqui_dialects import DIALECTS, input_text
from steplib.report import BadInput
from test_mcsquare import MODEL, spots_of, task_of

from mqi.resources import remote_scripts

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the stand-in ends itself by signals")

UUID = "GPU-6d5e0b1a-0000-4000-8000-000000000001"


@pytest.fixture
def tps_env(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The stand-in as a program on PATH, and a GPU that the agent has given."""
    return put_on_path(tmp_path / "bin", monkeypatch)


def put_on_path(folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    folder.mkdir()
    program = folder / "tps_env"
    script = Path(__file__).with_name("fake_tps_env.py")
    program.write_text(
        # Not by exec: a site's tps_env may be a script that starts the program.
        f"#!/bin/sh\nPYTHONPATH='{remote_scripts()}' '{sys.executable}' '{script}' \"$@\"\nexit $?\n",
        encoding="utf-8",
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", UUID)
    return "tps_env"


def parameters(**changes: Any) -> dict[str, Any]:
    quick = {
        "engine": "moqui", "moqui_program": "tps_env", "gantry": "zero",
        "grid_mm": 5.0, "isocentre_depth_mm": 40.0, "primaries": 8000, "batches": 8,
    }  # fmt: skip
    return {**quick, **changes}


CLINICAL = {"moqui_dialect": "clinical", "moqui_gantry_number": 2, "moqui_dose_factor": 1.0}


def small(work: Path) -> Field:
    return field(work, [(110.0, [(-15.0, 5.0, 2.0), (10.0, 20.0, 1.0)]), (100.0, [(0.0, -5.0, 1.0)])])


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    """A good run of the same case in each dialect."""
    work = tmp_path_factory.mktemp("good")
    with pytest.MonkeyPatch.context() as monkeypatch:
        put_on_path(work / "bin", monkeypatch)
        case = small(work)
        # The clinical build has its own idea of energies: the stand-in takes the nominal ones.
        loose = {"energy_tolerance_percent": 8.0, "range_tolerance_mm": 4.0}
        dialects: dict[str, dict[str, Any]] = {"upstream": {}, "clinical": CLINICAL}
        return {name: case.simulate(parameters(**changes, **loose)) for name, changes in dialects.items()}


@pytest.mark.parametrize("dialect", ["upstream", "clinical"])
def test_a_good_run_passes_every_check(dialect: str, good: dict[str, Run]) -> None:
    run = good[dialect]
    assert (run.code, run.error) == (0, "")
    summary = run.json("summary.json")
    assert summary["engine"]["name"] == "moqui"
    assert summary["engine"]["gpu"] == UUID
    dose = summary["doses"]["planned"]
    assert dose["passed"] is True
    assert dose["primaries"] == dose["histories"] == 8000
    assert 0.0 < dose["uncertainty_percent"] < 5.0
    grid = read_grid(run.out / "dose_planned.npz")
    assert grid.sigma_gy.max() > 0.0
    assert (run.out / "engine" / "planned" / "moqui_tps.in").is_file()
    assert (run.out / "RD_beam_2_planned.dcm").is_file()


def test_both_dialects_give_the_same_dose(good: dict[str, Run]) -> None:
    """Other frames, other order of axes, other units: the same place in the patient."""
    assert [(run.code, run.error) for run in good.values()] == [(0, ""), (0, "")]
    upstream, clinical = (read_grid(good[name].out / "dose_planned.npz") for name in ("upstream", "clinical"))
    assert upstream.same_grid(clinical)
    places = [np.array(np.unravel_index(int(np.argmax(one.dose_gy)), one.dose_gy.shape)) for one in (upstream, clinical)]
    assert np.abs(places[0] - places[1]).max() <= 1
    assert clinical.dose_gy.sum() == pytest.approx(upstream.dose_gy.sum(), rel=0.05)


FAILURES = {
    "no output": (4, "left 0 doses instead of one"),
    "wrong size": (4, "bytes and should have"),
    "NaN": (4, "not finite"),
    "zero dose": (4, "zero or negative"),
    "negative dose": (4, "zero or negative"),
    "stale file": (4, "older than its run"),
    "two doses": (4, "left 2 doses instead of one"),
    "another grid": (4, "lies on another grid than it was given (Offset)"),
    "half of the histories": (4, "moqui was given 1000 histories and says 500"),
    "complains": (4, 'complained of "out-of-bound"'),
    "cannot write": (4, 'complained of "Cannot write"'),
    "crash after a good run": (4, "ended with signal SIGSEGV"),
    "abort": (4, "refused its input (signal SIGABRT)"),
    "bad direction": (4, "ended with code 1"),
    "cuda driver": (4, "found no usable GPU on this host. No other engine is used in its place."),
    "cuda check": (4, "ended with code 255: CUDA error: (run) an illegal memory access"),
    "out of memory": (75, "too little free memory"),
    "hang": (4, "did not come to an end in its time"),
}


@pytest.mark.parametrize("wish", FAILURES)
def test_every_documented_failure_is_caught(
    wish: str, tps_env: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Most of them with exit code 0."""
    code, sentence = FAILURES[wish]
    monkeypatch.setenv("FAKE_TPS", wish)
    if wish == "hang":
        monkeypatch.setattr(moqui, "_LEAST_LIMIT_S", 1.0)
    run = small(tmp_path).simulate(parameters(moqui_histories_per_s=1e9))
    assert (run.code, run.error) == (code, run.error)
    assert sentence in run.error
    assert not list(run.out.rglob("*.npz"))


def test_a_crash_after_a_good_run_is_repeated_once(
    tps_env: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One run in 256 of the real program ends so."""
    monkeypatch.setenv("FAKE_TPS", "crash after a good run")
    monkeypatch.setenv("FAKE_TPS_ONCE", str(tmp_path / "crashed"))
    run = small(tmp_path).simulate(parameters())
    assert (run.code, run.error) == (0, "")
    assert (tmp_path / "crashed").exists()


@pytest.mark.parametrize(
    ("changes", "environment", "code", "sentence"),
    [
        ({}, {"CUDA_VISIBLE_DEVICES": ""}, 4, "moqui needs a GPU, and this job was given none"),
        ({}, {"CUDA_VISIBLE_DEVICES": f"{UUID},{UUID}"}, 4, "moqui needs a GPU"),
        ({"moqui_program": ""}, {}, 2, "needs the parameter moqui_program"),
        ({"moqui_program": "/nowhere/tps_env"}, {}, 4, "moqui is not on this host"),
        ({"moqui_dialect": "clinical", "moqui_dose_factor": 1}, {}, 2, "moqui_gantry_number must be 1 or 2"),
        ({"moqui_dialect": "clinical", "moqui_gantry_number": 1}, {}, 2, "moqui_dose_factor is needed"),
        ({"moqui_dose_factor": 2.0}, {}, 2, "moqui_dose_factor is for the clinical dialect"),
        ({**CLINICAL, "gantry": "plan"}, {}, 2, "use geometry: water and gantry: zero"),
        ({**CLINICAL, "grid_mm": 3.0}, {}, 2, "whole millimetres that divides isocentre_depth_mm"),
        ({"primaries": 1000, "batches": 100, "gantry": "plan"}, {}, 2, "turned couch is not verified"),
    ],
)
def test_refused_before_any_gpu_time(
    changes: dict[str, Any], environment: dict[str, str], code: int, sentence: str, tps_env: str, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    run = field(tmp_path, one_spot(110.0), gantry=90.0, couch=10.0).simulate(parameters(**changes))
    assert (run.code, run.error) == (code, run.error)
    assert sentence in run.error


def test_a_gpu_without_free_memory_is_waited_for(
    tps_env: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    smi = tmp_path / "bin" / "nvidia-smi"
    smi.write_text(f"#!/bin/sh\necho '{UUID}, 500'\n", encoding="utf-8")
    smi.chmod(0o755)
    run = small(tmp_path).simulate(parameters())
    assert run.code == 75
    assert "0.5 GB of free memory, and this beam needs 1.5 GB" in run.error


# ---- what is written for it


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.floats(1e-3, 10.0), min_size=1, max_size=30),
    st.integers(80, 5000),
    st.integers(0, 50),
)
def test_histories_are_shared_out_without_loss(weights: list[float], primaries: int, batch: int) -> None:
    """Whatever the spots: the sum is exact, and nobody is off by more than one."""
    import tempfile

    with tempfile.TemporaryDirectory() as name:
        rows = [(1 + place // 5, 100.0 - place // 5, float(place), 0.0, mu) for place, mu in enumerate(weights)]
        task = task_of(Path(name), spots_of(rows), primaries=primaries, grid=10.0)
    histories = moqui_case.share_out(task, batch)
    total = -(-primaries // 2)
    assert histories.total == total
    assert histories.count.min() >= 1
    assert histories.count[0] == 1
    wanted = task.spots.protons / task.spots.protons.sum() * total
    got = np.bincount(histories.place, weights=histories.count, minlength=len(weights))
    assert np.abs(got - wanted).max() < 1.0 + 1e-9
    assert list(task.spots.layer[histories.place]) == sorted(task.spots.layer[histories.place])


def test_the_plan_gives_exactly_the_histories(tmp_path: Path) -> None:
    """As the engine counts: even control points only, weight x ratio / particles per history, cut off, in float32."""
    task = task_of(tmp_path, spots_of([(1, 110.0, -5.0, 3.0, 1.0), (2, 100.0, 4.0, 2.0, 7.0)]), primaries=5000)
    histories = moqui_case.share_out(task, 0)
    moqui_case.write_plan(task, histories, tmp_path / "plan.dcm")
    plan = pydicom.dcmread(tmp_path / "plan.dcm")
    (beam,) = plan.IonBeamSequence
    counted = []
    for point in beam.IonControlPointSequence[::2]:
        weights = np.atleast_1d(point.ScanSpotMetersetWeights)
        counted += [int(np.float32(weight) * np.float32(1.0) / np.float32(1.0)) for weight in weights]
    assert counted == list(histories.count)
    assert all(sum(np.atleast_1d(point.ScanSpotMetersetWeights)) == 0.0 for point in beam.IonControlPointSequence[1::2])
    energies = [float(point.NominalBeamEnergy) for point in beam.IonControlPointSequence[::2]]
    assert energies == pytest.approx([MODEL.at(110.0).mean_mev, MODEL.at(100.0).mean_mev])
    assert (beam.BeamNumber, beam.BeamName) == (1, "BEAM")
    assert str(plan.PatientName) == "mqi"


def test_spot_sizes_at_the_isocentre_survive_the_conversion(tmp_path: Path) -> None:
    task = task_of(tmp_path, spots_of([(1, 150.0, 0.0, 0.0, 1.0)]))
    moqui_case.write_beam_model(task, tmp_path / "machine.txt")
    rows = [line.split() for line in (tmp_path / "machine.txt").read_text().split("[spot]\n")[1].splitlines()[:3]]
    assert [float(row[0]) for row in rows] == pytest.approx([149.4, 150.4, 151.4])
    row = MODEL.at(150.0)
    for place, wanted in zip((3, 4), row.size_at(500.0, 0.0), strict=True):
        size, divergence = float(rows[1][place]), float(rows[1][place + 2])
        assert (size**2 + (divergence * 500.0) ** 2) ** 0.5 == pytest.approx(wanted)


def test_a_deep_phantom_is_widened(tmp_path: Path) -> None:
    """A CT that is deeper than wide corrupts the engine's memory."""
    task = task_of(tmp_path, spots_of([(1, 200.0, 0.0, 0.0, 1.0)]), grid=10.0)
    nz, ny, nx = task.phantom.hu.shape
    assert ny > nx
    wide = moqui_case.padded(task.phantom)
    assert wide.hu.shape == (nz, ny, ny)
    assert np.array_equal(wide.hu[:, :, :nx], task.phantom.hu)
    assert (wide.hu[:, :, nx:] == -1000.0).all()
    moqui_case.write_ct(wide, tmp_path)
    images = [pydicom.dcmread(path) for path in sorted(tmp_path.glob("ct_*.dcm"))]
    assert len(images) == nz
    assert {image.PixelRepresentation for image in images} == {1}
    assert all(float(image.SliceThickness) == 10.0 for image in images)
    assert float(images[1].ImagePositionPatient[2]) - float(images[0].ImagePositionPatient[2]) == pytest.approx(10.0)


@pytest.mark.parametrize("name", sorted(DIALECTS))
def test_input_text_has_every_key_once_and_nothing_else(name: str) -> None:
    dialect = DIALECTS[name]
    own = {key: "/a/path" if "Dir" in key or key == "Machine" else 1 for key in dialect.keys if key not in dialect.fixed}
    text = input_text(dialect, own)
    lines = text.splitlines()
    assert [line.split(" ")[0] for line in lines] == list(dialect.keys)
    assert all(len(line.split(" ")) == 2 for line in lines)
    assert not set("\r\t#") & set(text)
    assert "\n\n" not in text
    with pytest.raises(ValueError, match="Scorers"):
        input_text(dialect, {**own, "Scorers": "Dose"})
    for bad in ("/a path", "/a#b", "", "/ä"):
        with pytest.raises(BadInput):
            input_text(dialect, {**own, "OutputDir": bad})


def test_input_of_upstream_multiplies_nothing() -> None:
    fixed = DIALECTS["upstream"].fixed
    assert (fixed["RBE"], fixed["NumberOfFraction"], fixed["ParticlesPerHistory"], fixed["Scorer"]) == (1.0, 1, 1, "Dose")
    assert "StoppingStatistics" not in DIALECTS["upstream"].keys
    assert json.dumps(dict(fixed))
