"""A running agent and the two streams to it, whatever carries them."""

from __future__ import annotations

import threading
import time
from types import TracebackType
from typing import BinaryIO, Protocol

from mqi.host.framing import Source


class Channel(Protocol):
    """One process on a host. `stdin` is unbuffered or flushed by its writer."""

    stdin: BinaryIO
    stdout: Source

    @property
    def alive(self) -> bool:
        """Whether it still listens, as far as one can know without asking."""

    def stderr_tail(self) -> str:
        """The last words on its stderr, for the message of a failure."""

    def wait(self, timeout_s: float) -> int | None:
        """Its exit code; None when it still runs after `timeout_s` seconds."""

    def kill(self) -> None:
        """Ends it, and wakes whoever reads from or writes to it. Repeatable; from any thread."""

    def close(self) -> None:
        """Ends it and gives everything back."""


class Watchdog:
    """Kills a channel on which nothing moves for `idle_s` seconds, so that no read or write blocks for ever.

    Works the same for pipes and for SSH, on every system; the reader sees the end of the stream and asks
    `fired` why.
    """

    def __init__(self, channel: Channel, idle_s: float) -> None:
        self._channel = channel
        self._idle_s = idle_s
        self._last = time.monotonic()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="mqi-watchdog", daemon=True)
        self.fired = False

    def beat(self) -> None:
        """Something moved."""
        self._last = time.monotonic()

    def _watch(self) -> None:
        while not self._stop.wait(min(1.0, self._idle_s / 4)):
            if time.monotonic() - self._last > self._idle_s:
                self.fired = True
                self._channel.kill()
                return

    def __enter__(self) -> Watchdog:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join()
