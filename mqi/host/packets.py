"""SSH's packets under AES-GCM (RFC 5647), without what paramiko's own way costs for each: it asks the socket twice for
every packet that arrives, and copies its bytes seven times on the way.

Keys, order of messages and everything before the first encrypted packet stay paramiko's; so does every other cipher.
"""

from __future__ import annotations

import contextlib
import os
import struct
import threading
from collections.abc import Iterator
from typing import Any

from cryptography.exceptions import InvalidTag
from paramiko import Message
from paramiko.common import MSG_CHANNEL_DATA
from paramiko.packet import NeedRekeyException, Packetizer
from paramiko.ssh_exception import SSHException

_BLOCK = 16
_TAG = 16
_LENGTH = 4
_LEAST_PADDING = 4
# No packet may be longer (as in OpenSSH); a length is believed only within this.
_LONGEST = 1 << 18
_ROOM = 1 << 19
# Packets that are gathered go to the socket when there are so many bytes of them.
_GATHERED = 1 << 18


class Packets(Packetizer):  # type: ignore[misc]  # paramiko has no types
    """A packetizer for `paramiko.Transport(packetizer_class=…)`."""

    def __init__(self, socket: Any) -> None:
        super().__init__(socket)
        self._source = socket
        self._out: _Key | None = None
        self._in: _Key | None = None
        self._sending = threading.Lock()
        # Reused: every packet in memory of its own would cost more than to encrypt it.
        self._plain = memoryview(bytearray(_LONGEST))
        self._sealed = memoryview(bytearray(_GATHERED + _LENGTH + _LONGEST + _TAG))
        self._waiting = 0  # so many bytes of it are not sent yet
        self._gatherer = 0  # the thread that may leave some waiting
        # What has arrived and is not a whole packet yet, or not yet asked for: [_start, _end) of it.
        self._room = memoryview(bytearray(_ROOM))
        self._start = self._end = 0
        self._ahead = b""  # a packet that was opened, and did not belong to the message before it

    def set_outbound_cipher(
        self, *, block_engine: Any, aead: bool, iv_out: bytes | None, **rest: Any
    ) -> None:
        """The keys of what is sent from now on."""
        super().set_outbound_cipher(block_engine=block_engine, aead=aead, iv_out=iv_out, **rest)
        self._out = _next_key(self._out, block_engine, aead, iv_out)

    def set_inbound_cipher(self, *, block_engine: Any, aead: bool, iv_in: bytes | None, **rest: Any) -> None:
        """The keys of what arrives from now on."""
        super().set_inbound_cipher(block_engine=block_engine, aead=aead, iv_in=iv_in, **rest)
        self._in = _next_key(self._in, block_engine, aead, iv_in)

    def send_message(self, data: Any) -> None:
        """Sends one message. Raises EOFError when the connection is gone."""
        with self._sending:
            if self._out is None:
                super().send_message(data)
                return
            self._seal(self._out, data.asbytes())
            # Whatever another thread sends (new keys, a sign of life) is waited for by the other side.
            if self._waiting >= _GATHERED or threading.get_ident() != self._gatherer:
                self._send_waiting()

    @contextlib.contextmanager
    def gathered(self) -> Iterator[None]:
        """What this thread sends meanwhile may go to the socket together: it wakes the other side less often.

        Whoever waits for an answer within must `flush` first.
        """
        self._gatherer = threading.get_ident()
        try:
            yield
        finally:
            self._gatherer = 0
            self.flush()

    def flush(self) -> None:
        """Sends what was gathered. Raises EOFError when the connection is gone."""
        with self._sending:
            self._send_waiting()

    def _send_waiting(self) -> None:
        count, self._waiting = self._waiting, 0
        if count:
            self.write_all(self._sealed[:count])

    def _seal(self, key: _Key, payload: bytes) -> None:
        """Puts the packet of `payload` behind those that wait."""
        padding = _LEAST_PADDING + -(1 + len(payload) + _LEAST_PADDING) % _BLOCK
        size = 1 + len(payload) + padding
        if size > _LONGEST:
            raise SSHException("a message is too long for a packet")
        length = struct.pack(">I", size)
        plain = self._plain[:size]
        plain[0] = padding
        plain[1 : 1 + len(payload)] = payload
        plain[1 + len(payload) :] = os.urandom(padding)
        begin, end = self._waiting, self._waiting + _LENGTH + size + _TAG
        self._sealed[begin : begin + _LENGTH] = length
        key.seal(plain, length, self._sealed[begin + _LENGTH : end])
        self._waiting = end
        self._count(key, size)

    def read_message(self) -> tuple[int, Message]:
        """Type and content of the next message; by the connection's own thread only. What has arrived for one channel
        in several packets may come as one.

        Raises SSHException (bytes that are not the other side's), EOFError, OSError, NeedRekeyException.
        """
        if self._in is None:
            found: tuple[int, Message] = super().read_message()
            return found
        plain, self._ahead = self._ahead or self._opened(self._in), b""
        message = _Data(plain) if plain[1] == MSG_CHANNEL_DATA else Message(plain[2 : len(plain) - plain[0]])
        if isinstance(message, _Data):
            while self._is_whole():
                following = self._opened(self._in)
                if not message.takes(following):
                    self._ahead = following
                    break
        message.seqno = self._in.packets - 1 - bool(self._ahead)
        return plain[1], message

    def _opened(self, key: _Key) -> bytes:
        """The next packet, from the length of its padding on."""
        self._await(_LENGTH)
        size = self._size()
        if size % _BLOCK or not _BLOCK <= size <= _LONGEST:
            raise SSHException("the length of a packet is none")
        self._await(_LENGTH + size + _TAG)
        begin = self._start + _LENGTH
        length = self._room[self._start : begin].tobytes()
        self._start = begin + size + _TAG
        plain = key.opened(self._room[begin : self._start], length)
        self._count(key, size)
        if not _LEAST_PADDING <= plain[0] <= size - 2:
            raise SSHException("the padding of a packet is none")
        return plain

    def _size(self) -> int:
        return int.from_bytes(self._room[self._start : self._start + _LENGTH], "big")

    def _is_whole(self) -> bool:
        """Whether the next packet is here."""
        held = self._end - self._start
        return held >= _LENGTH and held >= _LENGTH + self._size() + _TAG

    def _await(self, count: int) -> None:
        """Waits until so many bytes from `_start` on are here."""
        if self._start == self._end:
            self._start = self._end = 0
        elif self._start + count > len(self._room):
            held = self._end - self._start
            self._room[:held] = self._room[self._start : self._end].tobytes()
            self._start, self._end = 0, held
        while self._end - self._start < count:
            try:
                self._end += self._received()
            except (TimeoutError, BlockingIOError):
                if self.closed:
                    raise EOFError from None
                if self._start == self._end and self.need_rekey():
                    raise NeedRekeyException from None
                self._check_keepalive()
            except OSError as error:
                if self.closed:
                    raise EOFError from error
                raise

    def _received(self) -> int:
        free = self._room[self._end :]
        if hasattr(self._source, "recv_into"):
            count = int(self._source.recv_into(free))
        else:  # the channel through a jump host
            data = self._source.recv(len(free))
            count = len(data)
            free[:count] = data
        if not count:
            raise EOFError
        return count

    def _count(self, key: _Key, size: int) -> None:
        key.bytes += size
        if key.bytes >= self.REKEY_BYTES and not self.need_rekey():
            self._trigger_rekey()


class _Data(Message):  # type: ignore[misc]  # paramiko has no types
    """What arrived for a channel (RFC 4254, 5.2), read as paramiko reads it: the channel's number, then the bytes."""

    def __init__(self, plain: bytes) -> None:
        super().__init__()
        self._channel = plain[2:6]
        self._pieces = [_data_of(plain)]

    def takes(self, plain: bytes) -> bool:
        """Whether this packet goes on with it."""
        if plain[1] != MSG_CHANNEL_DATA or plain[2:6] != self._channel:
            return False
        self._pieces.append(_data_of(plain))
        return True

    def get_int(self) -> int:
        return int.from_bytes(self._channel, "big")

    def get_binary(self) -> bytes:
        return b"".join(self._pieces)


def _data_of(plain: bytes) -> memoryview:
    length = int.from_bytes(plain[6:10], "big")
    if 10 + length + plain[0] != len(plain):
        raise SSHException("the data of a channel are shorter or longer than they say")
    return memoryview(plain)[10 : 10 + length]


class _Key:
    """One direction's cipher, and how often it was used."""

    def __init__(self, engine: Any, iv: bytes) -> None:
        self._engine = engine
        self.packets = 0
        self.bytes = 0
        self._fixed = iv[:4]
        self._counter = int.from_bytes(iv[4:], "big")
        self._encrypt_into = getattr(engine, "encrypt_into", None)  # not in older versions of cryptography

    def seal(self, plain: memoryview, length: bytes, into: memoryview) -> None:
        """Encrypts `plain` and its tag into `into`, with the unencrypted `length` under the same tag."""
        if self._encrypt_into is None:
            into[:] = self._engine.encrypt(self._nonce(), plain, length)
        else:
            self._encrypt_into(self._nonce(), plain, length, into)

    def opened(self, sealed: memoryview, length: bytes) -> bytes:
        """The reverse. Raises SSHException."""
        try:
            return bytes(self._engine.decrypt(self._nonce(), sealed, length))
        except InvalidTag:
            raise SSHException("a packet is not the one that was sent") from None

    def _nonce(self) -> bytes:
        """Of the next packet, never of another: the counter goes on by one (RFC 5647, 7.1)."""
        nonce = self._fixed + self._counter.to_bytes(8, "big")
        self._counter = (self._counter + 1) % 2**64
        self.packets += 1
        return nonce


def _next_key(before: _Key | None, engine: Any, aead: bool, iv: bytes | None) -> _Key | None:
    if aead and iv is not None:
        return _Key(engine, iv)
    if before is not None:
        # Its sequence numbers stood still while ours went on.
        raise SSHException("another kind of cipher within a connection")
    return None
