"""A work directory in memory, first half: jobs, the queue and time.

Each function is named after the one of remote_scripts/agent that it stands for, and test_work.py holds the
two together. Time comes from outside; what a command does is decided by whoever is told that it `started`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from mqi.job import parse_job_key

LOST_LISTINGS, LOST_AFTER_S = 3, 120.0
OVER = ("ended", "cancelled", "lost")
Json = dict[str, Any]


@dataclass
class Ending:
    """How a command will end: `kind` ok, failed (with `code`), or what kills it: killed, orphaned."""

    kind: str = "ok"
    code: int = 0
    after_s: float = 60.0


@dataclass
class Job:
    """A job's folder and its processes. `process`: wrapper (with the command), orphan (the command) or ''."""

    key: str
    claim: Json | None = None
    exit: Json | None = None
    tombstone: bool = False
    missing: Json | None = None
    outputs: dict[str, bytes] = field(default_factory=dict)
    process: str = ""
    ending: Ending = field(default_factory=Ending)
    ends_at: float = 0.0

    @property
    def has_started(self) -> bool:
        """For the queue: nothing is left to start."""
        return self.exit is not None or self.tombstone or self.claim is not None

    def fraction(self, now: float) -> float:
        """Its progress, 0..1."""
        if not self.claim or not self.process:
            return 0.0
        whole = self.ends_at - float(self.claim["started_at"])
        return min(1.0, max(0.0, 1.0 - (self.ends_at - now) / whole)) if whole > 0 else 1.0


@dataclass
class Run:
    """A run's folder."""

    key: str
    plan: Json
    order: int
    dropped: list[str]
    released: bool = False
    jobs: dict[str, Job] = field(default_factory=dict)

    def job(self, key: str) -> Job:
        return self.jobs.setdefault(key, Job(key))

    def planned(self, key: str) -> Json | None:
        return next((job for job in self.plan["jobs"] if job["job_key"] == key), None)


@dataclass(frozen=True)
class Standing:
    """The verdict about one job."""

    state: str
    orphan: bool = False
    unknown: bool = False
    nowhere: bool = False


class Shop:
    """The runs of one work directory and the queue that works on them."""

    def __init__(
        self,
        now: Callable[[], float],
        groups: dict[str, int],
        started: Callable[[Run, Json, Job], Ending],
        ended: Callable[[Job], None],
    ) -> None:
        """`groups`: name -> slots. `started(run, job's plan, job)` is told of every command that starts."""
        self.now = now
        self.groups = groups
        self.boot_id = "boot-1"
        self.max_queued = 4
        self.queue_answers = True
        self.runs: dict[str, Run] = {}
        self.queue: dict[str, tuple[str, int, int]] = {}  # job key -> group, priority, order
        self._started, self._ended = started, ended

    # --- time: the queue's runner, and the wrappers of the jobs ------------------------------------------

    def live(self) -> None:
        """What happened on the host until now: commands end, others start."""
        while True:
            due = [job for job in self._jobs() if job.process and job.ends_at <= self.now()]
            told = [job for job in self._jobs() if job.process == "wrapper" and job.tombstone]
            if told:
                self.end(told[0], "cancelled", 143, "cancelled while it ran")
            elif due:
                self._end_by_itself(min(due, key=lambda job: job.ends_at))
            elif not self._start_one():
                return

    def _jobs(self) -> list[Job]:
        return [job for run in self.runs.values() for job in run.jobs.values()]

    def _end_by_itself(self, job: Job) -> None:
        if job.ending.kind == "killed" or job.process == "orphan":
            job.process = ""
            self._ended(job)
        elif job.ending.kind == "orphaned":
            job.process, job.ends_at = "orphan", job.ends_at + job.ending.after_s
        else:
            code = job.ending.code
            self.end(job, job.ending.kind, code, f"the command ended with code {code}")

    def end(self, job: Job, kind: str, code: int, message: str) -> None:
        """The wrapper writes the exit file and feeds."""
        assert job.claim is not None
        listing = ""
        if kind == "ok":
            listing = hashlib.sha256(json.dumps(files_of(job.outputs)).encode()).hexdigest()
        else:
            job.outputs = {}
        job.process = ""
        job.exit = {
            "kind": kind,
            "code": code,
            "message": "" if kind == "ok" else message,
            "started_at": job.claim["started_at"],
            "ended_at": self.now(),
            "gpu": job.claim["gpu"],
            "outputs": listing,
        }
        self._ended(job)
        self.feed(count=False)

    def _start_one(self) -> bool:
        for key, (group, _priority, _order) in sorted(
            self.queue.items(), key=lambda item: (-item[1][1], item[1][2])
        ):
            run = self.runs.get(key.partition(".")[0])
            planned = run.planned(key) if run else None
            job = run.job(key) if run and planned else None
            if job is not None and job.has_started and job.process != "wrapper":
                del self.queue[key]  # over for the runner
                return True
            if run is None or planned is None or job is None or run.plan["held"]:
                continue
            busy = sum(bool(one.process) and (one.claim or {}).get("group") == group for one in self._jobs())
            if not job.has_started and busy < self.groups.get(group, 0):
                self._claim(run, planned, job, group)
                return True
        return False

    def _claim(self, run: Run, planned: Json, job: Job, group: str) -> None:
        job.claim = {
            "boot_id": self.boot_id,
            "started_at": self.now(),
            "gpu": "GPU-0" if planned["gpu"] else "",
            "group": group,
        }
        job.process = "wrapper"
        job.ending = self._started(run, planned, job)
        job.ends_at = self.now() + job.ending.after_s

    # --- how a job stands -----------------------------------------------------------------------------------

    def judge(self, run: Run, job: Job) -> Standing:
        """survey.judge."""
        listed, task = self.queue_answers, self.queue_answers and job.key in self.queue
        if job.exit is not None:
            return Standing("ended")
        if job.claim is None:
            if job.tombstone:
                return Standing("cancelled")
            if task:
                return Standing("queued")
            return Standing("held" if run.plan["held"] else "waiting", unknown=not listed)
        if job.process:
            return Standing(
                "running", orphan=(listed and not task) or job.process != "wrapper", unknown=not listed
            )
        if (job.missing or {}).get("lost"):
            return Standing("lost")
        if job.tombstone:
            return Standing("cancelled")
        if job.claim["boot_id"] != self.boot_id:
            return Standing("lost", nowhere=True)
        if not listed:
            return Standing("missing", unknown=True)
        return Standing("missing", nowhere=not task)

    def _note_absence(self, job: Job, standing: Standing) -> Standing:
        """survey.note_absence."""
        if not standing.nowhere:
            if job.missing is not None and standing.state == "running":
                job.missing = None
            return standing
        if standing.state == "lost":
            job.missing = {"lost": True}
            return standing
        now = self.now()
        first, count = (job.missing["first"], job.missing["count"]) if job.missing else (now, 0)
        lost = count + 1 >= LOST_LISTINGS and now - first >= LOST_AFTER_S
        job.missing = {"first": first, "last": now, "count": count + 1, "lost": lost}
        return Standing("lost" if lost else "missing")

    def is_good(self, run: Run, key: str) -> bool:
        job = run.jobs.get(key)
        return job is not None and (job.exit or {}).get("kind") == "ok"

    def can_move(self, run: Run) -> bool:
        """report.can_move."""
        states = {job["job_key"]: self.judge(run, run.job(job["job_key"])).state for job in run.plan["jobs"]}
        needs = {job["job_key"]: job["needs"] for job in run.plan["jobs"]}
        if any(self.judge(run, run.job(key)).state == "running" for key in run.dropped):
            return True

        def hopeless(key: str) -> bool:
            if key not in states or states[key] in OVER:
                return not self.is_good(run, key)
            return any(hopeless(need) for need in needs[key])

        return any(state not in OVER and not hopeless(key) for key, state in states.items())

    # --- feed -------------------------------------------------------------------------------------------------

    def feed(self, *, count: bool) -> None:
        """feed.feed: brings the queue to what the plans ask for."""
        candidates: list[tuple[int, int, str, str]] = []
        # The queue is listed first: what this feed forbids has not started for it.
        started = {key for key in self.queue if self._has_started(key)}
        for _key, run in sorted(self.runs.items()):
            if run.released:
                continue
            self._settle(run)
            replaced = self._mind_dropped(run)
            for position, planned in enumerate(run.plan["jobs"]):
                job = run.job(planned["job_key"])
                standing = self.judge(run, job)
                if count:
                    self._note_absence(job, standing)
                if job.process == "orphan" and job.tombstone:
                    job.process = ""
                    self._ended(job)
                may_start = job.exit is None and not job.tombstone and job.claim is None
                may_start = may_start and (planned["step"], planned["beam"]) not in replaced
                if not run.plan["held"] and may_start and all(self.is_good(run, n) for n in planned["needs"]):
                    order = run.order * 100000 + position
                    candidates.append((-run.plan["priority"], order, job.key, planned["group"]))
        if self.queue_answers:
            self._bring(sorted(candidates), started)

    def _mind_dropped(self, run: Run) -> set[tuple[str, int | None]]:
        """feed._mind_dropped."""
        living = set()
        for job in [run.job(key) for key in run.dropped]:
            if job.process:
                _run, step, beam, _attempt = parse_job_key(job.key)
                living.add((step, beam))
                if job.process == "orphan":
                    job.process = ""
                    self._ended(job)
        return living

    def _settle(self, run: Run) -> None:
        keys = set(run.dropped)
        if run.plan["cancel"]:
            keys |= {job["job_key"] for job in run.plan["jobs"]}
        for key in sorted(keys):
            job = run.job(key)
            if job.exit is None:
                job.tombstone = True

    def _has_started(self, key: str) -> bool:
        run = self.runs.get(key.partition(".")[0])
        return run is not None and key in run.jobs and run.jobs[key].has_started

    def _bring(self, candidates: list[tuple[int, int, str, str]], started: set[str]) -> None:
        """feed.choose and feed._bring."""
        room: dict[str, int] = {}
        wanted: dict[str, tuple[str, int, int]] = {}
        for minus_priority, order, key, group in candidates:
            if room.get(group, 0) < self.max_queued and group in self.groups:
                room[group] = room.get(group, 0) + 1
                wanted[key] = (group, -minus_priority, order)
        for key, (group, priority, _order) in list(self.queue.items()):
            if key in started:
                wanted.pop(key, None)
            elif key in wanted and wanted[key][:2] == (group, priority):
                del wanted[key]
            else:
                del self.queue[key]
        self.queue |= wanted


def files_of(outputs: dict[str, bytes]) -> list[Json]:
    return [
        {"path": path, "size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        for path, data in sorted(outputs.items())
    ]
