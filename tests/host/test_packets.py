"""Our packets beside paramiko's own: each reads what the other sends, and neither takes what was not sent."""

from __future__ import annotations

import contextlib
import random
import socket
import struct
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given, settings
from hypothesis import strategies as st
from paramiko import Message
from paramiko.common import MSG_CHANNEL_DATA, MSG_CHANNEL_WINDOW_ADJUST
from paramiko.packet import Packetizer
from paramiko.ssh_exception import SSHException

from mqi.host import packets, ssh_line
from mqi.host.packets import Packets
from mqi.host.ssh_channel import SshChannel
from mqi.host.ssh_line import Line
from tests.host.sshd import NEEDS_SSHD, Sshd

IV = bytes(12)
kinds = st.sampled_from([2, 20, 50, MSG_CHANNEL_WINDOW_ADJUST, 95, 99])
contents = st.one_of(st.binary(max_size=100), st.integers(0, 40_000).map(lambda size: random.Random(size).randbytes(size)))
# The counter in it may be anything (paramiko's own cannot pass its end).
ivs = st.tuples(st.binary(min_size=4, max_size=4), st.integers(0, 2**64 - 100)).map(
    lambda parts: parts[0] + parts[1].to_bytes(8, "big")
)


class Wire:
    """Two ends of a connection, the first ours; each class of packets with the same key for both directions."""

    def __init__(self, *ends: type[Packetizer], key: bytes = bytes(16), iv: bytes = IV) -> None:
        self.sockets = socket.socketpair()
        for one in self.sockets:
            one.settimeout(0.1)
        self.ends = [kind(one) for kind, one in zip(ends, self.sockets, strict=True)]
        for end in self.ends:
            same: dict[str, Any] = {"block_size": 16, "mac_engine": None, "mac_size": 16, "mac_key": None}
            end.set_outbound_cipher(
                block_engine=AESGCM(key), sdctr=False, etm=False, aead=True, iv_out=iv, **same
            )
            end.set_inbound_cipher(block_engine=AESGCM(key), etm=False, aead=True, iv_in=iv, **same)

    def close(self) -> None:
        for one in self.sockets:
            one.close()


@contextlib.contextmanager
def wire(*ends: type[Packetizer], **options: bytes) -> Iterator[Wire]:
    made = Wire(*ends, **options)
    try:
        yield made
    finally:
        made.close()


def message(kind: int, content: bytes) -> Message:
    made = Message()
    made.add_byte(bytes([kind]))
    made.add_bytes(content)
    return made


def data(content: bytes, channel: int = 7) -> Message:
    made = Message()
    made.add_byte(bytes([MSG_CHANNEL_DATA]))
    made.add_int(channel)
    made.add_string(content)
    return made


def all_of(end: Packetizer, count: int) -> list[tuple[int, bytes]]:
    """So many messages, none of them a channel's data."""
    found = []
    for number in range(count):
        kind, content = end.read_message()
        assert content.seqno == number
        found.append((kind, content.asbytes()))
    return found


Said = list[tuple[int, bytes]]  # channel (0: none, another message) and what came for it


def together(said: Said) -> Said:
    """As what it means: where one packet of a channel's data ends and its next one begins does not matter."""
    runs: Said = []
    for channel, content in said:
        if channel and runs and runs[-1][0] == channel:
            runs[-1] = (channel, runs[-1][1] + content)
        else:
            runs.append((channel, content))
    return runs


def heard(end: Packetizer, packets: int) -> Said:
    """What these packets say."""
    said: Said = []
    seen = 0
    while seen < packets:
        kind, content = end.read_message()
        assert content.seqno >= seen
        seen = content.seqno + 1
        if kind == MSG_CHANNEL_DATA:
            channel = content.get_int()
            said.append((channel, content.get_binary()))
        else:
            said.append((0, content.asbytes()))
    assert seen == packets
    return together(said)


def words(said: Said) -> list[Message]:
    return [data(content, channel) if channel else message(2, content) for channel, content in said]


@settings(deadline=None)
@given(st.lists(st.tuples(kinds, contents), min_size=1, max_size=20), st.sampled_from([16, 32]), ivs, st.booleans())
def test_paramiko_reads_what_we_send(sent: list[tuple[int, bytes]], size: int, iv: bytes, together: bool) -> None:
    with wire(Packets, Packetizer, key=bytes(size), iv=iv) as both:
        ours, theirs = both.ends

        def send() -> None:
            with ours.gathered() if together else contextlib.nullcontext():
                for kind, content in sent:
                    ours.send_message(message(kind, content))

        sender = threading.Thread(target=send)
        sender.start()
        found = all_of(theirs, len(sent))
        sender.join()
        assert found == sent


@settings(deadline=None)
@given(st.lists(st.tuples(kinds, contents), min_size=1, max_size=20), st.sampled_from([16, 32]), ivs)
def test_we_read_what_paramiko_sends(sent: list[tuple[int, bytes]], size: int, iv: bytes) -> None:
    with wire(Packets, Packetizer, key=bytes(size), iv=iv) as both:
        ours, theirs = both.ends
        sender = threading.Thread(target=lambda: [theirs.send_message(message(*one)) for one in sent])
        sender.start()
        found = all_of(ours, len(sent))
        sender.join()
        assert found == sent


sayings = st.lists(st.tuples(st.sampled_from([7, 7, 7, 8, 0]), contents), min_size=1, max_size=20)


@settings(deadline=None, max_examples=50)
@given(sayings)
def test_the_data_of_channels(said: Said) -> None:
    with wire(Packets, Packets, iv=b"\0\0\0\7" + b"\xff" * 8) as both:
        ours, theirs = both.ends
        sender = threading.Thread(target=lambda: [ours.send_message(one) for one in words(said)])
        sender.start()
        found = heard(theirs, len(said))
        sender.join()
        assert found == together(said)


class Collector:
    """A socket that keeps what is sent."""

    def __init__(self) -> None:
        self.sent = b""

    def send(self, view: memoryview) -> int:
        self.sent += view
        return len(view)


def sealed(*messages: Message) -> bytes:
    """What goes over the wire for these."""
    there = Collector()
    end = Packets(there)
    end.set_outbound_cipher(
        block_engine=AESGCM(bytes(16)), block_size=16, mac_engine=None, mac_size=16, mac_key=None, sdctr=False,
        etm=False, aead=True, iv_out=IV,
    )  # fmt: skip
    with end.gathered():
        for one in messages:
            end.send_message(one)
    return there.sent


class Dribble:
    """A socket from which everything comes in pieces; then its end."""

    def __init__(self, whole: bytes, sizes: Iterator[int]) -> None:
        self.whole, self.sizes = whole, sizes

    def recv_into(self, view: memoryview) -> int:
        count = min(next(self.sizes), len(view), len(self.whole))
        view[:count], self.whole = self.whole[:count], self.whole[count:]
        return count

    def close(self) -> None:
        pass


def reader(source: Dribble) -> Packets:
    made = Packets(source)
    made.set_inbound_cipher(
        block_engine=AESGCM(bytes(16)), block_size=16, mac_engine=None, mac_size=16, mac_key=None, etm=False,
        aead=True, iv_in=IV,
    )  # fmt: skip
    return made


@settings(deadline=None)
@given(sayings, st.data())
def test_packets_that_come_in_pieces(said: Said, draw: st.DataObject) -> None:
    sizes = st.sampled_from([1, 3, 4, 16, 100, 5_000, 1 << 20])
    source = Dribble(sealed(*words(said)), iter(lambda: draw.draw(sizes), None))
    end = reader(source)
    assert heard(end, len(said)) == together(said)
    with pytest.raises(EOFError):
        end.read_message()


def test_what_arrived_together_is_one_message() -> None:
    end = reader(Dribble(sealed(data(b"a"), data(b""), data(b"b"), data(b"c", 8)), iter(lambda: 1 << 20, None)))
    _kind, first = end.read_message()
    assert (first.get_int(), first.get_binary(), first.seqno) == (7, b"ab", 2)
    _kind, second = end.read_message()
    assert (second.get_int(), second.get_binary(), second.seqno) == (8, b"c", 3)


def test_new_keys_that_arrive_behind_data_are_taken_before_anything_else_is_opened() -> None:
    """What follows them is under another key."""
    before = sealed(data(b"a"), message(21, b""))
    length = struct.pack(">I", 16)
    after = length + AESGCM(b"n" * 16).encrypt(IV, bytes([4 + 10, 2]) + bytes(14), length)
    end = reader(Dribble(before + after, iter(lambda: 1 << 20, None)))
    assert end.read_message()[0] == MSG_CHANNEL_DATA
    assert end.read_message()[0] == 21
    end.set_inbound_cipher(
        block_engine=AESGCM(b"n" * 16), block_size=16, mac_engine=None, mac_size=16, mac_key=None, etm=False,
        aead=True, iv_in=IV,
    )  # fmt: skip
    assert end.read_message()[0] == 2


@pytest.mark.parametrize("length", [0, 5, 7, 30, 2**31])
def test_data_are_as_long_as_they_say(length: int) -> None:
    made = Message()
    made.add_byte(bytes([MSG_CHANNEL_DATA]))
    made.add_int(7)
    made.add_int(length)
    made.add_bytes(b"sixsix")
    with pytest.raises(SSHException):
        reader(Dribble(sealed(made), iter(lambda: 1 << 20, None))).read_message()


def test_a_packet_that_was_touched_is_nobodys() -> None:
    whole = sealed(data(b"the dose is right"), data(b"twice"))
    for place in range(len(whole)):
        touched = whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :]
        with pytest.raises((SSHException, EOFError)):
            heard(reader(Dribble(touched, iter(lambda: 1 << 20, None))), 2)


def test_packets_in_another_order_or_twice_are_nobodys() -> None:
    first, second = sealed(data(b"a")), sealed(data(b"a"), data(b"b"))
    rest = second[len(first) :]
    for wrong in (rest + second, first + first):
        end = reader(Dribble(wrong, iter(lambda: 1 << 20, None)))
        with pytest.raises(SSHException):
            heard(end, 2)


@pytest.mark.parametrize("length", [0, 1, 15, 17, 2**18 + 16, 2**31, 2**32 - 16])
def test_a_length_is_believed_only_within_limits(length: int) -> None:
    end = reader(Dribble(struct.pack(">I", length) + bytes(1000), iter(lambda: 1 << 20, None)))
    with pytest.raises(SSHException):
        end.read_message()


@pytest.mark.parametrize("padding", [0, 3, 31, 255])
def test_padding_is_believed_only_within_limits(padding: int) -> None:
    length = struct.pack(">I", 32)
    whole = length + AESGCM(bytes(16)).encrypt(IV, bytes([padding, 2]) + bytes(30), length)
    end = reader(Dribble(whole, iter(lambda: 1 << 20, None)))
    with pytest.raises(SSHException):
        end.read_message()


def test_what_another_thread_says_meanwhile_waits_for_nobody() -> None:
    """A key exchange or a sign of life, while the sender of a file waits for its window."""
    with wire(Packets, Packetizer) as both:
        ours, theirs = both.ends
        with ours.gathered():
            ours.send_message(message(2, b"gathered"))
            other = threading.Thread(target=lambda: ours.send_message(message(99, b"at once")))
            other.start()
            other.join()
            assert all_of(theirs, 2) == [(2, b"gathered"), (99, b"at once")]


def test_a_nonce_is_never_used_again(monkeypatch: pytest.MonkeyPatch) -> None:
    used: list[bytes] = []
    true_seal = packets._Key.seal

    def spy(key: Any, plain: memoryview, length: bytes, into: memoryview) -> None:
        before = key._counter
        true_seal(key, plain, length, into)
        used.append(before.to_bytes(8, "big"))

    monkeypatch.setattr(packets._Key, "seal", spy)
    with wire(Packets, Packets) as both:
        for number in range(300):
            both.ends[0].send_message(data(bytes(number)))
            both.ends[1].read_message()
        too_long = message(2, bytes(1 << 18))
        with pytest.raises(SSHException):
            both.ends[0].send_message(too_long)
        both.ends[0].send_message(data(b"goes on"))
        both.ends[1].read_message()
    assert len(used) == len(set(used)) == 301


def test_another_kind_of_cipher_within_a_connection_ends_it() -> None:
    with wire(Packets, Packets) as both, pytest.raises(SSHException):
        both.ends[0].set_outbound_cipher(
            block_engine=None, block_size=16, mac_engine=None, mac_size=32, mac_key=b"", sdctr=True, etm=False,
            aead=False, iv_out=None,
        )  # fmt: skip


def test_an_older_cryptography_that_cannot_encrypt_into_our_memory() -> None:
    class Older:
        def __init__(self, key: bytes) -> None:
            self.encrypt = AESGCM(key).encrypt

    with wire(Packets, Packetizer) as both:
        both.ends[0].set_outbound_cipher(
            block_engine=Older(bytes(16)), block_size=16, mac_engine=None, mac_size=16, mac_key=None, sdctr=False,
            etm=False, aead=True, iv_out=IV,
        )  # fmt: skip
        both.ends[0].send_message(message(2, b"the same"))
        assert all_of(both.ends[1], 1) == [(2, b"the same")]


# --- over a real sshd


def echoed(server: Sshd, size: int) -> None:
    """So many bytes to a `cat` and back, both at the same time, and something else on the same connection."""
    line = Line("far", server.ssh())
    sent = random.Random(size).randbytes(size)
    try:
        channel = SshChannel(line.stream("cat"), line.cut)

        def send() -> None:
            channel.stdin.write(sent)
            channel.stdin.flush()

        sender = threading.Thread(target=send)
        sender.start()
        found = channel.stdout.read(size)
        sender.join()
        assert found == sent
        channel.close()
        channel = SshChannel(line.stream("echo well"), line.cut)
        assert channel.stdout.read() == b"well\n"
        channel.close()
    finally:
        line.close()


@NEEDS_SSHD
@pytest.mark.parametrize("cipher", ["aes128-gcm@openssh.com", "aes256-gcm@openssh.com", "aes128-ctr"])
def test_every_cipher_that_is_offered(own_sshd: Sshd, cipher: str) -> None:
    own_sshd.stop()
    own_sshd.start([f"Ciphers {cipher}"])
    echoed(own_sshd, 6_000_000)


@NEEDS_SSHD
@pytest.mark.parametrize("who", ["the server", "we"])
def test_new_keys_in_the_middle(own_sshd: Sshd, who: str, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = []
    true_set = Packets.set_outbound_cipher

    def spy(self: Packets, **options: Any) -> None:
        keys.append(options["iv_out"])
        true_set(self, **options)

    monkeypatch.setattr(Packets, "set_outbound_cipher", spy)
    if who == "we":
        monkeypatch.setattr(ssh_line, "REKEY_BYTES", 4_000_000)
    else:
        own_sshd.stop()
        own_sshd.start(["RekeyLimit 4M"])
    echoed(own_sshd, 18_000_000)
    assert len(set(keys)) == len(keys) > 3
