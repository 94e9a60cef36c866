"""Files on this side, on Windows too."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from queue import SimpleQueue

from mqi.renaming import replace

# Many ask for the disk at the same time: file systems write one journal entry for all that do.
_THREADS = 32
# Open files that wait for it, at most.
_OPEN = 256


class Flushing:
    """Makes files durable in the background, while the bytes of the next ones arrive (the agent has its like)."""

    def __init__(self) -> None:
        self._files: SimpleQueue[int] = SimpleQueue()
        self._room = threading.Semaphore(_OPEN)
        self._threads: list[threading.Thread] = []
        self._problem: OSError | None = None

    def begin(self, fd: int) -> None:
        """Writes what the file holds so far; the caller goes on writing to it."""
        self.finish(os.dup(fd))

    def finish(self, fd: int) -> None:
        """Writes the file, and closes it."""
        self._room.acquire()
        self._files.put(fd)
        if len(self._threads) < _THREADS:
            self._threads.append(threading.Thread(target=self._work, name="mqi-flushing", daemon=True))
            self._threads[-1].start()

    def wait(self) -> None:
        """All files that were handed over are on the disk. Raises OSError when one of them is not."""
        for _ in self._threads:
            self._files.put(-1)
        for thread in self._threads:
            thread.join()
        self._threads = []
        problem, self._problem = self._problem, None
        if problem is not None:
            raise problem

    def _work(self) -> None:
        while (fd := self._files.get()) >= 0:
            try:
                os.fsync(fd)
            except OSError as error:
                self._problem = error
            finally:
                os.close(fd)
                self._room.release()


def publish(pairs: Sequence[tuple[str, str]], flushing: Flushing) -> None:
    """Gives finished files (first), which `flushing` has, their names (second): durable first, then renamed.

    Raises OSError.
    """
    flushing.wait()
    for part, target in pairs:
        replace(part, target)
    if os.name != "nt":  # Windows has no such call for folders, and needs none
        for folder in {os.path.dirname(target) for _, target in pairs}:
            flushing.finish(os.open(folder, os.O_RDONLY))
        flushing.wait()
