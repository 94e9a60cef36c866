"""Locks between processes of this side. They save work; correctness rests on guarded transactions."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from mqi.actor import computer
from mqi.errors import DiskProblem, LockWithoutProgress

# The holder notes its progress at most this often: a note is a small file write.
_NOTE_EVERY_S = 2.0


class StepHeld(Exception):
    """Another process is doing this step right now; there is nothing to do here."""

    def __init__(self, step: str, holder: str) -> None:
        super().__init__(f"{step} is already running ({holder}); nothing to do here")


class StepLock:
    """The lock of one step while it is held. `progress()` tells others that the holder is alive."""

    def __init__(self, note: Path) -> None:
        self._note = note
        self._started = time.time()
        self._noted = 0.0
        self.progress()

    def progress(self) -> None:
        """Note that something was done just now."""
        if time.monotonic() - self._noted < _NOTE_EVERY_S and self._noted:
            return
        self._noted = time.monotonic()
        holder = {
            "pid": os.getpid(),
            "computer": computer(),
            "started_at": self._started,
            "progress_at": time.time(),
        }
        try:
            self._note.write_text(json.dumps(holder), encoding="utf-8")
        except OSError:
            pass  # the note only serves the message of others; the lock itself is the kernel's


@contextmanager
def step_lock(folder: Path, step: str, stall_s: float) -> Iterator[StepLock]:
    """Hold `<folder>/<step>.lock`, or raise StepHeld at once.

    Raises LockWithoutProgress (76) when the holder has noted no progress for `stall_s` seconds. Kernel
    locks die with their process, so a lock is never stale: a stalled holder is a living, hanging one.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DiskProblem(f"the folder for locks cannot be made: {error}") from error
    note = folder / f"{step}.holder.json"
    # The variable keeps the lock alive: an unbound FileLock is released by the garbage collector.
    lock = FileLock(folder / f"{step}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise _held(step, note, stall_s) from None
    except OSError as error:
        raise DiskProblem(f"the lock of {step} cannot be taken: {error}") from error
    try:
        yield StepLock(note)
    finally:
        lock.release()


def _held(step: str, note: Path, stall_s: float) -> Exception:
    try:
        holder = json.loads(note.read_text(encoding="utf-8"))
        pid, computer = int(holder["pid"]), str(holder["computer"])
        silent_s = time.time() - float(holder["progress_at"])
    except (OSError, ValueError, KeyError, TypeError):
        return StepHeld(step, "by an unknown process")
    who = f"process {pid} on {computer}"
    if silent_s <= stall_s:
        return StepHeld(step, f"by {who}")
    return LockWithoutProgress(
        f"{step} is held by {who}, which has made no progress for {silent_s / 60:.0f} minutes",
        f"look at that process; end it if it hangs, and the next run goes on where it was (limit: {stall_s:.0f} s)",
    )
