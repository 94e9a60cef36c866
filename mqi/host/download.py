"""Fetching files: one stream, each verified before it gets its name, each resumable where it broke off."""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from mqi.errors import DiskProblem
from mqi.host.base import DownloadOutcome, Progress, RemoteFile
from mqi.host.conversation import Conversation
from mqi.host.files import Flushing, publish
from mqi.host.framing import Garbled
from mqi.host.pace import CHUNK, Pace

PART_SUFFIX = ".part~"
# So many received files, or so many of their bytes, get their names together.
_AT_ONCE = 1000
_AT_ONCE_BYTES = 2**28
# A large file is made durable in pieces of this, so that little is left to wait for at its end.
_PIECE = 2**26


@dataclass
class Tally:
    """What has become of a download so far. `total`, `moved` in bytes."""

    total: int
    deadline: float | None
    progress: Progress | None
    pace: Pace = field(default_factory=lambda: Pace(None))
    moved: int = 0
    done: list[RemoteFile] = field(default_factory=list)
    verified: list[Place] = field(default_factory=list)  # whole and right, not yet under their names
    failed: list[tuple[RemoteFile, str]] = field(default_factory=list)
    paused: bool = False
    flushing: Flushing = field(default_factory=Flushing)

    def late(self) -> bool:
        """Whether the deadline has passed; then the transfer counts as paused."""
        if self.deadline is not None and time.monotonic() >= self.deadline:
            self.paused = True
        return self.paused

    def move(self, count: int) -> None:
        self.moved += count
        if self.progress is not None:
            self.progress(self.moved, self.total)

    def publish(self) -> None:
        """Gives verified files their names. Raises DiskProblem."""
        with writing():
            publish([(place.part, str(place.file.target)) for place in self.verified], self.flushing)
        self.done += [place.file for place in self.verified]
        self.verified = []

    def outcome(self) -> DownloadOutcome:
        return DownloadOutcome(tuple(self.done), tuple(self.failed), self.paused)


class Place(NamedTuple):
    """Where a file arrives, and how much of it is there already. Paths are text: of thousands of small files, a `Path`
    for each would take as long as to write them."""

    file: RemoteFile
    part: str
    offset: int


def places(files: Sequence[RemoteFile], tally: Tally) -> list[Place]:
    """Where the files arrive. Raises DiskProblem when their folders cannot be made."""
    found = []
    begun: dict[str, set[str]] = {}  # folder -> what is in it
    for file in files:
        folder, name = os.path.split(file.target)
        name += PART_SUFFIX
        part = os.path.join(folder, name)
        try:
            if folder not in begun:
                os.makedirs(folder, exist_ok=True)
                begun[folder] = set(os.listdir(folder))
            size = os.stat(part).st_size if name in begun[folder] else 0
        except OSError as error:
            raise DiskProblem(f"the folder for results cannot be written ({error.strerror})") from error
        offset = size if size <= file.size else 0
        tally.move(offset)
        found.append(Place(file, part, offset))
    return found


def call(wanted: Sequence[Place]) -> dict[str, Any]:
    """The `get` for these files."""
    files = [
        {
            "job_key": place.file.job_key,
            "path": place.file.path,
            "sha256": place.file.sha256,
            "size": place.file.size,
            "offset": place.offset,
        }
        for place in wanted
    ]
    return {"verb": "get", "files": files}


def receive(conversation: Conversation, wanted: Sequence[Place], tally: Tally) -> bool:
    """Takes the files' frames; False when the deadline stopped it. Raises Garbled and DiskProblem.

    Whatever interrupts it, what has arrived of a file stays in its part, to be continued.
    """
    try:
        return _receive_all(conversation, wanted, tally)
    finally:
        tally.publish()


def _receive_all(conversation: Conversation, wanted: Sequence[Place], tally: Tally) -> bool:
    buffer = memoryview(bytearray(CHUNK))
    waiting = 0
    for index, place in enumerate(wanted):
        if tally.late():
            return False
        kind, length = conversation.header()
        said = conversation.message(length) if kind == "J" else {}
        if said.get("index") != index:
            raise Garbled("the files come in another order than asked for")
        if "error" in said:
            tally.failed.append((place.file, str(said["error"])[:500]))
            continue
        kind, length = conversation.header()
        if kind != "B" or length != place.file.size - place.offset:
            raise Garbled("a file has another size than the host said before")
        with writing():
            good = _receive_one(conversation, place, tally, buffer)
        if not good:
            tally.failed.append((place.file, "its bytes are not those that the host announced"))
            continue
        tally.verified.append(place)
        waiting += place.file.size
        if len(tally.verified) >= _AT_ONCE or waiting >= _AT_ONCE_BYTES:
            tally.publish()
            waiting = 0
    return True


@contextlib.contextmanager
def writing() -> Iterator[None]:
    """Turns what the results disk says no to into a DiskProblem."""
    try:
        yield
    except OSError as error:
        raise DiskProblem(
            f"the results cannot be written ({error.strerror})", "make room on the results disk"
        ) from error


def _receive_one(conversation: Conversation, place: Place, tally: Tally, buffer: memoryview) -> bool:
    """Whether the part holds the file's bytes now; when not, it is removed."""
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0)
    target = os.open(place.part, flags if place.offset else flags | os.O_TRUNC, 0o666)
    try:
        good = _fill(target, conversation, place, tally, buffer)
    except BaseException:
        os.close(target)
        raise
    if good:
        tally.flushing.finish(target)  # which closes it
    else:
        os.close(target)
        os.unlink(place.part)
    return good


def _fill(target: int, conversation: Conversation, place: Place, tally: Tally, buffer: memoryview) -> bool:
    """Whether the open part holds the file's bytes now."""
    hasher = hashlib.sha256()
    _hash_prefix(target, place.offset, hasher)
    left, flushed = place.file.size - place.offset, 0
    while left:
        count = conversation.read_into(buffer[: min(left, tally.pace.chunk)])
        hasher.update(buffer[:count])
        _write_all(target, buffer[:count])
        tally.move(count)
        tally.pace.spent(count)
        left -= count
        flushed += count
        if flushed >= _PIECE and left:
            tally.flushing.begin(target)
            flushed = 0
    return hasher.hexdigest() == place.file.sha256


def _hash_prefix(target: int, length: int, hasher: Any) -> None:
    while length:
        piece = os.read(target, min(length, CHUNK))
        if not piece:
            raise OSError("a part became shorter while it was read")
        hasher.update(piece)
        length -= len(piece)


def _write_all(target: int, view: memoryview) -> None:
    while view:
        view = view[os.write(target, view) :]
