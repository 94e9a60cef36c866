"""Makes files durable in the background, while the bytes of the next ones arrive."""

from __future__ import annotations

import os
import threading
from queue import SimpleQueue
from typing import List, Optional

# Many ask at the same time: file systems write one journal entry for all that do.
_THREADS = 32
# Open files that wait for the disk, at most; processes may usually have 1024.
_OPEN = 256


class Flushing:
    """Open files on their way to the disk. `wait` tells what became of all of them; until then nothing is known."""

    def __init__(self) -> None:
        self._files: SimpleQueue[int] = SimpleQueue()
        self._room = threading.Semaphore(_OPEN)
        self._threads: List[threading.Thread] = []
        self._problem: Optional[OSError] = None

    def begin(self, fd: int) -> None:
        """Writes what the file holds so far; the caller goes on writing to it."""
        self.finish(os.dup(fd))

    def finish(self, fd: int) -> None:
        """Writes the file, and closes it."""
        self._room.acquire()
        self._files.put(fd)
        if len(self._threads) < _THREADS:
            # A daemon: what an interrupted upload leaves behind keeps no process alive.
            self._threads.append(threading.Thread(target=self._work, daemon=True))
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
        while True:
            fd = self._files.get()
            if fd < 0:
                return
            try:
                os.fsync(fd)
            except OSError as error:
                self._problem = error
            finally:
                os.close(fd)
                self._room.release()
