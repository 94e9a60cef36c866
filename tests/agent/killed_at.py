"""Runs the agent and kills it (from within, but without warning) just before its n-th effect on the world.

    python killed_at.py N AGENT-FOLDER WORDS…

Effects are what Python's audit hooks tell: files made, opened for writing, renamed, linked, removed,
locks, processes. Random moments would miss almost all of the interesting ones.
"""

from __future__ import annotations

import os
import runpy
import signal
import sys
from typing import Any

EFFECTS = {
    "os.rename",
    "os.remove",
    "os.mkdir",
    "os.rmdir",
    "os.link",
    "os.chmod",
    "os.kill",
    "os.killpg",
    "fcntl.flock",
    "msvcrt.locking",
    "subprocess.Popen",
}
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND

# Windows calls its sudden end so. A test may ask for another signal, such as SIGSTOP.
_KILL = getattr(signal, os.environ.get("KILLED_BY") or ("SIGTERM" if sys.platform == "win32" else "SIGKILL"))
_limit = int(sys.argv[1])
_own = os.getpid()
_count = 0


def hook(event: str, arguments: tuple[Any, ...]) -> None:
    global _count
    if event == "open":
        path, _mode, flags = arguments
        if not isinstance(flags, int) or not flags & WRITING or str(path).endswith(".pyc") or ".pyc." in str(path):
            return
    elif event not in EFFECTS:
        return
    if any("__pycache__" in str(argument) for argument in arguments) or os.getpid() != _own:
        return
    _count += 1
    if _count == _limit:
        os.kill(_own, _KILL)


sys.argv = [sys.argv[2], *sys.argv[3:]]
sys.addaudithook(hook)
runpy.run_path(sys.argv[0], run_name="__main__")
