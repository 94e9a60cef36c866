"""A real sshd of our own on 127.0.0.1: own configuration, keys and home folder, ended by its process id."""

from __future__ import annotations

import getpass
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from mqi.settings import HostSettings, Ssh
from tests.agent.system import all_processes, kill, wait_for

PROGRAM = shutil.which("sshd", path=f"/usr/sbin:/usr/local/sbin:{os.environ.get('PATH', '')}")
NEEDS_SSHD = pytest.mark.skipif(PROGRAM is None or sys.platform == "win32", reason="there is no sshd here")

CONFIG = """\
Port {port}
ListenAddress 127.0.0.1
HostKey {folder}/host_key
PidFile {folder}/pid
AuthorizedKeysFile {folder}/authorized_keys
StrictModes no
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
LogLevel VERBOSE
MaxStartups 200
PrintMotd no
Subsystem sftp internal-sftp
SetEnv HOME={folder}/home
"""


def free_port() -> int:
    """A port on which nobody listens now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def new_key(path: Path, passphrase: str = "") -> Path:
    """A new Ed25519 key pair at `path` and `path`.pub."""
    for old in (path, path.with_name(path.name + ".pub")):
        old.unlink(missing_ok=True)
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", passphrase, "-C", "test", "-f", str(path)], check=True)
    return path


def fingerprint_of(path: Path) -> str:
    """What ssh-keygen says of a key."""
    done = subprocess.run(["ssh-keygen", "-lf", str(path)], capture_output=True, text=True, check=True)
    return done.stdout.split()[1]


class Sshd:
    """An sshd in `folder`. `options`: lines of its configuration, which go before ours. `inside`: words before its
    command, which let it run in another computer (see tests/faults/computer.py), with whose power it goes."""

    def __init__(
        self, folder: Path, options: Sequence[str] = (), port: int = 0, inside: Sequence[str] = ()
    ) -> None:
        self.folder = folder
        self.inside = list(inside)
        self.port = port or free_port()
        self.home = folder / "home"
        self.home.mkdir(parents=True)
        self.host_key = new_key(folder / "host_key")
        self.key = new_key(folder / "id")
        shutil.copy(folder / "id.pub", folder / "authorized_keys")
        self.known_hosts = folder / "known_hosts"
        self._process: subprocess.Popen[bytes] | None = None
        self._log = folder / "log"
        self.start(options)

    def start(self, options: Sequence[str] = ()) -> None:
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(exist_ok=True)  # where it locks its helper in
        text = "".join(f"{line}\n" for line in options) + CONFIG.format(port=self.port, folder=self.folder)
        (self.folder / "config").write_text(text, encoding="utf-8")
        with self._log.open("ab") as log:
            assert PROGRAM is not None
            argv = [*self.inside, PROGRAM, "-D", "-e", "-f", str(self.folder / "config")]
            self._process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        wait_for(self._listens, f"sshd to listen: {self.log()[-500:]}")

    def _listens(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def stop(self, *, sessions: bool = True) -> None:
        """Ends the server, and with `sessions` every connection to it."""
        if self._process is None:
            return
        ours = self._descendants(self._process.pid) if sessions else []
        self._process.terminate()
        self._process.wait(10)
        self._process = None
        for pid in ours:
            kill(pid)

    def _descendants(self, pid: int) -> list[int]:
        """The processes of its connections; not what they started, which lives on as on a real host."""
        parents = {}
        for one, argv in all_processes():
            try:
                stat = Path(f"/proc/{one}/stat").read_text()
            except OSError:
                continue
            if argv[0].startswith("sshd"):
                parents[one] = int(stat.rpartition(")")[2].split()[1])
        found = {pid}
        while True:
            more = {one for one, parent in parents.items() if parent in found} - found
            if not more:
                return sorted(found - {pid})
            found |= more

    def log(self) -> str:
        return self._log.read_text(encoding="utf-8", errors="replace") if self._log.exists() else ""

    def counts(self) -> tuple[int, int]:
        """(logins, execs) so far, from its log."""
        log = self.log()
        return len(re.findall(r"^Accepted (?:publickey|password) ", log, re.M)), len(re.findall(r"^Starting session: ", log, re.M))

    def trust(self, port: int = 0) -> None:
        """Pins its key, as `mqi host trust` would."""
        kind, key = (self.folder / "host_key.pub").read_text().split()[:2]
        with self.known_hosts.open("a", encoding="utf-8") as file:
            file.write(f"[127.0.0.1]:{port or self.port} {kind} {key}\n")

    def ssh(self, **changes: Any) -> Ssh:
        """How mqi reaches it."""
        values: dict[str, Any] = {
            "address": "127.0.0.1", "user": getpass.getuser(), "port": self.port, "key": self.key,
            "known_hosts": self.known_hosts, "python": sys.executable, "connect_timeout_s": 15.0,
        }  # fmt: skip
        return Ssh(**{**values, **changes})

    def settings(self, work: Path, name: str = "far", **changes: Any) -> HostSettings:
        ssh = changes.pop("ssh", None) or self.ssh()
        return HostSettings(name, type="ssh", work_dir=str(work), ssh=ssh, timeout_s=20.0, **changes)
