"""A computer of its own on this one: its processes, /run and boot are its own (Linux namespaces), its disk is ours.

When its power goes, all that runs in it ends at the same moment without a word, and with it what lay in /run and in
its temporary folder; what was on disk is there when it starts again, under another boot id.
"""

from __future__ import annotations

import functools
import os
import subprocess
import sys
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.agent.system import is_alive, wait_for

# It says its process id as this computer counts them, before it has a /proc of its own; then it only reaps.
INIT = """\
set -e
read -r pid rest </proc/self/stat
boot_id=$1; shift
while [ $# -gt 0 ]; do mount --bind "$1" "$2"; shift 2; done
mount -t proc proc /proc
mount --bind "$boot_id" /proc/sys/kernel/random/boot_id
mount -t tmpfs tmpfs /run
mkdir -m 0755 /run/sshd /run/tmp /run/user /run/queue
echo "$pid"
while :; do sleep 3600; done
"""
# Where programs in it keep what does not outlive it: for `SetEnv` of its sshd.
TEMPORARY = "TMPDIR=/run/tmp XDG_RUNTIME_DIR=/run/user"


@functools.cache
def why_not() -> str:
    """Why there can be no such computer here, or ''."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "a computer of its own needs root on Linux"
    test = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "mount", "-t", "proc", "proc", "/proc"]
    done = subprocess.run(test, capture_output=True, check=False)
    return "this computer does not let us make another one" if done.returncode else ""


class Computer:
    """`files`: file of ours -> the place where it is shown in there."""

    def __init__(self, folder: Path, files: Mapping[Path, str] | None = None) -> None:
        if why_not():
            pytest.skip(why_not())
        self._boot_id = folder / "boot_id"
        self._files = files or {}
        self.power_on()

    def power_on(self) -> None:
        self._boot_id.write_text(f"{uuid.uuid4()}\n", encoding="ascii")
        shown = [word for file, place in self._files.items() for word in (str(file), place)]
        self._switch = subprocess.Popen(
            ["unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", INIT, "init", str(self._boot_id), *shown],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        )  # fmt: skip
        assert self._switch.stdout is not None
        self._init = int(self._switch.stdout.readline())

    def power_off(self) -> None:
        """Everything in it ends now."""
        self._switch.kill()
        self._switch.wait()
        assert self._switch.stdout is not None
        self._switch.stdout.close()
        wait_for(lambda: not is_alive(self._init), "the computer to go off")

    @property
    def inside(self) -> list[str]:
        """The words before a command that shall run in there."""
        return ["nsenter", f"--target={self._init}", "--mount", "--pid", "--"]


@contextmanager
def small_disk(place: Path, size: str) -> Iterator[None]:
    """A disk of its own at `place`, taken away at the end."""
    place.mkdir(parents=True, exist_ok=True)
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("a disk of its own needs root on Linux")
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place)], check=False)
    if mounted.returncode != 0:
        pytest.skip("this computer does not let us mount a disk")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(place)], check=False)
