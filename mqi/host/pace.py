"""A limit to how fast data moves."""

from __future__ import annotations

import time
from collections.abc import Callable

CHUNK = 1 << 20
# With a limit data moves in pieces of this time, so that a slow transfer still shows signs of life.
_PIECE_S = 0.2
_SMALLEST = 1 << 12


class Pace:
    """At most `limit` bytes a second on average; None: as fast as it goes. `chunk`: how many to move at once."""

    def __init__(
        self,
        limit: int | None,
        now: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.chunk = CHUNK if limit is None else max(_SMALLEST, min(CHUNK, int(limit * _PIECE_S)))
        self._limit = limit
        self._now, self._sleep = now, sleep
        self._free_at = now()

    def spent(self, count: int) -> None:
        """Wait until so many bytes more may have moved. What was not used before gives no credit."""
        if self._limit is None:
            return
        self._free_at = max(self._free_at, self._now()) + count / self._limit
        wait_s = self._free_at - self._now() - _PIECE_S
        if wait_s > 0:
            self._sleep(wait_s)
