"""moquisim.py as a process: the dose against independent numbers, and what it refuses."""

from __future__ import annotations

import hashlib
import json
import struct
import sys
import zlib
from bisect import bisect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from step_runs import (
    Curve,
    curve_of,
    dicom_bytes,
    fresh_plan,
    interpret,
    run_step,
    simulate,
    simulate_here,
    write_tables,
)

# NIST PSTAR, liquid water: CSDA range in mm by energy in MeV (https://physics.nist.gov/Star).
PSTAR_MM = {70.0: 40.80, 100.0: 77.18, 125.0: 114.6, 150.0: 157.7, 175.0: 206.2, 200.0: 259.6, 225.0: 317.4}
# Total stopping power, MeV/mm.
PSTAR_STOPPING = {100.0: 0.7289, 150.0: 0.5445, 200.0: 0.4492}


def distal(curve: Curve, share: float) -> float:
    """Depth in mm behind the peak at which the dose has fallen to `share`; linear between the rows."""
    place = len(curve.relative) - 1
    while curve.relative[place] < share:
        place -= 1
    high, low = curve.relative[place], curve.relative[place + 1]
    step = curve.depth_mm[place + 1] - curve.depth_mm[place]
    return curve.depth_mm[place] + step * (high - share) / (high - low)


def integral(curve: Curve) -> float:
    """Energy under the curve, MeV, by the trapezium rule."""
    pairs = zip(curve.energy, curve.energy[1:], curve.depth_mm, curve.depth_mm[1:], strict=False)
    return sum((a + b) / 2.0 * (right - left) for a, b, left, right in pairs)


def at(curve: Curve, depth_mm: float) -> float:
    """Energy per depth, linear between the rows."""
    place = min(bisect(curve.depth_mm, depth_mm), len(curve.depth_mm) - 1)
    left, right = curve.depth_mm[place - 1], curve.depth_mm[place]
    part = (depth_mm - left) / (right - left)
    return curve.energy[place - 1] * (1.0 - part) + curve.energy[place] * part


def dose(
    tmp_path: Path,
    layers: list[tuple[float, float]],
    *,
    start: Any = simulate,
    wet_mm: float = 0.0,
    **parameters: float,
) -> Curve:
    """Runs one beam that must succeed; `start`: as a process, or simulate_here."""
    spots = write_tables(tmp_path / f"spots{len(list(tmp_path.iterdir()))}", layers, wet_mm=wet_mm)
    run = start(tmp_path, spots, 1, parameters)
    assert (run.code, run.error, run.stderr) == (0, "", "")
    return curve_of(run.out)


@pytest.mark.parametrize("energy_mev", sorted(PSTAR_MM))
def test_range_energy_and_shape_of_one_energy(energy_mev: float, tmp_path: Path) -> None:
    spots = write_tables(tmp_path / "spots", [(energy_mev, 100.0)])
    start = simulate if energy_mev in (70.0, 150.0, 225.0) else simulate_here
    run = start(tmp_path, spots, 1, {"protons_per_mu": 1e6})
    assert (run.code, run.error, run.stderr) == (0, "", "")
    curve, summary = curve_of(run.out), run.json("summary.json")
    assert abs(distal(curve, 0.8) - PSTAR_MM[energy_mev]) < 1.0
    assert summary["r80_mm"] == pytest.approx(distal(curve, 0.8), abs=0.02)
    assert summary["r90_mm"] == pytest.approx(distal(curve, 0.9), abs=0.02)
    assert all(check["passed"] for check in summary["checks"])
    assert summary["passed"] is True
    assert max(curve.relative) == 1.0
    assert min(curve.energy) >= 0.0
    # Energy: no more than came in, and 8 % at most gone with neutrons at the highest energy.
    incident = summary["protons"] * energy_mev
    assert summary["incident_MeV"] == pytest.approx(incident)
    assert summary["phantom_MeV"] == pytest.approx(integral(curve), rel=1e-6)
    assert integral(curve) + summary["neutral_MeV"] == pytest.approx(incident, rel=2e-3)
    assert 0.92 < integral(curve) / incident < 1.0
    # Peak over entrance as in published Bragg curves of narrow spectra.
    assert 3.0 < 1.0 / curve.relative[0] < 6.0
    # At the surface every proton loses what PSTAR says. The model's nuclear terms come on top of that: the
    # facts give 5.4 % of the peak as its largest error in front of it.
    if energy_mev in PSTAR_STOPPING:
        excess = curve.energy[0] / summary["protons"] - PSTAR_STOPPING[energy_mev]
        assert 0.0 < excess < 0.055 * max(curve.energy) / summary["protons"]
    # Units: MeV/mm against Gy mm².
    assert curve.gray[0] == pytest.approx(curve.energy[0] * 1.602176634e-7, rel=1e-6)


def test_monte_carlo_range(tmp_path: Path) -> None:
    """MCsquare in a water box: mean energy 150.559 MeV, R80 158.92 mm (facts: dose-and-qa)."""
    assert distal(dose(tmp_path, [(150.559, 1.0)], start=simulate_here), 0.8) == pytest.approx(
        158.92, abs=1.0
    )


def test_dose_is_linear_in_mu_and_adds_up(tmp_path: Path) -> None:
    one = dose(tmp_path, [(150.0, 3.0), (130.0, 2.0)])
    two = dose(tmp_path, [(150.0, 6.0), (130.0, 4.0)], start=simulate_here)
    assert two.depth_mm == one.depth_mm
    assert two.energy == pytest.approx([2.0 * value for value in one.energy], rel=1e-8)
    assert two.relative == one.relative
    deep, shallow = (dose(tmp_path, [layer], start=simulate_here) for layer in ((150.0, 3.0), (130.0, 2.0)))
    padded = shallow.energy + [0.0] * (len(deep.energy) - len(shallow.energy))
    added = [a + b for a, b in zip(deep.energy, padded, strict=True)]
    assert one.energy == pytest.approx(added, rel=1e-6, abs=1e-3)


@pytest.mark.parametrize(
    ("wet_mm", "start"), [(57.0, simulate), (10.0, simulate_here), (120.0, simulate_here)]
)
def test_range_shifter_moves_the_curve_by_its_thickness(wet_mm: float, start: Any, tmp_path: Path) -> None:
    plain = dose(tmp_path, [(150.0, 1.0)], start=simulate_here)
    shifted = dose(tmp_path, [(150.0, 1.0)], start=start, wet_mm=wet_mm)
    assert distal(plain, 0.8) - distal(shifted, 0.8) == pytest.approx(wet_mm, abs=0.05)
    for depth in (0.0, 5.0, 15.0, 30.0):
        assert at(shifted, depth) == pytest.approx(at(plain, depth + wet_mm), rel=5e-3)


@pytest.mark.parametrize("reach_mm", [1.0, 5.0])
def test_protons_that_barely_leave_the_range_shifter(reach_mm: float, tmp_path: Path) -> None:
    """Part of the peak lies in the range shifter; the balance still closes."""
    spots = write_tables(tmp_path / "spots", [(150.0, 1.0)], wet_mm=PSTAR_MM[150.0] - reach_mm)
    run = simulate_here(tmp_path, spots, 1)
    assert (run.code, run.error) == (0, "")
    summary = run.json("summary.json")
    parts = summary["phantom_MeV"] + summary["range_shifter_MeV"] + summary["neutral_MeV"]
    assert parts == pytest.approx(summary["incident_MeV"], rel=2e-3)
    assert summary["range_shifter_MeV"] > 5.0 * summary["phantom_MeV"]


def test_energy_spread_softens_the_edge(tmp_path: Path) -> None:
    sharp, soft = (
        dose(tmp_path, [(150.0, 1.0)], start=simulate_here, energy_spread_MeV=spread) for spread in (0.0, 2.0)
    )
    assert distal(soft, 0.2) - distal(soft, 0.8) > 1.5 * (distal(sharp, 0.2) - distal(sharp, 0.8))
    assert distal(soft, 0.8) == pytest.approx(distal(sharp, 0.8), abs=0.3)


def test_step_of_the_grid_does_not_matter(tmp_path: Path) -> None:
    fine, coarse = (
        dose(tmp_path, [(70.0, 1.0)], start=simulate_here, depth_step_mm=step) for step in (0.1, 1.0)
    )
    assert distal(fine, 0.8) == pytest.approx(distal(coarse, 0.8), abs=0.2)
    assert integral(fine) == pytest.approx(integral(coarse), rel=2e-3)


def test_whole_way_from_the_plan(tmp_path: Path) -> None:
    """Interpreter and simulation as processes; the same bytes the second time; nothing about the patient."""
    spots = interpret(tmp_path, [dicom_bytes(fresh_plan())]).out
    first, second = (start(tmp_path, spots, 3) for start in (simulate, simulate_here))
    assert (first.code, first.error, first.stderr) == (0, "", "")
    names = ["depth_dose.csv", "depth_dose.png", "summary.json"]
    assert sorted(each.name for each in first.out.iterdir()) == names
    for name in names:
        assert (first.out / name).read_bytes() == (second.out / name).read_bytes()
    index = json.loads((spots / "beams.json").read_text(encoding="utf-8"))
    summary, beam = first.json("summary.json"), index["beams"][1]
    assert summary["beam"] == 3
    assert summary["plan_sop_instance_uid"] == index["plan"]["sop_instance_uid"]
    assert summary["spots_sha256"] == beam["sha256"]
    assert (summary["layers"], summary["spots"]) == (beam["layers"], beam["spots"])
    assert summary["total_mu"] == pytest.approx(beam["total_mu"])
    assert summary["range_shifter_wet_mm"] == 40.0
    assert first.progress["fraction"] == 1.0
    assert "medical device" in summary["notice"]
    told = first.stdout + json.dumps(first.progress) + json.dumps(summary)
    assert "Never" not in told
    assert "MQI-SAMPLE" not in told


def test_picture_is_a_png_without_text_of_the_case(tmp_path: Path) -> None:
    spots = write_tables(tmp_path / "spots", [(150.0, 1.0), (140.0, 1.0)])
    content = (simulate_here(tmp_path, spots, 1).out / "depth_dose.png").read_bytes()
    assert content[:8] == b"\x89PNG\r\n\x1a\n"
    place, pixels, texts = 8, b"", []
    while place < len(content):
        length, kind = struct.unpack(">I4s", content[place : place + 8])
        data = content[place + 8 : place + 8 + length]
        if kind == b"IHDR":
            assert struct.unpack(">II", data[:8]) == (1500, 1000)
        elif kind == b"IDAT":
            pixels += data
        elif kind in (b"tEXt", b"iTXt", b"zTXt"):
            texts.append(data)
        place += length + 12
    assert all(text.startswith(b"Software\0") for text in texts)
    raw = zlib.decompress(pixels)
    assert len(set(raw)) > 50


# ---- refusals and failures


def change_index(change: Callable[[Any], None]) -> Callable[[Path], None]:
    def spoil(spots: Path) -> None:
        index = json.loads((spots / "beams.json").read_text(encoding="utf-8"))
        change(index)
        (spots / "beams.json").write_text(json.dumps(index), encoding="utf-8")

    return spoil


def change_table(old: bytes, new: bytes, *, signed: bool) -> Callable[[Path], None]:
    """Changes the CSV; `signed`: and its digest in beams.json, as a faulty interpreter would."""

    def spoil(spots: Path) -> None:
        content = (spots / "beam_1.csv").read_bytes()
        assert old in content
        content = content.replace(old, new)
        (spots / "beam_1.csv").write_bytes(content)
        if signed:
            digest = hashlib.sha256(content).hexdigest()
            change_index(lambda index: index["beams"][0].update(sha256=digest))(spots)

    return spoil


NO_TABLE = "beam_1.csv is not a table of layer,spot,energy_MeV,x_mm,y_mm,mu,protons,time_ms with finite numbers."
CONTRADICTION = "Beam 1: beams.json and the table of its spots contradict each other."


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        pytest.param(lambda spots: (spots / "beams.json").unlink(), "beams.json is missing.", id="no index"),
        pytest.param(lambda spots: (spots / "beams.json").write_text("{"), "beams.json is not JSON.", id="half"),
        pytest.param(lambda spots: (spots / "beam_1.csv").unlink(), "beam_1.csv is missing.", id="no table"),
        pytest.param(change_index(lambda i: i.update(format=1)), "another format than 2", id="format"),
        pytest.param(change_index(lambda i: i.pop("plan")), "does not name the plan", id="no plan"),
        pytest.param(change_index(lambda i: i["beams"][0].update(number=7)),
                     "Beam 1 is not in the interpreter's beams.json (treatment beams there: 7).", id="other beam"),
        pytest.param(change_index(lambda i: i["beams"].append(i["beams"][0])), "Beam 1 is not in", id="twice"),
        pytest.param(change_index(lambda i: i["beams"][0].update(file="../beam_1.csv")), "SHA-256 differs", id="path"),
        pytest.param(change_table(b"150.0", b"151.0", signed=False), "its SHA-256 differs.", id="changed"),
        pytest.param(change_table(b",mu,", b",MU,", signed=True), NO_TABLE, id="header"),
        pytest.param(change_table(b",1.0,,\n", b",nan,,\n", signed=True), NO_TABLE, id="NaN"),
        pytest.param(change_table(b",1.0,,\n", b",-1.0,,\n", signed=True), NO_TABLE, id="negative MU"),
        pytest.param(change_table(b",1.0,,\n", b",1.0,\n", signed=True), NO_TABLE, id="column missing"),
        pytest.param(change_table(b",1.0,,\n", b",0.0,,\n", signed=True), "delivers no monitor units", id="no MU"),
        pytest.param(change_table(b"150.0", b"151.0", signed=True), CONTRADICTION, id="energy contradicts"),
        pytest.param(change_table(b"1,1,150", b"3,1,150", signed=True), CONTRADICTION, id="layer contradicts"),
        pytest.param(change_index(lambda i: i["beams"][0]["layer_table"][0].update(range_shifter_wet_mm=-1)),
                     CONTRADICTION, id="WET negative"),
        pytest.param(change_index(lambda i: i["beams"][0].pop("layer_table")), CONTRADICTION, id="no layers"),
    ],
)  # fmt: skip
def test_tables_that_do_not_fit_are_refused(
    spoil: Callable[[Path], None], sentence: str, tmp_path: Path
) -> None:
    spots = write_tables(tmp_path / "spots", [(150.0, 1.0)])
    spoil(spots)
    run = simulate_here(tmp_path, spots, 1)
    assert run.code == 2
    assert sentence in run.error
    assert run.stderr == run.error + "\n"
    assert list(run.out.iterdir()) == []


@pytest.mark.parametrize(
    ("parameters", "sentence"),
    [
        ({"protons_per_MU": 1e6}, "Parameter protons_per_MU is unknown: did you mean protons_per_mu?"),
        ({"protons_per_mu": 0}, "Parameter protons_per_mu must be a number from 1 to 1e+15."),
        ({"depth_step_mm": 5}, "Parameter depth_step_mm must be a number from 0.05 to 1."),
        ({"energy_spread_MeV": None}, "Parameter energy_spread_MeV must be a number"),
    ],
)
def test_parameters_are_checked(parameters: Any, sentence: str, tmp_path: Path) -> None:
    run = simulate(tmp_path, write_tables(tmp_path / "spots", [(150.0, 1.0)]), 1, parameters)
    assert (run.code, run.error) == (2, run.error)
    assert sentence in run.error


def test_energy_outside_the_model_is_refused(tmp_path: Path) -> None:
    run = simulate(tmp_path, write_tables(tmp_path / "spots", [(310.0, 1.0)]), 1)
    assert run.code == 2
    assert "energies outside 50 to 300 MeV" in run.error


def test_wrong_arguments_are_bad_input(tmp_path: Path) -> None:
    run = run_step("moquisim.py", tmp_path, ["--beam", "two", "--spots", "x", "--out", "y"])
    assert run.code == 2
    assert run.error.startswith("The step was started with wrong arguments: ")


@pytest.mark.parametrize(
    ("layers", "wet_mm", "parameters", "check"),
    [
        pytest.param([(150.0, 1.0)], 0.0, {"range_tolerance_mm": 0.0}, "range_of_highest_energy", id="range"),
        pytest.param([(150.0, 1.0)], 0.0, {"energy_tolerance_percent": 0.0}, "energy_balance", id="energy"),
        pytest.param([(70.0, 1.0)], 200.0, {}, "reaches_water", id="stopped in the range shifter"),
    ],
)
def test_failed_check_leaves_the_result_and_says_why(
    layers: list[tuple[float, float]], wet_mm: float, parameters: dict[str, float], check: str, tmp_path: Path
) -> None:
    start = simulate if wet_mm else simulate_here
    run = start(tmp_path, write_tables(tmp_path / "spots", layers, wet_mm=wet_mm), 1, parameters)
    assert run.code == 3
    assert run.error.startswith(f"Beam 1 failed the check {check}: ")
    assert run.stderr == run.error + "\n"
    summary = run.json("summary.json")
    assert summary["passed"] is False
    assert next(each["name"] for each in summary["checks"] if not each["passed"]) == check
    assert {each.name for each in run.out.iterdir()} == {"depth_dose.csv", "depth_dose.png", "summary.json"}


@pytest.mark.skipif(sys.platform != "linux", reason="needs /dev/full, which Linux has")
def test_full_disk_is_temporary(tmp_path: Path) -> None:
    spots = write_tables(tmp_path / "spots", [(150.0, 1.0)])
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "depth_dose.csv").symlink_to("/dev/full")
    arguments = ["--beam", "1", "--spots", str(spots), "--out", str(tmp_path / "out")]
    run = run_step("moquisim.py", tmp_path, arguments)
    assert run.code == 75
    assert "No space left" in run.error
