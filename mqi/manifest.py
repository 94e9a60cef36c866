"""The manifest of a unit (path, size and SHA-256 of every file), and the run key made of it.

The Windows-safe names of `mqi.names` are offered here too.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from mqi.errors import IntakeProblem, TemporaryProblem
from mqi.intake.files import file_stat, kind_of, open_plain, reason_of
from mqi.intake.unit import FileStat, shown
from mqi.names import inside, is_unsafe_on_windows, safe_name, safe_relative, unique_names

__all__ = [
    "Entry", "FilesChanged", "Manifest", "hash_files", "inside", "is_unsafe_on_windows", "run_key",
    "safe_name", "safe_relative", "unique_names",
]  # fmt: skip

RUN_KEY_LENGTH = 12
_SHA256 = re.compile(r"[0-9a-f]{64}")
_BLOCK = 1 << 20


class FilesChanged(TemporaryProblem):
    """A file changed, vanished or was locked while it was read: the unit is not complete after all."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One file: `path` posix and relative, `size` bytes, `sha256` 64 lowercase hex digits."""

    path: str
    size: int
    sha256: str

    def __post_init__(self) -> None:
        parts = self.path.split("/")
        if "" in parts or "." in parts or ".." in parts or "\0" in self.path:
            raise ValueError(f"not a relative path: {self.path!r}")
        if self.size < 0 or not _SHA256.fullmatch(self.sha256):
            raise ValueError(f"not a size and a SHA-256: {self.size!r}, {self.sha256!r}")


@dataclass(frozen=True, slots=True)
class Manifest:
    """The files of a unit, in the one order (by path) that every digest uses.

    Raises ValueError when a path is there twice.
    """

    entries: tuple[Entry, ...]

    def __post_init__(self) -> None:
        ordered = tuple(sorted(self.entries, key=lambda entry: entry.path))
        for one, other in itertools.pairwise(ordered):
            if one.path == other.path:
                raise ValueError(f"the path is there twice: {one.path!r}")
        object.__setattr__(self, "entries", ordered)

    def __iter__(self) -> Iterator[Entry]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)

    @property
    def size(self) -> int:
        """Bytes of all files together."""
        return sum(entry.size for entry in self.entries)

    def digest(self, room: str, unit_path: str, fraction: str | None = None) -> str:
        """64 hex digits that name this work: the same files in the same place, for the same fraction.

        The workflow is not part of it: a changed configuration does not make another case. Without a
        fraction the whole folder is meant.
        """
        # JSON in ASCII keeps the fields apart whatever the names contain: no two inputs share an encoding.
        rows = [[entry.path, entry.size, entry.sha256] for entry in self.entries]
        text = json.dumps(["mqi run 1", room, unit_path, fraction or "", rows], separators=(",", ":"))
        return hashlib.sha256(text.encode("ascii")).hexdigest()

    def to_json(self) -> str:
        """One line; `from_json` reads it."""
        rows = [[entry.path, entry.size, entry.sha256] for entry in self.entries]
        return json.dumps({"format": 1, "entries": rows}, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> Manifest:
        """The manifest that `to_json` wrote. Raises ValueError on anything else."""
        try:
            data: Any = json.loads(text)
        except RecursionError as error:
            raise ValueError("not a manifest: nested too deep") from error
        rows = data.get("entries") if isinstance(data, Mapping) and data.get("format", 1) == 1 else None
        if not isinstance(rows, list):
            raise ValueError("not a manifest of format 1")
        entries = []
        for row in rows:
            if not isinstance(row, list) or [type(value) for value in row] != [str, int, str]:
                raise ValueError(f"not a manifest row: {row!r}")
            entries.append(Entry(row[0], row[1], row[2]))
        return cls(tuple(entries))


def run_key(digest: str) -> str:
    """The short name of a run: the first 12 of its digest's 64 hex digits."""
    if not _SHA256.fullmatch(digest):
        raise ValueError(f"not a digest: {digest!r}")
    return digest[:RUN_KEY_LENGTH]


def hash_files(
    folder: Path,
    files: Iterable[FileStat],
    cache_get: Callable[[str, int, int, int], str | None],
    cache_put: Callable[[str, int, int, int, str], object],
) -> Manifest:
    """The manifest of `files` (as listed: path, size, mtime, file id) below `folder`.

    `cache_get(path, size, mtime_ns, file_id)` may know the SHA-256 of such a file; `cache_put` is told the
    same and each digest that had to be computed, at once, so a command that is killed has not worked in
    vain. There `path` is the whole path: the same names exist in every case. A file is compared with its
    listing before and after it is read, and a cached one before it is believed.

    Raises FilesChanged when a file is not, or no longer, what was listed (the unit is still being written),
    and IntakeProblem when one cannot be read. Sentences name no file; hints do.
    """
    entries = []
    for file in files:
        path = folder / file.path
        try:
            _require_same(path, file)
        except OSError as error:
            raise _unreadable(error, file) from error
        key = (path.as_posix(), file.size, file.mtime_ns, file.file_id)
        sha256 = cache_get(*key)
        if sha256 is None or not _SHA256.fullmatch(sha256):
            sha256 = _read(path, file)
            cache_put(*key, sha256)
        entries.append(Entry(file.path, file.size, sha256))
    return Manifest(tuple(entries))


def _read(path: Path, file: FileStat) -> str:
    try:
        return _sha256_of(path, file)
    except OSError as error:
        raise _unreadable(error, file) from error


def _sha256_of(path: Path, file: FileStat) -> str:
    digest = hashlib.sha256()
    length = 0
    with open_plain(path) as stream:
        for block in _blocks(stream):
            digest.update(block)
            length += len(block)
            if length > file.size:  # grows while we read: a writer that never ends must not hold us
                break
    if length != file.size:
        raise _changed(file)
    _require_same(path, file)
    return digest.hexdigest()


def _blocks(stream: BinaryIO) -> Iterator[bytes]:
    while block := stream.read(_BLOCK):
        yield block


def _require_same(path: Path, file: FileStat) -> None:
    # By path, not by descriptor: Windows gives the two different file ids on some file systems.
    status = os.lstat(path)
    if kind_of(status) != "file" or file_stat(file.path, status) != file:
        raise _changed(file)


def _changed(file: FileStat) -> FilesChanged:
    return FilesChanged(
        "A file changed while it was read; the folder is still being written.",
        f"{shown(file.path)} is not as it was when the folder was listed. The next scan looks again.",
    )


def _unreadable(error: OSError, file: FileStat) -> FilesChanged | IntakeProblem:
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return _changed(file)
    if getattr(error, "winerror", None) in (32, 33):
        return FilesChanged(
            "A file is held by another program and cannot be read yet.",
            f"{shown(file.path)} is open elsewhere. The next scan looks again.",
        )
    return IntakeProblem(
        f"A file cannot be read: {reason_of(error)}.",
        f"Let the account that runs mqi read {shown(file.path)}, and check the disk it lies on.",
    )
