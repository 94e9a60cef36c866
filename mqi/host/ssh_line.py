"""One SSH connection to a host, through its jump host if it has one: who is there, who we are, and what a
failure means.

Nothing but the pinned keys is believed, and nothing is sent before they were compared. No agent, no key and no
configuration of the user is used unless mqi.yaml says so.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import paramiko
from fabric import Config, Connection
from paramiko.config import SSHConfig
from paramiko.ssh_exception import (
    AuthenticationException,
    BadHostKeyException,
    IncompatiblePeer,
    SSHException,
)

from mqi.errors import AuthenticationProblem, HostRefused, HostUnreachable, MqiError
from mqi.host.known_hosts import fingerprint, name_of, read_pins
from mqi.host.packets import Packets
from mqi.host.ssh_channel import Arrivals
from mqi.settings import Ssh, SshLogin

# AES-GCM takes a third less of our processor than AES-CTR, which paramiko would take first.
CIPHERS = (
    "aes128-gcm@openssh.com", "aes256-gcm@openssh.com", "aes128-ctr", "aes192-ctr", "aes256-ctr",
)  # fmt: skip
WEAK = ("-cbc", "md5", "sha1", "-96", "arcfour", "ssh-dss")
# paramiko would negotiate new keys after 512 MiB, and deadlocks when the channel ends meanwhile
# (paramiko#822). AES may use a key for far longer than this many bytes (RFC 5647, RFC 4344).
REKEY_BYTES = 2**34
# Its own log would show tracebacks to operators; what they need is in our errors.
logging.getLogger("paramiko").addHandler(logging.NullHandler())
# What paramiko calls a failed login although nobody rejected us.
_NOT_AN_ANSWER = ("Authentication timeout", "transport shut down")


class UnknownKey(SSHException):  # type: ignore[misc]  # paramiko has no types
    """The computer at the other end shows a key that is not pinned."""

    def __init__(self, key: paramiko.PKey) -> None:
        super().__init__("the host key is not pinned")
        self.key = key


class _Refuse(paramiko.MissingHostKeyPolicy):  # type: ignore[misc]
    def missing_host_key(self, client: object, hostname: str, key: paramiko.PKey) -> None:
        raise UnknownKey(key)


class Line:
    """A connection that is logged in. `stream` gives one channel after the other."""

    def __init__(self, host: str, ssh: Ssh, *, jump_only: bool = False) -> None:
        """Connects; with `jump_only` only to the jump host.

        Raises AuthenticationProblem, HostUnreachable, HostRefused or ConfigurationProblem.
        """
        self._host = host
        self._ssh = ssh
        self._socket: socket.socket | None = None
        self._connections: list[Connection] = []
        try:
            with guarded(self.cut, 4 * ssh.connect_timeout_s):
                gateway = None if ssh.jump is None else self._connected(ssh.jump, None)
                self._last = gateway if gateway and jump_only else self._connected(ssh, gateway)
        except BaseException:
            self.close()
            raise

    @property
    def alive(self) -> bool:
        """Whether another channel can be asked for."""
        return bool(self._last.is_connected)

    def _connected(self, login: SshLogin, gateway: Connection | None) -> Connection:
        ssh = self._ssh
        what = f"host {self._host}" if login is ssh else f"the jump host of {self._host}"
        with explained(what, self._host, login):
            credentials, pins = _credentials(what, login), read_pins(ssh.known_hosts)
            if gateway is None:
                self._socket = credentials["sock"] = tcp(login, ssh.connect_timeout_s)
            connection = Connection(
                login.address,
                user=login.user,
                port=login.port,
                gateway=gateway,
                # An empty one: neither the system's nor the user's is read.
                config=Config(ssh_config=SSHConfig(), lazy=True),
                connect_timeout=ssh.connect_timeout_s,
                connect_kwargs={
                    **credentials,
                    "allow_agent": login.agent,
                    "look_for_keys": False,
                    "banner_timeout": ssh.connect_timeout_s,
                    "auth_timeout": ssh.connect_timeout_s,
                    "channel_timeout": ssh.connect_timeout_s,
                    "transport_factory": transport,
                },
            )
            self._connections.append(connection)
            connection.client.get_host_keys().update(pins)
            connection.client.set_missing_host_key_policy(_Refuse())
            connection.open()
            if ssh.keepalive_s:
                connection.transport.set_keepalive(max(1, round(ssh.keepalive_s)))
            return connection

    def stream(self, command: str) -> paramiko.Channel:
        """The channel of `command`, which runs in the user's login shell. Raises HostUnreachable."""
        with (
            explained(f"host {self._host}", self._host, self._ssh),
            guarded(self.cut, 2 * self._ssh.connect_timeout_s),
        ):
            stream = self._last.create_session()
            stream.in_buffer = Arrivals()  # before anything can arrive
            stream.exec_command(command)
            return stream

    def forward(self, login: SshLogin) -> paramiko.Channel:
        """A channel from the computer at the end of this line on to another one. Raises SSHException."""
        return self._last.transport.open_channel(
            "direct-tcpip", (login.address, login.port), ("", 0), timeout=self._ssh.connect_timeout_s
        )

    def cut(self) -> None:
        """Ends everything at once, whatever waits for the other side. From any thread, repeatable."""
        if self._socket is not None:
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Ends the connection."""
        # The reading thread ends by this at once; asked politely it would look up only now and then.
        self.cut()
        for connection in reversed(self._connections):
            with contextlib.suppress(OSError, EOFError, SSHException):
                connection.close()
        if self._socket is not None:
            self._socket.close()


def tcp(login: SshLogin, timeout_s: float) -> socket.socket:
    """A TCP connection. Raises OSError."""
    connected = socket.create_connection((login.address, login.port), timeout_s)
    # Requests are small and wait for their answers.
    connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    return connected


def transport(sock: Any, **options: Any) -> paramiko.Transport:
    """A transport that offers what is strong, the fastest first; a server that lacks it takes the next."""
    made = paramiko.Transport(sock, packetizer_class=Packets, **options)
    offered = made.get_security_options()
    offered.ciphers = tuple(name for name in CIPHERS if name in offered.ciphers)
    offered.digests = strong(offered.digests)
    offered.kex = strong(offered.kex)
    offered.key_types = strong(offered.key_types)
    made.packetizer.REKEY_BYTES = REKEY_BYTES
    return made


def strong(names: tuple[str, ...]) -> tuple[str, ...]:
    """The names of algorithms that are not known to be weak."""
    return tuple(name for name in names if not any(word in name for word in WEAK))


@contextlib.contextmanager
def guarded(cut: Callable[[], None], limit_s: float) -> Iterator[None]:
    """Calls `cut` when the block takes longer than `limit_s`: not every wait of paramiko has a limit."""
    timer = threading.Timer(limit_s, cut)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


@contextlib.contextmanager
def explained(what: str, host: str, login: SshLogin) -> Iterator[None]:
    """Turns whatever paramiko and the network raise into the errors of mqi."""
    try:
        yield
    except (OSError, EOFError, SSHException) as error:
        raise explanation(error, what, host, login) from error


def explanation(error: Exception, what: str, host: str, login: SshLogin) -> MqiError:
    """What a failure to connect means for the operator."""
    place = name_of(login)
    if isinstance(error, UnknownKey):
        return AuthenticationProblem(
            f"{what}: its key {fingerprint(error.key)} is not pinned, and nothing was sent to it",
            f"compare that with the host's own (ssh-keygen -lf /etc/ssh/ssh_host_…_key.pub), then: "
            f"`mqi host trust {host}`",
        )
    if isinstance(error, BadHostKeyException):
        return AuthenticationProblem(
            f"{what}: its key has CHANGED: {fingerprint(error.key)} instead of {fingerprint(error.expected_key)}; "
            f"nothing was sent to it",
            "somebody may stand in between. Ask who runs the host; when it was set up anew: "
            f"`mqi host trust {host} --replace`",
        )
    if isinstance(error, AuthenticationException):
        if any(words in str(error) for words in _NOT_AN_ANSWER):
            return HostUnreachable(f"{what} broke off at the login", "it is tried again by itself")
        return AuthenticationProblem(
            f"{what} does not let the user {login.user} in ({_words(error)})",
            "check user, key and secret in the host's configuration, and authorized_keys on the host",
        )
    if isinstance(error, IncompatiblePeer):
        return HostRefused(
            f"{what} and mqi have no secure algorithm in common ({_words(error)})", "algorithms",
            "update the SSH server of the host",
        )  # fmt: skip
    if isinstance(error, socket.gaierror):
        why = "its address is not known"
    elif isinstance(error, TimeoutError):
        why = "no answer in time"
    else:
        why = _words(error)
    return HostUnreachable(
        f"{what} cannot be reached at {place}: {why}",
        "check that it runs, the network, and `ssh` in mqi.yaml",
    )


def _words(error: Exception) -> str:
    if isinstance(error, EOFError):
        return "the connection was ended"
    said = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(str(said).split())[:200]


def _credentials(what: str, login: SshLogin) -> dict[str, Any]:
    """The arguments of a login. Raises AuthenticationProblem when key or secret cannot be had."""
    secret = None if login.secret is None else read_secret(what, login, os.environ)
    if login.key is None:
        # Never a password for a key: it would be sent to the server when the key is rejected.
        return {} if secret is None else {"password": secret}
    try:
        return {"pkey": paramiko.PKey.from_path(login.key, secret and secret.encode())}
    except OSError as error:
        why = error.strerror or type(error).__name__
    except TypeError:
        why = "it is encrypted, or its passphrase is not needed: see `secret`"
    except (ValueError, SSHException, paramiko.pkey.UnknownKeyType):
        why = "it is not a private key, or its passphrase is wrong"
    raise AuthenticationProblem(
        f"{what}: the key file {login.key} cannot be used ({why})", "check `key` and `secret`"
    )


def read_secret(what: str, login: SshLogin, environ: Mapping[str, str]) -> str:
    """The password or passphrase. Raises AuthenticationProblem when it is not where it should be."""
    kind, _, name = (login.secret or "").partition(":")
    found: str | None
    if kind == "env":
        found = environ.get(name)
        place = f"the environment variable {name}"
    else:
        place = f"the keyring (service {name}, user {login.user})"
        try:
            import keyring
        except ImportError:
            raise AuthenticationProblem(
                f"{what}: the keyring cannot be read: mqi was installed without it",
                "pip install 'mqi[keyring]'",
            ) from None
        try:
            found = keyring.get_password(name, login.user)
        except Exception as error:  # its backends raise what they like
            raise AuthenticationProblem(f"{what}: {place} cannot be read ({_words(error)})", "") from error
    if not found:
        raise AuthenticationProblem(f"{what}: {place} has no password", "set it, or change `secret`")
    return found
