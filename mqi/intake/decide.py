"""What one look at a folder means for its row. Pure: the effects are in mqi.steps.scan."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum, auto
from typing import Any, NamedTuple

from mqi.case import State
from mqi.intake.judge import first_seen, judge
from mqi.intake.unit import Unit, snapshot_digest
from mqi.rows import Case, dumps
from mqi.settings import WatchFolder


class Look(Enum):
    """What the scan does next with one unit."""

    NOTHING = auto()
    INSERT = auto()  # a folder that was never seen
    UPDATE = auto()  # the row stays in its state; `columns` are new
    RECHECK = auto()  # a complete folder whose plan has not been read yet
    RELAPSE = auto()  # it was new and has changed: back to waiting
    COMPARE = auto()  # same names and sizes, other times: only the bytes can tell
    REVISE = auto()  # it changed after it was submitted or settled: a new revision
    SUPERSEDE = auto()  # another row stands for what is there
    LOOK_AGAIN = auto()  # a row that mqi had superseded stands for something again


class Decision(NamedTuple):
    look: Look
    columns: Mapping[str, Any] = {}


def decide(
    case: Case | None,
    unit: Unit,
    watch: WatchFolder,
    now: float,
    promised_sizes: frozenset[tuple[str, int]] | None = None,
) -> Decision:
    """What a full look at `unit` means. `case` is its newest revision.

    `promised_sizes`: (path, size) of the frozen inputs, where the case has them; with it a folder whose
    files only got new times is told from a changed one.
    """
    snapshot = snapshot_digest(unit.files)
    if case is None:
        return Decision(Look.INSERT, _waiting_columns(None, unit, watch, snapshot, now))
    if not case.promised:
        return _unpromised(case, unit, watch, snapshot, now)
    return _promised(case, unit, snapshot, now, promised_sizes)


def _waiting_columns(
    case: Case | None, unit: Unit, watch: WatchFolder, snapshot: str, now: float
) -> dict[str, Any]:
    since = _since(case, snapshot, now)
    judgement = judge(unit, watch, snapshot, since, now)
    reason = judgement.reason
    if judgement.next_look_s is not None:
        # Without the seconds: the row would change at every scan, and the screen shows next_look_at.
        reason = "all there; must stay unchanged for the quiet time"
    columns: dict[str, Any] = {
        "snapshot": snapshot,
        "reason": reason,
        "hint": judgement.hint,
        "needs_operator": int(judgement.needs_operator),
        "next_look_at": None if judgement.next_look_s is None else now + judgement.next_look_s,
        "folder_note": "",
    }
    if since is None:
        columns["snapshot_at"] = now
    return columns


def _since(case: Case | None, snapshot: str, now: float) -> float | None:
    """When this listing was first seen; None for now (a new listing, or the clock was set back)."""
    return None if case is None else first_seen(snapshot, case.snapshot, case.snapshot_at, now)


def _unpromised(case: Case, unit: Unit, watch: WatchFolder, snapshot: str, now: float) -> Decision:
    columns = _waiting_columns(case, unit, watch, snapshot, now)
    complete = judge(unit, watch, snapshot, _since(case, snapshot, now), now).complete
    if case.status is State.NEW:
        # Still the folder that was judged complete, as far as its listing tells.
        if snapshot == case.snapshot and complete:
            return Decision(Look.NOTHING)
        # Judged anew even when it becomes again what it was.
        return Decision(Look.RELAPSE, columns | {"judged_snapshot": ""})
    if complete:
        if case.judged_snapshot == snapshot:
            return Decision(Look.NOTHING)  # its plan was read, and somebody has to correct the folder
        return Decision(Look.RECHECK, columns)
    # The moment of the next look moves with the clock; writing it each time would make an idle scan a
    # writing one.
    watched = {name: value for name, value in columns.items() if name != "next_look_at"}
    if all(_column(case, name) == value for name, value in watched.items()):
        return Decision(Look.NOTHING)
    return Decision(Look.UPDATE, columns)


def _promised(
    case: Case,
    unit: Unit,
    snapshot: str,
    now: float,
    promised_sizes: frozenset[tuple[str, int]] | None,
) -> Decision:
    if unit.problem:
        return _noted(case, unit.problem)
    if not unit.files and case.snapshot != snapshot:
        return _noted(case, "the folder has been emptied since")
    if snapshot == case.snapshot:
        return _noted(case, "", **_settled_columns(unit, now))
    if case.status is State.SKIPPED and not case.judged_snapshot and not case.ready_at:
        # Skipped while it was still being copied: the rest of the copy belongs to what was skipped.
        return _noted(case, "", snapshot=snapshot, snapshot_at=now, **_settled_columns(unit, now))
    if promised_sizes is not None and {(file.path, file.size) for file in unit.files} == promised_sizes:
        return Decision(Look.COMPARE, _settled_columns(unit, now) | {"snapshot": snapshot})
    return Decision(Look.REVISE, {"snapshot": snapshot, "snapshot_at": now})


def _settled_columns(unit: Unit, now: float) -> dict[str, Any]:
    return {"folders": dumps([list(stamp) for stamp in unit.folders]), "looked_at": now}


def _noted(case: Case, note: str, **columns: object) -> Decision:
    columns["folder_note"] = note
    if all(_column(case, name) == value for name, value in columns.items()):
        return Decision(Look.NOTHING)
    return Decision(Look.UPDATE, columns)


def _column(case: Case, name: str) -> object:
    value = getattr(case, name)
    return int(value) if isinstance(value, bool) else value
