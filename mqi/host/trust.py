"""Pinning the key of a host on its first day, when only a person can say whether it is the right one."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence

import paramiko

from mqi.errors import AuthenticationProblem, UsageProblem
from mqi.host.known_hosts import fingerprint, name_of, pin, pinned
from mqi.host.ssh_line import Line, explained, guarded, tcp, transport
from mqi.settings import Ssh, SshLogin


def trust_all(
    host: str,
    ssh: Ssh,
    wanted: Sequence[str],
    replace: bool,
    agreed: Callable[[str], bool],
    tell: Callable[[str], None],
) -> dict[str, str]:
    """Pin the key of the jump host, if there is one, and then the host's; name in the file -> fingerprint.

    `wanted`: fingerprints from elsewhere; with any, nothing is asked and nothing else is pinned. `replace`: a
    changed key may take the place of the pinned one. Raises AuthenticationProblem for a key that is not wanted,
    UsageProblem when nobody agrees, and the errors of a connection.
    """
    found = {}
    for login in [ssh.jump, ssh] if ssh.jump else [ssh]:
        key = _shown_key(host, ssh, login)
        found[name_of(login)] = fingerprint(key)
        _pin_if_agreed(host, ssh, login, key, wanted, replace, agreed, tell)
    return found


def _shown_key(host: str, ssh: Ssh, login: SshLogin) -> paramiko.PKey:
    """The key that a computer shows, without logging in there."""
    what = f"host {host}" if login is ssh else f"the jump host of {host}"
    with contextlib.ExitStack() as opened, explained(what, host, login):
        if login is ssh and ssh.jump:
            line = Line(host, ssh, jump_only=True)
            opened.callback(line.close)
            sock = line.forward(login)
        else:
            sock = tcp(login, ssh.connect_timeout_s)
        opened.callback(sock.close)
        with guarded(sock.close, 2 * ssh.connect_timeout_s):
            made = transport(sock)
            made.banner_timeout = ssh.connect_timeout_s
            opened.callback(made.close)
            made.start_client(timeout=ssh.connect_timeout_s)
            return made.get_remote_server_key()


def _pin_if_agreed(
    host: str,
    ssh: Ssh,
    login: SshLogin,
    key: paramiko.PKey,
    wanted: Sequence[str],
    replace: bool,
    agreed: Callable[[str], bool],
    tell: Callable[[str], None],
) -> None:
    name, shown = name_of(login), fingerprint(key)
    before = pinned(ssh.known_hosts, login)
    tell(f"{name}  {key.get_name()}  {shown}")
    if wanted and shown not in wanted:
        raise AuthenticationProblem(
            f"{name} shows another key than the one that is to be pinned; nothing was pinned for it",
            "somebody may stand in between, or the fingerprint is of another of its keys: try the ssh-ed25519 one",
        )
    if key in before:
        tell("  pinned already")
        return
    if before and not replace:
        raise AuthenticationProblem(
            f"{name} has another key than the pinned one ({', '.join(map(fingerprint, before))}); nothing was changed",
            f"ask who runs the host; when it was set up anew: `mqi host trust {host} --replace`",
        )
    if not wanted and not agreed(f"Is that the key of {name}, as its administrator says?"):
        raise UsageProblem(f"the key of {name} was not pinned")
    pin(ssh.known_hosts, login, key)
    tell(f"  pinned in {ssh.known_hosts}")
