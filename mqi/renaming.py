"""Renames that hold: on Windows, where others keep new files open for a moment, and through a power cut."""

from __future__ import annotations

import os
import time
from pathlib import Path

# Virus scanners and indexers hold a new file for a moment: 2.5 s in all.
_RETRY_DELAYS_S = (0.05, 0.1, 0.2, 0.4, 0.8, 1.0)
# Windows' errors: access denied, sharing violation, lock violation.
_HELD_BY_SOMEBODY = (5, 32, 33)


def replace(source: Path | str, target: Path | str) -> None:
    """os.replace, again for a while when Windows says that somebody holds the file. Raises OSError."""
    for delay in _RETRY_DELAYS_S:
        try:
            os.replace(source, target)
            return
        except OSError as error:
            if getattr(error, "winerror", None) not in _HELD_BY_SOMEBODY:
                raise
            time.sleep(delay)
    os.replace(source, target)


def sync_folder(folder: Path) -> None:
    """Make a rename in this folder survive a power cut. NTFS journals it by itself. Raises OSError."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
