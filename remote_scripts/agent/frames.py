"""The wire: frames of `MQI <kind> <length>\\n` and then `length` bytes. Kinds: J json, B bytes, E end, X error."""

from __future__ import annotations

import io
import json
import os
import select
import sys
from typing import Any, BinaryIO, Tuple

MAX_JSON = 16 * 2**20
_LONGEST_HEADER = 40
_F_SETPIPE_SZ = 1031  # fcntl(2); the module fcntl knows it from Python 3.10 on
_PIPE = 1 << 20


class BadFrame(Exception):
    """The other side does not speak this protocol, or its sentence was cut off."""


class IdleInput(io.RawIOBase):
    """A raw input that gives up when nothing arrives for `idle_s` seconds.

    A connection that died half-way must not leave an agent behind that waits for ever and holds the
    upload lock. Windows cannot wait on pipes; there the end of the parent closes the pipe.
    """

    def __init__(self, fd: int, idle_s: float) -> None:
        self._fd = fd
        self._idle_s = idle_s

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        if sys.platform == "win32":
            data = os.read(self._fd, len(view))
            view[: len(data)] = data
            return len(data)
        if not select.select([self._fd], [], [], self._idle_s)[0]:
            raise BadFrame("nothing arrived for %d s" % self._idle_s)
        return os.readv(self._fd, [view])


def widen(fd: int) -> None:
    """Lets a pipe hold more (Linux): with the usual 64 KiB its two ends wait for each other all the time."""
    if sys.platform.startswith("linux"):
        import fcntl

        try:
            fcntl.fcntl(fd, _F_SETPIPE_SZ, _PIPE)
        except OSError:
            pass  # not a pipe, or the system allows this user no more: it works all the same


def open_input(fd: int, idle_s: float) -> BinaryIO:
    widen(fd)
    # Small: what is read ahead of a file's bytes with their header is copied once more.
    return io.BufferedReader(IdleInput(fd, idle_s), 1 << 16)


def read_header(stream: BinaryIO) -> Tuple[str, int]:
    """Kind and length of the next frame. Raises BadFrame; nothing is allocated on the header's word."""
    line = stream.readline(_LONGEST_HEADER)
    parts = line[:-1].split(b" ") if line.endswith(b"\n") else []
    if (
        len(parts) != 3
        or parts[0] != b"MQI"
        or parts[1] not in (b"J", b"B", b"E", b"X")
        or not parts[2].isdigit()
        or len(parts[2]) > 18
    ):
        raise BadFrame("the input ended" if not line else "not a frame header")
    kind, length = parts[1].decode(), int(parts[2])
    if kind in ("J", "X") and length > MAX_JSON:
        raise BadFrame("a message of %d bytes is too long" % length)
    if kind == "E" and length != 0:
        raise BadFrame("an end with a length")
    return kind, length


def read_json(stream: BinaryIO) -> Any:
    """The next frame, which must be a J."""
    kind, length = read_header(stream)
    if kind != "J":
        raise BadFrame("a message was expected, not %s" % kind)
    data = stream.read(length)
    if len(data) != length:
        raise BadFrame("the input ended within a message")
    try:
        return json.loads(data.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise BadFrame("not a message: %s" % error) from None


def encode(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=True).encode("ascii")


def write_frame(stream: BinaryIO, kind: str, payload: bytes = b"") -> None:
    stream.write(b"MQI %s %d\n" % (kind.encode(), len(payload)))
    stream.write(payload)


def write_bytes_header(stream: BinaryIO, length: int) -> None:
    """Announces a B frame; the caller writes exactly `length` bytes after it."""
    stream.write(b"MQI B %d\n" % length)
