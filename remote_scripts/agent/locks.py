"""Locks that the kernel frees when their holders die. Existence of a lock file never means that it is held.

POSIX: flock, on an open file that child processes may share (`pass_fds`), so that an orphaned command keeps
what its wrapper took. Windows: a locked byte; handles are not inherited there, and the command dies with
its wrapper instead (see processes).
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Optional, Type

if sys.platform == "win32":
    import msvcrt

    def _try_lock(fd: int) -> bool:
        try:
            os.lseek(fd, 0, os.SEEK_SET)
            msvcrt.locking(fd, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True

    def _unlock(fd: int) -> None:
        os.lseek(fd, 0, os.SEEK_SET)
        msvcrt.locking(fd, msvcrt.LK_UNLCK, 1)

else:
    import fcntl

    def _try_lock(fd: int) -> bool:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def _unlock(fd: int) -> None:
        fcntl.flock(fd, fcntl.LOCK_UN)


class Lock:
    """An exclusive lock on the file `path`, which is made when missing and never removed by us."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd: Optional[int] = None

    @property
    def fd(self) -> int:
        if self._fd is None:
            raise ValueError("%s is not held" % self.path.name)
        return self._fd

    def acquire(self, timeout_s: float = 0.0) -> bool:
        """Takes the lock, waiting at most `timeout_s` seconds; False when somebody else has it."""
        give_up = time.monotonic() + timeout_s
        delay = 0.005
        while True:
            if self._attempt():
                return True
            left = give_up - time.monotonic()
            if left <= 0:
                return False
            time.sleep(min(delay, left))
            delay = min(0.1, delay * 2)

    def _attempt(self) -> bool:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        fd = os.open(str(self.path), os.O_RDWR | os.O_CREAT | getattr(os, "O_NOINHERIT", 0), 0o600)
        if _try_lock(fd):
            # Somebody may have emptied the folder between open and lock: then this lock guards nothing.
            try:
                if os.path.samestat(os.fstat(fd), os.stat(str(self.path))):
                    self._fd = fd
                    return True
            except FileNotFoundError:
                pass
        os.close(fd)
        return False

    def release(self) -> None:
        """Frees the lock, also when a child process still has the file open."""
        if self._fd is not None:
            fd, self._fd = self._fd, None
            try:
                _unlock(fd)
            finally:
                os.close(fd)

    def __enter__(self) -> Lock:
        return self

    def __exit__(
        self,
        kind: Optional[Type[BaseException]],
        value: Optional[BaseException],
        trace: Optional[TracebackType],
    ) -> None:
        self.release()


def is_locked(path: Path) -> bool:
    """Whether some process holds the lock on `path` now."""
    if not path.exists():
        return False
    with Lock(path) as lock:
        return not lock.acquire()
