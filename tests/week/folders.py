"""The watch folder of a week: what people and programs do with case folders.

File times are set from the fake clock: real ones lie too close together, and a change would look like none.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from functools import lru_cache
from pathlib import Path

from mqi.manifest import Entry, Manifest
from mqi.sample import write_sample
from tests.week.clock import Clock

PLAN = "RP.plan.dcm"
NOTE = "note.txt"
TEMPORARY = (".part", ".tmp")
SEEDS = (1, 2, 3)


@lru_cache
def plan_bytes(seed: int) -> bytes:
    """A tiny RT Ion Plan; an odd seed has one treatment beam, an even one two."""
    with tempfile.TemporaryDirectory() as folder:
        path = write_sample(Path(folder), seed, treatment_beams=2 - seed % 2, layers=1)
        return path.read_bytes()


def beams_of(seed: int) -> list[int]:
    """The numbers of its treatment beams."""
    return [2, 3][: 2 - seed % 2]


class Folders:
    """Everything below one watch folder."""

    def __init__(self, root: Path, room: str, clock: Clock) -> None:
        self.root = root
        self.room = room
        self._away = root.with_name(root.name + ".away")
        self._clock = clock
        self._changes = 0
        root.mkdir(parents=True)

    # --- what happens there -----------------------------------------------------------------------------------

    def arrive(self, name: str, seed: int, note: str = "", keep_times: bool = False) -> None:
        """All of a case folder at once. `keep_times`: the files have the times of their origin."""
        old = {file.name for file in self._files(name)} - {PLAN}
        for stale in old - ({NOTE} if note else set()):
            (self.folder(name) / stale).unlink()
        self.write(name, PLAN, plan_bytes(seed), 1e9 + seed if keep_times else None)
        if note:
            self.write(name, NOTE, note.encode(), 1e9 + ord(note[0]) if keep_times else None)

    def copy(self, name: str, seed: int, part: str) -> None:
        """A copy under way: the plan under a temporary name (`part` .part or .tmp) or cut off ("")."""
        folder = self.folder(name)
        if folder.exists():
            shutil.rmtree(folder)
        data = plan_bytes(seed)
        self.write(name, PLAN + part, data[: len(data) // 2])

    def go_on(self, name: str, seed: int, how_far: int) -> bool:
        """The copy goes on; with `how_far` 2 it ends. False when there is none."""
        found = [file for file in self._files(name) if file.name.startswith(PLAN)]
        if not found or not self._is_partial(found[0]):
            return False
        data = plan_bytes(seed)
        if how_far < 2:
            self.write(name, found[0].name, data[: len(data) // 2 + 100 * (1 + how_far)])
            return True
        found[0].unlink()
        self.write(name, PLAN, data)
        return True

    def write(self, name: str, file: str, data: bytes, mtime: float | None = None) -> None:
        """Write one file of a case folder."""
        folder = self.folder(name)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / file).write_bytes(data)
        stamp = self._stamp()
        own = stamp if mtime is None else int(mtime * 1e9)
        os.utime(folder / file, ns=(own, own))
        os.utime(folder, ns=(stamp, stamp))

    def touch(self, name: str) -> None:
        """New times, the same bytes."""
        for file in self._files(name):
            stamp = self._stamp()
            os.utime(file, ns=(stamp, stamp))

    def empty(self, name: str) -> None:
        """Every file goes."""
        for file in self._files(name):
            file.unlink()
        if self.folder(name).exists():
            stamp = self._stamp()
            os.utime(self.folder(name), ns=(stamp, stamp))

    def vanish(self, name: str) -> None:
        """The folder goes."""
        shutil.rmtree(self.folder(name), ignore_errors=True)

    def disconnect(self) -> None:
        """The watch folder's disk goes."""
        if self.root.exists():
            self.root.rename(self._away)

    def connect(self) -> None:
        """The watch folder's disk comes back."""
        if not self.root.exists():
            self._away.rename(self.root)

    # --- how it looks -----------------------------------------------------------------------------------------

    def connected(self) -> bool:
        return self.root.exists()

    def folder(self, name: str) -> Path:
        base = self.root if self.root.exists() else self._away
        return base / name

    def names(self) -> list[str]:
        """Every case folder, in whatever state."""
        base = self.root if self.root.exists() else self._away
        return sorted(path.name for path in base.iterdir())

    def is_complete(self, name: str) -> bool:
        """Whether it holds a case that can be computed."""
        files = self._files(name)
        if any(file.name.endswith(TEMPORARY) for file in files):
            return False
        plans = [file for file in files if file.name.endswith(".dcm")]
        return len(plans) == 1 and not self._is_partial(plans[0])

    def digest(self, name: str) -> str:
        """The full digest that names a run of these contents."""
        entries = []
        for file in self._files(name):
            data = file.read_bytes()
            entries.append(Entry(file.name, len(data), hashlib.sha256(data).hexdigest()))
        return Manifest(tuple(entries)).digest(self.room, name)

    def _files(self, name: str) -> list[Path]:
        folder = self.folder(name)
        return sorted(folder.iterdir()) if folder.is_dir() else []

    def _is_partial(self, file: Path) -> bool:
        return file.read_bytes() not in {plan_bytes(seed) for seed in SEEDS}

    def _stamp(self) -> int:
        self._changes += 1
        return int(self._clock.time * 1e9) + self._changes
