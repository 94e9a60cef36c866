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
from typing import Any, BinaryIO, Dict, List, Set, Tuple, Union

from agent import names
from agent.files import CHUNK, hash_file, read_json_object, remove, replace, write_json
from agent.frames import BadFrame, read_header
from agent.locks import Lock
from agent.problems import Refused
from agent.work import RunPaths, Work

# A blob that nobody uses or announced stays this long (host clock), a partial upload longer.
UNUSED_BLOB_S = 86400.0
UNUSED_PART_S = 7 * 86400.0
# So many received files, or so many of their bytes, get their names together.
_AT_ONCE = 1000
_AT_ONCE_BYTES = 1 << 28
# A large file is made durable in pieces of this, so that little is left to wait for at its end.
_PIECE = 1 << 26


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
    places = _Places(work)
    missing: Dict[str, int] = {}
    for sha256, size in wanted:
        if sha256 in missing or places.holds(sha256, size):
            continue
        part = _size(places.part(sha256)) if places.lists(places.parts, sha256) else 0
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
                    reason = _receive_one(blob, stream, arrived)
                if reason:
                    rejected.append([blob.sha256, reason])
            else:
                if read_header(stream)[0] != "E":
                    raise BadFrame("more frames than blobs")
        finally:
            # Also when the connection broke: what is whole need not even be asked for again.
            arrived.settle()
    return {"stored": arrived.stored(), "rejected": rejected}


class _Places:
    """Where blobs lie, as text: a `Path` for each of thousands takes longer than to write the file. Digests are
    those of `Blob` and `names.digest`."""

    def __init__(self, work: Work) -> None:
        self.parts = str(work.parts)
        self._part = self.parts + os.sep
        self._store = str(work.store) + os.sep
        self._names: Dict[str, Set[str]] = {}  # folder -> the names in it when it was first asked for

    def part(self, sha256: str) -> str:
        return self._part + sha256

    def folder(self, sha256: str) -> str:
        return self._store + sha256[:2]

    def blob(self, sha256: str) -> str:
        return self._store + sha256[:2] + os.sep + sha256

    def holds(self, sha256: str, size: int) -> bool:
        """Whether the blob lies in its place. Of thousands most do not, and a look for each takes longer than one at
        their folders."""
        return self.lists(self.folder(sha256), sha256) and _size(self.blob(sha256)) == size

    def lists(self, folder: str, name: str) -> bool:
        """Whether the folder had this name in it when it was first asked for."""
        if folder not in self._names:
            try:
                self._names[folder] = set(os.listdir(folder))
            except FileNotFoundError:
                self._names[folder] = set()
        return name in self._names[folder]


class _Arrived:
    """Verified parts on their way to their places, some at a time: durable first, then under their names.

    They become durable while the next ones arrive; nobody waits for the disk but at the end.
    """

    def __init__(self, work: Work) -> None:
        from agent.flushing import Flushing  # slow to import, and most requests bring no files

        self.places = _Places(work)
        self.flushing = Flushing()
        # One for all: memory that was just used is warm, new one comes page by page.
        self.buffer = memoryview(bytearray(CHUNK))
        self._waiting: Dict[str, int] = {}
        self._stored: Dict[str, None] = {}
        self._bytes = 0

    def has(self, blob: Blob) -> bool:
        """Whether the host has the blob already, from before or from this upload."""
        if blob.sha256 in self._waiting or blob.sha256 in self._stored:
            return True
        if not self.places.holds(blob.sha256, blob.size):
            return False
        self._stored[blob.sha256] = None
        return True

    def stored(self) -> List[str]:
        """The digests that lie in their places."""
        return list(self._stored)

    def add(self, blob: Blob, part: int) -> None:
        """All bytes of the blob are in its part, which is open as `part`; it is closed here."""
        self.flushing.finish(part)
        self._waiting[blob.sha256] = blob.size
        self._bytes += blob.size
        if len(self._waiting) >= _AT_ONCE or self._bytes >= _AT_ONCE_BYTES:
            self.settle()

    def settle(self) -> None:
        """Gives all that has arrived its name. Raises OSError; what has no name then is sent again."""
        self.flushing.wait()
        folders = {self.places.folder(sha256) for sha256 in self._waiting}
        for folder in folders:
            os.makedirs(folder, exist_ok=True)
        for sha256 in self._waiting:
            part = self.places.part(sha256)
            if sys.platform != "win32":
                # Windows refuses to remove a read-only file, also through another link.
                os.chmod(part, 0o400)
            replace(part, self.places.blob(sha256))
        if sys.platform != "win32":  # Windows has no such call for folders, and needs none
            for folder in folders:
                self.flushing.finish(os.open(folder, os.O_RDONLY))
            self.flushing.wait()
        self._stored.update(dict.fromkeys(self._waiting))
        self._waiting, self._bytes = {}, 0


def _receive_one(blob: Blob, stream: BinaryIO, arrived: _Arrived) -> str:
    """Why the blob is not good, or "" when all of it has arrived."""
    part = arrived.places.part(blob.sha256)
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0)
    if not blob.offset:
        flags |= os.O_TRUNC
    elif blob.offset > _size(part):
        _skip(stream, blob.size - blob.offset)
        return "the host does not have the first %d bytes" % blob.offset
    target = os.open(part, flags, 0o600)
    try:
        good = _fill(target, blob, stream, arrived)
    except BaseException:
        os.close(target)
        raise
    if good:
        arrived.add(blob, target)
        return ""
    os.close(target)
    os.unlink(part)
    return "the bytes are not those of the digest"


def _fill(target: int, blob: Blob, stream: BinaryIO, arrived: _Arrived) -> bool:
    """Whether the open part holds the blob's bytes now. No file object: it would take as long as a small file."""
    hasher = hashlib.sha256()
    view = arrived.buffer
    if blob.offset:
        _hash_prefix(target, blob.offset, hasher)
        os.ftruncate(target, blob.offset)
    left, flushed = blob.size - blob.offset, 0
    while left:
        count = _read_some(stream, view[: min(left, CHUNK)])
        hasher.update(view[:count])
        _write_all(target, view[:count])
        left -= count
        flushed += count
        if flushed >= _PIECE and left:
            arrived.flushing.begin(target)
            flushed = 0
    return hasher.hexdigest() == blob.sha256


def _hash_prefix(source: int, length: int, hasher: Any) -> None:
    while length:
        piece = os.read(source, min(length, CHUNK))
        if not piece:
            raise Refused("internal", "a partial upload became shorter while it was read")
        hasher.update(piece)
        length -= len(piece)


def _read_some(stream: BinaryIO, view: memoryview) -> int:
    count = stream.readinto(view)  # type: ignore[attr-defined]  # every buffered reader has it
    if not count:
        raise BadFrame("the input ended within a blob")
    return int(count)


def _write_all(target: int, view: memoryview) -> None:
    while view:
        view = view[os.write(target, view) :]


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


def _size(path: Union[Path, str]) -> int:
    """The file's size; -1 when there is none."""
    try:
        return os.stat(str(path)).st_size
    except FileNotFoundError:
        return -1


def _folders(folder: Path) -> List[Path]:
    return [entry for entry in sorted(folder.iterdir()) if entry.is_dir()] if folder.is_dir() else []


def _files(folder: Path) -> List[Path]:
    return [entry for entry in sorted(folder.iterdir()) if entry.is_file()] if folder.is_dir() else []
