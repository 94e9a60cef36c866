"""A progress bar for a person who watches; nothing in a scheduler."""

from __future__ import annotations

import time
from typing import TextIO

_WIDTH = 30
# Short transfers need no bar, and a terminal needs no more than a few pictures per second.
_APPEARS_AFTER_S = 0.5
_EVERY_S = 0.1


class ProgressBar:
    """Draws one line on `stream` if that is a terminal."""

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream if stream is not None and stream.isatty() else None
        self._started = time.monotonic()
        self._drawn = 0.0
        self._visible = False

    def show(self, what: str, done: int, total: int) -> None:
        """Show that `done` of `total` bytes have moved."""
        now = time.monotonic()
        if self._stream is None or now - self._started < _APPEARS_AFTER_S or now - self._drawn < _EVERY_S:
            return
        self._drawn, self._visible = now, True
        self._stream.write("\r" + line(what, done, total) + "\033[K")
        self._stream.flush()

    def close(self) -> None:
        """Remove the line."""
        if self._stream is not None and self._visible:
            self._stream.write("\r\033[K")
            self._stream.flush()
            self._visible = False


def line(what: str, done: int, total: int) -> str:
    """`to gpu1 [#####.....]  50 %  12.0 of 24.0 MiB`."""
    fraction = min(1.0, done / total) if total else 1.0
    bar = "#" * round(fraction * _WIDTH)
    return f"{what} [{bar:.<{_WIDTH}}] {fraction:4.0%}  {done / 2**20:.1f} of {total / 2**20:.1f} MiB"
