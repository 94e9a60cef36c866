"""Files on this side, on Windows too."""

from __future__ import annotations

import time
from pathlib import Path

# Virus scanners and indexers hold a new file for a moment (Windows only).
_RETRY_DELAYS_S = (0.05, 0.1, 0.2, 0.4, 0.8, 1.0)
_HELD_BY_SOMEBODY = (5, 32, 33)


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
