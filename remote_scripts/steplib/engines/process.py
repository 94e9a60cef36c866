"""Runs an engine's program: output to a log and line by line to a listener, a time limit, and no survivors."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Callable, Mapping, Sequence


class TimedOut(Exception):
    """The program did not end within its limit, and was killed."""


def run_program(
    argv: Sequence[str],
    *,
    folder: Path,
    environment: Mapping[str, str],
    log: Path,
    heard: Callable[[str], None],
    limit_s: float,
) -> int:
    """The exit code, negative for a signal. Output goes to `log`, and each line of it to `heard`.

    It gets a session of its own, so that a time-out ends what it started too. `environment` is added to this
    process's, by whose entries the agent finds and ends all that a job started (Linux).
    Raises TimedOut, and OSError when the program cannot be started.
    """
    with log.open("wb") as stream:
        process = subprocess.Popen(
            list(argv),
            cwd=str(folder),
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=sys.platform != "win32",
        )
        over = threading.Event()

        def end() -> None:
            over.set()
            _kill(process)

        timer = threading.Timer(limit_s, end)
        timer.start()
        try:
            assert process.stdout is not None
            for line in process.stdout:
                stream.write(line)
                stream.flush()
                heard(line.decode("utf-8", "replace"))
            code = process.wait()
        except BaseException:
            _kill(process)
            raise
        finally:
            timer.cancel()
            assert process.stdout is not None
            process.stdout.close()
    if over.is_set():
        raise TimedOut
    return code


def _kill(process: "subprocess.Popen[bytes]") -> None:
    if sys.platform == "win32":
        process.kill()
        return
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        pass  # nobody is left in it (macOS says EPERM of zombies)


def ending(code: int) -> str:
    """An exit code in words: "code 1", or "signal SIGSEGV" also when a shell turned it into 128 + number."""
    number = -code if code < 0 else code - 128 if 128 < code < 160 else 0
    if number and sys.platform != "win32":
        try:
            return f"signal {signal.Signals(number).name}"
        except ValueError:
            pass
    return f"code {code}"
