"""A real systemd that nobody else notices: process 1 of namespaces of its own. Needs root, and Linux."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

BOOT = Path(__file__).with_name("boot_systemd.sh")
PATH = "/usr/sbin:/usr/bin:/sbin:/bin"


class CannotBoot(Exception):
    """This computer lacks something that it takes."""


class PrivateSystemd:
    """Runs commands beside a systemd with this process id."""

    def __init__(self, pid: int) -> None:
        self._pid = pid

    def run(self, *argv: str, user: str = "root", check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a program there, as that account."""
        environment = [f"PATH={PATH}", "LC_ALL=C.UTF-8", "NO_COLOR=1", "COLUMNS=200"]
        command: Sequence[str] = argv
        if user != "root":
            uid = self.run("id", "-u", user).stdout.strip()
            command = ["runuser", "-u", user, "--", "env", f"XDG_RUNTIME_DIR=/run/user/{uid}", f"HOME=/home/{user}", *argv]
        done = subprocess.run(
            ["nsenter", "--target", str(self._pid), "--mount", "--uts", "--ipc", "--pid", "--cgroup",
             "env", "-C", "/", "-i", *environment, *command],
            capture_output=True, text=True, encoding="utf-8", stdin=subprocess.DEVNULL, timeout=120, check=False,
        )  # fmt: skip
        if check and done.returncode != 0:
            raise AssertionError(f"{argv} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
        return done

    def write(self, path: str, text: str) -> None:
        """Write a file there."""
        subprocess.run(
            ["nsenter", "--target", str(self._pid), "--mount", "tee", path],
            input=text, text=True, encoding="utf-8", stdout=subprocess.DEVNULL, check=True,
        )  # fmt: skip


@contextmanager
def private_systemd(space: Path, *reachable: Path) -> Iterator[PrivateSystemd]:
    """Boot one; everything in it ends and is gone afterwards. Raises CannotBoot."""
    missing = [name for name in ("unshare", "nsenter", "runuser", "dbus-daemon") if shutil.which(name, path=PATH) is None]
    if os.geteuid() != 0 or missing or not Path("/lib/systemd/systemd").exists():
        raise CannotBoot(f"needs root, systemd, dbus and util-linux{f'; missing: {missing}' if missing else ''}")
    with (space.parent / "boot.log").open("wb") as log:
        outside = subprocess.Popen(
            ["unshare", "--mount", "--pid", "--cgroup", "--uts", "--ipc", "--fork",
             "bash", str(BOOT), str(space), *map(str, reachable)],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
    inside = 0
    try:
        inside = _child(outside)
        there = PrivateSystemd(inside)
        _wait_until_up(there, outside, space.parent / "boot.log")
        yield there
    finally:
        # The death of process 1 ends everything else in its namespace.
        with contextlib.suppress(ProcessLookupError):
            os.kill(inside or outside.pid, signal.SIGKILL)
        outside.wait(30)


def _child(process: subprocess.Popen[bytes]) -> int:
    for _ in range(100):
        with contextlib.suppress(OSError):
            children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text(encoding="ascii").split()
            if children:
                return int(children[0])
        if process.poll() is not None:
            break
        time.sleep(0.05)
    raise CannotBoot("namespaces cannot be made here")


def _wait_until_up(there: PrivateSystemd, outside: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(200):
        if outside.poll() is not None:
            break
        state = there.run("systemctl", "is-system-running", check=False).stdout.strip()
        if state in ("running", "degraded"):
            return
        time.sleep(0.2)
    raise CannotBoot(f"it did not come up: {log.read_text(encoding='utf-8', errors='replace')[-500:]}")
