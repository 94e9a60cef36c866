"""What one look at a folder means for its row."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mqi.case import State
from mqi.intake.decide import Look, decide
from mqi.intake.unit import FileStat, Unit, snapshot_digest
from mqi.settings import WatchFolder

WATCH = WatchFolder(Path("/cases"), "G1", quiet_s=60.0)
PLAN = FileStat("RP.dcm", 100, 1, 11)
LOG = FileStat("log.csv", 50, 1, 12)
SEEN = snapshot_digest((PLAN, LOG))
NOW = 10_000.0


def unit(*files: FileStat, **changes: Any) -> Unit:
    facts: dict[str, Any] = {
        "path": "P1", "folder": Path("/cases/P1"), "files": files, "temporary": (), "problem": None,
        "marker_found": False, "folders": ((".", 5),),
    }  # fmt: skip
    return Unit(**{**facts, **changes})


def test_a_folder_that_was_never_seen_is_inserted_with_its_reason() -> None:
    decision = decide(None, unit(PLAN, LOG), WATCH, NOW)
    assert decision.look is Look.INSERT
    assert decision.columns["snapshot"] == SEEN
    assert decision.columns["snapshot_at"] == NOW
    assert "unchanged" in str(decision.columns["reason"])


@pytest.mark.parametrize(
    ("row", "seen", "look", "remark"),
    [
        ({"snapshot": SEEN, "snapshot_at": NOW - 59}, (PLAN, LOG), Look.UPDATE, "not quiet for long enough: says why"),
        ({"snapshot": SEEN, "snapshot_at": NOW - 61}, (PLAN, LOG), Look.RECHECK, "quiet: read the plan"),
        ({"snapshot": "other", "snapshot_at": NOW - 999}, (PLAN, LOG), Look.UPDATE, "it changed: the time starts anew"),
        ({"snapshot": SEEN, "snapshot_at": NOW + 999}, (PLAN, LOG), Look.UPDATE, "a clock that was set back"),
        (
            {"snapshot": SEEN, "snapshot_at": NOW - 61, "judged_snapshot": SEEN, "needs_operator": True},
            (PLAN, LOG), Look.NOTHING, "its plan was found wrong; waits for a change",
        ),
        ({"snapshot": SEEN, "snapshot_at": 0.0}, (), Look.UPDATE, "emptied"),
        ({"snapshot": SEEN, "snapshot_at": 0.0}, (LOG,), Look.UPDATE, "the plan is gone"),
    ],
)  # fmt: skip
def test_a_waiting_folder(
    row: dict[str, Any], seen: tuple[FileStat, ...], look: Look, remark: str, a_case: Any
) -> None:
    assert decide(a_case(**row), unit(*seen), WATCH, NOW).look is look, remark


def test_an_idle_scan_writes_nothing(a_case: Any) -> None:
    first = decide(a_case(snapshot=SEEN, snapshot_at=NOW - 10), unit(PLAN, LOG), WATCH, NOW)
    row = {k: bool(v) if k == "needs_operator" else v for k, v in first.columns.items()}
    case = a_case(**{"snapshot": SEEN, "snapshot_at": NOW - 10, **row})
    assert decide(case, unit(PLAN, LOG), WATCH, NOW + 20).look is Look.NOTHING


def test_a_new_case_whose_folder_changes_waits_again(a_case: Any) -> None:
    case = a_case(status=State.NEW, snapshot=SEEN, snapshot_at=NOW - 100, judged_snapshot=SEEN)
    assert decide(case, unit(PLAN, LOG), WATCH, NOW).look is Look.NOTHING
    assert decide(case, unit(PLAN), WATCH, NOW).look is Look.RELAPSE
    assert decide(case, unit(PLAN, LOG, temporary=("x.part",)), WATCH, NOW).look is Look.RELAPSE


SIZES = frozenset({("RP.dcm", 100), ("log.csv", 50)})
TOUCHED = FileStat("log.csv", 50, 2, 12)
LONGER = FileStat("log.csv", 51, 2, 12)


@pytest.mark.parametrize("state", [s for s in State if s not in (State.WAITING, State.NEW)])
@pytest.mark.parametrize(
    ("seen", "look", "remark"),
    [
        ((PLAN, LOG), Look.UPDATE, "the same: its look is noted"),
        ((PLAN, TOUCHED), Look.COMPARE, "only times changed: the bytes decide"),
        ((PLAN, LONGER), Look.REVISE, "a file grew"),
        ((PLAN,), Look.REVISE, "a file is gone"),
        ((PLAN, LOG, FileStat("new.csv", 1, 1, 13)), Look.REVISE, "a file came"),
        ((), Look.UPDATE, "emptied is said, and is no new case"),
    ],
)
def test_a_folder_that_changes_after_it_was_submitted(
    state: State, seen: tuple[FileStat, ...], look: Look, remark: str, a_case: Any
) -> None:
    case = a_case(status=state, snapshot=SEEN, judged_snapshot=SEEN, run_key="0123456789ab", ready_at=1.0)
    decision = decide(case, unit(*seen), WATCH, NOW, SIZES)
    assert decision.look is look, remark
    if not seen:
        assert "emptied" in str(decision.columns["folder_note"])


def test_a_retried_case_stands_for_the_contents_of_its_first_run(a_case: Any) -> None:
    case = a_case(status=State.NEW, snapshot=SEEN, judged_snapshot=SEEN, run_key="0123456789ab", ready_at=1.0)
    assert decide(case, unit(PLAN, LONGER), WATCH, NOW, SIZES).look is Look.REVISE


def test_a_skip_of_a_half_copied_folder_covers_the_rest_of_the_copy(a_case: Any) -> None:
    copying = a_case(status=State.SKIPPED, snapshot=snapshot_digest((PLAN,)))
    assert decide(copying, unit(PLAN, LOG), WATCH, NOW).look is Look.UPDATE
    complete = a_case(status=State.SKIPPED, snapshot=SEEN, judged_snapshot=SEEN)
    assert decide(complete, unit(PLAN, LONGER), WATCH, NOW).look is Look.REVISE


def test_a_folder_that_cannot_be_read_needs_an_operator(a_case: Any) -> None:
    decision = decide(a_case(), unit(problem="It holds a link."), WATCH, NOW)
    assert decision.columns["needs_operator"] == 1
    assert decision.columns["reason"] == "It holds a link."


def test_a_temporary_name_for_a_moment_does_not_stop_a_complete_case(a_case: Any) -> None:
    """It is judged anew when the name has gone, although its files are those that were judged before."""
    new = {"status": State.NEW, "snapshot": SEEN, "snapshot_at": NOW - 100, "judged_snapshot": SEEN}
    relapse = decide(a_case(**new), unit(PLAN, LOG, temporary=("x.part",)), WATCH, NOW)
    assert relapse.look is Look.RELAPSE
    columns = {name: value for name, value in relapse.columns.items() if name != "needs_operator"}
    waiting = a_case(**{**new, **columns, "status": State.WAITING})
    assert decide(waiting, unit(PLAN, LOG), WATCH, NOW + 1).look is Look.RECHECK
