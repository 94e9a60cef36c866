"""scan: list the watch folders, judge each unit, record it. Touches the local disk and the database."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

from mqi.case import UNPROMISED, UNSETTLED, Event, State
from mqi.errors import TemporaryProblem
from mqi.intake.listing import list_units
from mqi.intake.unit import Unit
from mqi.rows import Case
from mqi.settings import WatchFolder
from mqi.site import Site
from mqi.steps import StepReport, about
from mqi.store import Store
from mqi.studies import known_deliveries, settled_studies

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
        _look_at(site, watch, units[start : start + _ROWS_PER_TRANSACTION], report)
    _note_vanished(site, watch, {unit.path for unit in listing.units}, report)
    return None


def _look_at(site: Site, watch: WatchFolder, units: list[Unit], report: StepReport) -> None:
    """Imports only what these units need: most runs find nothing new, and loading it takes longer than looking."""
    # A folder on the way to a study, or one that cannot be looked at, is told of like any other.
    studies = [unit for unit in units if watch.layout == "shi" and not unit.placeholder]
    others = [unit for unit in units if watch.layout != "shi" or unit.placeholder]
    if studies:
        from mqi.steps.scan_study import look_at_studies

        look_at_studies(site, watch, studies, report)
    if others:
        from mqi.steps.scan_folders import look_at_folders

        look_at_folders(site, watch, others, report)


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


def _note_vanished(site: Site, watch: WatchFolder, present: set[str], report: StepReport) -> None:
    """Say it of open cases whose folder is gone; what was submitted goes on, the host has the inputs."""
    store = site.store
    for case in store.cases(*UNSETTLED):
        if case.room != watch.room or case.path in present:
            continue
        with about(case):
            _vanished(store, case, present, report)


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
