"""One installation for a week: control PC, watch folder, two hosts, and the people around them."""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
import tempfile
from collections import deque
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock
from zoneinfo import ZoneInfo

from mqi.errors import ConfigurationProblem, DatabaseBusy, UsageProblem
from mqi.host.base import Host
from mqi.host.deploy import content_hash
from mqi.rows import Case
from mqi.settings import Group, HostSettings, Paths, Queue, Retention, Settings, Timing, Transfer, WatchFolder
from mqi.site import Site
from mqi.steps import operate
from mqi.steps.cycle import cycle, run_step
from mqi.store import StaleCase, Store
from tests.week.book import Book, Emptied, Wish
from tests.week.clock import Clock, Killed
from tests.week.folders import Folders
from tests.week.host import SimulatedHost
from tests.week.jobs import Ending, Job, Json, Run
from tests.week.known import OPEN

ROOM = "G1"
DAY = 86400.0
WORKFLOW = """\
steps:
  - name: prepare
    run: ["{python}", "prepare.py", "{inputs}"]
    group: cpu
    outputs: ["beams.json"]
    transient_exit_codes: [75]
    max_attempts: 3
  - name: simulate
    run: ["{python}", "simulate.py", "{beam}", "{outputs.prepare}"]
    for_each: beam
    needs: [prepare]
    group: gpu
    gpu: true
    files: ["machine.txt"]
    outputs: ["dose.txt"]
    transient_exit_codes: [75]
    max_attempts: 3
  - name: report
    run: ["{python}", "report.py", "{needs}"]
    needs: [simulate]
    group: cpu
    outputs: ["report.txt"]
    transient_exit_codes: [75]
    max_attempts: 3
"""
OUTPUTS = {"prepare": ("beams.json",), "simulate": ("dose.txt", "more/grid.bin"), "report": ("report.txt",)}


class WeekSite(Site):
    """A site whose hosts are simulated."""

    def __init__(
        self, settings: Settings, store: Store, hosts: dict[str, SimulatedHost], clock: Clock
    ) -> None:
        super().__init__(settings, store, now=clock)
        self._simulated = hosts

    def host(self, name: str) -> Host:
        self.host_settings(name)
        return self._simulated[name]


@dataclass(frozen=True)
class Said:
    """A decision of an operator about a case. `argument` of a retry: (from step, all)."""

    case_id: int
    what: str
    argument: Any
    digest: str | None
    at: float


class World:
    """Close it: it has a temporary folder and a patch."""

    def __init__(self, known: Collection[str] = OPEN) -> None:
        """`known`: the bugs that are gone around."""
        self.known = known
        base = Path("/dev/shm")
        self.root = Path(tempfile.mkdtemp(prefix="mqi-week-", dir=base if base.is_dir() else None))
        self.clock = Clock()
        self.book = Book()
        self.folders = Folders(self.root / "cases", ROOM, self.clock)
        self.endings: deque[Ending] = deque()
        self.settings = self._settings()
        self._scripts = self.root / "scripts"
        self.update_mqi("agent/agent.py", "1")
        self.update_mqi("simulate.py", "1")
        self.edit_machine("1")
        self.hosts = {
            host.name: SimulatedHost(host, self.clock, self.scripts, self._started, self._ended)
            for host in self.settings.hosts
        }
        # Told of every database that was lost, so that promises about rows begin anew.
        self.epoch = 0
        # What operators decided (retry, cancel, skip) and mqi has taken.
        self.said: list[Said] = []
        # The scripts that are deployed: ours are few, so that hashing them costs nothing.
        self._patch = mock.patch("mqi.steps.begin.remote_scripts", lambda: self._scripts)
        self._patch.start()

    def close(self) -> None:
        self._patch.stop()
        shutil.rmtree(self.root, ignore_errors=True)

    def _settings(self) -> Settings:
        config = self.root / "config"
        config.mkdir()
        (config / "default_qa.yaml").write_text(WORKFLOW)
        queue = Queue(groups=(Group("cpu", slots=2), Group("gpu", slots=1, gpus=("GPU-0",))))
        return Settings(
            source=config / "mqi.yaml",
            timezone=ZoneInfo("Asia/Seoul"),
            paths=Paths(
                self.root / "mqi.db", self.root / "results", self.root / "logs", self.root / "locks",
                self.root / "installation",
            ),
            watch=(WatchFolder(self.folders.root, ROOM, quiet_s=60.0),),
            hosts=tuple(
                HostSettings(name, work_dir="/work", queue=queue, max_cases=2) for name in ("one", "two")
            ),
            workflows={"default_qa": config / "default_qa.yaml"},
            transfer=Transfer(min_free_bytes=0),
            retention=Retention(host_runs_s=DAY),
            timing=Timing(database_wait_s=5.0, backoff_max_s=300.0),
            config_dir=config,
        )  # fmt: skip

    # --- the program ------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def site(self) -> Iterator[Site]:
        """What one command opens."""
        store = Store(self.settings.paths.database, wait_s=5.0, now=self.clock)
        site = WeekSite(self.settings, store, self.hosts, self.clock)
        try:
            yield site
        finally:
            site.close()

    def command(self, act: Callable[[Site], Any]) -> Any:
        """One process of mqi; its result, or None when it was killed."""
        for host in self.hosts.values():
            host.live()
        try:
            with self.site() as site:
                return act(site)
        except Killed:
            return None

    def cycle(self, step: str = "") -> None:
        """`mqi cycle`, or one step of it."""
        self.command(lambda site: run_step(site, step) if step else cycle(site))

    def operator(self, what: str, pick: int, argument: Any = None) -> str:
        """An operator says something about one of the cases; what mqi answers, '' when it says no."""
        return str(self.command(lambda site: self._say(site, what, pick, argument)) or "")

    def _say(self, site: Site, what: str, pick: int, argument: Any) -> str:
        cases = site.store.select("1")
        if not cases:
            return ""
        case = cases[pick % len(cases)]
        said = Said(case.case_id, what, argument, case.run_digest, self.clock.time)
        answer = self._try(site, case, what, argument)
        if answer and what in ("retry", "cancel", "skip"):
            self.said.append(said)
        return answer

    def _try(self, site: Site, case: Case, what: str, argument: Any) -> str:
        try:
            if what == "retry":
                return self._retry(site, case, *argument)
            act = {
                "cancel": lambda: operate.cancel(site, case),
                "hold": lambda: operate.hold(site, case),
                "release": lambda: operate.release(site, case),
                "skip": lambda: operate.skip(site, case),
                "priority": lambda: operate.set_priority(site, case, argument),
            }
            return act[what]()
        except (UsageProblem, ConfigurationProblem, StaleCase, DatabaseBusy):
            return ""

    def _retry(self, site: Site, case: Case, from_step: str | None, redo_all: bool) -> str:
        if "W6" in self.known and case.cancel_requested_at is not None:
            return ""
        if case.run_digest is not None:
            # Before the fact: should the command be killed, the wish may have been written or not.
            wish = Wish(case.run_digest, self.clock.time, from_step, redo_all)
            self.book.wishes.append(wish)
        try:
            return operate.retry(site, case, from_step=from_step, redo_all=redo_all, reason="again")
        except Exception:
            if case.run_digest is not None:
                self.book.wishes.remove(wish)
            raise

    # --- what happens to the control PC ---------------------------------------------------------------------

    def back_up(self, name: str = "backup.db") -> None:
        """A copy of the database."""
        if self.settings.paths.database.exists():
            with self.site() as site:
                site.store.database.backup(self.root / name)

    def restore(self, name: str = "backup.db") -> bool:
        """The copy is put back, if there is one."""
        copy = self.root / name
        if not copy.exists():
            return False
        self.delete_database()
        shutil.copy(copy, self.settings.paths.database)
        return True

    def delete_database(self) -> None:
        for path in self.root.glob("mqi.db*"):
            path.unlink()
        self.epoch += 1
        self.book.losses.append(self.clock.time)

    def update_mqi(self, script: str, version: str) -> None:
        """Another version of one of the scripts."""
        path = self._scripts / script
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(version)

    def edit_machine(self, version: str) -> None:
        """Another machine file."""
        if "W5" in self.known and self.settings.paths.database.exists() and "submitting" in self.states():
            return
        (self.root / "config" / "machine.txt").write_text("machine " + version)

    def scripts(self) -> str:
        return content_hash(self._scripts)

    # --- what happens on the hosts --------------------------------------------------------------------------

    def empty(self, name: str) -> None:
        """The work directory of a host is emptied."""
        self.hosts[name].empty()
        known = frozenset(row[0] for row in self.read("SELECT run_digest FROM cases WHERE run_digest IS NOT NULL"))
        self.book.emptied.append(Emptied(name, self.clock.time, known))

    def _started(self, host: SimulatedHost, run: Run, planned: Json, job: Job) -> Ending:
        self.book.started(host.settings.name, host.work.work_id, run, planned, job, self.clock.time)
        text = f"{job.key} {run.plan['digest']} {planned['definition']}"
        job.outputs = {path: f"{path} of {text}".encode() for path in OUTPUTS[planned["step"]]}
        return self.endings.popleft() if self.endings else Ending()

    def _ended(self, host: SimulatedHost, job: Job) -> None:
        self.book.ended(job)

    # --- looking ------------------------------------------------------------------------------------------------

    def states(self) -> list[str]:
        """The state of each case, oldest case first."""
        return [str(row["status"]) for row in self.read("SELECT status FROM cases ORDER BY case_id")]

    def read(self, sql: str, *parameters: object) -> list[sqlite3.Row]:
        """Rows of the database, past everything."""
        with contextlib.closing(sqlite3.connect(self.settings.paths.database)) as connection:
            connection.row_factory = sqlite3.Row
            return connection.execute(sql, parameters).fetchall()
