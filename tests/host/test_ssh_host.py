"""What an SSH host may do wrong before the agent speaks, each with its own sentence; and what a connection costs."""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from paramiko.buffered_pipe import PipeTimeout

from mqi.errors import AuthenticationProblem, HostRefused, HostUnreachable, MqiError, TemporaryProblem
from mqi.host import agent_host, open_host
from mqi.host.base import Blob, Host
from mqi.host.ssh_channel import Arrivals
from mqi.settings import HostSettings
from tests.agent.bench import sha256
from tests.agent.system import all_processes, is_alive, kill, wait_for
from tests.host.sshd import NEEDS_SSHD, Sshd, free_port, new_key

pytestmark = NEEDS_SSHD
OpenSsh = Callable[..., Host]
CALLS = [{"verb": "inventory"}]


@pytest.fixture
def connect() -> Iterator[Callable[[HostSettings], Host]]:
    opened: list[Host] = []

    def open_(settings: HostSettings) -> Host:
        opened.append(open_host(settings, "i"))
        return opened[-1]

    yield open_
    for host in opened:
        host.close()


def refusal(connect: Callable[[HostSettings], Host], settings: HostSettings, kind: type[MqiError]) -> str:
    """What the operator reads when this host is asked."""
    with pytest.raises(kind) as caught:
        connect(settings).ask(CALLS)
    assert type(caught.value) is kind
    assert f"host {settings.name}" in str(caught.value)
    return f"{caught.value} | {caught.value.hint}"


# --- the login shell


def wrapper(server: Sshd, script: str) -> None:
    """Everything that is executed goes through this shell script, as through a login shell's start-up files."""
    path = server.folder / "wrapper"
    path.write_text(f'#!/bin/sh\n{script}\nexec /bin/sh -c "$SSH_ORIGINAL_COMMAND"\n')
    path.chmod(0o755)
    server.stop()
    server.start([f"ForceCommand {path}"])


def test_a_login_that_talks_on_both_streams(own_sshd: Sshd, tmp_path: Path, connect: Callable[..., Host]) -> None:
    talk = 'i=0; while [ $i -lt 3000 ]; do echo "Welcome! MQI-BOOT {}"; echo "last login" >&2; i=$((i+1)); done'
    wrapper(own_sshd, talk + '\nprintf "no newline> "')
    host = connect(own_sshd.settings(tmp_path / "work"))
    assert host.ask(CALLS).replies == [{"ok": True, "runs": []}]
    data = os.urandom(3_000_000)
    (tmp_path / "file").write_bytes(data)
    assert host.upload([(Blob(sha256(data), len(data), tmp_path / "file"), 0)]).stored == (sha256(data),)


@pytest.mark.skipif(not os.environ.get("SHELL", "").endswith("bash"), reason="the login shell here is not bash")
def test_a_start_up_file_of_bash(own_sshd: Sshd, tmp_path: Path, connect: Callable[..., Host]) -> None:
    (own_sshd.home / ".bashrc").write_text('echo "loading modules ..."; cd /; alias python3=false; set -u\n')
    assert connect(own_sshd.settings(tmp_path / "work")).ask(CALLS).replies[0]["ok"]
    (own_sshd.home / ".bashrc").write_text("echo conda: not found >&2; exit 3\n")
    said = refusal(connect, own_sshd.settings(tmp_path / "work"), HostRefused)
    assert "its login ended (exit code 3)" in said
    assert "conda: not found" in said


LOGINS = {
    "ends": ("echo quota exceeded >&2; exit 1", HostRefused, ("its login ended (exit code 1)", "quota exceeded")),
    "talks without an end": ("yes hello", HostUnreachable, ("talks without an end",)),
    "waits": ("sleep 60", HostUnreachable, ("does not start mqi's agent in time",)),
    "breaks off": ("kill -9 $PPID", HostUnreachable, ("broke before mqi's agent started",)),
}


@pytest.mark.parametrize(("script", "kind", "words"), LOGINS.values(), ids=LOGINS.keys())
def test_a_login_that(
    own_sshd: Sshd,
    tmp_path: Path,
    connect: Callable[..., Host],
    script: str,
    kind: type[MqiError],
    words: tuple[str, ...],
) -> None:
    wrapper(own_sshd, script)
    ssh = own_sshd.ssh(connect_timeout_s=2.0 if script == "sleep 60" else 15.0)
    said = refusal(connect, own_sshd.settings(tmp_path / "work", ssh=ssh), kind)
    assert all(word in said for word in words), said
    assert not (tmp_path / "work").exists()


# --- Python and the work directory


def test_a_python_that_is_not_there(sshd: Sshd, tmp_path: Path, connect: Callable[..., Host]) -> None:
    settings = sshd.settings(tmp_path / "work", ssh=sshd.ssh(python="~/no such/python3"))
    said = refusal(connect, settings, HostRefused)
    assert "its Python ~/no such/python3 does not start (exit code 127)" in said
    assert "ssh: python:" in said


@pytest.mark.parametrize(
    "old",
    [
        pytest.param("import sys; sys.version_info = (3, 7, 3); sys.version = '3.7.3 (default)'", id="3.7"),
        pytest.param("import sys; sys.exit('SyntaxError: invalid syntax')", id="one that does not understand us"),
    ],
)
def test_a_python_that_is_too_old(sshd: Sshd, tmp_path: Path, connect: Callable[..., Host], old: str) -> None:
    """There is no such Python to install; ours says that it is one."""
    pretender = tmp_path / "python3.7"
    pretender.write_text(
        f"#!{sys.executable}\nimport sys\ncode = sys.argv[sys.argv.index('-c') + 1]\n"
        f"sys.argv[:] = ['-c', *sys.argv[sys.argv.index('-c') + 2:]]\n{old}\nexec(code)\n"
    )
    pretender.chmod(0o755)
    said = refusal(connect, sshd.settings(tmp_path / "work", ssh=sshd.ssh(python=str(pretender))), HostRefused)
    assert "is too old" in said
    assert "Python 3.8 or later" in said
    assert not (tmp_path / "work").exists()


def test_a_work_directory_that_cannot_be_used(sshd: Sshd, tmp_path: Path, connect: Callable[..., Host]) -> None:
    (tmp_path / "file").write_text("in the way")
    for work, why in (("/proc/mqi", "No such file"), (str(tmp_path / "file"), "Not a directory")):
        said = refusal(connect, sshd.settings(Path(work)), TemporaryProblem)
        assert f"its work directory {work} cannot be used ({why}" in said
        assert "writable" in said


@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="mounting needs root")
@pytest.mark.parametrize(("options", "why"), [("size=64k", "No space left"), ("ro", "Read-only")])
def test_a_full_or_read_only_disk(
    sshd: Sshd, tmp_path: Path, connect: Callable[..., Host], options: str, why: str
) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(disk)], capture_output=True, check=False)
    if done.returncode:
        pytest.skip("nothing can be mounted here")
    try:
        said = refusal(connect, sshd.settings(disk / "work"), TemporaryProblem)
        assert why in said
        assert not list(disk.glob("work/scripts/*"))
    finally:
        connect_closed = subprocess.run(["umount", "-l", str(disk)], capture_output=True, check=False)
        assert connect_closed.returncode == 0


def test_a_work_directory_below_the_home_there(own_sshd: Sshd, connect: Callable[..., Host]) -> None:
    assert connect(own_sshd.settings(Path("~/some where/mqi"))).ask(CALLS).replies[0]["ok"]
    assert (own_sshd.home / "some where" / "mqi" / "host.json").exists()


# --- who we are, and who answers


def test_logins_that_are_rejected(own_sshd: Sshd, tmp_path: Path, connect: Callable[..., Host]) -> None:
    stranger = new_key(tmp_path / "stranger")
    said = refusal(connect, own_sshd.settings(tmp_path / "work", ssh=own_sshd.ssh(key=stranger)), AuthenticationProblem)
    assert "does not let the user" in said
    for key, why in (("absent", "No such file"), ("known_hosts", "not a private key")):
        settings = own_sshd.settings(tmp_path / "work", ssh=own_sshd.ssh(key=own_sshd.folder / key))
        assert why in refusal(connect, settings, AuthenticationProblem)
    assert own_sshd.counts() == (0, 0)


def test_a_key_with_a_passphrase(
    own_sshd: Sshd, tmp_path: Path, connect: Callable[..., Host], monkeypatch: pytest.MonkeyPatch
) -> None:
    key = new_key(tmp_path / "locked", "open sesame")
    with (own_sshd.folder / "authorized_keys").open("a") as file:
        file.write(key.with_name("locked.pub").read_text())
    work = tmp_path / "work"
    assert "encrypted" in refusal(connect, own_sshd.settings(work, ssh=own_sshd.ssh(key=key)), AuthenticationProblem)
    ssh = own_sshd.ssh(key=key, secret="env:MQI_TEST_SECRET")
    said = refusal(connect, own_sshd.settings(work, ssh=ssh), AuthenticationProblem)
    assert "the environment variable MQI_TEST_SECRET has no password" in said
    monkeypatch.setenv("MQI_TEST_SECRET", "wrong")
    said = refusal(connect, own_sshd.settings(work, ssh=ssh), AuthenticationProblem)
    assert "passphrase is wrong" in said
    monkeypatch.setenv("MQI_TEST_SECRET", "open sesame")
    assert connect(own_sshd.settings(work, ssh=ssh)).ask(CALLS).replies[0]["ok"]


def test_no_agent_and_no_keys_of_the_user(
    own_sshd: Sshd, tmp_path: Path, connect: Callable[..., Host], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a key that does not fit, nothing else is tried: neither ~/.ssh nor a running agent."""
    home = tmp_path / "home"
    (home / ".ssh").mkdir(parents=True)
    (home / ".ssh" / "id_ed25519").write_bytes(own_sshd.key.read_bytes())
    (home / ".ssh" / "config").write_text(f"Host *\n  Port 1\n  IdentityFile {own_sshd.key}\n")
    monkeypatch.setenv("HOME", str(home))
    agent = subprocess.run(["ssh-agent", "-s"], capture_output=True, text=True, check=True).stdout
    variables = dict(part.split("=", 1) for part in agent.replace("\n", " ").split("; ") if "=" in part)
    try:
        monkeypatch.setenv("SSH_AUTH_SOCK", variables["SSH_AUTH_SOCK"])
        subprocess.run(["ssh-add", "-q", str(own_sshd.key)], check=True, capture_output=True)
        stranger = new_key(tmp_path / "stranger")
        ssh = own_sshd.ssh(key=stranger)
        assert "does not let" in refusal(connect, own_sshd.settings(tmp_path / "work", ssh=ssh), AuthenticationProblem)
        ssh = own_sshd.ssh(key=stranger, agent=True)
        assert connect(own_sshd.settings(tmp_path / "work", ssh=ssh)).ask(CALLS).replies[0]["ok"]
    finally:
        os.kill(int(variables["SSH_AGENT_PID"]), 15)


@contextlib.contextmanager
def answering(first: bytes) -> Iterator[int]:
    """A port on which something that is no SSH server says `first` and nothing else."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        held = []

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    held.append(server.accept()[0])
                    held[-1].sendall(first)

        threading.Thread(target=serve, daemon=True).start()
        yield int(server.getsockname()[1])
        for one in held:
            one.close()


@pytest.mark.parametrize("first", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"SSH-2.0-silent\r\n"])
def test_what_is_no_ssh_server_is_silence(
    sshd: Sshd, tmp_path: Path, connect: Callable[..., Host], first: bytes
) -> None:
    started = time.monotonic()
    with answering(first) as port:
        ssh = sshd.ssh(port=port, connect_timeout_s=1.5)
        assert "cannot be reached" in refusal(connect, sshd.settings(tmp_path / "work", ssh=ssh), HostUnreachable)
    assert time.monotonic() - started < 10


def test_nobody_there(sshd: Sshd, tmp_path: Path, connect: Callable[..., Host]) -> None:
    port = free_port()
    said = refusal(connect, sshd.settings(tmp_path / "work", ssh=sshd.ssh(port=port)), HostUnreachable)
    assert f"[127.0.0.1]:{port}: Connection refused" in said
    said = refusal(connect, sshd.settings(tmp_path / "work", ssh=sshd.ssh(address="no-such.invalid")), HostUnreachable)
    assert "its address is not known" in said


def test_weak_algorithms_are_not_spoken(own_sshd: Sshd, tmp_path: Path, connect: Callable[..., Host]) -> None:
    own_sshd.stop()
    own_sshd.start(["Ciphers aes128-cbc"])
    said = refusal(connect, own_sshd.settings(tmp_path / "work"), HostRefused)
    assert "no secure algorithm in common" in said
    # A server without AES-GCM is spoken to all the same.
    own_sshd.stop()
    own_sshd.start(["Ciphers aes256-ctr", "MACs hmac-sha2-512"])
    assert connect(own_sshd.settings(tmp_path / "work")).ask(CALLS).replies[0]["ok"]


# --- what a connection costs


def test_one_connection_and_one_exec_for_all_requests(own_sshd: Sshd, tmp_path: Path, connect: Callable[..., Host]) -> None:
    host = connect(own_sshd.settings(tmp_path / "work"))
    assert host.deploy()
    assert own_sshd.counts() == (0, 0)  # nothing was to be said yet
    host.ask(CALLS)  # which also brings the scripts there
    assert own_sshd.counts() == (1, 1)
    files = []
    for number in range(40):
        data = bytes([number]) * 1000
        (tmp_path / str(number)).write_bytes(data)
        files.append((Blob(sha256(data), 1000, tmp_path / str(number)), 0))
    assert len(host.upload(files).stored) == 40
    assert host.ask(CALLS).seq == 3
    assert own_sshd.counts() == (1, 1)
    host.close()


def agents_of(work: Path) -> list[int]:
    """The processes that serve this work directory."""
    return [pid for pid, words in all_processes() if str(work) in words]


@pytest.mark.parametrize("how", ["refuses", "was killed", "has waited for long"])
def test_an_agent_that_is_spoken_to_no_more(
    how: str, own_sshd: Sshd, tmp_path: Path, connect: Callable[..., Host], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next request has another one, on the same connection."""
    work = tmp_path / "work"
    host = connect(own_sshd.settings(work))
    assert host.ask(CALLS).seq == 1
    agents = agents_of(work)
    assert agents
    if how == "refuses":
        (work / "agent.lock").unlink()
        (work / "agent.lock").mkdir()
        with pytest.raises(MqiError):
            host.ask(CALLS)
        (work / "agent.lock").rmdir()
    elif how == "was killed":
        for pid in agents:
            kill(pid)
        wait_for(lambda: not any(is_alive(pid) for pid in agents), "the agent to be gone")
        time.sleep(0.5)  # until its end has been told here
    else:
        monkeypatch.setattr(agent_host, "_KEPT_S", 0.0)
    assert host.ask(CALLS).seq == 2
    assert own_sshd.counts() == (1, 2)
    host.close()
    wait_for(lambda: not agents_of(work), "the agents to be gone")


def test_what_was_made_ready_serves_the_next_request(
    own_sshd: Sshd, tmp_path: Path, connect: Callable[..., Host], monkeypatch: pytest.MonkeyPatch
) -> None:
    host = connect(own_sshd.settings(tmp_path / "work"))
    host.get_ready()
    host.get_ready()
    assert host.deploy()  # also while it is on its way
    assert host.ask(CALLS).seq == 1
    assert own_sshd.counts() == (1, 1)
    host.close()
    # It waited for long until files were hashed: another agent, on the same connection.
    monkeypatch.setattr(agent_host, "_KEPT_S", 0.0)
    host.get_ready()
    assert host.ask(CALLS).seq == 2
    assert own_sshd.counts() == (2, 3)
    host.close()
    # There was nothing to say after all.
    host.get_ready()
    wait_for(lambda: own_sshd.counts() == (3, 4), "the login")
    time.sleep(1.0)
    host.close()
    wait_for(lambda: not agents_of(tmp_path / "work"), "the agents to be gone")


def test_what_getting_ready_meets_is_raised_by_the_request(
    own_sshd: Sshd, tmp_path: Path, connect: Callable[..., Host]
) -> None:
    settings = own_sshd.settings(tmp_path / "work")
    own_sshd.known_hosts.write_text("")
    host = connect(settings)
    host.get_ready()
    with pytest.raises(AuthenticationProblem, match="is not pinned"):
        host.ask(CALLS)
    own_sshd.trust()
    assert host.ask(CALLS).seq == 1


@given(st.lists(st.binary(max_size=50), max_size=30), st.lists(st.integers(1, 400_000), min_size=1, max_size=10))
def test_what_arrives_is_read_in_order(packets: list[bytes], sizes: list[int]) -> None:
    arrivals = Arrivals()
    for packet in packets:
        arrivals.feed(packet)
    arrivals.close()
    read: list[bytes | memoryview] = []
    for size in itertools.cycle(sizes):
        piece = arrivals.read(size)
        assert len(piece) <= size
        if not piece:
            break
        read += piece.pieces
    assert b"".join(read) == b"".join(packets)
    assert not arrivals.read_ready()


def test_a_large_read_is_woken_when_it_is_worth_it() -> None:
    arrivals = Arrivals()
    with pytest.raises(PipeTimeout):
        arrivals.read(10, 0.01)
    arrivals.feed(b"x" * 1000)
    assert len(arrivals.read(10, 0.01)) == 10
    with pytest.raises(PipeTimeout):
        arrivals.read(2**20, 0.01)
    assert len(arrivals) == 990  # nothing is lost by waiting
    arrivals.feed(b"x" * 2**19)
    assert len(arrivals.read(2**20, 0.01)) == 2**19 + 990
