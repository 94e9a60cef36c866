"""Fetching files: one stream, each verified before it gets its name, each resumable where it broke off."""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mqi.errors import DiskProblem
from mqi.host.base import DownloadOutcome, Progress, RemoteFile
from mqi.host.conversation import Conversation
from mqi.host.files import publish
from mqi.host.framing import Garbled
from mqi.host.pace import CHUNK, Pace

PART_SUFFIX = ".part~"
# So many received files are made durable and renamed together.
_AT_ONCE = 64


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
            publish([(place.part, place.file.target) for place in self.verified])
        self.done += [place.file for place in self.verified]
        self.verified = []

    def outcome(self) -> DownloadOutcome:
        return DownloadOutcome(tuple(self.done), tuple(self.failed), self.paused)


@dataclass(frozen=True)
class Place:
    """Where a file arrives, and how much of it is there already."""

    file: RemoteFile
    part: Path
    offset: int


def places(files: Sequence[RemoteFile], tally: Tally) -> list[Place]:
    """Where the files arrive. Raises DiskProblem when their folders cannot be made."""
    found = []
    for file in files:
        part = file.target.with_name(file.target.name + PART_SUFFIX)
        try:
            part.parent.mkdir(parents=True, exist_ok=True)
            size = part.stat().st_size if part.exists() else 0
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
            good = _receive_one(conversation, place, tally)
        if not good:
            tally.failed.append((place.file, "its bytes are not those that the host announced"))
            continue
        tally.verified.append(place)
        if len(tally.verified) >= _AT_ONCE:
            tally.publish()
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


def _receive_one(conversation: Conversation, place: Place, tally: Tally) -> bool:
    """Whether the part holds the file's bytes now; when not, it is removed."""
    hasher = hashlib.sha256()
    buffer = memoryview(bytearray(CHUNK))
    # "a+b" would write at the end whatever comes; the part must hold exactly what we hash.
    with place.part.open("r+b" if place.offset else "wb", buffering=0) as target:
        _hash_prefix(target, place.offset, hasher, buffer)
        left = place.file.size - place.offset
        while left:
            count = conversation.read_into(buffer[: min(left, tally.pace.chunk)])
            hasher.update(buffer[:count])
            _write_all(target, buffer[:count])
            tally.move(count)
            tally.pace.spent(count)
            left -= count
    if hasher.hexdigest() == place.file.sha256:
        return True
    place.part.unlink()
    return False


def _hash_prefix(target: Any, length: int, hasher: Any, buffer: memoryview) -> None:
    while length:
        count = target.readinto(buffer[: min(length, CHUNK)])
        if not count:
            raise OSError("a part became shorter while it was read")
        hasher.update(buffer[:count])
        length -= count


def _write_all(target: Any, view: memoryview) -> None:
    while view:
        view = view[target.write(view) :]
