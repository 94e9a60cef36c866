"""A simulated execution host: the `Host` protocol over a work directory in memory, with everything that a line
and a host can do wrong."""

from __future__ import annotations

import hashlib
import json
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mqi.errors import HostUnreachable, TemporaryProblem
from mqi.host.base import Answer, Blob, DownloadOutcome, Progress, RemoteFile, UploadOutcome
from mqi.settings import HostSettings
from tests.week.clock import Clock
from tests.week.jobs import Ending, Job, Json, Run
from tests.week.work import Work

# What can become of one request. "late": it is lost for who sent it, and arrives some day. "half": a transfer
# breaks off in the middle. "paused": it has no time for more than the first file.
FAULTS = ("lost", "late", "reply lost", "busy", "half", "paused")
_CHANGES = ("plan", "release", "purge")


class SimulatedHost:
    """See mqi.host.base.Host."""

    def __init__(
        self,
        settings: HostSettings,
        clock: Clock,
        scripts: Callable[[], str],
        started: Callable[[SimulatedHost, Run, Json, Job], Ending],
        ended: Callable[[SimulatedHost, Job], None],
    ) -> None:
        self.settings = settings
        self._clock = clock
        self._scripts = scripts
        self._started, self._ended = started, ended
        self._number = 0
        self.silent = False
        self.disk_free = 2**40
        self.faults: deque[str] = deque()
        # Done during the next requests: before they arrive ("before") or before their answer does ("after").
        self.meanwhile: deque[tuple[str, Callable[[], None]]] = deque()
        self.late: list[list[Json]] = []
        self.work = self._empty()

    def _empty(self) -> Work:
        self._number += 1
        return Work(
            f"{self.settings.name}-{self._number}",
            lambda: self._clock.time,
            {group.name: group.slots for group in self.settings.queue.groups},
            lambda run, planned, job: self._started(self, run, planned, job),
            lambda job: self._ended(self, job),
        )

    def get_ready(self) -> None:
        """Nothing to do before a request."""

    # --- what happens to it ---------------------------------------------------------------------------------

    def live(self) -> None:
        """What happened there until now."""
        self.work.live()

    def empty(self) -> None:
        """Somebody removes the work directory, with all that runs in it."""
        self.kill(lambda job: True)
        self.work = self._empty()

    def reboot(self) -> None:
        """Every process ends; nothing is written."""
        self.kill(lambda job: True)
        self.work.boot_id += "'"

    def kill(self, which: Callable[[Job], bool]) -> None:
        """Wrapper and command of these jobs die."""
        for run in self.work.runs.values():
            for job in run.jobs.values():
                if job.process and which(job):
                    job.process = ""
                    self._ended(self, job)

    def deliver_late(self, number: int) -> None:
        """A late request arrives; nobody waits for its answer."""
        self.live()
        self.work.serve(self.late.pop(number))

    # --- the protocol ---------------------------------------------------------------------------------------

    def deploy(self) -> str:
        self._reach([])
        name = self._scripts()
        self.work.scripts.add(name)
        return name

    def ask(self, calls: Sequence[Mapping[str, Any]]) -> Answer:
        sent: list[Json] = json.loads(json.dumps(list(calls)))
        self.work.scripts.add(self._scripts())
        fault = self._reach(sent)
        seq, replies = self.work.serve(sent)
        answer = Answer(
            host=self.settings.name,
            work_id=self.work.work_id,
            seq=seq,
            boot_id=self.work.boot_id,
            host_now=self._clock.time,
            clock_skew_s=0.0,
            probe=self._probe(),
            replies=json.loads(json.dumps(replies)),
        )
        self._answered(fault)
        return answer

    def upload(
        self,
        blobs: Sequence[tuple[Blob, int]],
        *,
        deadline: float | None = None,
        progress: Progress | None = None,
    ) -> UploadOutcome:
        fault = self._reach([])
        stored: list[str] = []
        changed: list[str] = []
        unreadable: list[tuple[str, str]] = []
        for number, (blob, _offset) in enumerate(blobs):
            if number and fault == "half":
                raise self._unreachable("the connection broke")
            if number and fault == "paused":
                return UploadOutcome(tuple(stored), tuple(changed), tuple(unreadable), paused=True)
            try:
                data = blob.path.read_bytes()
            except OSError as error:
                unreadable.append((blob.sha256, str(error.strerror)))
                continue
            if len(data) != blob.size or hashlib.sha256(data).hexdigest() != blob.sha256:
                changed.append(blob.sha256)
                continue
            self.work.blobs.setdefault(blob.sha256, self._clock.time)
            stored.append(blob.sha256)
        self._answered(fault)
        return UploadOutcome(tuple(stored), tuple(changed), tuple(unreadable))

    def download(
        self,
        files: Sequence[RemoteFile],
        *,
        deadline: float | None = None,
        progress: Progress | None = None,
    ) -> DownloadOutcome:
        fault = self._reach([])
        done: list[RemoteFile] = []
        failed: list[tuple[RemoteFile, str]] = []
        for number, file in enumerate(files):
            if number and fault == "half":
                raise self._unreachable("the connection broke")
            if number and fault == "paused":
                return DownloadOutcome(tuple(done), tuple(failed), paused=True)
            run = self.work.runs.get(file.job_key.partition(".")[0])
            job = run.jobs.get(file.job_key) if run else None
            data = job.outputs.get(file.path) if job and job.exit else None
            if data is None:
                failed.append((file, "the job has no such output"))
            elif hashlib.sha256(data).hexdigest() != file.sha256:
                failed.append((file, "the job's output is another than the one asked for"))
            else:
                file.target.parent.mkdir(parents=True, exist_ok=True)
                file.target.write_bytes(data)
                done.append(file)
        self._answered(fault)
        return DownloadOutcome(tuple(done), tuple(failed))

    def close(self) -> None:
        """Nothing is open."""

    # --- the line ---------------------------------------------------------------------------------------------

    def _reach(self, calls: list[Json]) -> str:
        """The fault that this request has met. Raises when it does not arrive."""
        self._clock.move(0.2)
        self._do("before")
        self.live()
        if self.silent:
            raise self._unreachable("no answer")
        fault = self.faults.popleft() if self.faults else ""
        if fault == "busy":
            raise TemporaryProblem(f"host {self.settings.name}: another request has kept its agent busy")
        if fault == "late":
            # Only what changes something is worth keeping.
            self.late += [[call] for call in calls if call["verb"] in _CHANGES]
        if fault in ("lost", "late"):
            raise self._unreachable("no answer in time")
        return fault

    def _answered(self, fault: str) -> None:
        self._clock.move(0.2)
        self._do("after")
        if fault == "reply lost":
            raise self._unreachable("the answer broke off")

    def _do(self, when: str) -> None:
        if self.meanwhile and self.meanwhile[0][0] == when:
            self.meanwhile.popleft()[1]()

    def _unreachable(self, how: str) -> HostUnreachable:
        return HostUnreachable(f"host {self.settings.name}: {how}", "mqi asks again by itself")

    def _probe(self) -> Json:
        jobs = [job for run in self.work.runs.values() for job in run.jobs.values() if job.process]
        groups = []
        for name, slots in self.work.groups.items():
            own = [job for job in jobs if (job.claim or {}).get("group") == name]
            busy = next((job.key for job in own if (job.claim or {}).get("gpu")), None)
            gpus = [{"uuid": "GPU-0", "busy_job": busy}] if name == "gpu" else []
            queued = sum(group == name for group, _priority, _order in self.work.queue.values())
            groups.append({"name": name, "slots": slots, "running": len(own), "queued": queued, "gpus": gpus})
        return {
            "disk_free": self.disk_free,
            "disk_total": 2**41,
            "load1": 0.5,
            "cpus": 8,
            "gpus": [{"uuid": "GPU-0", "name": "a GPU", "processes": 0}],
            "queue": {"type": "local", "ok": self.work.queue_answers, "message": "", "groups": groups},
        }
