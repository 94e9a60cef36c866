"""Telling apart, describing and opening what lies in a folder that others write to."""

from __future__ import annotations

import errno
import os
import stat
import sys
from pathlib import Path
from typing import BinaryIO, Literal, Protocol

from mqi.intake.unit import FileStat

# A reparse point keeps its bytes in this very file for these tags (deduplicated or compressed volumes), so
# it is a file like any other. Every other tag points elsewhere: symlink, junction, cloud placeholder.
PLAIN_REPARSE_TAGS = frozenset({0x80000013, 0x80000017})  # IO_REPARSE_TAG_DEDUP, IO_REPARSE_TAG_WOF

# Ids of 64 and more bits exist (ReFS, FUSE); the database holds signed 64-bit numbers. A prime, so that
# every bit of an id counts.
_LARGEST_ID = 2**63 - 25
_LARGEST_TIME_NS = 2**63 - 1  # the year 2262

Kind = Literal["file", "folder", "link", "special"]


class Status(Protocol):
    """The one field of os.stat_result that every platform has; the Windows ones are looked up by name."""

    @property
    def st_mode(self) -> int: ...


def kind_of(status: Status) -> Kind:
    """What an os.lstat result describes. A junction or other reparse point is a "link" (Windows)."""
    if stat.S_ISLNK(status.st_mode):
        return "link"
    attributes: int = getattr(status, "st_file_attributes", 0)
    if attributes & stat.FILE_ATTRIBUTE_REPARSE_POINT:
        tag: int = getattr(status, "st_reparse_tag", 0)
        if tag not in PLAIN_REPARSE_TAGS:
            return "link"
    if stat.S_ISREG(status.st_mode):
        return "file"
    return "folder" if stat.S_ISDIR(status.st_mode) else "special"


def file_stat(path: str, status: os.stat_result) -> FileStat:
    """The FileStat of a file; `path` is what it will be called, posix and relative to its unit."""
    mtime_ns = max(-_LARGEST_TIME_NS, min(status.st_mtime_ns, _LARGEST_TIME_NS))
    return FileStat(path, status.st_size, mtime_ns, status.st_ino % _LARGEST_ID)


def open_plain(path: Path) -> BinaryIO:
    """Open a regular file for reading; never a link, and never waiting for the other end of a pipe.

    Somebody may have put another thing there since the folder was listed. Raises OSError.
    """
    if sys.platform == "win32":
        if kind_of(path.lstat()) != "file":
            raise OSError(errno.ELOOP, "not a regular file", str(path))
        return path.open("rb")
    # O_NONBLOCK: opening a pipe would wait for a writer. O_NOFOLLOW refuses a link (ELOOP).
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.ELOOP, "not a regular file", str(path))
    return os.fdopen(descriptor, "rb")


def reason_of(error: OSError) -> str:
    """The system's words for a failure, without the path, which may name a patient."""
    return error.strerror or type(error).__name__
