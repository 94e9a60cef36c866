"""The input store: files by content. Verification, resume and de-duplication are one mechanism.

A blob arrives in store/part/<digest>, is hashed on the way, and gets its place by rename only when its
bytes are the announced ones. Whoever is about to send bytes pins their digests first, so that nothing is
collected between "have?" and the plan.
"""

from __future__ import annotations

import hashlib
import os
import sys
import time
from pathlib import Path
from typing import Any, BinaryIO, Dict, List, Tuple

from agent import names
from agent.files import CHUNK, fsync_files, hash_file, read_json_object, remove, replace, write_json
from agent.frames import BadFrame, read_header
from agent.locks import Lock
from agent.problems import Refused
from agent.work import RunPaths, Work

# A blob that nobody uses or announced stays this long (host clock), a partial upload longer.
UNUSED_BLOB_S = 86400.0
UNUSED_PART_S = 7 * 86400.0
# So many received files are made durable together.
_AT_ONCE = 64


class Blob:
    """One entry of a put: `size` bytes in all, of which the host has the first `offset`."""

    def __init__(self, raw: Any) -> None:
        if not isinstance(raw, dict):
            raise Refused("bad_request", "a blob is not an object")
        self.sha256 = names.digest(raw.get("sha256"))
        self.size = names.whole(raw.get("size"), "size")
        self.offset = names.whole(raw.get("offset", 0), "offset", 0, self.size)


def missing_blobs(work: Work, wanted: List[Tuple[str, int]]) -> List[List[Any]]:
    """[digest, offset] of each wanted (digest, size) that is not in the store, each once."""
    missing: Dict[str, int] = {}
    for sha256, size in wanted:
        if sha256 in missing or _size(work.blob(sha256)) == size:
            continue
        part = _size(work.part(sha256))
        missing[sha256] = part if 0 <= part <= size else 0
    return [[sha256, offset] for sha256, offset in missing.items()]


def pin(run: RunPaths, digests: List[str]) -> None:
    """Keeps `digests` from collection until the run's plan holds them. Call under the agent's lock."""
    known = read_json_object(run.pin) or {}
    wanted = sorted(set(digests) | set(known.get("digests", ())))
    if wanted != known.get("digests"):
        write_json(run.pin, {"digests": wanted, "since": time.time()})


def receive(work: Work, blobs: List[Blob], stream: BinaryIO) -> Dict[str, Any]:
    """Takes the B frames of a put, up to the E that ends them (early, when the sender ran out of time).

    A frame of 0 bytes where more was announced says that the sender could not read its file.
    Raises BadFrame when the stream breaks; what has arrived stays, to be continued.
    """
    arrived = _Arrived(work)
    rejected: List[List[str]] = []
    work.parts.mkdir(parents=True, exist_ok=True)
    with Lock(work.upload_lock) as lock:
        if not lock.acquire(10.0):
            raise Refused("lock_timeout", "another upload to this host is still going on")
        try:
            for blob in blobs:
                kind, length = read_header(stream)
                if kind == "E":
                    break
                expected = blob.size - blob.offset
                if kind != "B" or length not in (0, expected):
                    raise BadFrame("%d bytes of a blob were expected" % expected)
                if length != expected:
                    reason = "not sent"
                elif arrived.has(blob):
                    reason = ""
                    _skip(stream, expected)
                else:
                    reason = _receive_one(work, blob, stream)
                    if not reason:
                        arrived.add(blob.sha256)
                if reason:
                    rejected.append([blob.sha256, reason])
            else:
                if read_header(stream)[0] != "E":
                    raise BadFrame("more frames than blobs")
        finally:
            # Also when the connection broke: what is whole need not even be asked for again.
            arrived.settle()
    return {"stored": arrived.stored(), "rejected": rejected}


class _Arrived:
    """Verified parts on their way to their places, some at a time: durable first, then under their names."""

    def __init__(self, work: Work) -> None:
        self._work = work
        self._waiting: List[str] = []
        self._stored: Dict[str, None] = {}

    def has(self, blob: Blob) -> bool:
        """Whether the host has the blob already, from before or from this upload."""
        if blob.sha256 in self._waiting or blob.sha256 in self._stored:
            return True
        if _size(self._work.blob(blob.sha256)) != blob.size:
            return False
        self._stored[blob.sha256] = None
        return True

    def stored(self) -> List[str]:
        """The digests that lie in their places."""
        return list(self._stored)

    def add(self, sha256: str) -> None:
        """The blob's part has all of its bytes."""
        self._waiting.append(sha256)
        if len(self._waiting) >= _AT_ONCE:
            self.settle()

    def settle(self) -> None:
        fsync_files([self._work.part(sha256) for sha256 in self._waiting])
        for sha256 in self._waiting:
            part, place = self._work.part(sha256), self._work.blob(sha256)
            if sys.platform != "win32":
                # Windows refuses to remove a read-only file, also through another link.
                os.chmod(str(part), 0o400)
            place.parent.mkdir(parents=True, exist_ok=True)
            replace(part, place)
        fsync_files(sorted({self._work.blob(sha256).parent for sha256 in self._waiting}))
        self._stored.update(dict.fromkeys(self._waiting))
        self._waiting = []


def _receive_one(work: Work, blob: Blob, stream: BinaryIO) -> str:
    """Why the blob is not good, or "" when its part has all of it."""
    part = work.part(blob.sha256)
    if blob.offset > max(0, _size(part)):
        _skip(stream, blob.size - blob.offset)
        return "the host does not have the first %d bytes" % blob.offset
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0)
    hasher = hashlib.sha256()
    with open(os.open(str(part), flags, 0o600), "r+b", buffering=0) as target:
        view = memoryview(bytearray(CHUNK))
        _hash_prefix(target, blob.offset, hasher, view)
        target.truncate(blob.offset)
        target.seek(blob.offset)
        left = blob.size - blob.offset
        while left:
            count = _read_some(stream, view[: min(left, CHUNK)])
            hasher.update(view[:count])
            _write_all(target, view[:count])
            left -= count
    if hasher.hexdigest() != blob.sha256:
        remove(part)
        return "the bytes are not those of the digest"
    return ""


def _hash_prefix(source: Any, length: int, hasher: Any, view: memoryview) -> None:
    while length:
        count = source.readinto(view[: min(length, CHUNK)])
        if not count:
            raise Refused("internal", "a partial upload became shorter while it was read")
        hasher.update(view[:count])
        length -= count


def _read_some(stream: BinaryIO, view: memoryview) -> int:
    count = stream.readinto(view)  # type: ignore[attr-defined]  # every buffered reader has it
    if not count:
        raise BadFrame("the input ended within a blob")
    return int(count)


def _write_all(target: Any, view: memoryview) -> None:
    while view:
        view = view[target.write(view) :]


def _skip(stream: BinaryIO, length: int) -> None:
    view = memoryview(bytearray(min(CHUNK, length) or 1))
    while length:
        length -= _read_some(stream, view[: min(length, CHUNK)])


def drop_if_wrong(work: Work, sha256: str) -> None:
    """Removes a blob whose bytes are not those of its name any more (a bad disk, a job that wrote to its
    inputs), so that it counts as missing and is sent again."""
    try:
        if hash_file(work.blob(sha256))[0] != sha256:
            remove(work.blob(sha256))
    except OSError:
        pass  # not there, or not readable: a later upload tells


def collect(work: Work, now: float) -> int:
    """Removes blobs that no run links to, no upload announced and that are a day old; the bytes freed.

    Call under the agent's lock: a pin that is written under it is seen here.
    """
    pinned = set()
    for path in _files(work.pins):
        pinned.update((read_json_object(path) or {}).get("digests", ()))
    freed = 0
    for folder in _folders(work.store):
        for path in _files(folder):
            state = path.stat()
            if path.name in pinned:
                continue
            limit = UNUSED_PART_S if folder == work.parts else UNUSED_BLOB_S
            if state.st_nlink == 1 and now - state.st_mtime > limit:
                remove(path)
                freed += state.st_size
    return freed


def _size(path: Path) -> int:
    """The file's size; -1 when there is none."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return -1


def _folders(folder: Path) -> List[Path]:
    return [entry for entry in sorted(folder.iterdir()) if entry.is_dir()] if folder.is_dir() else []


def _files(folder: Path) -> List[Path]:
    return [entry for entry in sorted(folder.iterdir()) if entry.is_file()] if folder.is_dir() else []
