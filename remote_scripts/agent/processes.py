"""Processes: started apart from us, recognised again later, and ended with all that they started."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence

from agent.files import write_json

if sys.platform == "win32":
    from agent.windows import CREATE_SUSPENDED, JobObject

_LOG_LIMIT = 1 << 20


def start_time(pid: int) -> str:
    """What tells a process from a later one with the same id; "" when it is gone (a zombie is gone)."""
    if sys.platform == "win32":
        return ""  # not needed there: no command outlives its wrapper
    try:
        with open("/proc/%d/stat" % pid, "rb") as stream:
            # The name in parentheses may hold anything, spaces and parentheses too.
            fields = stream.read().rpartition(b")")[2].split()
    except FileNotFoundError:
        return "" if os.path.isdir("/proc/self") else _start_time_by_ps(pid)
    except OSError:
        return ""
    return "" if fields[0] in (b"Z", b"X") else fields[19].decode("ascii")


def _start_time_by_ps(pid: int) -> str:
    """macOS and the BSDs."""
    command = ["ps", "-o", "stat=,lstart=", "-p", str(pid)]
    try:
        text = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=5).stdout
    except (OSError, subprocess.SubprocessError):
        return ""
    state, _, started = text.decode("ascii", "replace").strip().partition(" ")
    return "" if state.startswith("Z") else started.strip()


def identity(pid: int) -> Dict[str, Any]:
    return {"pid": pid, "start": start_time(pid)}


def is_alive(record: Any) -> bool:
    """Whether the process of an `identity` lives. A record of another boot never matches a start time
    by chance alone: callers compare the boot first."""
    if not isinstance(record, dict) or not isinstance(record.get("pid"), int) or not record.get("start"):
        return False
    return start_time(record["pid"]) == str(record["start"])


def start_apart(argv: Sequence[str], log: Path, folder: Path) -> "subprocess.Popen[bytes]":
    """Starts a process that lives on when we, our session or our connection end. Raises OSError."""
    log.parent.mkdir(parents=True, exist_ok=True)
    mode = "wb" if log.exists() and log.stat().st_size > _LOG_LIMIT else "ab"
    with open(str(log), mode) as output:
        if sys.platform == "win32":
            flags = subprocess.CREATE_NO_WINDOW | subprocess.CREATE_NEW_PROCESS_GROUP
            # A scheduler may hold us in a job object of its own, which ends with the scheduled command.
            for extra in (subprocess.CREATE_BREAKAWAY_FROM_JOB, 0):
                try:
                    return subprocess.Popen(
                        list(argv),
                        stdin=subprocess.DEVNULL,
                        stdout=output,
                        stderr=output,
                        cwd=str(folder),
                        creationflags=flags | extra,
                    )
                except PermissionError:
                    if not extra:
                        raise
            raise AssertionError("unreachable: the second attempt returns or raises")
        return subprocess.Popen(
            list(argv),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd=str(folder),
            start_new_session=True,
        )


class Command:
    """A job's command, in a session (Windows: job object) of its own.

    Its identity is in `record` before its program starts, written by the new process itself: a wrapper
    that is killed in the very moment of starting cannot leave a command behind that nobody can find.
    """

    def __init__(
        self,
        argv: Sequence[str],
        folder: Path,
        environment: Dict[str, str],
        log: Path,
        record: Path,
        kept_open: Sequence[int],
    ) -> None:
        with open(str(log), "ab") as output:
            if sys.platform == "win32":
                self._job = JobObject()
                self._process = subprocess.Popen(
                    list(argv),
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    cwd=str(folder),
                    env=environment,
                    creationflags=subprocess.CREATE_NO_WINDOW | CREATE_SUSPENDED,
                )
                try:
                    self._job.adopt(self._process)
                except OSError:
                    self._process.kill()
                    raise
            else:
                self._process = subprocess.Popen(
                    list(argv),
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    cwd=str(folder),
                    env=environment,
                    pass_fds=tuple(kept_open),
                    start_new_session=True,
                    preexec_fn=lambda: write_json(record, identity(os.getpid())),
                )
        self._marker = _marker(record.parent)

    def poll(self, wait_s: float) -> Optional[int]:
        """The exit code (128 + n for signal n) once the command's process has ended, else None.

        What it started may still run; `finish` ends that.
        """
        if sys.platform == "win32":
            try:
                return self._process.wait(wait_s)
            except subprocess.TimeoutExpired:
                return None
        give_up = time.monotonic() + wait_s
        delay = 0.002
        while True:
            # Seen but not reaped: its id, and with it the group's, cannot become another's meanwhile.
            state = os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            if state is not None:
                return state.si_status if state.si_code == os.CLD_EXITED else 128 + state.si_status
            if time.monotonic() >= give_up:
                return None
            time.sleep(delay)
            delay = min(0.1, delay * 2)

    def ask_to_end(self) -> None:
        """SIGTERM to the whole group. Windows has nothing gentle for a process without a window."""
        if sys.platform == "win32":
            self._job.end()
        else:
            _signal_group(self._process.pid, signal.SIGTERM)

    def finish(self) -> None:
        """Ends what is left of the command and all that it started."""
        if sys.platform == "win32":
            self._job.end()
            self._process.wait()
            self._job.close()
        else:
            _signal_group(self._process.pid, signal.SIGKILL)
            _end_marked(self._marker)
            self._process.wait()


def end_orphan(record: Any, folder: Path) -> None:
    """Ends a command whose wrapper is dead: its group when the recorded process is still that process,
    and every process that carries this job in its environment (Linux)."""
    if sys.platform == "win32":
        return  # the job object went with the wrapper, and took the command along
    if is_alive(record):
        _signal_group(record["pid"], signal.SIGKILL)
    _end_marked(_marker(folder))


def _marker(folder: Path) -> bytes:
    # The path, not the key: two work directories on one host may run the same case.
    return b"MQI_PROGRESS=" + os.fsencode(str(folder / "progress.json"))


def _end_marked(marker: bytes) -> None:
    """SIGKILL to every process whose environment has the entry `marker` (Linux; elsewhere nothing).

    Finds what left the command's group, and what a dead group leader left behind.
    """
    if sys.platform == "win32":
        return
    for pid in _pids():
        if pid != os.getpid():
            try:
                with open("/proc/%d/environ" % pid, "rb") as stream:
                    if marker in stream.read().split(b"\0"):
                        os.kill(pid, signal.SIGKILL)
            except OSError:
                continue  # gone, or somebody else's


def _pids() -> List[int]:
    try:
        return [int(name) for name in os.listdir("/proc") if name.isdigit()]
    except FileNotFoundError:
        return []


def _signal_group(group: int, number: int) -> None:
    if sys.platform != "win32":
        try:
            os.killpg(group, number)
        except (ProcessLookupError, PermissionError):
            pass  # nobody is left in it (macOS says EPERM of zombies)
