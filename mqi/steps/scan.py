"""scan: list the watch folders, judge each unit, record it. Touches the local disk and the database."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

from mqi.case import UNPROMISED, UNSETTLED, Event, State
from mqi.errors import IntakeProblem, MqiError, TemporaryProblem
from mqi.intake.decide import Decision, Look, decide
from mqi.intake.listing import list_units
from mqi.intake.plan import read_plan
from mqi.intake.unit import Unit
from mqi.intake.writers import open_for_writing
from mqi.manifest import Manifest, hash_files
from mqi.rows import Case, dumps
from mqi.settings import WatchFolder
from mqi.site import Site
from mqi.steps import StepReport
from mqi.steps.findings import Finding, identity_of, record
from mqi.steps.scan_study import look_at_study
from mqi.store import StaleCase, Store
from mqi.studies import known_deliveries, put_study, settled_studies

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
    looked_after = site.now() - site.settings.timing.full_look_s
    if watch.layout == "shi":
        listing = list_units(
            watch, _SettledStudies(store, watch.room, looked_after), _Known(store, watch.room, looked_after)
        )
    else:
        listing = list_units(watch, _SettledStamps(store, watch.room, looked_after))
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
        some = units[start : start + _ROWS_PER_TRANSACTION]
        # A folder on the way to a study, or one that cannot be looked at, is told of like any other.
        studies = watch.layout == "shi"
        _look_at_studies(site, watch, [unit for unit in some if studies and not unit.placeholder], report)
        _look_at(site, watch, [unit for unit in some if not studies or unit.placeholder], report)
    _note_vanished(site, watch, {unit.path for unit in listing.units}, report)
    return None


Value = TypeVar("Value")


class _ByPath(Mapping[str, Value]):
    """Read one by one, by the path of a unit: finished cases that are not on disk cost nothing."""

    def __init__(self, store: Store, room: str, looked_after: float) -> None:
        self._store, self._room, self._looked_after = store, room, looked_after

    def _find(self, path: str) -> Value | None:
        raise NotImplementedError

    def __getitem__(self, path: str) -> Value:
        found = self._find(path)
        if found is None:
            raise KeyError(path)
        return found

    def __iter__(self) -> Iterator[str]:
        return iter(())

    def __len__(self) -> int:
        return 0


class _SettledStamps(_ByPath[tuple[tuple[str, int], ...]]):
    """The folder times of units that are cases."""

    def _find(self, path: str) -> tuple[tuple[str, int], ...] | None:
        return self._store.settled_stamps(self._room, path, self._looked_after)


class _SettledStudies(_ByPath[tuple[tuple[str, int], ...]]):
    """The folder times of studies in which nothing is open."""

    def __init__(self, store: Store, room: str, looked_after: float) -> None:
        super().__init__(store, room, looked_after)
        self._settled = settled_studies(store, room, looked_after)

    def _find(self, path: str) -> tuple[tuple[str, int], ...] | None:
        text = self._settled.get(path)
        return None if text is None else tuple((name, stamp) for name, stamp in json.loads(text))


class _Known(_ByPath[Mapping[str, int]]):
    """The times of the delivery folders of fractions that need no look."""

    def _find(self, path: str) -> Mapping[str, int] | None:
        return known_deliveries(self._store, self._room, path, self._looked_after)


def _look_at_studies(site: Site, watch: WatchFolder, units: list[Unit], report: StepReport) -> None:
    """The same for study folders, whose fractions are cases: read first, then write all of it at once."""
    seen = [look_at_study(site, watch, unit) for unit in units]
    if not any(findings or changed for findings, _row, changed in seen):
        return
    with site.store.together():
        for findings, row, changed in seen:
            for finding in findings:
                record(site.store, finding, report)
            if changed:
                put_study(site.store, row)


def _look_at(site: Site, watch: WatchFolder, units: list[Unit], report: StepReport) -> None:
    """Decide for each unit, do the slow reading outside the transaction, then write all of it at once."""
    work: list[Finding] = []
    for unit in units:
        case = site.store.newest_revision(watch.room, unit.path)
        decision = decide(case, unit, watch, site.now(), _promised_sizes(site.store, case))
        if decision.look is Look.RECHECK and case is not None:
            decision = _read_plan(site, watch, unit, case, decision)
        elif decision.look is Look.COMPARE and case is not None:
            decision = _compare(site.store, unit, case, decision)
        if decision.look is not Look.NOTHING:
            added = decision.look in (Look.INSERT, Look.REVISE)
            identity = identity_of(watch, unit.path, unit.folder) if added else {}
            work.append(Finding(case, decision, identity))
    if not work:
        return
    with site.store.together():
        for finding in work:
            record(site.store, finding, report)


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
        return Decision(
            Look.UPDATE, {**decision.columns, "reason": reason, "hint": "wait until it is closed"}
        )
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
        return Decision(Look.UPDATE, {**decision.columns, **columns})
    columns = {
        "beams": dumps([[beam.number, beam.name] for beam in facts.beams]),
        "plan_uid": facts.sop_instance_uid,
        "judged_snapshot": decision.columns["snapshot"],
        "workflow": watch.workflow,
        "ready_at": site.now(),
        "reason": "complete; waits for a place on a host",
        "hint": "",
        "needs_operator": 0,
    }
    return Decision(Look.RECHECK, {**decision.columns, **columns})


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
        return Decision(Look.UPDATE, {**decision.columns, "folder_note": ""})
    return Decision(Look.REVISE, {"snapshot": decision.columns["snapshot"], "snapshot_at": store.now()})


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
