"""What must hold in the database and the results at every moment, and once a week is over."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Iterable
from pathlib import Path

from mqi.case import SETTLED, TRANSITIONS, State
from mqi.explain import explain
from mqi.job import Job
from mqi.render import case_json, full_reason
from mqi.rows import Case
from mqi.site import Site
from tests.week.book import Broken
from tests.week.folders import beams_of
from tests.week.world import OUTPUTS, World

_TABLE = {(str(before), str(event)): str(after) for (before, event), after in TRANSITIONS.items()}
# A case in one of these that says nothing leaves its operator in the dark.
_SPEAKS = (State.WAITING, State.NEW, State.SUBMITTING, State.FAILED, State.CANCELLED, State.SKIPPED)
# mqi moves what is in these by itself.
_MOVES = (State.NEW, State.SUBMITTING, State.QUEUED, State.RUNNING, State.FETCHING)


class Promises:
    """Looks at the world after every step. Raises Broken."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._epoch = -1
        self._checked: set[str] = set()  # results folders that were good once
        self._seen = 0  # executions
        self._forget()

    def _forget(self) -> None:
        """Another database: what is known about rows is void."""
        self._epoch = self._world.epoch
        self._last_event = 0
        self._last_at = 0.0
        self._last_state: dict[int, str] = {}
        self._begins: dict[int, int] = {}
        self._job_progress: dict[str, float] = {}
        self._case_progress: dict[int, tuple[object, float]] = {}
        self._before: dict[str, Case] = {}

    def hold(self) -> None:
        """Every promise about this moment."""
        if self._epoch != self._world.epoch:
            self._forget()
        with self._world.site() as site:
            cases = site.store.select("1")
            jobs = site.store.jobs_of([case.case_id for case in cases])
            every_job = {case.case_id: site.store.jobs(case.case_id, all_attempts=True) for case in cases}
            self._events(site, cases)
            for case in cases:
                self._says_why(site, case, jobs[case.case_id])
                self._moves_forward(case, jobs[case.case_id], every_job[case.case_id])
                if case.status is State.COMPLETED:
                    self._has_results(case)
            self._starts_what_may_start({case.run_digest: case for case in cases if case.run_digest})

    # --- events -----------------------------------------------------------------------------------------------

    def _events(self, site: Site, cases: Iterable[Case]) -> None:
        rows = site.store.database.read(
            "SELECT * FROM events WHERE event_id > ? ORDER BY event_id", (self._last_event,)
        )
        for row in rows:
            self._event(row)
        for case in cases:
            last = self._last_state.get(case.case_id)
            if last != case.status:
                raise Broken(f"case {case.case_id} is {case.status}, and its last event says {last}")

    def _event(self, row: sqlite3.Row) -> None:
        case_id, before, after = row["case_id"], row["before"], row["after"]
        words = f"event {row['event_id']} of case {case_id} ({row['event']}: {before} to {after})"
        if row["at"] < self._last_at:
            raise Broken(f"{words} is older than the one before")
        if before != self._last_state.get(case_id, ""):
            raise Broken(f"{words} does not follow {self._last_state.get(case_id)!r}")
        if row["event"] == "seen":
            legal = (before, after) == ("", "waiting")
        else:
            # What changes no state is a note: a hold, or a retry that waits for a cancel.
            legal = before == after or _TABLE.get((before, row["event"])) == after
        if not legal:
            raise Broken(f"{words} is not in the table")
        if not row["actor"]:
            raise Broken(f"{words} names nobody")
        self._last_event, self._last_at, self._last_state[case_id] = row["event_id"], row["at"], after
        self._begins[case_id] = self._begins.get(case_id, 0) + (row["event"] == "begin")

    # --- rows ---------------------------------------------------------------------------------------------------

    def _says_why(self, site: Site, case: Case, jobs: list[Job]) -> None:
        if case.status in _SPEAKS and not case.reason.strip():
            raise Broken(f"case {case.case_id} is {case.status} and does not say why")
        now, zone = site.now(), site.settings.timezone
        host = site.store.host(case.host) if case.host else None
        said = explain(case, jobs, host, site.store.steps(), interval_s=60.0, now=now, zone=zone)
        if not (said.state and said.why and said.since and said.next):
            raise Broken(f"case {case.case_id}: `mqi why` leaves something out: {said}")
        json.dumps(case_json(case, jobs, now, zone))

    def _moves_forward(self, case: Case, newest: list[Job], jobs: list[Job]) -> None:
        for job in jobs:
            if not self._job_progress.get(job.job_key, 0.0) <= job.progress <= 1.0:
                raise Broken(f"{job.job_key} went back to {job.progress}")
            self._job_progress[job.job_key] = job.progress
        attempt = (self._begins.get(case.case_id, 0), frozenset(job.job_key for job in newest))
        known, progress = self._case_progress.get(case.case_id, (attempt, 0.0))
        if not 0.0 <= case.progress <= 100.0 or (known == attempt and case.progress < progress):
            raise Broken(f"case {case.case_id} went back to {case.progress} %")
        # The first look at a new attempt may show what the last one had reached.
        self._case_progress[case.case_id] = (attempt, case.progress if known == attempt else 0.0)

    def _starts_what_may_start(self, cases: dict[str, Case]) -> None:
        """Nothing of a held or settled case starts once the host has agreed to it."""
        executions = self._world.book.executions
        for one in executions[self._seen :]:
            before, case = self._before.get(one.digest), cases.get(one.digest)
            if before is None or case is None or self._world.book.losses:
                continue  # a database that was lost did not agree to anything
            if before.plan_serial == before.host_serial == case.plan_serial and before.status == case.status:
                if before.held:
                    raise Broken(f"{one.key} started, and its case {case.case_id} is held")
                if case.status in SETTLED:
                    raise Broken(f"{one.key} started, and its case {case.case_id} is {case.status}")
        self._seen, self._before = len(executions), cases

    # --- results ------------------------------------------------------------------------------------------------

    def _has_results(self, case: Case) -> None:
        """Completed: every output of every beam is here, is what its job wrote, and is the newest."""
        folder = Path(case.results_path)
        if case.progress != 100.0:
            raise Broken(f"case {case.case_id} is completed at {case.progress} %")
        if case.results_path in self._checked:
            return
        provenance = json.loads((folder / "provenance.json").read_text())
        if provenance["run_key"] != case.run_key or not provenance["complete"]:
            raise Broken(f"case {case.case_id}: its results are those of {provenance['run_key']}")
        found = {}
        for output in provenance["outputs"]:
            data = (folder / output["file"]).read_bytes()
            if hashlib.sha256(data).hexdigest() != output["sha256"]:
                raise Broken(f"case {case.case_id}: {output['file']} is not what was computed")
            words = data.decode().split()
            if words[2:4] != [output["job_key"], case.run_digest]:
                raise Broken(f"case {case.case_id}: {output['file']} is of {words[2:4]}")
            found[output["file"]] = output["job_key"]
            if output["job_key"] != self._world.book.newest_good(output["job_key"]):
                raise Broken(f"case {case.case_id}: {output['file']} is not of the newest attempt")
        wanted = _files(case.beam_numbers)
        if set(found) != set(wanted):
            raise Broken(f"case {case.case_id} is completed without {sorted(set(wanted) - set(found))}")
        self._checked.add(case.results_path)

    # --- when everything is well again ------------------------------------------------------------------------

    def restless(self) -> list[str]:
        """The cases that have not come to rest, and why that is not right."""
        found = []
        with self._world.site() as site:
            for case in site.store.select("1"):
                words = self._restless(case)
                if words:
                    said = full_reason(case, site.now(), site.settings.timezone)
                    found.append(f"case {case.case_id} ({case.path}, {case.status}: {said}): {words}")
            found += self._forgotten(site)
        return found

    def _restless(self, case: Case) -> str:
        if case.status in _MOVES:
            # With a host the reason comes from there; before, the row alone decides, and what is shown says so.
            known = case.status is State.NEW or "held" in case.reason
            return "" if case.held and known and case.cancel_requested_at is None else "goes no further"
        if case.status is State.FAILED and not self._may_fail(case):
            return "nothing has gone wrong with it"
        if case.status is State.WAITING and self._is_newest(case):
            folders = self._world.folders
            return "its folder is complete" if folders.is_complete(case.path) else ""
        return ""

    def _may_fail(self, case: Case) -> bool:
        book = self._world.book
        bad = any(one.digest == case.run_digest and one.kind != "ok" for one in book.executions)
        # Or its inputs changed after they were frozen, before they were sent.
        return bad or bool(book.losses or book.emptied) or "input files" in case.reason

    def _is_newest(self, case: Case) -> bool:
        sql = "SELECT max(revision) FROM cases WHERE path = ?"
        return bool(self._world.read(sql, case.path)[0][0] == case.revision)

    def _forgotten(self, site: Site) -> list[str]:
        """Folders on disk that no row stands for."""
        found, folders = [], self._world.folders
        for name in folders.names():
            case = site.store.newest_revision(folders.room, name)
            if case is None:
                found.append(f"the folder {name} has no row")
            elif folders.is_complete(name) and case.status is not State.WAITING:
                digest = folders.digest(name)
                same = site.store.select("run_digest = ?", (digest,))
                skipped = case.status is State.SKIPPED or case.held
                if not same and not skipped:
                    found.append(f"the contents of {name} have no row; its newest is {case.status}")
        return found


def _files(beams: list[int]) -> list[str]:
    files = [f"{step}/{name}" for step in ("prepare", "report") for name in OUTPUTS[step]]
    return files + [f"simulate/beam_{beam}/{name}" for beam in beams for name in OUTPUTS["simulate"]]


__all__ = ["Promises", "beams_of"]
