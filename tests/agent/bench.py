"""A work directory with a real agent, jobs that leave traces, and ways to kill things at chosen moments."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from mqi.host.base import Blob
from mqi.host.local import LocalHost
from mqi.settings import Group, HostSettings, Queue

RUN = "0123456789ab"
DIGEST = RUN + "0" * 52
INSTALLATION = "installation-1"
T = TypeVar("T")


class BenchHost(LocalHost):
    """A local host whose request settings a test may add to."""

    extra: Mapping[str, Any] = {}

    def _request_settings(self) -> dict[str, Any]:
        return {**super()._request_settings(), **self.extra}


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def wait_for(look: Callable[[], T], what: str, timeout_s: float = 20.0) -> T:
    """The first true value of `look`; fails the test when there is none in time."""
    give_up = time.monotonic() + timeout_s
    while time.monotonic() < give_up:
        value = look()
        if value:
            return value
        time.sleep(0.03)
    raise AssertionError(f"waited {timeout_s:g} s for {what}")


class Bench:
    """A work directory in `folder`, and what a test does with it."""

    def __init__(self, folder: Path, *, slots: int = 2, max_queued: int = 4, lost_after_s: float = 0.3) -> None:
        self.folder = folder
        self.work = folder / "work"
        # Jobs write one line here when they begin and one when they end.
        self.trace = folder / "trace"
        self._queue = Queue(groups=(Group("cpu", slots=slots),), max_queued=max_queued)
        self._lost_after_s = lost_after_s
        self.host = self.new_host()

    def new_host(self, installation: str = INSTALLATION, **changes: Any) -> BenchHost:
        settings = HostSettings("bench", work_dir=str(self.work), queue=self._queue, timeout_s=20.0)
        settings = dataclasses.replace(settings, **changes)
        host = BenchHost(settings, installation, lost_after_s=self._lost_after_s)
        host.extra = {"kill_grace_s": 0.5}
        return host

    # --- what to ask

    def ask(self, *calls: Mapping[str, Any]) -> list[dict[str, Any]]:
        return self.host.ask(calls).replies

    def submit(self, plan: Mapping[str, Any]) -> str:
        return str(self.ask({"verb": "plan", "plan": plan})[0]["outcome"])

    def report(self, run: str = RUN) -> dict[str, dict[str, Any]]:
        reply = self.ask({"verb": "report", "runs": [run]})[0]["runs"][run]
        return dict(reply["jobs"]) if reply else {}

    def states(self, run: str = RUN) -> dict[str, str]:
        """Step (with .b<beam>, -a<k>) -> state."""
        return {key.partition(".")[2]: job["state"] for key, job in self.report(run).items()}

    def exit(self, name: str, run: str = RUN) -> dict[str, Any]:
        """The exit of a job, waited for."""
        path = self.job(name, run) / "exit.json"
        wait_for(path.exists, f"the exit of {name}")
        return dict(json.loads(path.read_text()))

    def wait_state(self, name: str, state: str, run: str = RUN) -> dict[str, Any]:
        def look() -> dict[str, Any] | None:
            job = self.report(run).get(f"{run}.{name}")
            return job if job and job["state"] == state else None

        return dict(wait_for(look, f"{name} to be {state}") or {})

    def put(self, data: bytes, name: str = "input.dcm") -> str:
        """Uploads bytes; their digest."""
        path = self.folder / name
        path.write_bytes(data)
        outcome = self.host.upload([(Blob(sha256(data), len(data), path), 0)])
        assert outcome.stored == (sha256(data),)
        return sha256(data)

    # --- plans

    def plan(self, *jobs: Mapping[str, Any], serial: int = 1, run: str = RUN, **changes: Any) -> dict[str, Any]:
        return {
            "format": 1,
            "run_key": run,
            "digest": run + "0" * 52,
            "serial": serial,
            "scripts": self.host.deploy(),
            "priority": 0,
            "held": False,
            "cancel": False,
            "inputs": [],
            "jobs": list(jobs),
            **changes,
        }

    def shell(self, name: str, script: str, *needs: str, run: str = RUN, **changes: Any) -> dict[str, Any]:
        """A job `step[.b<beam>]-a<k>` whose command is a shell script."""
        return self.a_job(name, ["/bin/sh", "-c", script, "sh"], *needs, run=run, **changes)

    def traced(self, name: str, *needs: str, seconds: float = 0.0, run: str = RUN, **changes: Any) -> dict[str, Any]:
        """A job that notes its beginning and end, and takes `seconds` in between."""
        script = f"echo begin {run}.{name} >>{self.trace}; sleep {seconds}; echo end {run}.{name} >>{self.trace}"
        return self.shell(name, script, *needs, run=run, **changes)

    def gated(self, name: str, *needs: str, run: str = RUN, **changes: Any) -> dict[str, Any]:
        """A traced job that goes on until `open_gate`: no test depends on how fast the machine is."""
        wait = f"while [ ! -e {self.folder}/gate ]; do sleep 0.05; done"
        script = f"echo begin {run}.{name} >>{self.trace}; {wait}; echo end {run}.{name} >>{self.trace}"
        return self.shell(name, script, *needs, run=run, **changes)

    def open_gate(self) -> None:
        (self.folder / "gate").touch()

    def a_job(self, name: str, argv: list[str], *needs: str, run: str = RUN, **changes: Any) -> dict[str, Any]:
        slot, _, attempt = name.rpartition("-a")
        step, _, beam = slot.partition(".b")
        return {
            "job_key": f"{run}.{name}",
            "step": step,
            "beam": int(beam) if beam else None,
            "attempt": int(attempt),
            "argv": argv,
            "needs": [f"{run}.{need}" for need in needs],
            "group": "cpu",
            "gpu": False,
            "time_limit_s": 60.0,
            "outputs": [],
            "files": [],
            "parameters": {},
            "definition": "d" * 64,
            **changes,
        }

    # --- what happened

    def job(self, name: str, run: str = RUN) -> Path:
        return self.work / "runs" / run / "jobs" / f"{run}.{name}"

    def begun(self, name: str, run: str = RUN) -> int:
        """How often the job's command was started."""
        return self._lines().count(f"begin {run}.{name}")

    def _lines(self) -> list[str]:
        return self.trace.read_text().splitlines() if self.trace.exists() else []

    def most_at_once(self) -> int:
        """The largest number of traced jobs that ran at the same time."""
        running = most = 0
        for line in self._lines():
            running += 1 if line.startswith("begin") else -1
            most = max(most, running)
        return most

    def order(self) -> list[str]:
        """The traced jobs' names in the order in which they began."""
        return [line.split(".", 1)[1] for line in self._lines() if line.startswith("begin")]

    def claim(self, name: str, run: str = RUN) -> dict[str, Any]:
        path = self.job(name, run) / "claim" / "info.json"
        wait_for(path.exists, f"the claim of {name}")
        return dict(json.loads(path.read_text()))

    def kill_wrapper(self, name: str, run: str = RUN) -> None:
        """SIGKILL to the wrapper of a job, once its command has begun."""
        wait_for(lambda: self.begun(name, run), f"{name} to begin")
        kill(self.claim(name, run)["wrapper"]["pid"])

    def command_pid(self, name: str, run: str = RUN) -> int:
        path = self.job(name, run) / "process.json"
        wait_for(path.exists, f"the process of {name}")
        return int(json.loads(path.read_text())["pid"])

    def runners(self) -> list[int]:
        return [pid for pid, argv in self.processes() if "runner" in argv]

    def processes(self) -> list[tuple[int, list[str]]]:
        """(pid, argv) of every process that works for this bench."""
        return [(pid, argv) for pid, argv in all_processes() if any(f"{self.folder}/" in word for word in argv)]

    def stop(self) -> None:
        """Ends everything that this bench started."""
        for _ in range(3):
            for pid, _argv in self.processes():
                kill(pid)

    # --- the agent, by hand

    def agent(self, *arguments: str) -> list[str]:
        folder = self.work / "scripts" / self.host.deploy() / "agent"
        return [sys.executable, "-I", "-S", str(folder), *arguments, "--work", str(self.work)]

    def run(self, name: str, *options: str, run: str = RUN) -> int:
        """`run JOBKEY` to its end; its exit code."""
        return subprocess.run([*self.agent("run", f"{run}.{name}"), *options], timeout=30, check=False).returncode

    @contextlib.contextmanager
    def no_runner(self, group: str = "cpu") -> Iterator[None]:
        """Keeps runners of `group` from starting: we hold their lock."""
        import fcntl

        path = self.work / "queue" / "local" / group / "runner.lock"
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def all_processes() -> Iterator[tuple[int, list[str]]]:
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) != os.getpid():
            try:
                words = Path("/proc", name, "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            yield int(name), [os.fsdecode(word) for word in words]


def is_alive(pid: int) -> bool:
    try:
        return Path("/proc", str(pid), "stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def kill(pid: int) -> None:
    """SIGKILL, and waits until the process is gone."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    wait_for(lambda: not is_alive(pid), f"process {pid} to die")
