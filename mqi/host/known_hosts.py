"""The pinned host keys: a file of ours in the format of OpenSSH (sshd(8), SSH_KNOWN_HOSTS FILE FORMAT)."""

from __future__ import annotations

import os
from pathlib import Path

from paramiko import HostKeys, PKey
from paramiko.hostkeys import HostKeyEntry
from paramiko.ssh_exception import SSHException

from mqi.errors import ConfigurationProblem, DiskProblem
from mqi.renaming import replace
from mqi.settings import SshLogin

_LOCK_WAIT_S = 10.0


def name_of(login: SshLogin) -> str:
    """The name under which a computer's key stands in the file."""
    return login.address if login.port == 22 else f"[{login.address}]:{login.port}"


def fingerprint(key: PKey) -> str:
    """As OpenSSH shows it: `SHA256:` and the digest in Base64 without its padding."""
    return str(key.fingerprint)


def read_pins(path: Path) -> HostKeys:
    """The pinned keys; none when there is no file. Raises ConfigurationProblem when it cannot be used."""
    pins = HostKeys()
    try:
        pins.load(str(path))
    except FileNotFoundError:
        pass
    except (OSError, ValueError, SSHException) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise ConfigurationProblem(
            f"the file of pinned host keys {path} cannot be read ({why})",
            "correct or remove it; `mqi host trust` writes it anew",
        ) from error
    return pins


def pinned(path: Path, login: SshLogin) -> list[PKey]:
    """The keys that are pinned for a computer. Raises ConfigurationProblem."""
    found = read_pins(path).lookup(name_of(login))
    return list(found.values()) if found else []


def pin(path: Path, login: SshLogin, key: PKey) -> None:
    """Pin `key` as the only one of a computer; every other line stays as it is. Raises DiskProblem."""
    from filelock import FileLock  # most commands only read

    name = name_of(login)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_name(path.name + ".lock"), timeout=_LOCK_WAIT_S):
            lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
            kept = [line for line in lines if not _is_about(line, name)]
            part = path.with_name(path.name + ".part")
            with part.open("w", encoding="utf-8", newline="\n") as file:
                file.write("\n".join([*kept, f"{name} {key.get_name()} {key.get_base64()}"]) + "\n")
                file.flush()
                os.fsync(file.fileno())
            replace(part, path)
    except OSError as error:
        raise DiskProblem(
            f"the host key cannot be written to {path} ({error.strerror or error})", "check the folder"
        ) from error


def _is_about(line: str, name: str) -> bool:
    """Whether a line pins a key of exactly this computer, by name or by the hash of its name."""
    try:
        entry = HostKeyEntry.from_line(line)
    except SSHException:
        return False
    if entry is None or entry.hostnames is None:
        return False
    return any(
        one == name or (one.startswith("|1|") and HostKeys.hash_host(name, one) == one)
        for one in entry.hostnames
    )
