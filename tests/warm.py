"""Starts `python -m mqi` without the half second and more of CPU that importing takes: from a warm interpreter.

`run` is `subprocess.run` for mqi. On POSIX one interpreter per worker of pytest imports what mqi may import, and forks
for each start; the child gets its own arguments, environment, folder and streams and is a process like any other, with
an exit code, signals and locks of its own. On Windows, which cannot fork, and with a PYTHONPATH a fresh interpreter is
started each time.
tests/cli/test_program.py, the wheel and the demo start mqi as users do.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import io
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

ROOT = Path(__file__).resolve().parent.parent
# What a start would import, the slow packages above all.
WARM = (
    "mqi.cli", "mqi.commands.pipeline", "mqi.commands.status", "mqi.commands.look", "mqi.commands.cases",
    "mqi.commands.progress", "mqi.config", "mqi.host.local", "mqi.host.ssh", "mqi.intake.plan", "mqi.logs",
    "mqi.steps.bring_home", "mqi.steps.cycle", "mqi.steps.deliver", "mqi.steps.observe", "mqi.steps.place",
    "mqi.steps.scan_folders", "mqi.steps.scan_study", "mqi.yaml_reading",
    "pydicom", "fabric", "tabulate", "typer.rich_utils",
)  # fmt: skip


def run(
    words: Sequence[str], *, environment: Mapping[str, str], timeout: float = 120.0, folder: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """`python -m mqi WORDS…` to its end, with nothing on its stdin; `environment`: all of it."""
    argv = [sys.executable, "-m", "mqi", *words]
    # A Python that runs already does not look at PYTHONPATH again.
    if sys.platform == "win32" or "PYTHONPATH" in environment:
        return subprocess.run(
            argv, capture_output=True, text=True, encoding="utf-8", timeout=timeout, check=False,
            stdin=subprocess.DEVNULL, env=dict(environment), cwd=folder,
        )  # fmt: skip
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as error, _server().call() as call:
        order = {"words": list(words), "environment": dict(environment), "folder": str(folder or Path.cwd())}
        nothing = os.open(os.devnull, os.O_RDONLY)
        try:
            socket.send_fds(call, [json.dumps(order).encode()], [nothing, out.fileno(), error.fileno()])
        finally:
            os.close(nothing)
        call.settimeout(timeout)
        answers = call.makefile("r")
        pid = int(answers.readline())
        try:
            code = int(answers.readline())
        except TimeoutError:
            os.kill(pid, signal.SIGKILL)
            raise subprocess.TimeoutExpired(argv, timeout) from None
        return subprocess.CompletedProcess(argv, code, _text(out), _text(error))


def _text(stream: IO[bytes]) -> str:
    stream.seek(0)
    return io.TextIOWrapper(stream, encoding="utf-8").read()


class _Server:
    """The warm interpreter, as this process sees it. It ends with this process."""

    def __init__(self) -> None:
        self._folder = tempfile.mkdtemp(prefix="mqi-warm-")
        self._address = str(Path(self._folder, "s"))
        listening = socket.socket(socket.AF_UNIX)
        listening.bind(self._address)
        listening.listen(64)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.warm", str(listening.fileno())],
            cwd=ROOT, stdin=subprocess.PIPE, pass_fds=[listening.fileno()],
        )  # fmt: skip
        listening.close()
        atexit.register(self._close)

    def call(self) -> socket.socket:
        call = socket.socket(socket.AF_UNIX)
        call.connect(self._address)
        return call

    def _close(self) -> None:
        self._process.kill()
        self._process.wait()
        with contextlib.suppress(OSError):
            Path(self._address).unlink()
            Path(self._folder).rmdir()


_servers: list[_Server] = []
_lock = threading.Lock()


def _server() -> _Server:
    with _lock:
        if not _servers:
            _servers.append(_Server())
        return _servers[0]


# --- in the warm interpreter ---------------------------------------------------------------------------


def _serve(listening: socket.socket) -> dict[str, Any]:
    """Returns in each child, with the order that is to be followed; ends the process with its starter."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for pytest
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for those who answer
    for name in WARM:
        importlib.import_module(name)
    gc.freeze()  # else each child would walk through, and so copy, all that is imported here
    while True:
        readable, _, _ = select.select([0, listening], [], [])
        if 0 in readable:
            os._exit(0)
        call, _ = listening.accept()
        if os.fork() == 0:
            listening.close()
            return _answer(call)
        call.close()


def _answer(call: socket.socket) -> dict[str, Any]:
    """Tells the child's id and its exit code, as `subprocess` counts them. Returns in the child."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    text, streams, _, _ = socket.recv_fds(call, 1 << 20, 3)
    pid = os.fork()
    if pid:
        call.sendall(b"%d\n" % pid)
        _, status = os.waitpid(pid, 0)
        with contextlib.suppress(OSError):  # nobody waits any longer
            call.sendall(b"%d\n" % os.waitstatus_to_exitcode(status))
        os._exit(0)
    call.close()
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    return dict(json.loads(text))


def _become(order: dict[str, Any]) -> None:
    """Be `python -m mqi` from here on."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.clear()
    os.environ.update(order["environment"])
    time.tzset()
    tempfile.tempdir = None
    os.chdir(order["folder"])
    sys.path[0] = order["folder"]
    sys.argv = ["mqi", *order["words"]]
    runpy.run_module("mqi", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    _become(_serve(socket.socket(fileno=int(sys.argv[1]))))
