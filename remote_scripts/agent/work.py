"""Where everything lies in the work directory. Every path of the agent comes from here."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Callable, List

from agent import names
from agent.problems import Refused


class JobPaths:
    """The folder of one job. `key` has passed `names.job_key`."""

    def __init__(self, folder: Path, key: str) -> None:
        self.key = key
        self.folder = folder
        self.claim = folder / "claim"
        self.claim_info = folder / "claim" / "info.json"
        self.lock = folder / "lock"
        # The command's process, written by itself before it becomes the command.
        self.process = folder / "process.json"
        self.log = folder / "log.txt"
        self.out_part = folder / "out.part"
        self.out = folder / "out"
        self.files = folder / "files"
        self.progress = folder / "progress.json"
        self.error = folder / "error.json"
        self.outputs = folder / "outputs.json"
        self.exit = folder / "exit.json"
        self.tombstone = folder / "tombstone.json"
        self.missing = folder / "missing.json"
        self.needs = folder / "needs.json"
        self.parameters = folder / "parameters.json"


class RunPaths:
    """The folder of one run. `key` has passed `names.run_key`."""

    def __init__(self, work: Work, key: str) -> None:
        self.key = key
        self.folder = work.runs / key
        self.plan = self.folder / "plan.json"
        self.inputs = self.folder / "inputs.json"
        self.input_dir = self.folder / "in"
        self.jobs = self.folder / "jobs"
        self.released = self.folder / "released.json"
        self.receipt = work.receipts / (key + ".json")
        self.pin = work.pins / (key + ".json")

    def job(self, key: str) -> JobPaths:
        return JobPaths(self.jobs / names.job_key(key), key)

    def job_keys(self) -> List[str]:
        """The keys of all jobs that have a folder here, ended or not, of this plan or an earlier one."""
        return [name for name in _listed(self.jobs) if _is(names.job_key, name)]


class Work:
    """A work directory."""

    def __init__(self, root: str) -> None:
        self.root = Path(os.path.abspath(root))
        self.host = self.root / "host.json"
        self.lock = self.root / "agent.lock"
        self.seq = self.root / "seq"
        self.settings = self.root / "settings.json"
        self.scripts = self.root / "scripts"
        self.store = self.root / "store"
        self.parts = self.root / "store" / "part"
        self.upload_lock = self.root / "store" / "upload.lock"
        self.pins = self.root / "pins"
        self.runs = self.root / "runs"
        self.receipts = self.root / "receipts"
        self.queue = self.root / "queue"
        self.slots = self.root / "slots"
        self.gpus = self.root / "gpus"
        # Made by `mqi host setup`: one folder per set of packages, and `current`, a link to the newest.
        self.environments = self.root / "env"

    def run(self, key: str) -> RunPaths:
        return RunPaths(self, names.run_key(key))

    def job(self, key: str) -> JobPaths:
        return self.run(names.parse_job_key(key).run_key).job(key)

    def blob(self, digest: str) -> Path:
        return self.store / names.digest(digest)[:2] / digest

    def part(self, digest: str) -> Path:
        return self.parts / names.digest(digest)

    def gpu_lock(self, uuid: str) -> Path:
        return self.gpus / (names.gpu(uuid) + ".lock")

    def slot_lock(self, group: str, number: int) -> Path:
        # Not below queue/: jobs that run keep their slots even when somebody empties the queue.
        return self.slots / names.group(group) / ("%d.lock" % number)

    def run_keys(self) -> List[str]:
        """The keys of all runs that have a folder."""
        return [name for name in _listed(self.runs) if _is(names.run_key, name)]

    def receipt_keys(self) -> List[str]:
        names_ = [name[:-5] for name in _listed(self.receipts) if name.endswith(".json")]
        return [name for name in names_ if _is(names.run_key, name)]


def _listed(folder: Path) -> List[str]:
    try:
        return sorted(os.listdir(str(folder)))
    except FileNotFoundError:
        return []


def _is(check: Callable[[str], str], name: str) -> bool:
    try:
        check(name)
    except Refused:
        return False
    return True
