"""Which fraction a delivery belongs to, and what the deliveries of a fraction amount to."""

from __future__ import annotations

from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mqi.errors import IntakeProblem
from mqi.intake.delivery import PlanInfo, Record, delivered_at, is_delivery, parse_plan_info
from mqi.intake.fractions import Claim, Group, Standing, group, judge_fraction
from mqi.intake.plan import PlanBeam, PlanFacts
from tests.intake.studies import plan_info, stamp

HOUR = 3600.0
SEOUL = ZoneInfo("Asia/Seoul")


def at(**minutes: float) -> dict[str, float]:
    return {name: 60.0 * minute for name, minute in minutes.items()}


def shape(groups: tuple[Group, ...]) -> list[tuple[str, ...]]:
    return [one.deliveries for one in groups]


@pytest.mark.parametrize(
    ("times", "expected", "remark"),
    [
        ({}, [], "nothing delivered"),
        (at(a=0, b=4, c=9), [("a", "b", "c")], "one fraction"),
        (at(b=4, c=9, a=0), [("a", "b", "c")], "whatever the order"),
        (at(a=0, b=60), [("a", "b")], "exactly the window apart"),
        (at(a=0, b=60.1), [("a",), ("b",)], "more than the window apart"),
        (at(a=0, b=50, c=100), [("a", "b", "c")], "linked by the one in between"),
        (at(a=0, b=5, c=1440, d=1445), [("a", "b"), ("c", "d")], "two days"),
        (at(b=0, a=0), [("a", "b")], "at the same time: by name"),
    ],
)
def test_deliveries_are_grouped_by_time(
    times: dict[str, float], expected: list[tuple[str, ...]], remark: str
) -> None:
    assert shape(group(times, (), HOUR)) == expected, remark


def test_a_fraction_may_cross_midnight_and_the_hour_that_the_clock_skips() -> None:
    names = [stamp("2026-03-05 23:50"), stamp("2026-03-05 23:58"), stamp("2026-03-06 00:03")]
    assert shape(group({name: delivered_at(name, SEOUL) for name in names}, (), HOUR)) == [tuple(names)]
    berlin = ZoneInfo("Europe/Berlin")
    names = [stamp("2026-03-29 01:58"), stamp("2026-03-29 03:03")]
    assert shape(group({name: delivered_at(name, berlin) for name in names}, (), HOUR)) == [tuple(names)]
    # Five minutes later the clock was set back: the second is thought to be 55 minutes earlier.
    names = [stamp("2026-10-25 02:00"), stamp("2026-10-25 02:55")]
    assert shape(group({name: delivered_at(name, berlin) for name in names}, (), HOUR)) == [tuple(names)]


def claim(fraction: str, *deliveries: str) -> Claim:
    return Claim(fraction, frozenset(deliveries))


@pytest.mark.parametrize(
    ("times", "claims", "expected", "remark"),
    [
        (at(a=0, b=5), [claim("a", "a", "b")], [("a", ("a", "b"), (), ())], "nothing new"),
        (at(a=0, b=5, c=50), [claim("a", "a", "b")], [("a", ("a", "b", "c"), ("c",), ())], "one that came late"),
        (at(a=0, b=5, c=9), [claim("b", "b", "c")], [("b", ("a", "b", "c"), ("a",), ())], "an earlier one: the label stays"),
        (at(a=0, b=5, z=500), [claim("a", "a", "b")], [("a", ("a", "b"), (), ()), ("z", ("z",), (), ())], "the next fraction"),
        (
            at(a=0, b=50, c=100), [claim("a", "a"), claim("c", "c")],
            [("a", ("a",), (), ()), ("b", ("b",), ("b",), ("a", "c")), ("c", ("c",), (), ())],
            "near two fractions: nobody's",
        ),
        (at(a=0, b=50), [claim("a", "a"), claim("b", "b")], [("a", ("a",), (), ()), ("b", ("b",), (), ())],
         "the window was made longer"),
        (at(a=0, b=500), [claim("a", "a", "b")], [("a", ("a", "b"), (), ())], "the window was made shorter"),
        (at(a=0, b=500, c=510), [claim("a", "a", "b")], [("a", ("a", "b", "c"), ("c",), ())], "… and one came late"),
    ],
)  # fmt: skip
def test_what_was_claimed_stays_together(
    times: dict[str, float], claims: list[Claim], expected: list[Any], remark: str
) -> None:
    found = [
        (one.fraction, one.deliveries, one.late if one.claim or one.contested else (), one.contested)
        for one in group(times, claims, HOUR)
    ]
    assert found == expected, remark


minutes = st.integers(min_value=0, max_value=600)
sets = st.lists(minutes, min_size=1, max_size=12, unique=True).map(
    lambda moments: {f"{moment:04d}": 60.0 * moment for moment in moments}
)


@given(sets, sets)
def test_a_later_delivery_moves_no_border(before: dict[str, float], more: dict[str, float]) -> None:
    """Whatever was together stays together: groups only grow or join."""
    after = {**before, **more}
    larger = [set(one.deliveries) for one in group(after, (), HOUR)]
    for one in group(before, (), HOUR):
        assert sum(set(one.deliveries) <= other for other in larger) == 1
    assert sorted(name for one in larger for name in one) == sorted(after)


@given(st.data())
def test_no_delivery_is_in_two_fractions_and_claims_never_change(data: st.DataObject) -> None:
    """Deliveries arrive in any order and in any portions; now and then a fraction is promised."""
    times = data.draw(sets)
    waiting = data.draw(st.permutations(sorted(times)))
    here: dict[str, float] = {}
    claims: dict[str, frozenset[str]] = {}
    while waiting:
        portion = data.draw(st.integers(1, len(waiting)))
        here |= {name: times[name] for name in waiting[:portion]}
        waiting = waiting[portion:]
        promised = [Claim(label, names) for label, names in claims.items()]
        groups = group(here, promised, HOUR)
        members = [name for one in groups for name in one.deliveries]
        assert sorted(members) == sorted(here), "every delivery in exactly one fraction"
        assert len({one.fraction for one in groups}) == len(groups)
        for label, names in claims.items():
            (own,) = (one for one in groups if one.fraction == label)
            assert names <= set(own.deliveries), "what was promised stays"
        for one in groups:
            if not one.contested and data.draw(st.booleans()):
                claims[one.fraction] = claims.get(one.fraction, frozenset()) | set(one.deliveries)


# --- what the deliveries amount to ---------------------------------------------------------------------------

PLAN = PlanFacts(
    path="RP.dcm",
    sop_instance_uid="1.2.3",
    beams=(PlanBeam(2, "TX", 3), PlanBeam(3, "TY", 2), PlanBeam(4, "TZ", 1)),
    machine="G1",
    setup_beams=(PlanBeam(1, "SETUP", 1),),
    patient_id="P",
    study_uid="S",
)


def record(beam: int, *layers: int, at: int = 0, **changes: Any) -> Record:
    name = f"20260305175500{at:02d}"
    start, stop = (min(layers), max(layers)) if layers else (1, 1)
    facts = {"patient_id": "P", "study_uid": "S", "irradiated": name, "start_layer": start, "stop_layer": stop}
    record_facts = {key: changes.pop(key) for key in ("room_code", "lacking", "problem") if key in changes}
    info = PlanInfo(beam=beam, **{**facts, **changes})
    return Record(name, info, frozenset(layers), **{"room_code": "02", **record_facts})


WHOLE = [record(4, 1), record(2, 1, 2, 3, at=1), record(3, 1, 2, at=2)]


@pytest.mark.parametrize(
    ("records", "standing", "says", "beams", "remark"),
    [
        (WHOLE, Standing.COMPLETE, "", [2, 3, 4], "every beam, in another order than the plan"),
        (WHOLE[:2], Standing.PARTIAL, "beam 3 was not delivered", [2, 4], "one to come"),
        ([*WHOLE[:2], record(3, 1, at=2)], Standing.PARTIAL, "beam 3 ended at layer 1 of 2", [2, 3, 4], "interrupted"),
        (
            [*WHOLE[:2], record(3, 1, at=2, stop_layer=2)], Standing.PARTIAL, "beam 3 ended at layer 1 of 2",
            [2, 3, 4], "interrupted, and PlanInfo gives the layers that were planned",
        ),
        ([record(2, 1, 2), record(2, 2, 3, at=1), *WHOLE[::2]], Standing.COMPLETE, "", [2, 3, 4],
         "an interlock: the layer was begun again"),
        ([record(2, 1, 2), record(2, 3, at=1), *WHOLE[::2]], Standing.COMPLETE, "", [2, 3, 4],
         "an interlock between two layers"),
        ([record(2, 1), record(2, 1, 2, 3, at=1), *WHOLE[::2]], Standing.COMPLETE, "", [2, 3, 4],
         "an interlock in the first layer"),
        ([record(2, 1, 2, 3), record(2, 3, at=1), *WHOLE[::2]], Standing.COMPLETE, "", [2, 3, 4],
         "an interlock in the last layer"),
        ([record(2, 1, 2), record(2, 1, 2, 3, at=1), *WHOLE[::2]], Standing.ANOMALOUS, "Beam 2 was delivered more",
         [], "begun anew from the first layer"),
        ([record(4, 1), record(4, 1, at=1)], Standing.ANOMALOUS, "Beam 4 was delivered more", [], "twice"),
        ([*WHOLE, record(2, 1, 2, 3, at=9)], Standing.ANOMALOUS, "Beam 2 was delivered more", [], "more than beams"),
        ([record(2, 2, 3), *WHOLE[::2]], Standing.UNFINISHED, "beam 2 lacks layer 1", [2, 3, 4], "its first part is missing"),
        ([record(2, 1, 3), *WHOLE[::2]], Standing.UNFINISHED, "beam 2 lacks layer 2", [2, 3, 4], "a hole"),
        ([record(2, lacking=("PlanRange.txt",)), *WHOLE], Standing.UNFINISHED, "a delivery lacks files", [2, 3, 4], ""),
        ([record(2, 1, 2, 3, 4)], Standing.ANOMALOUS, "claims layers 1 to 4; the RT Ion Plan has 3", [], ""),
        ([record(2, 1, start_layer=0)], Standing.ANOMALOUS, "claims layers 0 to 1", [], ""),
        ([record(2, 1, 2, 3, stop_layer=2)], Standing.ANOMALOUS, "has PTN files of layer 3", [], "more than PlanInfo says"),
        ([record(1, 1)], Standing.ANOMALOUS, "of beam 1, which is no treatment beam", [], "the setup beam"),
        ([record(7, 1)], Standing.ANOMALOUS, "of beam 7, which the RT Ion Plan does not have", [], ""),
        ([record(2, 1, patient_id="Q")], Standing.ANOMALOUS, "patient ID", [], "another patient"),
        ([record(2, 1, study_uid="T")], Standing.ANOMALOUS, "study UID", [], "another study"),
        ([record(2, 1, irradiated="2026030517550001")], Standing.ANOMALOUS, "another time", [], "a renamed folder"),
        ([record(2, 1), record(3, 1, room_code="01", at=1)], Standing.ANOMALOUS, "different treatment rooms", [], ""),
        ([record(2, 1, problem=IntakeProblem("Cut off."))], Standing.ANOMALOUS, "Cut off.", [], ""),
    ],
)  # fmt: skip
def test_what_deliveries_amount_to(
    records: list[Record], standing: Standing, says: str, beams: list[int], remark: str
) -> None:
    verdict = judge_fraction(PLAN, records)
    assert verdict.standing is standing, (remark, verdict)
    assert says in verdict.reason, remark
    assert bool(verdict.reason) is (standing is not Standing.COMPLETE)
    if beams:
        assert [beam.number for beam in verdict.beams] == beams, remark


def test_the_room_of_the_records_may_be_given() -> None:
    assert judge_fraction(PLAN, WHOLE, "02").standing is Standing.COMPLETE
    assert "another treatment room" in judge_fraction(PLAN, WHOLE, "01").reason


@given(st.permutations(WHOLE))
def test_the_order_of_the_beams_makes_no_difference(records: list[Record]) -> None:
    assert judge_fraction(PLAN, records) == judge_fraction(PLAN, WHOLE)


# --- names and texts ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("2026030517550012", True),
        ("2026022917550012", False),  # no such day
        ("20260305175500", False),
        ("202603051755001", False),
        ("20260305175500123", False),
        ("2026030517550012x", False),
        ("2026030525550012", False),
        ("0000000000000000", False),
        ("１０２６０３０５１７５５００１２", False),  # digits that are not ASCII
        ("CT", False),
    ],
)
def test_delivery_folders_are_named_by_a_time(name: str, expected: bool) -> None:
    assert is_delivery(name) is expected


INFO = plan_info("2026030517550012", 3, 1, 34).encode()


def test_plan_info_is_read() -> None:
    facts = parse_plan_info(INFO)
    assert (facts.beam, facts.start_layer, facts.stop_layer) == (3, 1, 34)
    assert facts.irradiated == "2026030517550012"
    assert parse_plan_info(b"\xef\xbb\xbf" + INFO) == facts
    assert parse_plan_info(INFO.replace(b"\r\n", b"\n").replace(b"share", b"\xb0\xa1")) == facts


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ((b"DICOM_BEAM_NUMBER,3", b""), "does not give DICOM_BEAM_NUMBER"),
        ((b"DICOM_BEAM_NUMBER,3", b"DICOM_BEAM_NUMBER,3.0"), "a number as DICOM_BEAM_NUMBER"),
        ((b"DICOM_BEAM_NUMBER,3", b"DICOM_BEAM_NUMBER,-3"), "a number as DICOM_BEAM_NUMBER"),
        ((b"DICOM_BEAM_NUMBER,3", b"DICOM_BEAM_NUMBER,3\nDICOM_BEAM_NUMBER,4"), "DICOM_BEAM_NUMBER twice"),
        ((b"DICOM_PATIENT_ID,P001", b"DICOM_PATIENT_ID,"), "does not give DICOM_PATIENT_ID"),
        ((INFO, b""), "does not give"),
        ((INFO, b"\0" * 300), "does not give"),
    ],
)
def test_a_plan_info_that_says_too_little_is_refused(change: tuple[bytes, bytes], says: str) -> None:
    with pytest.raises(IntakeProblem, match=says) as caught:
        parse_plan_info(INFO.replace(*change))
    assert "P001" not in str(caught.value)


@given(st.integers(0, len(INFO)), st.integers(0, len(INFO) - 1), st.integers(1, 255))
def test_a_damaged_plan_info_is_an_error_or_says_the_same(cut: int, place: int, flip: int) -> None:
    """A cut-off file never gives other facts, but for a last number that lost digits; nothing else escapes."""
    whole = parse_plan_info(INFO)
    try:
        facts = parse_plan_info(INFO[:cut])
    except IntakeProblem:
        pass
    else:
        assert facts.beam == whole.beam
        assert str(whole.stop_layer).startswith(str(facts.stop_layer))
    damaged = bytearray(INFO)
    damaged[place] ^= flip
    try:
        parse_plan_info(bytes(damaged))
    except IntakeProblem as problem:
        assert str(problem)
