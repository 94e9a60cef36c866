"""What a look at a watch folder yields: units, their files, and which names are passed over. Pure."""

from __future__ import annotations

import fnmatch
import hashlib
import json
import re
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Literal, NamedTuple

# Names that stay for ever beside finished files: desktops, editors and earlier receivers put them there.
# Where `ignore` matches one it is passed over, but it does not hold the case back as a name that a
# copying program will rename does (a Thumbs.db would otherwise keep its case waiting for ever).
LASTING_NAMES = (".DS_Store", "Thumbs.db", "desktop.ini", "*~", "~$*", "*.backup.*", ".nfs*")

SHOWN_LENGTH = 100


class FileStat(NamedTuple):
    """One file of a unit: `path` is posix and relative to the unit, `size` bytes, `file_id` from st_ino."""

    path: str
    size: int
    mtime_ns: int
    file_id: int


class Unit(NamedTuple):
    """One folder that is, or may become, a case."""

    path: str  # posix, relative to the watch folder; always valid UTF-8
    folder: Path
    files: tuple[FileStat, ...]
    # Names present that `ignore` matches and that should disappear by themselves (copies under way).
    temporary: tuple[str, ...]
    # Why the folder cannot become a case before somebody corrects it, and what to do. Names entries of
    # the folder: for the screen, not for logs.
    problem: str | None
    marker_found: bool
    # (folder relative to the unit, "." for itself; mtime_ns): changes when any entry comes, goes, is renamed.
    folders: tuple[tuple[str, int], ...]
    # "folders": only `folders` was compared with what is settled; files, temporary, marker_found say nothing.
    looked: Literal["full", "folders"] = "full"
    # Shown because it was seen, but no case folder: `patient` while there is no `patient/study` yet.
    placeholder: bool = False
    # Folders directly in it whose files were not listed, because their times are those that were known.
    unopened: frozenset[str] = frozenset()


class WatchListing(NamedTuple):
    """All units of one watch folder, by path. With `problem` nothing is known about any of them."""

    units: tuple[Unit, ...]
    problem: str | None = None


def snapshot_digest(files: Iterable[FileStat]) -> str:
    """64 hex digits over path, size and mtime of every file, in any order.

    The file id is left out: some network file systems invent it anew on every look, and a folder there
    would never be quiet. The hash cache has it in its key, where a new id costs a second hash only.
    """
    rows = sorted((file.path, file.size, file.mtime_ns) for file in files)
    return hashlib.sha256(json.dumps(rows, separators=(",", ":")).encode("ascii")).hexdigest()


@lru_cache(maxsize=64)
def name_pattern(patterns: tuple[str, ...]) -> re.Pattern[str]:
    """One expression that matches a file name which any of these fnmatch patterns matches, in any case."""
    return re.compile("|".join(fnmatch.translate(pattern) for pattern in patterns) or r"(?!)", re.IGNORECASE)


def storable(name: str) -> bool:
    """Whether the name is text that can be stored: no bytes that are not UTF-8, no half of a UTF-16 pair."""
    return name.isascii() or not any("\ud800" <= character <= "\udfff" for character in name)


def shown(name: str) -> str:
    """The name in quotes, for a sentence: one line, controls and broken text escaped, long ones cut."""
    text = "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode("ascii")
        for character in name
    )
    if len(text) > SHOWN_LENGTH:
        text = f"{text[: SHOWN_LENGTH // 2]}…{text[-SHOWN_LENGTH // 2 :]}"
    return f"'{text}'"
