"""Study folders through the real scan and begin: real files, a real database, a clock of its own."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mqi.render import full_reason
from mqi.steps.scan import baseline
from tests.intake.clinic import SEOUL, Clinic, opened, touch_later
from tests.intake.studies import MARKER, StudyFolder, stamp

BEAMS = {2: 3, 3: 2}
D1, D2, D3, D4 = (stamp(f"2026-03-05 17:{minute}") for minute in ("00", "04", "08", "12"))
E1, E2 = stamp("2026-03-06 17:00"), stamp("2026-03-06 17:04")


@pytest.fixture
def clinic(tmp_path: Path) -> Iterator[Clinic]:
    yield from opened(tmp_path)


@pytest.fixture
def study(clinic: Clinic) -> StudyFolder:
    """A study with a plan of two beams, ready, and nothing delivered."""
    folder = StudyFolder(clinic.cases_folder)
    folder.put_plan(BEAMS)
    folder.ready()
    return folder


def whole(study: StudyFolder, *names: str, beams: tuple[int, ...] = (3, 2)) -> None:
    """A complete fraction, its beams in another order than in the plan."""
    for name, number in zip(names, beams, strict=True):
        study.deliver(name, number, range(1, BEAMS[number] + 1))


def files_of(clinic: Clinic, study: StudyFolder, *names: str) -> set[str]:
    deliveries = {
        path.relative_to(study.folder).as_posix() for name in names for path in (study.folder / name).iterdir()
    }
    return {"RP.1.dcm"} | deliveries


def test_a_fraction_is_a_case_of_its_own(clinic: Clinic, study: StudyFolder) -> None:
    clinic.scan()
    assert clinic.shown() == [("", 1, "waiting", "waits for a delivery")]
    whole(study, D1, D2)
    clinic.scan(60)
    assert clinic.shown() == [(D1, 1, "waiting", "being copied; must stay unchanged for the quiet time")]
    clinic.scan(59)
    assert clinic.states()[D1] == "waiting"
    clinic.scan(2)
    assert clinic.shown() == [(D1, 1, "new", "complete; waits for a place on a host")]
    (case,) = clinic.submit()
    assert (case.path, case.fraction, case.beam_numbers) == ("P001/S1", D1, [2, 3])
    assert case.results_name == f"P001_S1_{D1}"
    assert clinic.inputs(case) == files_of(clinic, study, D1, D2)


def test_the_next_fraction_runs_alone(clinic: Clinic, study: StudyFolder) -> None:
    whole(study, D1, D2)
    clinic.settle()
    (first,) = clinic.submit()
    clinic.complete()
    whole(study, E1, E2)
    touch_later(study.folder)
    clinic.settle()
    (second,) = clinic.submit()
    assert (second.fraction, second.revision) == (E1, 1)
    assert clinic.inputs(second) == files_of(clinic, study, E1, E2)
    assert second.run_key != first.run_key
    assert clinic.site.store.case(first.case_id).run_key == first.run_key
    assert clinic.states() == {"": "skipped", D1: "completed", E1: "submitting"} or clinic.states() == {
        D1: "completed",
        E1: "submitting",
    }
    assert len({case.results_name.casefold() for case in (first, second)}) == 2


def test_an_idle_scan_writes_nothing(clinic: Clinic, study: StudyFolder) -> None:
    whole(study, D1, D2)
    study.deliver(E1, 2, [1, 2, 3])
    clinic.settle()
    clinic.submit()
    clinic.scan(1)
    clinic.scan(1)
    before, events = clinic.writes(), clinic.events()
    clinic.scan(1)
    assert clinic.events() == events
    assert clinic.writes() - before <= 2, "only the scan's own line in `steps`"
    assert clinic.states()[E1] == "waiting"


def test_a_fraction_waits_for_its_beams_and_runs_without_them_in_the_end(clinic: Clinic, study: StudyFolder) -> None:
    study.deliver(D1, 3, [1, 2])
    clinic.settle()
    (row,) = clinic.rows()
    assert row.status == "waiting"
    assert row.reason.startswith("waits for beam 2 of 2 until ")
    assert "beam 2 was not delivered" in row.hint
    assert full_reason(row, clinic.time, SEOUL) == row.reason, "the time is said once"
    clinic.scan(3600)
    (case,) = clinic.submit()
    assert case.partial == "partial: 1 of 2 beams (beam 2 was not delivered)"
    assert case.beam_numbers == [3]
    assert case.partial in full_reason(case, clinic.time, SEOUL)


def test_a_partial_fraction_may_be_held(tmp_path: Path) -> None:
    for clinic in opened(tmp_path, partial="hold"):
        study = StudyFolder(clinic.cases_folder)
        study.put_plan(BEAMS)
        study.ready()
        study.deliver(D1, 3, [1, 2])
        clinic.settle()
        clinic.scan(3600)
        (row,) = clinic.rows()
        assert (row.status, row.held, row.wants_operator) == ("new", True, True)
        assert row.reason == "partial: 1 of 2 beams (beam 2 was not delivered)"
        study.deliver(D2, 2, [1, 2, 3])
        clinic.settle()
        (row,) = clinic.rows()
        assert (row.status, row.held, row.wants_operator, row.partial) == ("new", False, False, "")


def test_a_late_delivery_makes_a_revision_with_everything(clinic: Clinic, study: StudyFolder) -> None:
    study.deliver(D1, 3, [1, 2])
    clinic.settle()
    clinic.scan(3600)
    (partial,) = clinic.submit()
    clinic.complete()
    study.deliver(D2, 2, [1, 2, 3])
    touch_later(study.folder)
    clinic.settle()
    (case,) = clinic.submit()
    assert (case.fraction, case.revision, case.beam_numbers, case.partial) == (D1, 2, [2, 3], "")
    assert clinic.inputs(case) == files_of(clinic, study, D1, D2)
    first = clinic.site.store.case(partial.case_id)
    assert first.status == "completed"
    assert first.delivery_names == (D1,)
    assert "see revision 2" in first.folder_note


def test_an_earlier_delivery_that_arrives_late_belongs_to_the_same_fraction(clinic: Clinic, study: StudyFolder) -> None:
    study.deliver(D2, 2, [1, 2, 3])
    clinic.settle()
    clinic.scan(3600)
    clinic.submit()
    study.deliver(D1, 3, [1, 2])
    touch_later(study.folder)
    clinic.settle()
    (case,) = clinic.submit()
    assert (case.fraction, case.revision, case.delivery_names) == (D2, 2, (D1, D2))
    key = case.run_key
    clinic.lose_the_database()
    clinic.settle()
    (again,) = clinic.submit()
    assert again.fraction == D1, "labelled by its first delivery"
    assert again.run_key == key, "and yet the same run"


def test_a_complete_fraction_that_gets_one_more_needs_an_operator(clinic: Clinic, study: StudyFolder) -> None:
    whole(study, D1, D2)
    clinic.settle()
    clinic.submit()
    clinic.complete()
    study.deliver(D3, 2, [1, 2, 3])
    touch_later(study.folder)
    clinic.settle()
    assert clinic.submit() == []
    first, second = clinic.rows()
    assert (first.status, first.delivery_names) == ("completed", (D1, D2))
    assert (second.revision, second.status, second.wants_operator) == (2, "waiting", True)
    assert "Beam 2 was delivered more than once" in second.reason
    study.remove(D3)
    touch_later(study.folder, 9)
    clinic.settle()
    assert clinic.site.store.case(second.case_id).status == "skipped"
    study.deliver(D3, 2, [1, 2, 3])
    touch_later(study.folder, 11)
    clinic.settle()
    assert clinic.site.store.case(second.case_id).status == "waiting", "the same row tells of it again"


def test_a_delivery_between_two_submitted_fractions_is_nobodys(clinic: Clinic, study: StudyFolder) -> None:
    late = stamp("2026-03-05 18:30")
    study.deliver(D1, 3, [1, 2])
    study.deliver(late, 3, [1, 2])
    clinic.settle()
    clinic.scan(3600)
    assert [case.fraction for case in clinic.submit()] == [D1, late]
    between = stamp("2026-03-05 17:45")
    study.deliver(between, 2, [1, 2, 3])
    touch_later(study.folder)
    clinic.settle()
    row = clinic.rows()[-1]
    assert (row.fraction, row.status, row.wants_operator) == (between, "waiting", True)
    assert "does not guess" in row.reason
    assert clinic.submit() == []


def test_open_fractions_are_joined_by_one_between_them(clinic: Clinic, study: StudyFolder) -> None:
    late = stamp("2026-03-05 18:30")
    study.deliver(D1, 3, [1, 2])
    study.deliver(late, 2, [1, 2, 3])
    clinic.settle()
    assert clinic.states() == {D1: "waiting", late: "waiting"}
    study.deliver(stamp("2026-03-05 17:45"), 2, [1], stop=1)
    touch_later(study.folder)
    clinic.settle()
    assert clinic.states()[late] == "skipped"
    assert "Beam 2 was delivered more" not in clinic.rows()[0].reason
    (case,) = clinic.submit()
    assert len(case.delivery_names) == 3


def test_an_open_fraction_keeps_its_number_when_an_earlier_delivery_arrives(clinic: Clinic, study: StudyFolder) -> None:
    study.deliver(D2, 2, [1, 2, 3])
    clinic.settle()
    (before,) = clinic.rows()
    study.deliver(D1, 3, [1, 2])
    clinic.settle()
    (after,) = clinic.rows()
    assert (after.case_id, after.fraction, after.results_name) == (before.case_id, D1, f"P001_S1_{D1}")
    assert after.status == "new"


def test_a_new_case_whose_fraction_grows_is_not_submitted_half(clinic: Clinic, study: StudyFolder) -> None:
    study.deliver(D1, 3, [1, 2])
    clinic.settle()
    clinic.scan(3600)
    assert clinic.states() == {D1: "new"}
    study.deliver(D2, 2, [1, 2, 3])
    (case,) = clinic.submit()  # before the next scan
    assert (case.status, case.reason) == ("waiting", "another delivery has come to it")
    clinic.settle()
    (case,) = clinic.submit()
    assert (case.revision, case.delivery_names) == (1, (D1, D2))


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda s: s.deliver(D1, 3, [1, 2], DICOM_PATIENT_ID="Q"), "patient ID"),
        (lambda s: s.deliver(D1, 3, [1, 2], DICOM_STUDY_INS_UID="1.2"), "study UID"),
        (lambda s: s.deliver(D1, 1, [1]), "no treatment beam"),
        (lambda s: s.deliver(D1, 9, [1]), "does not have"),
        (lambda s: s.deliver(D1, 3, [1, 2], TCSC_IRRAD_DATETIME=D2), "another time"),
        (lambda s: s.deliver(D1, 3, [1, 2, 3]), "claims layers 1 to 3"),
        (lambda s: (s.deliver(D1, 3, [1]), s.deliver(D2, 2, [1], room="01")), "different treatment rooms"),
        (lambda s: (s.deliver(D1, 3, [1, 2]) / "02_x_001_002_001.ptn").write_bytes(b"1" * 16), "two PTN files"),
        (lambda s: (s.deliver(D1, 3, [1, 2]) / "02_x.ptn").write_bytes(b"1" * 16), "without the number"),
        (lambda s: next(s.deliver(D1, 3, [1, 2]).glob("*002.ptn")).write_bytes(b"1" * 17), "cut off"),
        (lambda s: next(s.deliver(D1, 3, [1, 2]).glob("*002.ptn")).write_bytes(b""), "is empty"),
        (lambda s: (s.deliver(D1, 3, [1, 2]) / "PlanInfo.txt").write_text("x"), "does not give"),
        (lambda s: (s.deliver(D1, 3, [1, 2]), s.put_plan(BEAMS, name="RP.2.dcm")), "2 RT Ion Plans"),
        (lambda s: s.put_plan(BEAMS, name=f"{s.deliver(D1, 3, [1, 2]).name}/RP.2.dcm"), "2 RT Ion Plans"),
        (lambda s: (s.deliver(D1, 3, [1, 2]), (s.folder / "stray.ptn").write_bytes(b"")), "outside a delivery"),
    ],
)  # fmt: skip
def test_what_contradicts_itself_never_runs(clinic: Clinic, study: StudyFolder, spoil: Any, says: str) -> None:
    spoil(study)
    clinic.settle()
    clinic.scan(3700)
    row = clinic.rows()[0]
    assert says in row.reason
    assert row.wants_operator
    assert clinic.submit() == []
    for word in ("P001", "S1", D1):
        assert word not in row.reason
        assert all(word not in str(error) for error in clinic.site.errors), "what is logged names no patient"


def test_a_fraction_that_lacks_files_is_never_taken_for_an_interrupted_one(clinic: Clinic, study: StudyFolder) -> None:
    folder = study.deliver(D1, 3, [1, 2])
    (folder / "PlanRange.txt").unlink()
    study.deliver(D2, 2, [1, 3])
    clinic.settle()
    (row,) = clinic.rows()
    assert row.reason.startswith("waits for the rest of the copy until")
    assert not row.wants_operator
    clinic.scan(3600)
    (row,) = clinic.rows()
    assert row.status == "waiting"
    assert "a delivery lacks files; beam 2 lacks layer 2" in row.reason
    assert row.wants_operator
    (folder / "PlanRange.csv").write_text("x")
    next((study.folder / D2).glob("*_001.ptn")).with_name("02_2050400_001_002_002.ptn").write_bytes(b"x" * 16)
    for path in (study.folder / D2).glob("*.ptn"):
        path.rename(path.with_name(f"02_7_001_002_{path.stem[-3:]}.ptn"))
    clinic.settle()
    assert len(clinic.submit()) == 1


def test_another_plan_under_known_fractions_is_refused(clinic: Clinic, study: StudyFolder) -> None:
    whole(study, D1, D2)
    clinic.settle()
    clinic.submit()
    clinic.complete()
    touch_later(study.put_plan(BEAMS, label="changed"))
    touch_later(study.folder)
    clinic.settle()
    row = clinic.rows()[-1]
    assert (row.fraction, row.status, row.wants_operator) == ("", "waiting", True)
    assert "not the one that earlier fractions" in row.reason
    whole(study, E1, E2)
    touch_later(study.folder, 9)
    clinic.settle()
    row = clinic.rows()[-1]
    assert (row.fraction, row.status, row.wants_operator) == (E1, "waiting", True)
    assert "not the one that earlier fractions" in row.reason
    assert clinic.submit() == []
    touch_later(study.put_plan(BEAMS), 20)
    clinic.settle()
    clinic.scan(61)
    (second,) = clinic.submit()
    assert second.fraction == E1
    assert clinic.states()[D1] == "completed"
    assert [case.revision for case in clinic.rows() if case.fraction == D1] == [1]


def test_a_rewritten_file_of_a_submitted_fraction_is_a_revision(clinic: Clinic, study: StudyFolder) -> None:
    whole(study, D1, D2)
    clinic.settle()
    clinic.submit()
    clinic.complete()
    clinic.scan(61)
    path = next((study.folder / D1).glob("*002.ptn"))
    touch_later(path)
    clinic.scan(3700)
    assert len(clinic.rows()) == 1, "the same bytes with another time are the same"
    path.write_bytes(b"another" * 16)
    touch_later(path, 20)
    clinic.scan(3700)
    clinic.settle()
    (case,) = clinic.submit()
    assert (case.fraction, case.revision) == (D1, 2)


def test_deliveries_that_are_archived_make_no_revision(clinic: Clinic, study: StudyFolder) -> None:
    whole(study, D1, D2)
    clinic.settle()
    clinic.submit()
    clinic.complete()
    study.remove(D1)
    touch_later(study.folder)
    clinic.settle()
    (row,) = clinic.rows()
    assert (row.status, row.folder_note) == ("completed", "1 of its 2 delivery folders are gone")
    study.deliver(D3, 2, [1, 2, 3])
    touch_later(study.folder, 9)
    clinic.settle()
    row = clinic.rows()[-1]
    assert (row.revision, row.status, row.wants_operator) == (2, "waiting", True)
    assert "1 of its 3 delivery folders are gone" in row.reason


def test_open_fractions_say_that_their_folders_vanished(clinic: Clinic, study: StudyFolder) -> None:
    study.deliver(D1, 3, [1, 2])
    clinic.settle()
    study.remove(D1)
    touch_later(study.folder)
    clinic.settle()
    rows = {case.fraction: case for case in clinic.rows()}
    assert (rows[D1].status, rows[D1].reason) == ("waiting", "its delivery folders have vanished")
    assert rows[""].reason == "waits for a delivery"
    study.deliver(D1, 3, [1, 2])
    clinic.settle()
    rows = {case.fraction: case for case in clinic.rows()}
    assert rows[D1].reason.startswith("waits for beam 2 of 2")
    assert rows[""].status == "skipped"


@pytest.mark.parametrize("place", ["patient", "study"])
def test_the_marker_may_lie_in_either_folder(clinic: Clinic, place: str) -> None:
    study = StudyFolder(clinic.cases_folder)
    study.put_plan(BEAMS)
    whole(study, D1, D2)
    clinic.settle()
    assert clinic.shown() == [(D1, 1, "waiting", f"waits for the marker {MARKER}")]
    (study.folder if place == "study" else study.folder.parent).joinpath(MARKER).touch()
    clinic.settle()
    assert clinic.states() == {D1: "new"}


def test_a_delivery_that_is_being_copied_holds_its_fraction_back(clinic: Clinic, study: StudyFolder) -> None:
    whole(study, D1, D2)
    clinic.settle()
    part = study.folder / f"{D3}.part"
    part.mkdir()
    touch_later(study.folder)
    clinic.scan(1)
    assert clinic.shown() == [(D1, 1, "waiting", "still being written: 1 temporary name")]
    part.rmdir()
    touch_later(study.folder, 9)
    clinic.scan(1)
    clinic.scan(61)
    assert clinic.states() == {D1: "new"}


def test_the_machine_of_the_plan_is_checked_where_it_is_given(tmp_path: Path) -> None:
    for clinic in opened(tmp_path, machines=("g2*",)):
        study = StudyFolder(clinic.cases_folder)
        study.put_plan(BEAMS)
        study.ready()
        whole(study, D1, D2)
        clinic.settle()
        (row,) = clinic.rows()
        assert "another machine than those of room G1" in row.reason


def test_a_study_whose_plan_is_still_to_come_is_seen(clinic: Clinic) -> None:
    study = StudyFolder(clinic.cases_folder)
    study.ready()
    study.deliver(D1, 3, [1, 2])
    clinic.settle()
    assert clinic.shown() == [(D1, 1, "waiting", "waits for a file *.dcm")]
    study.put_plan(BEAMS)
    study.deliver(D2, 2, [1, 2, 3])
    clinic.settle()
    assert clinic.states() == {D1: "new"}


def test_skipping_a_fraction_covers_the_rest_of_its_copy_and_no_other(clinic: Clinic, study: StudyFolder) -> None:
    from mqi.steps import operate

    study.deliver(D1, 3, [1, 2])
    clinic.scan()
    operate.skip(clinic.site, clinic.rows()[0])
    study.deliver(D2, 2, [1, 2, 3])
    touch_later(study.folder)
    whole(study, E1, E2)
    clinic.settle()
    assert clinic.states() == {D1: "skipped", E1: "new"}
    assert clinic.rows()[0].delivery_names == (D1, D2)
    operate.retry(clinic.site, clinic.rows()[0], from_step=None, redo_all=False, reason="")
    clinic.settle()
    assert clinic.states() == {D1: "new", E1: "new"}


def test_the_first_days_baseline_covers_what_is_there(clinic: Clinic, study: StudyFolder) -> None:
    whole(study, D1, D2)
    StudyFolder(clinic.cases_folder, "P002/S1").put_plan(BEAMS)
    assert baseline(clinic.site, lambda count: count == 2).counts["skipped"] == 2
    whole(study, E1, E2)
    touch_later(study.folder)
    clinic.settle()
    (case,) = clinic.submit()
    assert (case.fraction, case.revision) == (E1, 1)
    assert [row.status for row in clinic.rows()] == ["skipped", "skipped", "submitting"]


# --- whatever the order ------------------------------------------------------------------------------------

DAYS = {
    D1: (3, [1, 2]), D2: (2, [1, 2]), D3: (2, [2, 3]),  # an interlock in layer 2 of beam 2
    stamp("2026-03-05 23:58"): (2, [1, 2, 3]), stamp("2026-03-06 00:03"): (3, [1, 2]),
    E1: (2, [1, 2, 3]), E2: (3, [1, 2]),
}  # fmt: skip
FRACTIONS = {frozenset(list(DAYS)[:3]), frozenset(list(DAYS)[3:5]), frozenset(list(DAYS)[5:])}


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_every_order_of_arrival_gives_the_same_fractions(tmp_path_factory: Any, data: st.DataObject) -> None:
    """Deliveries arrive in any order and portions; between them mqi looks, submits, or hours go by."""
    for clinic in opened(tmp_path_factory.mktemp("clinic")):
        study = StudyFolder(clinic.cases_folder)
        study.put_plan(BEAMS)
        study.ready()
        promised: dict[int, tuple[str, ...]] = {}
        waiting = data.draw(st.permutations(list(DAYS)))
        while waiting:
            portion = data.draw(st.integers(1, len(waiting)))
            for name in waiting[:portion]:
                study.deliver(name, DAYS[name][0], DAYS[name][1], stop=3 if DAYS[name][0] == 2 else None)
            touch_later(study.folder, 10.0 * len(waiting))
            waiting = waiting[portion:]
            for after_s in data.draw(st.sampled_from([(), (1.0,), (1.0, 61.0, 61.0), (1.0, 61.0, 3700.0)])):
                clinic.scan(after_s)
                promised |= {case.case_id: case.delivery_names for case in clinic.submit()}
            clinic.complete()
            keep_promises(clinic, promised)
        for _ in range(3):
            clinic.scan(61.0)
        promised |= {case.case_id: case.delivery_names for case in clinic.submit()}
        keep_promises(clinic, promised)
        newest = {case.fraction: case for case in clinic.rows() if case.case_id in promised}
        assert {frozenset(case.delivery_names) for case in newest.values()} == FRACTIONS
        assert all(case.partial == "" for case in newest.values())
        assert not [case for case in clinic.rows() if case.status in ("waiting", "new")], "nothing is left over"


def keep_promises(clinic: Clinic, promised: dict[int, tuple[str, ...]]) -> None:
    """What was submitted has not changed, and no delivery is in two fractions."""
    owner: dict[str, str] = {}
    for case_id, names in promised.items():
        case = clinic.site.store.case(case_id)
        assert case.delivery_names in (names, ()) if case.status == "waiting" else case.delivery_names == names
        for name in names:
            assert owner.setdefault(name, case.fraction) == case.fraction, "a delivery in two fractions"


def test_what_a_scan_costs_does_not_grow_with_finished_fractions(
    clinic: Clinic, study: StudyFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A settled study costs one look-up and no listing; an open one lists its open deliveries only."""
    for day in range(1, 21):
        whole(study, stamp(f"2026-02-{day:02d} 09:00"), stamp(f"2026-02-{day:02d} 09:05"))
    clinic.settle()
    assert len(clinic.submit()) == 20
    clinic.complete()
    clinic.scan(1)
    clinic.time += 8 * 86400.0
    clinic.scan(0)
    clinic.scan(1)
    listed: list[str] = []

    def scandir(path: Any = ".") -> Any:
        listed.append(str(path))
        return real(path)

    real = os.scandir
    monkeypatch.setattr(os, "scandir", scandir)
    clinic.scan(1)
    assert len(listed) <= 2, "the watch folder and the patient's"
    listed.clear()
    study.deliver(D1, 3, [1, 2])
    touch_later(study.folder)
    clinic.scan(1)
    assert len(listed) == 4, "… the study's and the new delivery's"
    clinic.settle()
    listed.clear()
    clinic.scan(1)
    assert len(listed) == 4
