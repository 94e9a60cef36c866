"""Sending files: one stream, each file's bytes after a header, nothing to wait for in between."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mqi.host.base import Blob, Progress, UploadOutcome
from mqi.host.conversation import Conversation
from mqi.host.pace import Pace


@dataclass
class Tally:
    """What has become of an upload so far. `total`, `moved` in bytes."""

    total: int
    deadline: float | None
    progress: Progress | None
    pace: Pace = field(default_factory=lambda: Pace(None))
    moved: int = 0
    stored: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)
    unreadable: list[tuple[str, str]] = field(default_factory=list)
    rejected: list[tuple[str, str]] = field(default_factory=list)
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

    def outcome(self) -> UploadOutcome:
        return UploadOutcome(
            tuple(self.stored),
            tuple(self.changed),
            tuple(self.unreadable),
            tuple(self.rejected),
            self.paused,
        )


def send(conversation: Conversation, batch: Sequence[tuple[Blob, int]], tally: Tally) -> dict[str, Blob]:
    """Sends the frames of a put; the blobs that were sent whole, by digest.

    A file that cannot be read, or has another size by now, is passed over with an empty frame.
    """
    sent = {}
    chunk = tally.pace.chunk
    buffer = memoryview(bytearray(chunk))
    for blob, offset in batch:
        if conversation.deaf or tally.late():
            break
        try:
            source = blob.path.open("rb", buffering=0)  # the header must come in between
        except OSError as error:
            tally.unreadable.append((blob.sha256, error.strerror or type(error).__name__))
            conversation.announce(0)
            if blob.size == offset:
                sent[blob.sha256] = blob  # the host takes the empty frame for the (empty) rest
            continue
        with source:
            if os.fstat(source.fileno()).st_size != blob.size:
                tally.changed.append(blob.sha256)
                conversation.announce(0)
                continue
            conversation.announce(blob.size - offset)
            source.seek(offset)
            left = blob.size - offset
            while left and not conversation.deaf:
                try:
                    count = source.readinto(buffer[: min(left, chunk)])
                except OSError as error:
                    tally.unreadable.append((blob.sha256, error.strerror or type(error).__name__))
                    count = 0
                if not count:
                    # It became shorter, or unreadable. The announced bytes must come all the same; the
                    # host will find that they are not those of the digest.
                    buffer[:] = bytes(chunk)
                    count = min(left, chunk)
                conversation.write(buffer[:count])
                tally.move(count)
                tally.pace.spent(count)
                left -= count
            sent[blob.sha256] = blob
    conversation.end_request()
    return sent


def settle(tally: Tally, sent: Mapping[str, Blob], reply: Mapping[str, Any]) -> None:
    """Reads the host's verdicts. A rejected file whose local bytes are not those of its digest is `changed`."""
    told = {digest for digest, _ in tally.unreadable} | set(tally.changed)
    for digest in reply.get("stored") or ():
        if digest in sent and digest not in told:
            tally.stored.append(digest)
    for entry in reply.get("rejected") or ():
        digest, reason = str(entry[0]), str(entry[1])[:500]
        blob = sent.get(digest)
        if blob is None or digest in told:
            continue
        problem = _why_not_the_digest(blob)
        if problem is None:
            tally.rejected.append((digest, reason))
        elif problem:
            tally.unreadable.append((digest, problem))
        else:
            tally.changed.append(digest)


def _why_not_the_digest(blob: Blob) -> str | None:
    """None when the local bytes are those of the digest, "" when they are not, else why nobody knows."""
    try:
        with blob.path.open("rb") as source:
            return None if hashlib.file_digest(source, "sha256").hexdigest() == blob.sha256 else ""
    except OSError as error:
        return error.strerror or type(error).__name__
