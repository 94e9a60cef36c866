"""A whole installation in a folder, states of it to start from, and processes that are killed on the way.

The installation is that of tests/cli (a watch folder, a configuration, a host that is this machine), run
through launch.py. `stages` are copies of it between two steps of a case's life, put back before each crash;
paths inside are absolute, so each lab has its own.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from mqi.sample import write_sample

LAUNCH = Path(__file__).with_name("launch.py")
STUCK_S = 300.0  # what lasts longer hangs, however busy the machine is
STILL_S = 1.5  # nobody at a boundary for so long: everybody waits for something, or nobody works
LOOK_S = 0.1

CONFIG = """\
watch: [{{path: cases, room: G1, quiet: 0s}}]
hosts:
  - name: here
    work_dir: work
    python: {wrapper}
    queue: {{groups: [{{name: cpu, slots: 2}}, {{name: gpu, slots: 2}}]}}
    min_free: 0 B
    timeout: 120s
    environment: {{LEDGER: {desk}/ledger, FAILING: {desk}/failing, SLOW: {desk}/slow}}
paths: {{database: mqi.db, results: results, logs: logs}}
timing: {{backoff_first: 1s, backoff_max: 1s}}
transfer: {{min_free: 0 B}}
workflows: {{default_qa: default_qa.yaml}}
"""

WORKFLOW = """\
steps:
  - name: prepare
    run: ["/bin/sh", "{step}", "beams.json", "{{out}}"]
    group: cpu
    outputs: ["beams.json"]
    transient_exit_codes: [75, 137]
    max_attempts: 3
  - name: simulate
    run: ["/bin/sh", "{step}", "dose.txt", "{{out}}"]
    for_each: beam
    needs: [prepare]
    group: gpu
    outputs: ["dose.txt"]
    transient_exit_codes: [75, 137]
    max_attempts: 3
"""

# Each execution leaves a line when it begins and one when it ends, outside the installation.
STEP = """\
echo "begin $MQI_JOB_KEY" >>"$LEDGER"
sleep 0.03
while { read -r slow <"$SLOW"; } 2>/dev/null; do
  case "$MQI_JOB_KEY" in *"$slow") sleep 0.05 ;; *) break ;; esac
done
case "$MQI_JOB_KEY" in
*.b2-a1) [ -e "$FAILING" ] && { echo "end $MQI_JOB_KEY" >>"$LEDGER"; exit 75; } ;;
esac
echo "result of $MQI_BEAM" >"$1"
echo "end $MQI_JOB_KEY" >>"$LEDGER"
"""

WRAPPER = """\
#!/bin/sh
exec "{python}" -I -S "{launch}" agent "$0" "$@"
"""


class Lab:
    """One installation below `base`. Use it from one thread at a time, and `close` it."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.root = base / "site"
        self.desk = base / "desk"
        self.stages = base / "stages"
        self.failing, self.slow = self.desk / "failing", self.desk / "slow"
        self.folder = self.root / "cases" / "P1"
        self.work = self.root / "work"
        self.database = self.root / "mqi.db"
        self.results = self.root / "results"
        self.root.mkdir()
        self.stages.mkdir()
        self._install()
        self._warm = subprocess.Popen(
            [sys.executable, str(LAUNCH), "serve", str(base)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True,
        )  # fmt: skip

    def _install(self) -> None:
        step, wrapper = self.base / "step.sh", self.base / "agent-python"
        step.write_text(STEP, encoding="utf-8")
        wrapper.write_text(WRAPPER.format(python=sys.executable, launch=LAUNCH), encoding="utf-8")
        wrapper.chmod(0o755)
        config = CONFIG.format(wrapper=wrapper, desk=self.desk)
        (self.root / "mqi.yaml").write_text(config, encoding="utf-8")
        (self.root / "default_qa.yaml").write_text(WORKFLOW.format(step=step), encoding="utf-8")
        write_sample(self.folder, seed=1, layers=2)
        for name in ("trace/others", "requests"):
            (self.desk / name).mkdir(parents=True)
        (self.desk / "alive").touch()

    def close(self) -> None:
        """End what still runs, and leave nothing behind."""
        self.stop_everything()
        assert self._warm.stdin is not None
        self._warm.stdin.close()  # it removes our folder
        self._warm.wait()

    # --- processes

    def mqi(self, *words: str, at: str = "") -> int:
        """Run mqi to its end; the exit code, -9 when it was killed. `at`: `role|boundary` to kill at."""
        return self.end_of(self.start(*words, at=at))

    def start(self, *words: str, at: str = "", how: str = "kill") -> int:
        """Start mqi and do not wait for it; its process id. `how`: what happens `at` a boundary."""
        order = {
            "words": self._words(words),
            "environment": self._environment(words[0], at, how),
            "output": str(self.desk / "output"),
        }
        return self._ask_warm(order)

    def end_of(self, pid: int) -> int:
        """Wait for an mqi that was started; its exit code."""
        return self._ask_warm(pid)

    def _ask_warm(self, order: object) -> int:
        assert self._warm.stdin is not None
        assert self._warm.stdout is not None
        self._warm.stdin.write(json.dumps(order).encode() + b"\n")
        self._warm.stdin.flush()
        return int(self._warm.stdout.readline())

    def cold_mqi(self, *words: str, at: str = "") -> int:
        """The same from a fresh interpreter, as a scheduler runs it."""
        with (self.desk / "output").open("wb") as output:
            return subprocess.run(
                [sys.executable, str(LAUNCH), "mqi", *self._words(words)],
                stdin=subprocess.DEVNULL, stdout=output, stderr=output, check=False,
                env={**os.environ, **self._environment(words[0], at, "kill")},
            ).returncode  # fmt: skip

    def _words(self, words: Sequence[str]) -> list[str]:
        return ["--config", str(self.root / "mqi.yaml"), *words]

    def _environment(self, step: str, at: str, how: str) -> dict[str, str]:
        return {
            "CRASH_ROOT": str(self.root),
            "CRASH_DESK": str(self.desk),
            "CRASH_AT": at,
            "CRASH_HOW": how,
            "CRASH_STEP": step,
        }

    def said(self) -> str:
        """What the last mqi printed."""
        return (self.desk / "output").read_text(encoding="utf-8", errors="replace")

    def processes(self) -> list[int]:
        """Every process that works in the installation: agents, runners, runs, commands."""
        mark, found = os.fsencode(f"{self.root}/"), []
        for name in os.listdir("/proc"):
            if name.isdigit():
                try:
                    line = Path("/proc", name, "cmdline").read_bytes()
                except OSError:
                    continue
                if mark in line + b"/":
                    found.append(int(name))
        return found

    def wait_quiet(self) -> bool:
        """Until nothing works in the installation any more; False when that takes too long."""
        give_up = time.monotonic() + STUCK_S
        while self._somebody_lives() or self.processes():
            if time.monotonic() > give_up:
                return False
            time.sleep(0.01)
        return True

    def _somebody_lives(self) -> bool:
        """Quicker than looking through all processes, but blind to commands and to what is just starting."""
        with (self.desk / "alive").open("rb") as alive:
            try:
                fcntl.flock(alive, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
        return False

    def stop_everything(self) -> None:
        """SIGKILL to whatever works in the installation, by process id."""
        while found := self.processes():
            for pid in found:
                self.kill(pid)
            time.sleep(0.01)

    @staticmethod
    def lives(pid: int) -> bool:
        """Whether a process that was started still works (one that has ended and was not waited for does not)."""
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
        return stat.rpartition(")")[2].split()[0] not in "ZX"

    @staticmethod
    def kill(pid: int) -> None:
        """SIGKILL."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)

    # --- stages

    def keep(self, stage: str) -> None:
        """Keep the installation as it is now under this name."""
        assert self.wait_quiet(), "something still works in the installation"
        target = self.stages / stage
        subprocess.run(["cp", "-a", str(self.root), str(target)], check=True)
        subprocess.run(["cp", "-a", str(self.desk), f"{target}.desk"], check=True)

    def put_back(self, stage: str) -> None:
        """The installation as it was at that stage, with nothing running in it."""
        self.stop_everything()
        source = self.stages / stage
        for target, kept in ((self.root, source), (self.desk, Path(f"{source}.desk"))):
            shutil.rmtree(target)
            subprocess.run(["cp", "-a", str(kept), str(target)], check=True)
        shutil.rmtree(self.desk / "trace")
        (self.desk / "trace" / "others").mkdir(parents=True)

    def has(self, stage: str) -> bool:
        return (self.stages / stage).is_dir()

    @contextlib.contextmanager
    def no_runner(self) -> Iterator[None]:
        """While somebody holds their locks, no runner starts."""
        with contextlib.ExitStack() as locks:
            for group in ("cpu", "gpu"):
                path = self.work / "queue" / "local" / group / "runner.lock"
                path.parent.mkdir(parents=True, exist_ok=True)
                fcntl.flock(locks.enter_context(path.open("w")), fcntl.LOCK_EX)
            yield

    # --- what happened

    def traces(self) -> dict[str, list[str]]:
        """Role -> the boundaries that the first process of this role crossed, in order."""
        return {
            path.name.replace(":", "/"): path.read_text(encoding="utf-8").splitlines()
            for path in sorted((self.desk / "trace").iterdir())
            if path.is_file()
        }

    def stopped(self) -> str:
        """`role|boundary` of the process that was killed or held, or ''."""
        path = self.desk / "stopped"
        return path.read_text(encoding="utf-8") if path.exists() else ""

    def wait_stopped(self, mqi: int) -> None:
        """Until a process was stopped, or nothing works any more that could be; `mqi` was started last."""
        still = Stillness(self)
        while not self.stopped() and (self.lives(mqi) or self._somebody_lives() or self.processes()):
            for_s = still.for_s()
            assert for_s < STUCK_S, "neither stopped nor over"
            if for_s > STILL_S:
                self.let_jobs_end()  # it comes there only then
            time.sleep(0.005)

    def wait_still(self, mqi: int = 0) -> None:
        """Until nobody has come to a boundary for a while, or `mqi` has ended."""
        still = Stillness(self)
        while still.for_s() < STILL_S and (not mqi or self.lives(mqi)):
            time.sleep(0.01)

    def slow_down(self, job: str) -> None:
        """Let jobs take long whose keys end with `job`, until `let_jobs_end`."""
        self.slow.write_text(f"{job}\n", encoding="utf-8")

    def let_jobs_end(self) -> None:
        """Nothing is slow any more."""
        self.slow.unlink(missing_ok=True)

    def stop_another(self) -> None:
        """Let another process be stopped."""
        (self.desk / "stopped").unlink(missing_ok=True)

    def resume(self) -> None:
        """Let the process go on that is held."""
        (self.desk / "resume").touch()

    def requests(self) -> list[bytes]:
        """The requests that the agent has got, in order."""
        return [path.read_bytes() for path in sorted((self.desk / "requests").iterdir())]

    def replay(self, request: bytes) -> None:
        """The agent gets a request that was on its way for long, whose answer nobody hears."""
        agent = next((self.work / "scripts").glob("[0-9a-f]*")) / "agent"
        subprocess.run(
            [sys.executable, "-I", "-S", str(agent), "request", "--work", str(self.work)],
            input=request, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=STUCK_S, check=False,
        )  # fmt: skip

    def ledger(self) -> list[tuple[str, str]]:
        """('begin' or 'end', job key) of every execution, in order."""
        try:
            lines = (self.desk / "ledger").read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            return []
        return [(word, key) for word, key in (line.split(" ") for line in lines)]

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        """A query on the database; [] when there is none yet."""
        if not self.database.exists():
            return []
        with contextlib.closing(sqlite3.connect(self.database, timeout=10)) as connection:
            try:
                return connection.execute(sql).fetchall()
            except sqlite3.OperationalError:
                return []  # killed before it had tables

    def let_time_pass(self, *, an_hour: bool = False, wait_s: float = STUCK_S) -> None:
        """What waits for its next try need not wait any longer; after an hour the host is asked for a sign of
        life, too, and what was written before is old. (Nothing may be at work then.)

        Raises sqlite3.OperationalError when somebody has kept the database locked for `wait_s`."""
        if self.rows("SELECT 1 FROM hosts"):
            connected = contextlib.closing(sqlite3.connect(self.database, timeout=wait_s))
            with connected as connection, connection:
                connection.execute("UPDATE hosts SET next_try_at = 0 WHERE next_try_at IS NOT NULL")
                connection.execute("UPDATE cases SET next_try_at = 0 WHERE next_try_at IS NOT NULL")
                if an_hour:
                    connection.execute("UPDATE hosts SET last_answer_at = last_answer_at - 3700")
        if an_hour:
            before = time.time() - 3700
            for path in self.root.rglob("*~"):
                os.utime(path, (before, before))


class Stillness:
    """How long no process has come to a boundary."""

    def __init__(self, lab: Lab) -> None:
        self._traces = lab.desk / "trace"
        self._crossed, self._since, self._looked = -1, 0.0, 0.0

    def for_s(self) -> float:
        """Seconds, up to the last look; it looks every now and then."""
        now = time.monotonic()
        if now - self._looked > LOOK_S:
            self._looked = now
            crossed = sum(trace.stat().st_size for trace in self._traces.rglob("*"))
            if crossed != self._crossed:
                self._crossed, self._since = crossed, now
        return self._looked - self._since
