"""One request and its answer: what is said on a channel, and what it means when the saying stops."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from mqi.errors import HostRefused, HostUnreachable, TemporaryProblem
from mqi.host import framing
from mqi.host.base import Answer
from mqi.host.channel import Channel, Watchdog

PROTOCOL = 1
_TEMPORARY_CODES = ("lock_timeout", "work_dir", "internal")


class Conversation:
    """One request and its answer, while the agent lives."""

    def __init__(self, host: str, channel: Channel, watchdog: Watchdog, nonce: str, calls: int) -> None:
        self._host = host
        self._channel = channel
        self._watchdog = watchdog
        self._nonce = nonce
        self._calls = calls
        self._started = time.time()
        # The agent stopped listening: it has an error to tell, or is dead. Its answer decides.
        self.deaf = False
        # Both sides have said all, and neither is in the middle of anything.
        self.over = False

    def write(self, payload: bytes | memoryview, *, frame: str = "") -> None:
        """Writes a frame of kind `frame`, or plain bytes of one that was announced. A host that does not
        listen any more is noted, not raised: what it says last is worth more."""
        if self.deaf:
            return
        try:
            if frame:
                framing.write_frame(self._channel.stdin, frame, bytes(payload))
            else:
                self._channel.stdin.write(payload)
            self._watchdog.beat()
        except (OSError, ValueError):
            self.deaf = True

    def announce(self, length: int) -> None:
        """The header of a B frame; `write` its bytes afterwards."""
        self.write(b"MQI B %d\n" % length)

    def end_request(self) -> None:
        self.write(b"", frame="E")
        try:
            self._channel.stdin.flush()
        except (OSError, ValueError):
            self.deaf = True

    def skip_to_answer(self) -> None:
        """Reads past whatever is said before the answer. Raises Garbled."""
        framing.skip_noise(self._channel.stdout, self._nonce)

    def answer(self) -> Answer:
        """The agent's reply. Raises Garbled, HostRefused or TemporaryProblem."""
        self.skip_to_answer()
        kind, length = self.header()
        if kind not in ("J", "X"):
            raise framing.Garbled("the answer does not begin with a message")
        reply = self.message(length)
        received = time.time()
        if kind == "X":
            raise refusal(self._host, reply)
        self._watchdog.beat()
        try:
            answer = Answer(
                host=self._host,
                work_id=_typed(reply, "work_id", str),
                seq=_typed(reply, "seq", int),
                boot_id=_typed(reply, "boot_id", str),
                host_now=float(_typed(reply, "now", (int, float))),
                # Taken by the middle of the conversation: right to half of what the host took.
                clock_skew_s=float(reply["now"]) - (self._started + received) / 2,
                probe=_typed(reply, "probe", dict),
                replies=_typed(reply, "replies", list),
            )
        except (KeyError, TypeError) as error:
            raise framing.Garbled("the answer lacks what every answer has") from error
        if reply.get("protocol") != PROTOCOL or reply.get("nonce") != self._nonce:
            raise framing.Garbled("the answer is to another question")
        if len(answer.replies) != self._calls or not all(isinstance(one, dict) for one in answer.replies):
            raise framing.Garbled("the answer does not fit the question")
        return answer

    def header(self) -> tuple[str, int]:
        """Kind and length of the next frame. Raises Garbled."""
        return framing.read_header(self._channel.stdout)

    def message(self, length: int) -> dict[str, Any]:
        """The object of a J frame whose header was just read. Raises Garbled."""
        self._watchdog.beat()
        return framing.read_object(self._channel.stdout, length)

    def read_into(self, view: memoryview) -> int:
        """Some of the bytes of a B frame; at least one. Raises Garbled when the stream has ended."""
        try:
            count = self._channel.stdout.readinto(view)
        except (OSError, ValueError) as error:
            raise framing.Garbled("the connection broke") from error
        if not count:
            raise framing.Garbled("the answer broke off")
        self._watchdog.beat()
        return count

    def expect_end(self) -> None:
        if self.header()[0] != "E":
            raise framing.Garbled("the answer does not end where it should")
        self.over = not self.deaf

    def unreachable(self, what: str) -> HostUnreachable:
        """What a broken conversation means: nothing is known."""
        if self._watchdog.fired:
            return HostUnreachable(
                f"host {self._host} did not answer in time",
                "it may be overloaded or cut off; mqi asks again by itself",
            )
        code = self._channel.wait(1.0)
        words = " ".join(self._channel.stderr_tail().split())[-300:]
        how = "" if code is None else f" (exit code {code})"
        return HostUnreachable(
            f"host {self._host}: {what}{how}" + (f": {words}" if words else ""),
            "check the host's python and work_dir with `mqi config check`",
        )


def refusal(host: str, said: Mapping[str, Any]) -> HostRefused | TemporaryProblem:
    """The error for a host that could not serve a request at all, or not one of its calls."""
    code = str(said.get("code", "internal"))[:100]
    message = f"host {host}: {str(said.get('message') or 'no reason given')[:500]}"
    hint = str(said.get("hint") or "")[:500]
    if code in _TEMPORARY_CODES:
        return TemporaryProblem(message, hint)
    return HostRefused(message, code, hint)


def _typed(reply: Mapping[str, Any], name: str, kind: type | tuple[type, ...]) -> Any:
    value = reply[name]
    if not isinstance(value, kind) or isinstance(value, bool):
        raise TypeError(name)
    return value
