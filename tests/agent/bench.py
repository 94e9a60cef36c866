"""A work directory with a real agent, jobs that leave traces, and ways to kill things at chosen moments."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from mqi.host.agent_host import AgentHost
from mqi.host.base import Blob
from mqi.host.local import LocalHost
from mqi.resources import remote_scripts
from mqi.settings import Group, HostSettings, Queue, Ssh
from tests.agent.system import PATIENCE, all_processes, is_alive, kill, wait_for

# The agent's modules, as the agent imports them.
sys.path.insert(0, str(remote_scripts()))
from agent.locks import Lock

__all__ = ["DIGEST", "ORPHANS", "PYTHON", "RUN", "Bench", "is_alive", "kill", "sha256", "wait_for"]

# For tests of commands that outlive their wrappers.
ORPHANS = pytest.mark.skipif(sys.platform == "win32", reason="on Windows a command dies with its wrapper")

PYTHON = (sys.executable, "-I", "-S")
RUN = "0123456789ab"
DIGEST = RUN + "0" * 52
INSTALLATION = "installation-1"


class BenchHost(AgentHost):
    """A host whose request settings a test may add to."""

    extra: Mapping[str, Any] = {}

    def _request_settings(self) -> dict[str, Any]:
        return {**super()._request_settings(), **self.extra}


class BenchLocalHost(BenchHost, LocalHost):
    """This computer."""


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


# A job that leaves a file of its own for its beginning and one for its end: nothing to write at once.
TRACED = """
import os, sys, time
trace, name, seconds, gate = sys.argv[1:]
def note(word):
    open(os.path.join(trace, "%020d %s %s" % (time.time_ns(), word, name)), "x").close()
note("begin")
time.sleep(float(seconds))
while gate and not os.path.exists(gate):
    time.sleep(0.05)
note("end")
"""
# What the code of a job's own may use.
COMMON = "import json, os, sys, time\nwrite = lambda path, text: open(path, 'w', newline='').write(text)\n"


class Bench:
    """A work directory in `folder`, and what a test does with it."""

    def __init__(
        self,
        folder: Path,
        *,
        slots: int = 2,
        max_queued: int = 4,
        lost_after_s: float = 0.3,
        queue: Queue | None = None,
        ssh: Ssh | None = None,
    ) -> None:
        """`ssh`: how this computer is reached by SSH; the host is spoken to that way then."""
        self.folder = folder
        self._ssh = ssh
        self._hosts: list[BenchHost] = []
        self.work = folder / "work"
        self.trace = folder / "trace"
        self.trace.mkdir()
        self._queue = queue or Queue(groups=(Group("cpu", slots=slots),), max_queued=max_queued)
        self._lost_after_s = lost_after_s
        self.host = self.new_host()

    def new_host(self, installation: str = INSTALLATION, **changes: Any) -> BenchHost:
        settings = HostSettings("bench", work_dir=str(self.work), queue=self._queue, timeout_s=20.0 * PATIENCE)
        if self._ssh is not None:
            settings = settings._replace(type="ssh", ssh=self._ssh)
        settings = settings._replace(**changes)
        host = self._host_class()(settings, installation, lost_after_s=self._lost_after_s)
        host.extra = {"kill_grace_s": 0.5}
        self._hosts.append(host)
        return host

    def _host_class(self) -> type[BenchHost]:
        if self._ssh is None:
            return BenchLocalHost
        from mqi.host.ssh import SshHost  # slow to import, and most tests are local

        return type("BenchSshHost", (BenchHost, SshHost), {})

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
        if sys.platform == "win32":
            pytest.skip("the test's jobs are shell scripts of POSIX")
        return self.a_job(name, ["/bin/sh", "-c", script, "sh"], *needs, run=run, **changes)

    def code(self, name: str, code: str = "", *needs: str, run: str = RUN, **changes: Any) -> dict[str, Any]:
        """A job whose command is Python code, after COMMON."""
        return self.a_job(name, [*PYTHON, "-c", COMMON + code], *needs, run=run, **changes)

    def traced(
        self, name: str, *needs: str, seconds: float = 0.0, gate: str = "", run: str = RUN, **changes: Any
    ) -> dict[str, Any]:
        """A job that notes its beginning and end, and takes `seconds` in between."""
        words = [self.trace.as_posix(), f"{run}.{name}", str(seconds), gate]
        return self.a_job(name, [*PYTHON, "-c", TRACED, *words], *needs, run=run, **changes)

    def gated(self, name: str, *needs: str, run: str = RUN, **changes: Any) -> dict[str, Any]:
        """A traced job that goes on until `open_gate`: no test depends on how fast the machine is."""
        return self.traced(name, *needs, gate=(self.folder / "gate").as_posix(), run=run, **changes)

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
            "time_limit_s": 60.0 * PATIENCE,
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
        return [path.name.split(" ", 1)[1] for path in sorted(self.trace.iterdir())]

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
        """The sudden end of the wrapper of a job, once its command has begun."""
        wait_for(lambda: self.begun(name, run), f"{name} to begin")
        kill(self.claim(name, run)["wrapper"]["pid"])

    def command_pid(self, name: str, run: str = RUN) -> int:
        """The process of a traced job's command, once it has begun."""
        if sys.platform == "win32":  # nobody needs to find it there: it has no record
            wait_for(lambda: self.begun(name, run), f"{name} to begin")
            return next(pid for pid, argv in self.processes() if TRACED in argv and f"{run}.{name}" in argv)
        path = self.job(name, run) / "process.json"
        wait_for(path.exists, f"the process of {name}")
        return int(json.loads(path.read_text())["pid"])

    def runners(self) -> list[int]:
        return [pid for pid, argv in self.processes() if "runner" in argv]

    def processes(self) -> list[tuple[int, list[str]]]:
        """(pid, argv) of every process that works for this bench."""
        ours = (f"{self.folder}{os.sep}", f"{self.folder.as_posix()}/")
        return [(pid, argv) for pid, argv in all_processes() if any(our in word for word in argv for our in ours)]

    def stop(self) -> None:
        """Ends everything that this bench started."""
        for host in self._hosts:
            host.close()
        for _ in range(3):
            for pid, _argv in self.processes():
                kill(pid)

    # --- the agent, by hand

    def agent(self, *arguments: str) -> list[str]:
        folder = self.work / "scripts" / self.host.deploy() / "agent"
        return [*PYTHON, str(folder), *arguments, "--work", str(self.work)]

    def run(self, name: str, *options: str, run: str = RUN) -> int:
        """`run JOBKEY` to its end; its exit code."""
        return subprocess.run([*self.agent("run", f"{run}.{name}"), *options], timeout=120 * PATIENCE, check=False).returncode

    @contextlib.contextmanager
    def no_runner(self, group: str = "cpu") -> Iterator[None]:
        """Keeps runners of `group` from starting: we hold their lock."""
        with Lock(self.work / "queue" / "local" / group / "runner.lock") as lock:
            assert lock.acquire(5.0)
            yield
