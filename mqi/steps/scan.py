"""scan: list the watch folders, judge each unit, record it. Touches the local disk and the database."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from mqi.case import UNPROMISED, UNSETTLED, Event, State
from mqi.errors import IntakeProblem, MqiError, TemporaryProblem
from mqi.intake.decide import Decision, Look, decide
from mqi.intake.listing import list_units
from mqi.intake.plan import read_plan
from mqi.intake.unit import Unit
from mqi.intake.writers import open_for_writing
from mqi.manifest import Manifest, hash_files
from mqi.names import safe_name
from mqi.rows import Case, dumps
from mqi.settings import WatchFolder
from mqi.site import Site
from mqi.steps import StepReport
from mqi.store import StaleCase, Store

log = logging.getLogger("mqi.scan")

# New rows of a first scan share transactions: one fsync per folder would take a minute for 10,000.
_ROWS_PER_TRANSACTION = 200


class WatchFolderUnreachable(TemporaryProblem):
    """A watch folder cannot be listed; nothing below it is judged, least of all as vanished."""


def scan(site: Site) -> StepReport:
    """Look at every watch folder once."""
    report = StepReport("scan")
    for watch in site.settings.watch:
        site.alive()
        problem = _scan_folder(site, watch, report)
        site.store.step_attempted(f"watch {watch.room}", problem)
    return report


def _scan_folder(site: Site, watch: WatchFolder, report: StepReport) -> str | None:
    store = site.store
    listing = list_units(
        watch, _SettledStamps(store, watch.room, site.now() - site.settings.timing.full_look_s)
    )
    if listing.problem:
        site.met(
            WatchFolderUnreachable(
                f"watch folder of room {watch.room}: {listing.problem}",
                f"check that {watch.path} is there and readable for the account that runs mqi; "
                "mqi looks again at every scan, and cases already taken go on",
            )
        )
        return listing.problem
    units = [unit for unit in listing.units if unit.looked == "full"]
    for start in range(0, len(units), _ROWS_PER_TRANSACTION):
        site.alive()
        _look_at(site, watch, units[start : start + _ROWS_PER_TRANSACTION], report)
    _note_vanished(site, watch, {unit.path for unit in listing.units}, report)
    return None


class _SettledStamps(Mapping[str, tuple[tuple[str, int], ...]]):
    """Folder stamps by unit path, read one by one: finished cases that are not on disk cost nothing."""

    def __init__(self, store: Store, room: str, looked_after: float) -> None:
        self._store, self._room, self._looked_after = store, room, looked_after

    def __getitem__(self, path: str) -> tuple[tuple[str, int], ...]:
        stamps = self._store.settled_stamps(self._room, path, self._looked_after)
        if stamps is None:
            raise KeyError(path)
        return stamps

    def __iter__(self) -> Iterator[str]:
        return iter(())

    def __len__(self) -> int:
        return 0


def _look_at(site: Site, watch: WatchFolder, units: list[Unit], report: StepReport) -> None:
    """Decide for each unit, do the slow reading outside the transaction, then write all of it at once."""
    work: list[tuple[Unit, Case | None, Decision]] = []
    for unit in units:
        case = site.store.newest_revision(watch.room, unit.path)
        decision = decide(case, unit, watch, site.now(), _promised_sizes(site.store, case))
        if decision.look is Look.RECHECK and case is not None:
            decision = _read_plan(site, watch, unit, case, decision)
        elif decision.look is Look.COMPARE and case is not None:
            decision = _compare(site.store, unit, case, decision)
        if decision.look is not Look.NOTHING:
            work.append((unit, case, decision))
    if not work:
        return
    with site.store.together():
        for unit, case, decision in work:
            try:
                _apply(site, watch, unit, case, decision, report)
            except StaleCase:
                log.info("a case moved on while it was looked at; the next scan looks again")


def _promised_sizes(store: Store, case: Case | None) -> frozenset[tuple[str, int]] | None:
    if case is None or not case.promised:
        return None
    text = store.manifest(case.case_id)
    if text is None:
        return None
    return frozenset((entry.path, entry.size) for entry in Manifest.from_json(text).entries)


def _read_plan(site: Site, watch: WatchFolder, unit: Unit, case: Case, decision: Decision) -> Decision:
    """Read the beams of a complete folder; a folder that cannot be computed waits, and says why."""
    writer = open_for_writing(unit.folder, unit.files)
    if writer is not None:
        reason = f"another program still has {writer} open for writing"
        return Decision(Look.UPDATE, decision.columns | {"reason": reason, "hint": "wait until it is closed"})
    try:
        facts = read_plan(unit.folder, unit.files)
    except IntakeProblem as problem:
        site.met(_for_case(problem, case))
        columns = {
            "reason": str(problem),
            "hint": problem.hint or "correct the folder; mqi looks again when it changes",
            "needs_operator": 1,
            "judged_snapshot": decision.columns["snapshot"],
        }
        return Decision(Look.UPDATE, decision.columns | columns)
    columns = {
        "beams": dumps([[beam.number, beam.name] for beam in facts.beams]),
        "plan_uid": facts.sop_instance_uid,
        "judged_snapshot": decision.columns["snapshot"],
        "workflow": watch.workflow,
        "ready_at": site.now(),
    }
    return Decision(Look.RECHECK, decision.columns | columns)


def _for_case(problem: IntakeProblem, case: Case) -> IntakeProblem:
    """The same problem with the case's number in front: logs carry no folder names."""
    return IntakeProblem(f"case {case.case_id}: {problem}", problem.hint)


def _compare(store: Store, unit: Unit, case: Case, decision: Decision) -> Decision:
    """Same names and sizes as the frozen inputs: the bytes tell whether anything changed."""
    text = store.manifest(case.case_id)
    try:
        seen = hash_files(unit.folder, unit.files, store.cached_hash, lambda *row: store.cache_hashes([row]))
    except (MqiError, OSError):
        return Decision(Look.NOTHING)  # it changes under our hands; the next scan looks again
    if text is not None and Manifest.from_json(text).entries == seen.entries:
        return Decision(Look.UPDATE, decision.columns | {"folder_note": ""})
    return Decision(Look.REVISE, {"snapshot": decision.columns["snapshot"], "snapshot_at": store.now()})


def _apply(
    site: Site,
    watch: WatchFolder,
    unit: Unit,
    case: Case | None,
    decision: Decision,
    report: StepReport,
) -> None:
    store = site.store
    columns = decision.columns
    if case is None:
        added = store.add_case(**_identity(store, watch, unit), **columns)
        report.add("found", f"case {added.case_id}: found, {added.reason}")
    elif decision.look is Look.UPDATE:
        store.update(case, **columns)
    elif decision.look is Look.RELAPSE:
        reason = str(columns.pop("reason"))
        store.record(case, Event.FOLDER_CHANGED, reason, **columns)
        report.add("changed", f"case {case.case_id}: its folder changed; {reason}")
    elif decision.look is Look.RECHECK:
        columns.pop("reason"), columns.pop("hint"), columns.pop("needs_operator")
        store.record(case, Event.COMPLETE_FOLDER, "complete; waits for a place on a host", **columns)
        report.add(
            "complete", f"case {case.case_id}: complete, {len(json.loads(str(columns['beams'])))} beams"
        )
        log.info("case %d is complete", case.case_id)
    elif decision.look is Look.REVISE:
        reason = f"changed since revision {case.revision} was {case.status}; a case of its own"
        identity = _identity(store, watch, unit) | {
            "revision": case.revision + 1,
            "results_name": case.results_name,
        }
        added = store.add_case(**identity, reason=reason, **columns)
        store.update(case, folder_note=f"the folder changed; see revision {case.revision + 1}")
        report.add("revised", f"case {added.case_id}: revision {case.revision + 1} of case {case.case_id}")
        log.info("case %d is a new revision of case %d", added.case_id, case.case_id)


def _identity(store: Store, watch: WatchFolder, unit: Unit) -> dict[str, Any]:
    name = safe_name(unit.path.replace("/", "_"))
    if store.results_name_taken(watch.room, name, unit.path):
        # 'A' and 'a', or 'a/b' and 'a_b', are two cases and need two folders on Windows.
        name = f"{name}~{hashlib.sha256(unit.path.encode('utf-8', 'surrogatepass')).hexdigest()[:6]}"
    return {
        "room": watch.room,
        "path": unit.path,
        "case_path": str(unit.folder),
        "results_name": name,
        "workflow": watch.workflow,
        "priority": watch.priority,
    }


def _note_vanished(site: Site, watch: WatchFolder, present: set[str], report: StepReport) -> None:
    """Say it of open cases whose folder is gone; what was submitted goes on, the host has the inputs."""
    store = site.store
    for case in store.cases(*UNSETTLED):
        if case.room != watch.room or case.path in present:
            continue
        try:
            _vanished(store, case, present, report)
        except StaleCase:
            continue


def _vanished(store: Store, case: Case, present: set[str], report: StepReport) -> None:
    deeper = sum(path.startswith(case.path + "/") for path in present)
    if not case.promised and deeper:
        reason = f"its contents are seen one level deeper, as {deeper} case(s) of their own"
        store.record(case, Event.SUPERSEDE, reason, who="mqi")
        report.add("superseded")
        return
    note = "the folder has vanished"
    if case.status is State.NEW and not case.promised:
        store.record(case, Event.FOLDER_CHANGED, note, folder_note=note, snapshot="", next_look_at=None)
    elif case.folder_note != note:
        columns: dict[str, Any] = {"folder_note": note}
        if case.status is State.WAITING:
            hint = "copy it here again, or: mqi skip " + str(case.case_id)
            columns |= {"reason": note, "hint": hint, "snapshot": "", "needs_operator": 0}
        store.update(case, **columns)
        report.add("vanished", f"case {case.case_id}: {note}")


def baseline(site: Site, confirm: Callable[[int], bool]) -> StepReport:
    """The first day: everything present is marked as skipped, after `confirm(count)` agreed."""
    report = StepReport("baseline")
    scan(site)
    cases = site.store.cases(*UNPROMISED)
    if not cases or not confirm(len(cases)):
        return report
    with site.store.together():
        for case in cases:
            # Judged by this decision: if the folder changes later, that is a new revision.
            judged = {"judged_snapshot": case.snapshot}
            site.store.record(case, Event.SKIP, "baseline: was here before mqi", **judged)
            report.add("skipped")
    return report
