"""Whole cases with delivery records through the interpreter: what comes out, and what is refused."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pydicom
import pytest
from delivery_runs import (
    MACHINE_FILE,
    SILENT,
    SMALL,
    Files,
    case,
    changed,
    delivered_of,
    interpret_case,
    meant,
    only,
    rewritten,
    table_bytes,
    with_noise,
)
from step_runs import Run, dicom_bytes
from steplib.report import BadInput
from steplib.spot_table import read_spot_csv

from mqi.sample_delivery import Noise

MACHINE = MACHINE_FILE.read_text(encoding="utf-8")


def delivered(run: Run, beam: int) -> Any:
    return read_spot_csv((run.out / f"delivered_{beam}.csv").read_bytes(), "it")


@pytest.mark.parametrize("layout", ["shi", "record", "csv"])
def test_round_trip_gives_the_planned_spots(layout: str, tmp_path: Path) -> None:
    """Without noise, plan -> sample -> interpreter gives positions within one count and MU within rounding."""
    size = with_noise(SILENT)
    files = case(layout, 3, size)
    run = interpret_case(tmp_path, files)
    assert (run.code, run.error) == (0, "")
    index = run.json("beams.json")
    assert index["format"] == 2
    assert index["machine_file"] == {"name": "G1.yaml", "sha256": hashlib.sha256(MACHINE_FILE.read_bytes()).hexdigest()}
    source = {"shi": "ptn"}.get(layout, layout)
    for beam, entry in zip(meant(3, size), index["beams"], strict=True):
        told = entry["delivered"]
        assert (told["source"], told["layers"], told["complete"]) == (source, 3, True)
        assert told["sha256"] == hashlib.sha256((run.out / told["file"]).read_bytes()).hexdigest()
        assert told["total_mu"] == pytest.approx(beam.meterset, rel=1e-5)
        table = delivered(run, beam.number)
        assert told["spots"] == len(table)
        planned = read_spot_csv((run.out / entry["file"]).read_bytes(), "it")
        assert planned.time_ms is None
        assert table.protons.sum() == pytest.approx(planned.protons.sum(), rel=1e-5)
        for layer, meant_layer in enumerate(beam.layers, 1):
            rows = [
                (x, y, mu)
                for n, x, y, mu in zip(table.layer, table.x_mm, table.y_mm, table.mu, strict=True)
                if n == layer
            ]
            # The interrupted spot has two rows, one after the other.
            merged: list[tuple[float, float, float]] = []
            for x, y, mu in rows:
                if merged and abs(merged[-1][0] - x) < 0.1 and abs(merged[-1][1] - y) < 0.1:
                    merged[-1] = (x, y, merged[-1][2] + mu)
                else:
                    merged.append((x, y, mu))
            assert len(merged) == len(meant_layer.spots)
            for (x, y, mu), (x_meant, y_meant, mu_meant) in zip(merged, meant_layer.spots, strict=True):
                assert (x, y) == pytest.approx((x_meant, y_meant), abs=0.0051)
                assert mu == pytest.approx(mu_meant, rel=1e-3)
    # The log of beam 2 has one interlock; a CSV does not tell.
    interlocks = {beam["number"]: beam["delivered"]["interlocks"] for beam in index["beams"]}
    assert interlocks == ({2: 0, 3: 0} if layout == "csv" else {2: 1, 3: 0})
    for name in ("beams.json", "spot_check.json"):
        text = (run.out / name).read_text(encoding="utf-8")
        json.loads(text, parse_constant=lambda constant: pytest.fail(constant))
        assert "MQI-SAMPLE" not in text
    check = run.json("spot_check.json")
    assert [beam["number"] for beam in check["beams"]] == [2, 3]
    for beam in check["beams"]:
        # Positions without noise in a record are the plan's to the last bit; a log has its counts.
        assert beam["verdict"] == ("conditional" if layout == "record" else "pass"), beam["reason"]
        assert beam["position_mm"]["max"] < 0.01
        assert (beam["missing"], beam["doubled"], beam["extra"]) == (0, 0, 0)
        for name in beam["figures"]:
            assert (run.out / name).read_bytes().startswith(b"\x89PNG")
        assert len(beam["figures"]) == 2
        assert len(beam["layers"]) == 3


def test_noise_comes_out_as_it_was_put_in(tmp_path: Path) -> None:
    size = replace(SMALL, spots=60, layers=4, noise=Noise(0.2, 0.3, 1.0))
    run = interpret_case(tmp_path, case("shi", 5, size))
    assert run.error == ""
    for beam in run.json("spot_check.json")["beams"]:
        assert (beam["missing"], beam["doubled"], beam["extra"]) == (0, 0, 0)
        # Mean of a Rayleigh distribution: 1.25 sigma; sigma is the spot's and a little of the samples' mean.
        assert beam["position_mm"]["mean"] == pytest.approx(1.253 * 0.31, rel=0.12)
        assert beam["mu_percent"]["sd"] == pytest.approx(1.0, rel=0.2)
        assert abs(beam["mu_percent"]["mean"]) < 0.3


def test_log_holds_every_count(tmp_path: Path) -> None:
    run = interpret_case(tmp_path, case())
    index = run.json("beams.json")
    for beam in index["beams"]:
        told = beam["delivered"]["log"]
        folder = run.out / told["folder"]
        names = sorted(path.name for path in folder.iterdir())
        assert names == [f"{n:02d}_{energy:06.2f}MeV.csv" for n, energy in enumerate(beam["energies_MeV"], 1)]
        for name, layer in zip(names, beam["delivered"]["layer_table"], strict=True):
            rows = list(csv.reader(io.StringIO((folder / name).read_text())))
            assert all(len(row) == 5 and row[4] == "" for row in rows)
            counts = sum(int(row[3]) for row in rows)
            # Every row's count is rounded.
            assert counts / told["counts_per_mu"] == pytest.approx(layer["mu"], rel=1e-3)
            times = [float(row[0]) for row in rows]
            assert times == sorted(times)


def test_same_inputs_give_same_bytes(tmp_path: Path) -> None:
    def content(name: str, files: Files) -> dict[str, bytes]:
        run = interpret_case(tmp_path / name, files)
        assert run.error == ""
        found = {path.relative_to(run.out).as_posix(): path for path in run.out.rglob("*") if path.is_file()}
        return {name: path.read_bytes() for name, path in found.items() if not name.endswith((".png", "beams.json"))}

    files = case(seed=2)
    assert content("a", files) == content("b", dict(reversed(files.items())))


def test_case_without_a_record_is_planned_only(tmp_path: Path) -> None:
    plan = {path: data for path, data in case().items() if path.endswith(".dcm")}
    run = interpret_case(tmp_path, plan)
    assert run.error == ""
    assert [beam["delivered"] for beam in run.json("beams.json")["beams"]] == [None, None]
    assert {beam["verdict"] for beam in run.json("spot_check.json")["beams"]} == {"not comparable"}
    assert sorted(path.name for path in run.out.iterdir()) == ["beam_2.csv", "beam_3.csv", "beams.json", "spot_check.json"]


def test_without_a_machine_file_protons_are_not_known(tmp_path: Path) -> None:
    run = interpret_case(tmp_path, case("csv"), machine=None)
    assert run.error == ""
    assert run.json("beams.json")["machine_file"] is None
    assert delivered(run, 2).protons is None


# ---- what a machine does


def without(files: Files, *endings: str) -> Files:
    return {path: data for path, data in files.items() if not path.endswith(endings)}


def delivery(files: Files, beam: int) -> str:
    """The folder of this beam's delivery."""
    needle = b"DICOM_BEAM_NUMBER,%d\r" % beam
    return next(p for p in sorted(files) if p.endswith("PlanInfo.txt") and needle in files[p]).rpartition("/")[0]


def split(files: Files, beam: int, at: int) -> Files:
    """The delivery of a beam as two: layers up to `at`, and those after it, as after an interruption."""
    folder = delivery(files, beam)
    base = {path: data for path, data in files.items() if not path.startswith(folder)}
    for part, (first, last) in enumerate(((1, at), (at + 1, 3)), 1):
        place = f"{folder[:-1]}{part}"
        info = files[f"{folder}/PlanInfo.txt"]
        stamp = folder.rpartition("/")[2].encode()
        info = info.replace(stamp, stamp[:-1] + b"%d" % part)
        info = info.replace(b"START_LAYER_NUMBER,1", b"START_LAYER_NUMBER,%d" % first)
        base[f"{place}/PlanInfo.txt"] = info.replace(b"STOP_LAYER_NUMBER,3", b"STOP_LAYER_NUMBER,%d" % last)
        header, *rows = files[f"{folder}/PlanRange.txt"].splitlines(keepends=True)
        own = [row for row in rows if first <= int(row.split(b",")[1]) <= last]
        base[f"{place}/PlanRange.txt"] = header + b"".join(own)
        for row in own:
            name = row.split(b",")[7].decode()
            base[f"{place}/{name}"] = files[f"{folder}/{name}"]
    return base


def test_resumed_beam_is_the_beam() -> None:
    files = case()
    whole, resumed = delivered_of(files), delivered_of(split(files, 2, 2))
    # Times are the same too: pauses are in no record.
    assert table_bytes(resumed) == table_bytes(whole)
    assert resumed[2].facts["deliveries"] == 2
    assert resumed[2].facts["interlocks"] == whole[2].facts["interlocks"] + 1
    assert resumed[3].facts == whole[3].facts


def test_layer_in_two_deliveries_adds_up(tmp_path: Path) -> None:
    """The second delivery repeats the last layer of the first, with the spots that were missing."""
    files = case(seed=4, size=replace(SMALL, interlock=False))
    whole = delivered_of(files)
    parts = split(files, 2, 2)
    folder = delivery(files, 2)
    first, second = f"{folder[:-1]}1", f"{folder[:-1]}2"
    name = only({path: b"" for path in parts if path.startswith(first)}, "_002.ptn").rpartition("/")[2]
    data = parts[f"{first}/{name}"]
    half = len(data) // 32 * 16
    row = next(row for row in parts[f"{first}/PlanRange.txt"].splitlines(keepends=True) if name.encode() in row)
    header, *rest = parts[f"{second}/PlanRange.txt"].splitlines(keepends=True)
    parts[f"{first}/{name}"], parts[f"{second}/{name}"] = data[:half], data[half:]
    parts[f"{second}/PlanRange.txt"] = header + row + b"".join(rest)
    parts = changed(parts, f"{second}/PlanInfo.txt", b"START_LAYER_NUMBER,3", b"START_LAYER_NUMBER,2")
    found = delivered_of(parts)
    assert found[2].table.mu.sum() == pytest.approx(whole[2].table.mu.sum(), rel=1e-9)
    assert found[2].facts["interlocks"] == 1
    run = interpret_case(tmp_path, parts)
    assert [beam["verdict"] for beam in run.json("spot_check.json")["beams"]] == ["pass", "pass"]
    # In moqui's log the layer is one file.
    assert len(list((run.out / "log/beam_2").iterdir())) == 3


def test_partial_beam_is_told(tmp_path: Path) -> None:
    files = split(case(), 2, 2)
    later = f"{delivery(case(), 2)[:-1]}2"
    run = interpret_case(tmp_path, {path: data for path, data in files.items() if not path.startswith(later)})
    assert run.error == ""
    told = run.json("beams.json")["beams"][0]["delivered"]
    assert (told["layers"], told["complete"]) == (2, False)
    beam = run.json("spot_check.json")["beams"][0]
    assert (beam["verdict"], beam["missing"]) == ("fail", 5)
    assert "5 spots are missing" in beam["reason"]


def test_one_beam_without_a_record(tmp_path: Path) -> None:
    files = case()
    folder = delivery(files, 2)
    run = interpret_case(tmp_path, {path: data for path, data in files.items() if not path.startswith(folder)})
    assert run.error == ""
    assert [beam["delivered"] is None for beam in run.json("beams.json")["beams"]] == [True, False]
    assert [beam["verdict"] for beam in run.json("spot_check.json")["beams"]] == ["not comparable", "pass"]


def test_paintings_add_up(tmp_path: Path) -> None:
    run = interpret_case(tmp_path, case(size=replace(SMALL, paintings=3, interlock=False)))
    assert run.error == ""
    for beam in run.json("beams.json")["beams"]:
        assert [layer["paintings"] for layer in beam["delivered"]["layer_table"]] == [3, 3, 3]
        assert beam["delivered"]["spots"] == 45
    assert {beam["verdict"] for beam in run.json("spot_check.json")["beams"]} == {"pass"}


def test_control_points_without_weight_do_not_count() -> None:
    """The plan's layers are counted without them; the log's too."""
    files = case(size=with_noise(SILENT))
    path = only(files, ".dcm")
    plan = pydicom.dcmread(io.BytesIO(files[path]))
    for beam in plan.IonBeamSequence[1:]:
        points = beam.IonControlPointSequence
        # Of a pair only the first delivers; put another dead pair in front.
        for point in points:
            point.ControlPointIndex += 2
        dead = [pydicom.dcmread(io.BytesIO(files[path])).IonBeamSequence[1].IonControlPointSequence[1] for _ in (0, 1)]
        for index, point in enumerate(dead):
            point.ControlPointIndex, point.CumulativeMetersetWeight = index, "0"
            point.NominalBeamEnergy = "200"
        beam.IonControlPointSequence = [*dead, *points]
        beam.NumberOfControlPoints += 2
    found = delivered_of({**files, path: dicom_bytes(plan)})
    assert table_bytes(found) == table_bytes(delivered_of(files))


def test_plan_range_as_csv_and_a_copy_of_it() -> None:
    files = case()
    folder = delivery(files, 2)
    told = table_bytes(delivered_of(files))
    ranges = files[f"{folder}/PlanRange.txt"]
    as_csv = {**without(files, f"{folder}/PlanRange.txt"), f"{folder}/PlanRange.csv": ranges}
    assert table_bytes(delivered_of(as_csv)) == told
    assert table_bytes(delivered_of({**files, f"{folder}/PlanRange.csv": ranges})) == told
    with pytest.raises(BadInput, match=r"has 2 different PlanRange.txt or PlanRange.csv"):
        delivered_of({**files, f"{folder}/PlanRange.csv": ranges + b" "})


def test_normalised_machine_says_so(tmp_path: Path) -> None:
    machine = rewritten(MACHINE, mu_per_count=None, normalise_to="beam_meterset")
    run = interpret_case(tmp_path / "a", case(), machine=machine)
    assert run.error == ""
    for beam, plan in zip(run.json("beams.json")["beams"], meant(), strict=True):
        assert beam["delivered"]["total_mu"] == pytest.approx(plan.meterset, rel=1e-9)
        assert beam["delivered"]["mu_from"].startswith("normalised to BeamMeterset")
    assert {beam["verdict"] for beam in run.json("spot_check.json")["beams"]} == {"conditional"}
    later = f"{delivery(case(), 2)[:-1]}2"
    partial = {path: data for path, data in split(case(), 2, 2).items() if not path.startswith(later)}
    refused = interpret_case(tmp_path / "b", partial, machine=machine)
    assert "Beam 2 was not delivered completely (layer 3 missing)" in refused.error


# ---- refusals


def edit_info(old: bytes, new: bytes) -> Callable[[Files], Files]:
    return lambda files: changed(files, f"{delivery(files, 2)}/PlanInfo.txt", old, new)


def edit_range(old: bytes, new: bytes) -> Callable[[Files], Files]:
    return lambda files: changed(files, f"{delivery(files, 2)}/PlanRange.txt", old, new)


def range_code(files: Files) -> Files:
    path = f"{delivery(files, 2)}/PlanRange.txt"
    header, first, *rest = files[path].split(b"\r\n")
    values = first.split(b",")
    values[5] = b"7"
    return {**files, path: b"\r\n".join([header, b",".join(values), *rest])}


def drop(name: str) -> Callable[[Files], Files]:
    def change(files: Files) -> Files:
        path = only({path: b"" for path in files if path.startswith(delivery(files, 2))}, name)
        return {each: data for each, data in files.items() if each != path}

    return change


def swap_layers(files: Files) -> Files:
    """Two PTN files have changed places."""
    one, two = only(files, "002_001.ptn"), only(files, "002_002.ptn")
    return {**files, one: files[two], two: files[one]}


def other_folder(files: Files) -> Files:
    """A PTN file lies in the other beam's folder."""
    path = only(files, "002_001.ptn")
    moved = f"{delivery(files, 3)}/{path.rpartition('/')[2]}"
    return {**{each: data for each, data in files.items() if each != path}, moved: files[path]}


def copied(files: Files) -> Files:
    """The same delivery in two folders."""
    folder = delivery(files, 2)
    return {**files, **{f"{folder}-copy/{path[len(folder) + 1:]}": d for path, d in files.items() if path.startswith(folder)}}


def second_fraction(files: Files) -> Files:
    """Tomorrow's delivery of the same beam."""
    more = copied(files)
    stamp = delivery(files, 2).rpartition("/")[2].encode()
    return changed(more, f"{delivery(files, 2)}-copy/PlanInfo.txt", stamp, b"20260107" + stamp[8:])


def cut(files: Files) -> Files:
    path = only(files, "002_001.ptn")
    return {**files, path: files[path][:-3]}


def with_csv(files: Files) -> Files:
    return {**files, "delivered.csv": case("csv")["delivered.csv"]}


def with_beam(number: int) -> Callable[[Files], Files]:
    return edit_info(b"DICOM_BEAM_NUMBER,2", b"DICOM_BEAM_NUMBER,%d" % number)


REFUSED = [
    pytest.param(edit_info(b"DICOM_PATIENT_ID,MQI", b"DICOM_PATIENT_ID,MQX"), "another patient's than the plan", id="patient"),
    pytest.param(edit_info(b"STUDY_INS_UID,2.25", b"STUDY_INS_UID,2.26"), "of another study than the plan", id="study"),
    pytest.param(with_beam(1), "is for beam 1, which is no treatment beam of the plan (treatment beams there: 2, 3)", id="setup beam"),
    pytest.param(with_beam(9), "is for beam 9, which is no treatment beam", id="no such beam"),
    pytest.param(with_beam(3), "gives layer 1 of beam 3", id="the other beam's number"),
    pytest.param(edit_info(b"STOP_LAYER_NUMBER,3", b"STOP_LAYER_NUMBER,4"), "holds layers 1 to 3, and PlanInfo.txt says", id="layers"),
    pytest.param(edit_info(b"START_LAYER_NUMBER,1", b"START_LAYER_NUMBER,2"), "holds layers 1 to 3, and PlanInfo.txt says", id="start"),
    pytest.param(edit_range(b"\r\n2,2,", b"\r\n2,3,"), "holds layers 1 and 3, and PlanInfo.txt says", id="layer number"),
    pytest.param(range_code, "has the range code 7", id="range code"),
    pytest.param(drop("PlanInfo.txt"), "has no PlanInfo.txt", id="no PlanInfo"),
    pytest.param(drop("PlanRange.txt"), "has no PlanRange.txt or PlanRange.csv", id="no PlanRange"),
    pytest.param(drop("_002.ptn"), "is incomplete: 1 of the 3 PTN files that PlanRange names are not here (layer 2)", id="no layer"),
    pytest.param(swap_layers, "has rows of another layer than 1", id="layers swapped"),
    pytest.param(other_folder, "PTN files", id="other folder"),
    pytest.param(copied, "Beam 2: the same delivery record is there twice.", id="copied"),
    pytest.param(second_fraction, "Beam 2 was delivered more than once (layers 1 to 3 twice)", id="two fractions"),
    pytest.param(cut, "(beam 2, layer 1) is cut short", id="cut"),
    pytest.param(with_csv, "has delivery records of two kinds (csv and ptn)", id="two kinds"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "sentence"), REFUSED)
def test_refused_before_anything_is_written(change: Callable[[Files], Files], sentence: str, tmp_path: Path) -> None:
    run = interpret_case(tmp_path, change(case()))
    assert run.code == 2
    assert sentence in run.error
    assert run.error.endswith(".")
    assert not run.out.is_dir() or list(run.out.iterdir()) == []
    for secret in ("MQI-SAMPLE-1", "MQX-SAMPLE", "2.25.", "10101", "2026010"):
        assert secret not in run.error + run.stderr + run.stdout


def test_later_layers_first_are_refused() -> None:
    files = split(case(), 2, 2)
    folder = delivery(case(), 2)
    stamp = folder.rpartition("/")[2].encode()
    early = changed(files, f"{folder[:-1]}2/PlanInfo.txt", stamp[:-1] + b"2", b"20250101" + stamp[8:])
    with pytest.raises(BadInput, match="a later delivery holds layers before those of an earlier one"):
        delivered_of(early)


def test_log_without_machine_file_is_refused(tmp_path: Path) -> None:
    run = interpret_case(tmp_path, case(), machine=None)
    assert run.code == 2
    assert "there is no delivery_log in a machine file of this room" in run.error


def test_machine_file_of_another_machine_is_refused(tmp_path: Path) -> None:
    run = interpret_case(tmp_path, case(), machine=MACHINE.replace("G1 SAMPLE", "G2").encode())
    assert run.code == 2
    assert "another machine" in run.error


def test_changed_after_it_was_sent_is_refused(tmp_path: Path) -> None:
    from delivery_runs import lay_out
    from step_runs import run_step

    files = case()
    work = lay_out(tmp_path, files, MACHINE_FILE.read_bytes())
    place = list(files).index(only(files, "002_002.ptn")) + 1
    path = work / f"in/{place:06d}"
    data = bytearray(path.read_bytes())
    data[1608] ^= 1
    path.write_bytes(bytes(data))
    arguments = ["--inputs", work / "inputs.json", "--input-dir", work / "in", "--out", work / "out", "--files", work / "files"]
    run = run_step("interpreter.py", work, [str(each) for each in arguments])
    assert run.code == 2
    assert run.error == f"Input {place:06d} is not the file that was sent: its SHA-256 differs."


# ---- treatment records


def edited(files: Files, change: Callable[[Any], None], ending: str = ".dcm") -> Files:
    """The case with every treatment record changed."""
    result = dict(files)
    for path in files:
        if "RI." in path and path.endswith(ending):
            record = pydicom.dcmread(io.BytesIO(files[path]))
            change(record)
            result[path] = dicom_bytes(record)
    return result


def session(record: Any) -> Any:
    return record.TreatmentSessionIonBeamSequence[0]


def other_plan(record: Any) -> None:
    record.ReferencedRTPlanSequence[0].ReferencedSOPInstanceUID = "1.2.3"


def other_patient(record: Any) -> None:
    record.PatientID = "X"


def weights_in_place_of_mu(record: Any) -> None:
    for point in session(record).IonControlPointDeliverySequence:
        values = point.ScanSpotMetersetsDelivered
        point.ScanSpotMetersetsDelivered = [0.625 * value for value in values]


def shifted_index(record: Any) -> None:
    for point in session(record).IonControlPointDeliverySequence:
        point.ReferencedControlPointIndex += 2


def other_unit(record: Any) -> None:
    record.PrimaryDosimeterUnit = "MINUTE"


def another_type(record: Any) -> None:
    session(record).TreatmentDeliveryType = "SETUP"


def positions_missing(record: Any) -> None:
    del session(record).IonControlPointDeliverySequence[0].ScanSpotPositionMap


def other_modality(record: Any) -> None:
    record.Modality = "RTPLAN"


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (other_plan, "is the record of another plan"),
        (other_patient, "and the plan disagree in PatientID (0010,0020)"),
        (weights_in_place_of_mu, "Delivered Primary Meterset (3008,0036) says"),
        (shifted_index, "MeV, and the plan"),
        (other_unit, "is not counted in MU according to PrimaryDosimeterUnit"),
        (another_type, "is neither TREATMENT nor CONTINUATION in TreatmentDeliveryType"),
        (positions_missing, "and not as many positions in ScanSpotPositionMap"),
        (other_modality, "does not say RTRECORD as Modality"),
    ],
)
def test_records_that_do_not_fit_are_refused(change: Callable[[Any], None], sentence: str) -> None:
    with pytest.raises(BadInput) as caught:
        delivered_of(edited(case("record"), change))
    assert sentence in str(caught.value)


def one_point_per_layer(record: Any) -> None:
    beam = session(record)
    beam.IonControlPointDeliverySequence = beam.IonControlPointDeliverySequence[::2]
    beam.NumberOfControlPoints = len(beam.IonControlPointDeliverySequence)


def without_index(record: Any) -> None:
    for point in session(record).IonControlPointDeliverySequence:
        del point.ReferencedControlPointIndex


def second_points_say_little(record: Any) -> None:
    for point in session(record).IonControlPointDeliverySequence[1::2]:
        del point.NominalBeamEnergy, point.ScanSpotPositionMap, point.ScanSpotMetersetsDelivered


def setup_beam_too(record: Any) -> None:
    import copy

    imaging = copy.deepcopy(session(record))
    imaging.ReferencedBeamNumber, imaging.TreatmentDeliveryType = 1, "SETUP"
    record.TreatmentSessionIonBeamSequence.insert(0, imaging)


@pytest.mark.parametrize(
    "change", [one_point_per_layer, without_index, second_points_say_little, setup_beam_too]
)
def test_unusual_records_mean_the_same(change: Callable[[Any], None]) -> None:
    files = case("record")
    assert table_bytes(delivered_of(edited(files, change))) == table_bytes(delivered_of(files))


def test_continuation_in_a_record(tmp_path: Path) -> None:
    found = delivered_of(case("record"))
    assert (found[2].facts["deliveries"], found[2].facts["interlocks"]) == (2, 1)
    assert found[2].facts["complete"]


def test_record_twice_is_refused() -> None:
    files = case("record")
    with pytest.raises(BadInput, match="Beam 3: the same delivery record is there twice"):
        delivered_of({**files, "copy.dcm": files[sorted(p for p in files if "RI." in p and _beam(files[p]) == 3)[0]]})


def _beam(data: bytes) -> int:
    return int(session(pydicom.dcmread(io.BytesIO(data))).ReferencedBeamNumber)


def test_photon_record_is_refused() -> None:
    from mqi.sample import new_file

    record = new_file("1.2.840.10008.5.1.4.1.1.481.4", "1.2.3")
    with pytest.raises(BadInput, match="a treatment record of photon beams"):
        delivered_of({**case(), "photons.dcm": dicom_bytes(record)})


# ---- CSV

ROW = "2,1,1,122.654,0.0,-20.0,1.5,0.0,1"


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("beam,layer", "Beam,Layer", "looks like a delivery record, but its header is not"),
        (",paint", "", "looks like a delivery record, but its header is not"),
        ("2,1,1,", "7,1,1,", "is for beam 7, which is no treatment beam"),
        ("2,1,1,", "2,4,1,", "names layer 4 of beam 2, which has 3 layers"),
        ("2,1,1,", "2,2,1,", "gives layer 2 of beam 2"),
        ("2,1,1,", "2,1,0,", "has a number that is not possible"),
        ("2,1,1,", "2,1,x,", "something else than numbers"),
        (ROW, ROW + ",", "has 10 values instead of 9"),
        (ROW, ROW + "\n" + ROW, "has the same row of beam 2 twice"),
        (",1.5,", ",-1.5,", "has a number that is not possible"),
        (",1.5,", ",nan,", "has a number that is not possible"),
        (",-20.0,", ",-2000.0,", "more than a metre off the axis"),
        (",0.0,1", ",,1", "has time_ms in some rows and not in others"),
    ],
)
def test_csv_that_is_wrong_is_refused(old: str, new: str, sentence: str) -> None:
    header = "beam,layer,spot,energy_MeV,x_mm,y_mm,mu,time_ms,paint"
    energy = f"{meant()[0].layers[0].energy_mev:.3f}"
    text = f"{header}\n{ROW}\n2,1,2,122.654,5.0,-20.0,1.5,4.0,1\n"
    assert old in text
    text = text.replace(old, new, 1).replace("122.654", energy)
    plan = {path: data for path, data in case().items() if path.endswith(".dcm")}
    with pytest.raises(BadInput) as caught:
        delivered_of({**plan, "delivered.csv": text.encode()})
    assert sentence in str(caught.value)


def test_csv_without_times_and_with_windows_line_ends() -> None:
    files = case("csv")
    plain = delivered_of(files)
    rows = files["delivered.csv"].decode().splitlines()
    untimed = [rows[0], *(",".join([*row.split(",")[:7], "", row.split(",")[8]]) for row in rows[1:])]
    found = delivered_of({**files, "delivered.csv": b"\xef\xbb\xbf" + "\r\n".join(untimed).encode()})
    assert found[2].table.time_ms is None
    assert found[2].table.mu.tolist() == plain[2].table.mu.tolist()


def test_other_tables_are_no_records() -> None:
    files = case()
    notes = {"notes.csv": b"beam,name\n2,a\n", "PlanSummary.csv": b"DICOM_BEAM_NUMBER,LAYERS\n2,3\n", "empty.txt": b""}
    assert table_bytes(delivered_of({**files, **notes})) == table_bytes(delivered_of(files))


def test_parameters_of_the_spot_check(tmp_path: Path) -> None:
    run = interpret_case(tmp_path / "a", case(), {"position_tolerance_mm": 0.01, "position_action_mm": 0.02})
    assert run.json("spot_check.json")["tolerances"]["position_action_mm"] == 0.02
    assert {beam["verdict"] for beam in run.json("spot_check.json")["beams"]} == {"fail"}
    wrong = interpret_case(tmp_path / "b", case(), {"mu_tolerance_percent": 6})
    assert wrong.error == "Parameter mu_tolerance_percent must not be above mu_action_percent."
