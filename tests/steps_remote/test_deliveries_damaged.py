"""Delivery records in any order, and damaged in any way: the same result, a sentence, or a difference that shows.

What can show in a PTN is said in steplib/ptn_spots.py, and tested as that: a changed bit is refused, or changes
nothing, or changes exactly the one sample that it is in.
"""

from __future__ import annotations

import io
import struct
from functools import cache
from typing import Any

import numpy as np
import pydicom
import pytest
from delivery_runs import CALIBRATION, MACHINE_FILE, Files, case, delivered_of, only, table_bytes
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from steplib.delivery_log import read_delivery_log
from steplib.ptn_spots import group, read_samples
from steplib.report import BadInput
from steplib.spot_check import Tolerances, check_beam
from steplib.spot_table import planned_spots

LOG: Any = read_delivery_log(MACHINE_FILE.read_bytes())
FEW = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
MANY = settings(max_examples=150, deadline=None)


@cache
def sample(layout: str) -> Files:
    return case(layout)


@cache
def told(layout: str) -> dict[int, bytes]:
    return table_bytes(delivered_of(sample(layout)))


@pytest.mark.parametrize("layout", ["shi", "record", "csv"])
@FEW
@given(data=st.data())
def test_order_and_names_of_files_mean_nothing(layout: str, data: st.DataObject) -> None:
    files = sample(layout)
    folders = sorted({path.rpartition("/")[0] for path in files})
    names = dict(zip(folders, data.draw(st.permutations([f"f{n}" for n in range(len(folders))])), strict=True))
    order = data.draw(st.permutations(sorted(files)))
    renamed = {f"{names[path.rpartition('/')[0]]}/{path.rpartition('/')[2]}": files[path] for path in order}
    assert table_bytes(delivered_of(renamed)) == told(layout)


@FEW
@given(data=st.data())
def test_files_in_any_wrong_place_are_the_same_or_refused(data: st.DataObject) -> None:
    """Two files change places, or one goes to another folder, or one is missing, or one is there twice.

    A log names its layer and not its beam: contents that changed places between beams, under the right names, only the
    spot check can tell.
    """
    files = dict(sample("shi"))
    logs = [path for path in sorted(files) if not path.endswith((".dcm", "_CASE_READY", ".mgn"))]
    one, two = data.draw(st.permutations(logs))[:2]
    match data.draw(st.sampled_from(("swap", "move", "remove", "copy"))):
        case "swap":
            files[one], files[two] = files[two], files[one]
        case "move":
            files[f"{two.rpartition('/')[0]}/{one.rpartition('/')[2]}"] = files.pop(one)
        case "remove":
            del files[one]
        case _:
            files[f"elsewhere/{one.rpartition('/')[2]}"] = files[one]
    if files == sample("shi"):
        return
    try:
        found = table_bytes(delivered_of(files))
    except BadInput:
        return
    if found != told("shi"):
        assert one.endswith(".ptn")
        assert files.keys() == sample("shi").keys()
        assert "fail" in (verdict(files, 2), verdict(files, 3))


def flipped(content: bytes, place: int, bits: int) -> bytes:
    return content[:place] + bytes([content[place] ^ bits]) + content[place + 1 :]


@cache
def log_file() -> tuple[bytes, float]:
    path = only(sample("shi"), "002_002.ptn")
    ranges = sample("shi")[f"{path.rpartition('/')[0]}/PlanRange.txt"].split(b"\r\n")
    return sample("shi")[path], CALIBRATION.range_factors[int(ranges[2].split(b",")[5])]


def moments(content: bytes, factor: float) -> tuple[float, float, float]:
    """Sum of counts, of counts times x, of counts times y, by hand."""
    counts = x_sum = y_sum = 0.0
    for x, y, _, _, dose, _, _, status in struct.iter_unpack(">8H", content):
        if status & 0x4000:
            counts += dose * factor
            x_sum += dose * factor * (x - CALIBRATION.x[0]) * CALIBRATION.x[1]
            y_sum += dose * factor * (y - CALIBRATION.y[0]) * CALIBRATION.y[1]
    return counts, x_sum, y_sum


@MANY
@given(st.data())
def test_a_flipped_bit_in_a_log_is_refused_or_is_one_sample(data: st.DataObject) -> None:
    content, factor = log_file()
    place = data.draw(st.integers(0, len(content) - 1))
    damaged = flipped(content, place, data.draw(st.integers(1, 255)))
    row, column = place // 16 * 16, place % 16 // 2
    before, after = (struct.unpack(">8H", each[row : row + 16]) for each in (content, damaged))
    on = bool(after[7] & 0x4000)
    contradicts = (
        column == 6
        or (on and after[4] == 0xFFFF)
        or (not on and after[4] > LOG.background_counts)
        or (on and (abs(after[0] - 32768) > 20_000 or abs(after[1] - 32768) > 15_000))
    )
    try:
        found = group(read_samples(damaged, 2, factor, LOG, "It"), LOG.spot_radius_mm)
    except BadInput:
        assert contradicts
        return
    assert not contradicts
    sums = [float(found.counts.sum()), *(float((of * found.counts).sum()) for of in (found.x_mm, found.y_mm))]
    assert sums == pytest.approx(moments(damaged, factor), rel=1e-9, abs=1e-3)
    if column in (2, 3, 5) or (column == 7 and not (before[7] ^ after[7]) & 0x407F):
        whole = group(read_samples(content, 2, factor, LOG, "It"), LOG.spot_radius_mm)
        assert found.counts.tolist() == whole.counts.tolist()
        assert found.x_mm.tolist() == whole.x_mm.tolist()


@MANY
@given(st.data())
def test_a_log_cut_short_is_refused_or_loses_what_was_cut(data: st.DataObject) -> None:
    content, factor = log_file()
    cut = content[: data.draw(st.integers(0, len(content) - 1))]
    try:
        found = group(read_samples(cut, 2, factor, LOG, "It"), LOG.spot_radius_mm)
    except BadInput:
        assert not cut or len(cut) % 16
        return
    assert float(found.counts.sum()) == pytest.approx(moments(cut, factor)[0])


def test_a_log_cut_at_a_row_shows_in_the_spot_check() -> None:
    """A cut that takes more of the last spots than the tolerances allow."""
    files = dict(sample("shi"))
    path = only(files, "002_002.ptn")
    files[path] = files[path][: len(files[path]) // 16 * 8]
    assert verdict(files, 2) == "fail"


def verdict(files: Files, beam: int) -> str:
    found = delivered_of(files)[beam]
    entry, _ = check_beam(beam, planned_spots(found.beam, None), found.table, found.facts, Tolerances())
    return str(entry["verdict"])


@pytest.mark.parametrize("name", ["PlanInfo.txt", "PlanRange.txt"])
@settings(FEW, max_examples=60)
@given(data=st.data())
def test_a_damaged_text_is_refused_or_means_the_same(name: str, data: st.DataObject) -> None:
    """Or, for a range code that is another known one, the spot check fails: a factor of three cannot hide."""
    files = dict(sample("shi"))
    path = only(files, name, 1)
    content = files[path]
    place = data.draw(st.integers(0, len(content) - 1))
    if data.draw(st.booleans()):
        files[path] = flipped(content, place, data.draw(st.integers(1, 255)))
    else:
        files[path] = content[:place]
    try:
        found = delivered_of(files)
    except BadInput as problem:
        assert str(problem).endswith(".")
        return
    if table_bytes(found) != told("shi"):
        assert name == "PlanRange.txt"
        assert verdict(files, 2) == "fail"


@settings(FEW, max_examples=60)
@given(data=st.data())
def test_a_damaged_record_is_refused_or_its_metersets_add_up(data: st.DataObject) -> None:
    """A position has no check of its own in a record; the metersets have Delivered Primary Meterset."""
    files = dict(sample("record"))
    path = next(path for path in sorted(files) if "RI." in path)
    content = files[path]
    place = data.draw(st.integers(0, len(content) - 1))
    files[path] = flipped(content, place, data.draw(st.integers(1, 255))) if data.draw(st.booleans()) else content[:place]
    try:
        found = delivered_of(files)
    except BadInput as problem:
        assert str(problem).endswith(".")
        return
    for number, bytes_told in told("record").items():
        if number not in found:
            # The file no longer looks like DICOM at all.
            assert place < 140
            continue
        mu = float(found[number].table.mu.sum())
        expected = sum(float(line.split(b",")[5]) for line in bytes_told.splitlines()[1:])
        assert mu == pytest.approx(expected, rel=5e-3) or number not in beams_of(content) or place < 140


def beams_of(content: bytes) -> set[int]:
    record = pydicom.dcmread(io.BytesIO(content))
    return {int(item.ReferencedBeamNumber) for item in record.TreatmentSessionIonBeamSequence}


@settings(FEW, max_examples=60)
@given(data=st.data())
def test_a_damaged_csv_never_loses_a_row(data: st.DataObject) -> None:
    files = dict(sample("csv"))
    content = files["delivered.csv"]
    place = data.draw(st.integers(0, len(content) - 1))
    files["delivered.csv"] = flipped(content, place, data.draw(st.integers(1, 255)))
    try:
        found = delivered_of(files)
    except BadInput as problem:
        assert str(problem).endswith(".")
        return
    rows = {number: len(text.splitlines()) - 1 for number, text in told("csv").items()}
    # A meterset that became 0 is no spot any more; nothing else may vanish.
    lost = sum(rows.values()) - sum(len(each.table) for each in found.values())
    assert lost in (0, 1)
    assert np.all([np.isfinite(each.table.mu).all() for each in found.values()])
