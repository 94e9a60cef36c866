"""A control PC with one watch folder in the clinic's layout, real files, a real database and a clock of its own."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from mqi.case import Event, State
from mqi.resources import packaged_config
from mqi.rows import Case
from mqi.settings import HostSettings, Paths, Settings, Timing, WatchFolder
from mqi.site import Site
from mqi.steps import StepReport
from mqi.steps.begin import begin
from mqi.steps.scan import scan
from mqi.store import Store
from tests.intake.studies import MARKER

SEOUL = ZoneInfo("Asia/Seoul")


class Clinic:
    """Scans and submissions, one after the other, at times that the test says."""

    def __init__(self, root: Path, **watch: Any) -> None:
        self.root = root
        self.cases_folder = root / "cases"
        self.cases_folder.mkdir(parents=True)
        # The shipped workflow asks for the room's machine file.
        shutil.copytree(packaged_config() / "machines", root / "machines")
        self.time = 1_772_700_000.0
        facts: dict[str, Any] = {"depth": None, "marker": MARKER, "quiet_s": 60.0, "layout": "shi", **watch}
        self.settings = Settings(
            source=root / "mqi.yaml",
            timezone=SEOUL,
            paths=Paths(root / "mqi.db", root / "results", root / "logs", root / "locks", root / "installation"),
            watch=(WatchFolder(self.cases_folder, "G1", **facts),),
            hosts=(HostSettings("here", work_dir=str(root / "work")),),
            workflows={"default_qa": packaged_config() / "workflows" / "default_qa.yaml"},
            timing=Timing(full_look_s=3600.0),
            config_dir=root,
        )
        self.open()

    def open(self) -> None:
        """Open the database, making one when there is none."""
        store = Store(self.settings.paths.database, now=lambda: self.time)
        # Tests look at rows, not at power cuts.
        store.database.connection.execute("PRAGMA synchronous = OFF")
        self.site = Site(self.settings, store, now=lambda: self.time)

    def close(self) -> None:
        self.site.close()

    def lose_the_database(self) -> None:
        self.close()
        for path in self.root.glob("mqi.db*"):
            path.unlink()
        self.open()

    def scan(self, after_s: float = 0.0) -> StepReport:
        """One scan, so many seconds later."""
        self.time += after_s
        return scan(self.site)

    def settle(self) -> None:
        """Scan until what is still has been quiet for long enough."""
        self.scan(1.0)
        self.scan(61.0)
        self.scan(61.0)

    def submit(self) -> list[Case]:
        """Begin every new case: from here on its contents are promised."""
        report = StepReport("submit")
        before = self.site.store.cases(State.NEW)
        for case in before:
            begin(self.site, case, "here", report)
        return [self.site.store.case(case.case_id) for case in before]

    def complete(self) -> None:
        """Everything that was submitted is computed and fetched."""
        path = ((Event.ACCEPT, {}), (Event.START, {}), (Event.FINISH, {}), (Event.PUBLISH, {"completed_at": self.time}))
        for case in self.site.store.cases(State.SUBMITTING):
            for event, columns in path:
                case = self.site.store.record(case, event, **columns)

    def rows(self) -> list[Case]:
        return self.site.store.select("1")

    def shown(self) -> list[tuple[str, int, str, str]]:
        """(fraction, revision, state, reason) of every row that is not out of the way."""
        return [
            (case.fraction, case.revision, str(case.status), case.reason)
            for case in self.rows()
            if case.status is not State.SKIPPED
        ]

    def states(self) -> dict[str, str]:
        """Fraction -> state of its newest revision."""
        return {case.fraction: str(case.status) for case in self.rows()}

    def inputs(self, case: Case) -> set[str]:
        """The names of the files that a submitted case consists of."""
        plan = self.site.store.case(case.case_id).frozen_plan
        assert plan is not None
        return {str(entry["path"]) for entry in plan["inputs"]}

    def events(self) -> int:
        return self.site.store.newest_event()

    def writes(self) -> int:
        """How many rows were written over this connection so far."""
        return self.site.store.database.connection.total_changes


def touch_later(path: Path, seconds: float = 5.0) -> None:
    """Give a file or folder another time, as a real change would have: tests are faster than clocks tick."""
    status = path.stat()
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + int(seconds * 1e9)))


def opened(root: Path, **watch: Any) -> Iterator[Clinic]:
    clinic = Clinic(root, **watch)
    try:
        yield clinic
    finally:
        clinic.close()
