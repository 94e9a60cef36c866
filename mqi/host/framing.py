"""The client's side of the wire: frames of `MQI <kind> <length>\\n` and `length` bytes (see the agent's frames).

What comes from a host is not trusted: a header is believed only within limits, before anything is
allocated on its word.
"""

from __future__ import annotations

import json
from typing import Any, BinaryIO, Protocol

MAX_JSON = 16 * 2**20
# A login shell may greet, warn and advertise before the agent gets to speak.
MAX_NOISE = 2**20
_LONGEST_HEADER = 40
_KINDS = (b"J", b"B", b"E", b"X")


class Garbled(Exception):
    """The host's words are not those of this protocol, or they stopped in the middle."""


class Source(Protocol):
    """What frames are read from: a buffered binary stream."""

    def readline(self, size: int = ..., /) -> bytes: ...
    def read(self, size: int = ..., /) -> bytes: ...
    def readinto(self, buffer: Any, /) -> int: ...


def encode(value: Any) -> bytes:
    """The JSON of a frame. Raises ValueError when it would be too long for one."""
    data = json.dumps(value, separators=(",", ":"), ensure_ascii=True).encode("ascii")
    if len(data) > MAX_JSON:
        raise ValueError(f"a message of {len(data)} bytes is too long for one frame")
    return data


def write_frame(stream: BinaryIO, kind: str, payload: bytes = b"") -> None:
    stream.write(b"MQI %s %d\n" % (kind.encode(), len(payload)) + payload)


def read_header(stream: Source) -> tuple[str, int]:
    """Kind and length of the next frame. Raises Garbled."""
    line = stream.readline(_LONGEST_HEADER)
    if not line:
        raise Garbled("the answer broke off")
    parts = line[:-1].split(b" ") if line.endswith(b"\n") else []
    if (
        len(parts) != 3
        or parts[0] != b"MQI"
        or parts[1] not in _KINDS
        or not parts[2].isdigit()
        or len(parts[2]) > 18
    ):
        raise Garbled("something that is not the agent answered")
    kind, length = parts[1].decode(), int(parts[2])
    if (kind in ("J", "X") and length > MAX_JSON) or (kind == "E" and length):
        raise Garbled(f"the answer announces a message of {length} bytes")
    return kind, length


def read_object(stream: Source, length: int) -> dict[str, Any]:
    """The JSON object of a frame whose header was just read. Raises Garbled."""
    data = stream.read(length)
    if len(data) != length:
        raise Garbled("the answer broke off")
    try:
        value = json.loads(data.decode("utf-8"))
    except (ValueError, RecursionError):
        raise Garbled("the answer is not JSON") from None
    if not isinstance(value, dict):
        raise Garbled("the answer is not an object")
    return value


def skip_noise(stream: Source, nonce: str) -> None:
    """Reads up to the line that starts the answer to `nonce`. Raises Garbled when it does not come.

    The line may follow a prompt that did not end its own line. A `-` for the nonce is an agent that could
    not even read the request.
    """
    wanted = (f"MQI-REPLY {nonce}\n".encode(), b"MQI-REPLY -\n")
    seen = 0
    while seen <= MAX_NOISE:
        line = stream.readline(4096)
        if not line:
            raise Garbled("it gave no answer")
        if line.endswith(wanted):
            return
        seen += len(line)
    raise Garbled("it talks, but does not answer")
