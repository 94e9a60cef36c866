"""One process on an SSH host as a channel: its streams, its end, and how it is ended from outside."""

from __future__ import annotations

import io
import threading
from collections import deque
from collections.abc import Callable
from typing import Any, BinaryIO, cast

from paramiko import Channel as Stream
from paramiko.buffered_pipe import BufferedPipe, PipeTimeout
from paramiko.ssh_exception import SSHException

from mqi.host.framing import Source
from mqi.host.packets import Packets

# Small writes (headers) are gathered up to this; large ones pass through.
_GATHERED = 1 << 17
# Small: what is read ahead of a file's bytes with their header is copied once more.
_READ_AHEAD = 1 << 16
# So much of a large write goes to the connection before anybody looks at the clock.
_SENT_AT_ONCE = 1 << 20
_KEPT_OF_STDERR = 4000
# Who reads a large piece is woken when so much of it is there: less than half of paramiko's window of 2 MiB, so
# that the other side never waits for us.
_WOKEN_AT = 1 << 19
# A channel that cannot be closed within this time has a connection that is dead.
_CLOSE_S = 5.0


class SshChannel:
    """See `channel.Channel`. `cut` ends the whole connection at once, whatever state it is in."""

    def __init__(self, stream: Stream, cut: Callable[[], None]) -> None:
        self._stream = stream
        self._cut = cut
        self._words = b""
        self.stdin: BinaryIO = cast(BinaryIO, io.BufferedWriter(_Writer(stream), _GATHERED))
        self.stdout: Source = cast(Source, io.BufferedReader(_Reader(stream), _READ_AHEAD))
        # What nobody reads fills the channel's window, and then stdout stands still too.
        self._drain = threading.Thread(target=self._drain_stderr, name="mqi-ssh-stderr", daemon=True)
        self._drain.start()

    def _drain_stderr(self) -> None:
        try:
            while True:
                piece = self._stream.recv_stderr(1 << 16)
                if not piece:
                    return
                self._words = (self._words + piece)[-_KEPT_OF_STDERR:]
        except (OSError, EOFError, SSHException):
            return  # the connection is gone, and with it whatever was still to be said

    @property
    def alive(self) -> bool:
        """Whether neither its end nor that of the connection has been heard of."""
        stream = self._stream
        ended = stream.closed or stream.eof_received or stream.exit_status_ready()
        return not ended and bool(stream.get_transport().is_active())

    def stderr_tail(self) -> str:
        """What came of it so far; all of it once the process has ended."""
        self._drain.join(0.5)
        return self._words[-2000:].decode("utf-8", "replace")

    def wait(self, timeout_s: float) -> int | None:
        """The exit code; None also when the connection ended without one."""
        self._stream.status_event.wait(timeout_s)
        return self._stream.exit_status if self._stream.exit_status >= 0 else None

    def kill(self) -> None:
        """Ends the connection: closing only the channel would itself wait for a host that does not listen."""
        self._cut()

    def close(self) -> None:
        """Ends the channel and leaves the connection to the next one, unless it is dead."""
        timer = threading.Timer(_CLOSE_S, self._cut)
        timer.daemon = True
        timer.start()
        try:
            self.stdin.close()
        except (OSError, ValueError):
            pass  # what was still gathered has no reader any more
        try:
            self._stream.close()
        except (OSError, EOFError, SSHException):
            self._cut()
        finally:
            timer.cancel()


class Arrived:
    """Bytes as they came; whoever reads them puts them together where they shall lie."""

    def __init__(self) -> None:
        self.pieces: list[bytes | memoryview] = []
        self.size = 0

    def add(self, piece: bytes | memoryview) -> None:
        self.pieces.append(piece)
        self.size += len(piece)

    def __len__(self) -> int:  # paramiko counts what was read, for its window
        return self.size


class Arrivals(BufferedPipe):  # type: ignore[misc]  # paramiko has no types
    """What has arrived on a channel and was not read yet, in place of paramiko's own `in_buffer`.

    That one copies every packet into an array, and wakes the reader for each. Here packets stay as they are, and
    who asks for more than `_READ_AHEAD` (the bytes of a file, whose length is known) is woken when it is worth it:
    a third less of our processor for a large file.
    """

    def __init__(self) -> None:
        super().__init__()
        self._pieces: deque[bytes | memoryview] = deque()
        self._held = 0
        self._wanted = 0

    def feed(self, data: bytes) -> None:
        """Called by the connection's thread for every packet."""
        with self._cv:
            self._pieces.append(data)
            self._held += len(data)
            if self._wanted and self._held >= self._wanted:
                self._cv.notify_all()

    def read(self, nbytes: int, timeout: float | None = None) -> Arrived:
        """At most `nbytes`; none when the stream has ended. Raises PipeTimeout."""
        with self._cv:
            self._wanted = min(nbytes, _WOKEN_AT) if nbytes > _READ_AHEAD else 1
            try:
                if not self._cv.wait_for(lambda: self._held >= self._wanted or self._closed, timeout):
                    raise PipeTimeout
            finally:
                self._wanted = 0
            return self._taken(nbytes)

    def _taken(self, nbytes: int) -> Arrived:
        found = Arrived()
        while self._pieces and found.size < nbytes:
            piece = self._pieces.popleft()
            room = nbytes - found.size
            if room < len(piece):
                self._pieces.appendleft(memoryview(piece)[room:])
                piece = memoryview(piece)[:room]
            found.add(piece)
        self._held -= found.size
        return found

    def read_ready(self) -> bool:
        """Whether a read of a little would not wait."""
        return self._held > 0

    def __len__(self) -> int:
        return self._held


class _Writer(io.RawIOBase):
    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._packets = cast(Packets, stream.get_transport().packetizer)

    def writable(self) -> bool:
        return True

    def write(self, data: Any, /) -> int:
        view = memoryview(data).cast("B")
        sent = 0
        try:
            with self._packets.gathered():
                while sent < min(len(view), _SENT_AT_ONCE):
                    if not self._stream.out_window_size:
                        self._packets.flush()  # no window opens for what has not arrived
                    count = self._stream.send(view[sent:])
                    if not count:
                        raise OSError("the channel is closed")
                    sent += count
        except (EOFError, SSHException) as error:
            raise OSError("the connection broke") from error
        return sent


class _Reader(io.RawIOBase):
    def __init__(self, stream: Stream) -> None:
        self._stream = stream

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        view = memoryview(buffer).cast("B")
        try:
            arrived: Arrived = self._stream.recv(len(view))
        except (EOFError, SSHException) as error:
            raise OSError("the connection broke") from error
        begin = 0
        for piece in arrived.pieces:
            view[begin : begin + len(piece)] = piece
            begin += len(piece)
        return begin
