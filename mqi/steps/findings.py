"""What a scan has found out about one unit, and how it becomes a change of its row."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from mqi.case import Event
from mqi.intake.decide import Decision, Look
from mqi.names import safe_name
from mqi.rows import Case
from mqi.settings import WatchFolder
from mqi.steps import StepReport
from mqi.store import StaleCase, Store

log = logging.getLogger("mqi.scan")


class Finding(NamedTuple):
    """A decision about a unit and its row. `identity`: the columns of a row that is added."""

    case: Case | None
    decision: Decision
    identity: Mapping[str, Any] = {}


def record(store: Store, finding: Finding, report: StepReport) -> None:
    """Write one finding. A case that moved on meanwhile is looked at again by the next scan."""
    try:
        _record(store, finding.case, finding.decision, dict(finding.identity), report)
    except StaleCase:
        log.info("a case moved on while it was looked at; the next scan looks again")


def _record(
    store: Store, case: Case | None, decision: Decision, identity: dict[str, Any], report: StepReport
) -> None:
    columns = dict(decision.columns)
    if case is None:
        # Now, when the rows of this very scan are there: 'A' and 'a' may be found by the same one.
        identity["results_name"] = _own_name(store, identity["room"], identity["path"], identity["fraction"])
        added = store.add_case(**identity, **columns)
        report.add("found", f"case {added.case_id}: found, {added.reason}")
        return
    if "fraction" in columns:
        columns["results_name"] = _own_name(store, case.room, case.path, str(columns["fraction"]))
    match decision.look:
        case Look.UPDATE:
            store.update(case, **columns)
        case Look.RELAPSE:
            reason = str(columns.pop("reason"))
            store.record(case, Event.FOLDER_CHANGED, reason, **columns)
            report.add("changed", f"case {case.case_id}: its folder changed; {reason}")
        case Look.RECHECK:
            reason = str(columns.pop("reason"))
            store.record(case, Event.COMPLETE_FOLDER, reason, **columns)
            beams = len(json.loads(str(columns["beams"])))
            what = columns.get("partial") or "complete"
            report.add("complete", f"case {case.case_id}: {what}, {beams} beams")
            log.info("case %d is complete", case.case_id)
        case Look.REVISE:
            reason = str(columns.pop("reason", ""))
            reason = reason or f"changed since revision {case.revision} was {case.status}; a case of its own"
            identity |= {"revision": case.revision + 1, "results_name": case.results_name}
            added = store.add_case(**identity, reason=reason, **columns)
            store.update(case, folder_note=f"the folder changed; see revision {case.revision + 1}")
            report.add(
                "revised", f"case {added.case_id}: revision {case.revision + 1} of case {case.case_id}"
            )
            log.info("case %d is a new revision of case %d", added.case_id, case.case_id)
        case Look.SUPERSEDE:
            store.record(case, Event.SUPERSEDE, str(columns.pop("reason")), who="mqi", **columns)
            report.add("superseded")
        case Look.LOOK_AGAIN:
            store.record(case, Event.LOOK_AGAIN, str(columns.pop("reason")), who="mqi", **columns)
            report.add("found", f"case {case.case_id}: found again")


def _own_name(store: Store, room: str, path: str, fraction: str) -> str:
    """A name for the results of this unit that no other unit has."""
    name = safe_name(path.replace("/", "_") + (f"_{fraction}" if fraction else ""))
    if store.results_name_taken(room, name, path, fraction):
        # 'A' and 'a', or 'a/b' and 'a_b', are two cases and need two folders on Windows.
        unit = f"{path}/{fraction}" if fraction else path
        name = f"{name}~{hashlib.sha256(unit.encode('utf-8', 'surrogatepass')).hexdigest()[:6]}"
    return name


def identity_of(watch: WatchFolder, path: str, folder: Path, fraction: str = "") -> dict[str, Any]:
    """The columns of a new row for this unit; `record` adds the name of its results."""
    return {
        "room": watch.room,
        "path": path,
        "case_path": str(folder),
        "fraction": fraction,
        "workflow": watch.workflow,
        "priority": watch.priority,
    }
