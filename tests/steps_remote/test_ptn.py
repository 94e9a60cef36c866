"""PTN logs: what is read of them, how samples become spots, what is refused."""

from __future__ import annotations

import random
import struct
from typing import Any

import numpy as np
import pytest
from delivery_runs import MACHINE_FILE, rewritten
from hypothesis import given, settings
from hypothesis import strategies as st
from steplib.delivery_log import layer_range, read_delivery_log
from steplib.moqui_log import csv_rows
from steplib.ptn_files import match_files, read_plan_info, read_plan_range
from steplib.ptn_spots import Samples, group, read_samples
from steplib.report import BadInput

MACHINE = MACHINE_FILE.read_text(encoding="utf-8")
LOG: Any = read_delivery_log(MACHINE.encode())
ON, IDLE, OFF = 0xC000, 0x8000, 0x0000


def row(x_mm: float = 0.0, y_mm: float = 0.0, dose: int = 1000, status: int = ON, layer: int = 1) -> bytes:
    return struct.pack(">8H", round(32768 + 100 * x_mm), round(32768 + 100 * y_mm), 9, 9, dose, 7, layer, status)


def spots(*rows: bytes, factor: float = 1.0, layer: int = 1) -> list[tuple[float, float, float]]:
    found = group(read_samples(b"".join(rows), layer, factor, LOG, "It"), LOG.spot_radius_mm)
    return [(round(x, 6), round(y, 6), c) for x, y, c in zip(found.x_mm, found.y_mm, found.counts, strict=True)]


BETWEEN = row(2.5, 0.0, 2, IDLE)

GROUPS: list[tuple[str, list[bytes], list[tuple[float, float, float]]]] = [
    ("one place", [row(5, -3)] * 10, [(5, -3, 10_000)]),
    ("weighted by counts", [row(1, 0, 100), row(2, 0, 300)], [(1.75, 0, 400)]),
    ("a jump with the beam on", [row(0, 0)] * 5 + [row(5, 0)] * 3, [(0, 0, 5000), (5, 0, 3000)]),
    ("the beam was off in between, at one place", [row(), row(), row(dose=0, status=OFF), row()], [(0, 0, 2000), (0, 0, 1000)]),
    ("another rescan, at one place", [row(), row(status=ON | 1), row(status=ON | 1)], [(0, 0, 1000), (0, 0, 2000)]),
    ("a way between two spots with the beam on", [row(0, 0)] * 4 + [row(2.5, 0, 10)] + [row(5, 0)] * 4,
     [(0, 0, 4000), (2.5, 0, 10), (5, 0, 4000)]),
    ("noise stays together", [row(0.5 * (-1) ** n, 0.4) for n in range(8)], [(0, 0.4, 8000)]),
    ("a jump within the first samples", [row(0, 0), row(9, 0), row(9, 0)], [(0, 0, 1000), (9, 0, 2000)]),
    ("no dose, no spot", [row(0, 0, 0), row(5, 0, 0, OFF), row(8, 0)], [(8, 0, 1000)]),
    ("only rows with actual on", [row(dose=3, status=IDLE), row(status=0x4000), row(dose=8, status=OFF)], [(0, 0, 1000)]),
    ("beam never on", [row(dose=0, status=IDLE)] * 3, []),
]  # fmt: skip


@pytest.mark.parametrize(("rows", "expected"), [pytest.param(r, e, id=name) for name, r, e in GROUPS])
def test_samples_become_spots(rows: list[bytes], expected: list[tuple[float, float, float]]) -> None:
    assert spots(*rows) == expected


def test_a_long_line_is_cut_and_loses_nothing() -> None:
    line = [row(0.1 * step, 0, 100 + step) for step in range(900)]
    found = spots(*line)
    assert 30 < len(found) < 90
    assert sum(counts for _, _, counts in found) == sum(100 + step for step in range(900))
    moment = sum(x * counts for x, _, counts in found)
    assert moment == pytest.approx(sum(0.1 * step * (100 + step) for step in range(900)), rel=1e-6)


def test_range_factor_and_axes() -> None:
    log = read_delivery_log(rewritten(MACHINE, x={"centre": 100, "mm_per_count": -0.5}, range_factors={2: 2.0}))
    assert log is not None
    found = read_samples(struct.pack(">8H", 110, 32768, 0, 0, 21, 0, 1, ON), 1, 2.979, log, "It")
    assert (found.x_mm[0], found.y_mm[0]) == (-5.0, 0.0)
    assert found.counts[0] == 21 * 2.979


def test_time_is_that_of_the_row_in_the_file() -> None:
    found = read_samples(row(status=OFF, dose=0) * 3 + row() * 2, 1, 1.0, LOG, "It")
    assert found.time_ms.tolist() == [3 * 0.0600745, 4 * 0.0600745]
    assert found.rows == 5


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "It is cut short: 0 bytes"),
        (row() + b"\0", "It is cut short: 17 bytes"),
        (row()[:15], "It is cut short: 15 bytes"),
        (row() + row(layer=2), "It has rows of another layer than 1."),
        (row() + row(dose=9, status=IDLE), "without beam that show more dose than the background"),
        (row() + row(dose=9, status=OFF), "without beam that show more dose than the background"),
        (row(dose=65535), "saturated"),
        (row(x_mm=200.01), "It has beam outside the field"),
        (row(y_mm=-150.01), "It has beam outside the field"),
    ],
)
def test_damage_that_shows_is_refused(content: bytes, sentence: str) -> None:
    with pytest.raises(BadInput, match=sentence):
        read_samples(content, 1, 1.0, LOG, "It")


def test_positions_without_beam_do_not_matter() -> None:
    assert spots(row(x_mm=300, dose=0, status=OFF), row()) == [(0, 0, 1000)]


@pytest.mark.parametrize(
    ("name", "rows", "interlocks"),
    [
        ("none", [row()] * 5, 0),
        ("short gap between spots", [row(), *[row(dose=0, status=IDLE)] * 83, row()], 0),
        ("5 ms of idle shots", [row(), *[row(dose=0, status=IDLE)] * 84, row()], 1),
        ("5 ms off", [row(), *[row(dose=0, status=OFF)] * 84, row()], 1),
        ("between two paintings", [row(), *[row(dose=0, status=OFF)] * 84, row(status=ON | 1)], 0),
        ("before the first beam", [*[row(dose=0, status=IDLE)] * 500, row(), row()], 0),
        ("after the last beam", [row(), row(), *[row(dose=0, status=IDLE)] * 500], 0),
        ("twice", [row(), *[row(dose=0, status=IDLE)] * 84, row(), *[row(dose=0, status=IDLE)] * 84, row()], 2),
        ("never on", [row(dose=0, status=IDLE)] * 500, 0),
    ],
)  # fmt: skip
def test_interlocks_are_counted(name: str, rows: list[bytes], interlocks: int) -> None:
    assert read_samples(b"".join(rows), 1, 1.0, LOG, "It").interlocks == interlocks


_RUNS = st.lists(
    st.tuples(st.integers(-50, 50), st.integers(-50, 50), st.integers(1, 300), st.sampled_from((ON, ON | 1, IDLE))),
    min_size=1,
    max_size=30,
)


@settings(max_examples=60, deadline=None)
@given(_RUNS, st.integers(0, 2**31))
def test_counts_and_their_centre_are_kept(runs: list[tuple[int, int, int, int]], seed: int) -> None:
    chance = random.Random(seed)
    content = b"".join(
        row(x + chance.gauss(0, 0.3), y, chance.randrange(2000) if status & 0x4000 else 0, status)
        for x, y, length, status in runs
        for _ in range(length)
    )
    samples = read_samples(content, 1, 2.979, LOG, "It")
    found = group(samples, LOG.spot_radius_mm)
    assert found.counts.sum() == pytest.approx(samples.counts.sum())
    for of_spots, of_samples in ((found.x_mm, samples.x_mm), (found.y_mm, samples.y_mm)):
        moments = [float((of * counts).sum()) for of, counts in ((of_spots, found.counts), (of_samples, samples.counts))]
        assert moments[0] == pytest.approx(moments[1], abs=1e-3 + 1e-9 * abs(samples.counts.sum()))
    assert np.all(np.diff(found.time_ms) > 0.0)


def test_a_layer_without_samples_has_no_spots() -> None:
    nothing = np.zeros(0)
    assert len(group(Samples(nothing, nothing, nothing, nothing, nothing, nothing, 0, 0), 1.0).counts) == 0


# ---- PlanInfo.txt, PlanRange.txt

INFO = b"""DICOM_PATIENT_ID,P1\r
DICOM_STUDY_INS_UID,1.2.3\r
DICOM_BEAM_NUMBER,2\r
TCSC_IRRAD_DATETIME,2026010609403012\r
TCSC_PATIENT_ID,10101\r
TCSC_PLAN_NUMBER,001\r
TCSC_FIELD_NUMBER,2\r
START_LAYER_NUMBER,1\r
STOP_LAYER_NUMBER,2\r
SHARE_DIR,D:\\share,x\r
"""
RANGE = b"""RESULT_ID,LAYER_NO,LAYER_ENERGY,PATIENT_ID,FLD_NO,DOSE1_RANGE,DOSE2_RANGE,SCAN_OUT_FL_NM,PLAN_SCAN_OUT_FL_NM
7,1,120.5,10101,2,2,9,D:\\log\\01_10101_001_002_001.PTN,a.mgn
8,2,118.0,10101,2,4,9,01_10101_001_002_002,b.mgn
"""
NAMES = ["01_10101_001_002_001.ptn", "01_10101_001_002_002.PTN"]


def test_plan_info_and_plan_range_are_read() -> None:
    info = read_plan_info(INFO, "It")
    assert (info.patient_id, info.study_uid, info.beam) == ("P1", "1.2.3", 2)
    assert (info.started, info.tcsc) == ("2026010609403012", ("10101", 1, 2))
    files = match_files(info, read_plan_range(RANGE, LOG, "It"), NAMES, LOG, "It")
    assert [(each.layer, each.energy_mev, each.range_factor) for each in files] == [(1, 120.5, 1.0), (2, 118.0, 8.936)]


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        (b"DICOM_BEAM_NUMBER,2", b"DICOM_BEAM_NUMBER,", "without DICOM_BEAM_NUMBER"),
        (b"DICOM_BEAM_NUMBER", b"DICOM_BEAM_NUMBEX", "without DICOM_BEAM_NUMBER"),
        (b"DICOM_BEAM_NUMBER,2", b"DICOM_BEAM_NUMBER,-2", "no whole number as DICOM_BEAM_NUMBER"),
        (b"DICOM_BEAM_NUMBER,2", b"DICOM_BEAM_NUMBER,2.0", "no whole number as DICOM_BEAM_NUMBER"),
        (b"DICOM_BEAM_NUMBER,2", b"DICOM_BEAM_NUMBER 2", "not one line KEY,value"),
        (b"START_LAYER_NUMBER,1", b"START_LAYER_NUMBER,0", "no possible START_LAYER_NUMBER"),
        (b"START_LAYER_NUMBER,1", b"START_LAYER_NUMBER,3", "no possible START_LAYER_NUMBER"),
        (b"STOP_LAYER_NUMBER,2", b"STOP_LAYER_NUMBER,999999999", "no possible START_LAYER_NUMBER"),
        (b"2026010609403012", b"2026-01-06", "no date and time"),
        (b"SHARE_DIR", b"DICOM_PATIENT_ID", "not one line KEY,value for each key"),
    ],
)
def test_plan_info_that_is_damaged_is_refused(old: bytes, new: bytes, sentence: str) -> None:
    assert old in INFO
    with pytest.raises(BadInput, match=sentence):
        read_plan_info(INFO.replace(old, new), "It")


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        (b"DOSE1_RANGE", b"DOSE_RANGE", "its header does not name"),
        (b"DOSE2_RANGE", b"DOSE1_RANGE", "its header does not name"),
        (b"8,2,118.0,", b"8,2,", "not every row has 9 values"),
        (b",2,2,9,", b",2,6,9,", "row 1 of PlanRange, has the range code 6, and the room's machine file knows 2, 3, 4, 5"),
        (b",2,2,9,", b",2,x,9,", "no whole number as DOSE1_RANGE"),
        (b"7,1,120.5", b"7,1,12O.5", "no number as LAYER_ENERGY"),
        (b"7,1,120.5", b"7,one,120.5", "no whole number as LAYER_NO"),
        (b"8,2,118.0,10101", b"8,2,118.0,10102", "its rows differ in PATIENT_ID"),
        (b"002_002,b", b"002_001,b", "two of its rows name the same file"),
        (RANGE[RANGE.index(b"7,1"):], b"", "not every row has 9 values"),
    ],
)  # fmt: skip
def test_plan_range_that_is_damaged_is_refused(old: bytes, new: bytes, sentence: str) -> None:
    assert old in RANGE
    with pytest.raises(BadInput, match=sentence):
        read_plan_range(RANGE.replace(old, new), LOG, "It")


@pytest.mark.parametrize(
    ("info", "ranges", "names", "sentence"),
    [
        (INFO, RANGE, NAMES[:1], r"incomplete: 1 of the 2 PTN files that PlanRange names are not here \(layer 2\)"),
        (INFO, RANGE, [*NAMES, "01_10101_001_002_003.ptn"], "has 3 PTN files, and PlanRange names 2 of them"),
        (INFO, RANGE, [*NAMES, NAMES[0].upper()], "two PTN files of the same name"),
        (INFO.replace(b"STOP_LAYER_NUMBER,2", b"STOP_LAYER_NUMBER,3"), RANGE, NAMES,
         "holds layers 1 to 2, and PlanInfo.txt says START_LAYER_NUMBER 1 and STOP_LAYER_NUMBER 3"),
        (INFO.replace(b",10101", b",10102"), RANGE, NAMES, "a PTN file of another delivery"),
        (INFO.replace(b"FIELD_NUMBER,2", b"FIELD_NUMBER,3"), RANGE, NAMES, "a PTN file of another delivery"),
        (INFO, RANGE.replace(b"01_10101", b"02_10101"), [name.replace("01_1", "02_1") for name in NAMES], "of another room"),
        (INFO, RANGE.replace(b"01_10101_001_002_001.PTN", b"one.ptn"), ["one.ptn", NAMES[1]], "whose name is not"),
    ],
)  # fmt: skip
def test_files_that_do_not_belong_together_are_refused(
    info: bytes, ranges: bytes, names: list[str], sentence: str
) -> None:
    with pytest.raises(BadInput, match=sentence):
        match_files(read_plan_info(info, "It"), read_plan_range(ranges, LOG, "It"), names, LOG, "It")


def test_a_layer_may_have_two_files() -> None:
    """The layer was started again, into another file."""
    again = RANGE + b"9,2,118.0,10101,2,3,9,01_10101_001_002_003.ptn,c.mgn\n"
    names = [*NAMES, "01_10101_001_002_003.ptn"]
    files = match_files(read_plan_info(INFO, "It"), read_plan_range(again, LOG, "It"), names, LOG, "It")
    assert [(each.layer, each.range_factor) for each in files] == [(1, 1.0), (2, 8.936), (2, 2.979)]


# ---- the machine file

MACHINES: list[tuple[dict[str, Any], str]] = [
    ({"x": None}, "delivery_log.x is missing"),
    ({"z": 1}, "delivery_log.z is not known"),
    ({"x": {"centre": 0}}, "delivery_log.x must have centre and mm_per_count"),
    ({"x": {"centre": 0, "mm_per_count": 0}}, "a gain that is not 0"),
    ({"y": {"centre": "a", "mm_per_count": 1}}, "delivery_log.y must have numbers"),
    ({"field_mm": [1]}, "field_mm must be two numbers above 0"),
    ({"time_gain_ms": 0}, "time_gain_ms must be a number above 0"),
    ({"range_factors": {}}, "range_factors must map range codes"),
    ({"range_factors": {"2": 1.0}}, "range_factors must map range codes"),
    ({"range_factors": {2: -1.0}}, "range_factors must have factors above 0"),
    ({"mu_per_count": None}, "must have either mu_per_count or normalise_to"),
    ({"normalise_to": "beam_meterset"}, "must have either mu_per_count or normalise_to"),
    ({"mu_per_count": None, "normalise_to": "plan"}, "normalise_to can only be beam_meterset"),
    ({"mu_per_count": True}, "mu_per_count must be a number above 0"),
    ({"background_counts": 1.5}, "background_counts must be a whole number"),
    ({"energy_tolerance_MeV": 3}, "energy_tolerance_MeV must be from 0 to 0.5"),
]


@pytest.mark.parametrize(("values", "sentence"), MACHINES)
def test_machine_file_is_checked(values: dict[str, Any], sentence: str) -> None:
    with pytest.raises(BadInput, match=sentence):
        read_delivery_log(rewritten(MACHINE, **values))


def test_machine_file_without_a_log_has_none() -> None:
    assert read_delivery_log(b"beam_model: {}") is None
    with pytest.raises(BadInput, match="must be a mapping"):
        read_delivery_log(b"delivery_log: [1]")
    with pytest.raises(BadInput, match="not YAML"):
        read_delivery_log(b"a: [")


@pytest.mark.parametrize(
    ("numbers", "text"),
    [((3,), "layer 3"), ((1, 2, 3), "layers 1 to 3"), ((2, 1, 7, 5, 6, 7), "layers 1 to 2 and 5 to 7"),
     ((1, 3, 5), "layers 1, 3 and 5")],
)  # fmt: skip
def test_layers_in_words(numbers: tuple[int, ...], text: str) -> None:
    assert layer_range(numbers) == text


# ---- moqui's log


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.floats(0, 1e6), st.floats(-300, 300), st.floats(-300, 300), st.integers(0, 10**7)),
        min_size=1,
        max_size=40,
    )
)
def test_log_rows_are_what_formatting_one_by_one_gives(rows: list[tuple[float, float, float, int]]) -> None:
    # A tie may fall either way; the values that are compared are not ties.
    rows = [(round(t, 4), round(x, 3), round(y, 3), c) for t, x, y, c in rows]
    expected = "".join(f"{t:.4f},{x + 0.0:.3f},{y + 0.0:.3f},{c},\n" for t, x, y, c in rows)
    columns: Any = tuple(np.asarray(column) for column in zip(*rows, strict=True))
    assert csv_rows(columns).decode() == expected
