"""Files on this side, on Windows too."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

# Virus scanners and indexers hold a new file for a moment (Windows only).
_RETRY_DELAYS_S = (0.05, 0.1, 0.2, 0.4, 0.8, 1.0)
_HELD_BY_SOMEBODY = (5, 32, 33)


def publish(pairs: Sequence[tuple[Path, Path]]) -> None:
    """Gives finished files (first) their names (second): durable first, then renamed. Raises OSError.

    Several at a time: file systems write one journal for all that ask together.
    """
    with ThreadPoolExecutor(8) as pool:
        for _ in pool.map(_fsync, [part for part, _ in pairs]):
            pass
        for part, target in pairs:
            replace(part, target)
        if os.name != "nt":  # Windows has no such call for folders, and needs none
            for _ in pool.map(_fsync, {target.parent for _, target in pairs}):
                pass


def _fsync(path: Path) -> None:
    # Windows fsyncs only what is open for writing.
    fd = os.open(path, os.O_RDWR | getattr(os, "O_BINARY", 0) if os.name == "nt" else os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def replace(source: Path, target: Path) -> None:
    """Path.replace, again for a while when Windows says that somebody holds the file. Raises OSError."""
    for delay in _RETRY_DELAYS_S:
        try:
            source.replace(target)
            return
        except OSError as error:
            if getattr(error, "winerror", None) not in _HELD_BY_SOMEBODY:
                raise
            time.sleep(delay)
    source.replace(target)
