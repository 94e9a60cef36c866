"""The host of the weeks is held against the real agent: the same requests and accidents, the same answers."""

from __future__ import annotations

import hashlib
import random
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from tests.week.clock import START
from tests.week.jobs import Ending, Job, Json
from tests.week.twin import Twin
from tests.week.work import Work

GROUPS = {"cpu": 2, "gpu": 1}
RUNS = ("aaaaaaaaaaaa", "bbbbbbbbbbbb")
SCRIPTS = "5" * 32
BLOB = b"an input"
DIGEST = hashlib.sha256(BLOB).hexdigest()
STEPS = (("prepare", "cpu", ()), ("simulate", "gpu", ("prepare",)), ("report", "cpu", ("simulate",)))


class Pair:
    """The simulated work directory, the real one, and one accident after the other for both."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.random = random.Random(seed)
        self.now = START
        self.sim = Work("work", lambda: self.now, dict(GROUPS), lambda *_: Ending(), lambda _: None)
        self.sim.scripts.add(SCRIPTS)
        groups = [{"name": name, "slots": slots} for name, slots in GROUPS.items()]
        self.twin = Twin(folder, groups, SCRIPTS)
        self.serials = dict.fromkeys(RUNS, 0)

    def plan(self, run: str) -> Json:
        """A new plan, an old one or the same serial again with other contents."""
        chance = self.random
        self.serials[run] = max(1, self.serials[run] + chance.choice([1, 1, 1, 0, -1]))
        attempts = {step: chance.choice([1, 1, 2, 3]) for step, _group, _needs in STEPS}
        keys = {step: f"{run}.{step}-a{attempt}" for step, attempt in attempts.items()}
        jobs = [
            {
                "job_key": keys[step],
                "step": step,
                "beam": None,
                "attempt": attempts[step],
                "argv": ["true"],
                "needs": [keys[need] for need in needs],
                "group": group,
                "gpu": False,
                "time_limit_s": 3600.0,
                "outputs": [],
                "files": [],
                "parameters": {},
                "definition": "d" * 64,
            }
            for step, group, needs in STEPS[: chance.choice([3, 3, 2])]
        ]
        return {
            "format": 1,
            "run_key": run,
            "digest": run + chance.choice(["0", "0", "0", "0", "0", "1"]) * 52,
            "serial": self.serials[run],
            "scripts": chance.choice([SCRIPTS] * 9 + ["6" * 32]),
            "priority": chance.choice([0, 0, 5]),
            "held": chance.random() < 0.2,
            "cancel": chance.random() < 0.15,
            "inputs": [{"n": "000001", "path": "x", "size": len(BLOB), "sha256": DIGEST}],
            "jobs": jobs,
        }

    # --- what happens -----------------------------------------------------------------------------------------

    def ask(self, *calls: Json) -> None:
        """Both answer the same."""
        _seq, said = self.sim.serve(list(calls))
        assert [_comparable(reply) for reply in said] == [
            _comparable(one) for one in self.twin.serve(list(calls))
        ]

    def step(self) -> None:
        chance, run = self.random, self.random.choice(RUNS)
        self.now += chance.choice([0.0, 1.0, 50.0, 130.0])
        what = chance.choice(
            [self._verb, self._verb, self._start, self._start, self._job, self._job, self._host]
        )
        what(run)
        self.ask({"verb": "report", "runs": list(RUNS)}, {"verb": "inventory"})
        queue = {key: (group, priority) for key, (group, priority, _order) in self.sim.queue.items()}
        assert queue == self.twin.queue.tasks

    def _verb(self, run: str) -> None:
        keys = [f"{run}.{step}-a1" for step, _group, _needs in STEPS]
        digest = run + "0" * 52
        calls: list[Json] = [
            {"verb": "plan", "plan": self.plan(run)},
            {"verb": "plan", "plan": self.plan(run)},
            {"verb": "have", "run_key": run, "digest": digest, "blobs": [[DIGEST, len(BLOB)]]},
            {"verb": "outputs", "jobs": keys},
            {"verb": "release", "run_key": run, "serial": max(0, self.serials[run] - self.random.choice([0, 0, 0, 1]))},
            {"verb": "purge", "run_keys": [run], "dry_run": False},
        ]
        self.ask(self.random.choice(calls))
        if DIGEST not in self.sim.blobs:
            self.sim.blobs[DIGEST] = self.now
            self.twin.put(BLOB, DIGEST)

    def _start(self, _run: str) -> None:
        """A task starts, if one may."""
        before = {job.key for job in self._running()}
        queued = set(self.sim.queue)
        self.sim._start_one()
        for key in queued - set(self.sim.queue):
            self.twin.forget(key)
        for job in self._running():
            if job.key not in before:
                self.twin.claim(job)

    def _job(self, _run: str) -> None:
        running = [job for job in self._running() if job.process == "wrapper"]
        if not running:
            return
        job = self.random.choice(running)
        how = self.random.choice(["ok", "ok", "ok", "failed", "killed", "orphan"])
        if how == "killed":
            job.process = ""
            self.twin.die(job.key)
        elif how == "orphan":
            job.process = "orphan"
            self.twin.orphan(job)
        else:
            if job.tombstone:
                how = "cancelled"
            job.outputs = {"out.txt": job.key.encode()} if how == "ok" else {}
            self.sim.end(job, how, int(how != "ok"), "a message")
            self.twin.end(job)

    def _host(self, _run: str) -> None:
        what = self.random.choice(["silent", "silent", "forget", "reboot", "orphan ends"])
        if what == "silent":
            self.sim.queue_answers = not self.sim.queue_answers
            self.twin.queue.answers = self.sim.queue_answers
        elif what == "forget":
            self.sim.queue.clear()
            self.twin.queue.tasks.clear()
        elif what == "reboot":
            for job in self._running():
                job.process = ""
            self.sim.boot_id += "'"
            self.twin.reboot(self.sim.boot_id)
        else:
            for job in self._running():
                if job.process == "orphan":
                    job.process = ""
                    self.twin.die(job.key)

    def _running(self) -> list[Job]:
        return [job for run in self.sim.runs.values() for job in run.jobs.values() if job.process]


def _comparable(reply: Any) -> Any:
    """What both say in the same words; sentences, bytes and progress are the agent's own business."""
    if isinstance(reply, dict):
        left_out = ("reason", "message", "hint", "bytes", "progress", "started_at")
        return {key: _comparable(value) for key, value in reply.items() if key not in left_out}
    if isinstance(reply, list):
        return [_comparable(value) for value in reply]
    return reply


@pytest.fixture
def folder() -> Iterator[Path]:
    """In memory: the agent syncs every file to its disk."""
    base = Path("/dev/shm")
    path = Path(tempfile.mkdtemp(prefix="mqi-twin-", dir=base if base.is_dir() else None))
    yield path
    shutil.rmtree(path)


@pytest.mark.parametrize("seed", range(8))
def test_the_simulated_host_answers_as_the_agent_does(folder: Path, seed: int) -> None:
    pair = Pair(folder, seed)
    try:
        with mock.patch("time.time", lambda: pair.now):
            for _number in range(120):
                pair.step()
    finally:
        pair.twin.close()
