"""A real work directory, worked on by the real agent's functions in this process: what work.py is held against.

The queue and the commands are played, as in jobs.py; everything else is the agent's own code and files.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any
from unittest import mock

from mqi.resources import remote_scripts
from tests.week.jobs import Job, Json, files_of

sys.path.insert(0, str(remote_scripts()))

from agent import dispatch, store
from agent.feed import feed
from agent.files import write_json
from agent.locks import Lock
from agent.problems import QueueProblem
from agent.processes import identity
from agent.queues import Task
from agent.queues.local import has_started
from agent.settings import parse_settings
from agent.work import JobPaths
from agent.work import Work as RealWork


class PlayedQueue:
    """The local queue without runners."""

    bounded = True

    def __init__(self, work: RealWork) -> None:
        self.work = work
        self.tasks: dict[str, tuple[str, int]] = {}
        self.answers = True

    def list(self) -> list[Task]:
        if not self.answers:
            raise QueueProblem("silent")
        return [
            Task(key, group, key, priority, has_started(self.work.job(key)))
            for key, (group, priority) in self.tasks.items()
        ]

    def add(self, job_key: str, group: str, priority: int, order: int) -> str:
        self.tasks[job_key] = (group, priority)
        return job_key

    def remove(self, job_key: str) -> None:
        del self.tasks[job_key]

    def check(self) -> None:
        """It always works."""

    def fate(self, job_key: str) -> str:
        return ""


class Twin:
    """The same things happen to it as to a Work of work.py."""

    def __init__(self, folder: Path, groups: list[Json], scripts: str) -> None:
        self.work = RealWork(str(folder))
        self.queue = PlayedQueue(self.work)
        self.boot = folder / "boot"
        self._locks: dict[str, Lock] = {}
        self._seq = 0
        (self.work.scripts / scripts).mkdir(parents=True)
        self.reboot("boot-1")
        queue = {"type": "local", "groups": groups, "max_queued": 4}
        self.settings = parse_settings({"queue": queue, "boot_id_file": str(self.boot)})

    def close(self) -> None:
        for key in list(self._locks):
            self.die(key)

    def serve(self, calls: list[Json]) -> list[Json]:
        """dispatch._answer without its framing."""
        self._seq += 1
        replies: list[Json] = [{} for _ in calls]
        context = dispatch.Context(self.work, self.settings, self._seq, None)
        dispatch._serve(dispatch.BEFORE_FEED, context, calls, replies)
        with mock.patch("agent.feed.end_orphan", lambda record, folder: self.die(folder.name)):
            fed = feed(self.work, self.settings, self.queue, count=True)
        dispatch._serve(dispatch.AFTER_FEED, context._replace(listing=fed.listing), calls, replies)
        return replies

    def put(self, data: bytes, digest: str) -> None:
        """An upload."""
        blob = self.work.blob(digest)
        blob.parent.mkdir(parents=True, exist_ok=True)
        blob.write_bytes(data)
        assert store.missing_blobs(self.work, [(digest, len(data))]) == []

    # --- jobs -------------------------------------------------------------------------------------------------

    def claim(self, job: Job) -> None:
        """The wrapper has claimed its job and runs the command."""
        paths = self._paths(job.key)
        paths.claim.mkdir(parents=True)
        write_json(
            paths.claim_info, {**(job.claim or {}), "time_limit_s": 1e6, "wrapper": identity(os.getpid())}
        )
        self._locks[job.key] = Lock(paths.lock)
        assert self._locks[job.key].acquire()

    def end(self, job: Job) -> None:
        """The command has ended, and the wrapper wrote what `job` says."""
        paths = self._paths(job.key)
        if job.outputs:
            write_json(paths.outputs, {"files": files_of(job.outputs)})
            paths.out.mkdir()
        self.die(job.key)
        write_json(paths.exit, job.exit)
        feed(self.work, self.settings, self.queue, count=False)

    def die(self, key: str) -> None:
        """All processes of the job have ended."""
        lock = self._locks.pop(key, None)
        if lock is not None:
            lock.release()

    def orphan(self, job: Job) -> None:
        """Only the command lives on."""
        claim = {
            **(job.claim or {}),
            "time_limit_s": 1e6,
            "wrapper": {"pid": os.getpid(), "start": "another"},
        }
        write_json(self._paths(job.key).claim_info, claim)

    def reboot(self, boot_id: str) -> None:
        for key in list(self._locks):
            self.die(key)
        self.boot.write_text(boot_id)

    def forget(self, key: str) -> None:
        """The queue's runner has done with this task."""
        self.queue.tasks.pop(key, None)

    def _paths(self, key: str) -> Any:
        paths: JobPaths = self.work.job(key)
        return paths
