"""Where everything lies in the work directory. Every path of the agent comes from here."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Callable, List

from agent import names
from agent.problems import Refused


class _In:
    """A place in its owner's `folder`. Made when it is asked for: a feed asks for few of each job's, and there
    are many jobs."""

    def __init__(self, *parts: str) -> None:
        self._parts = parts

    def __get__(self, owner: Any, kind: Any) -> Path:
        found: Path = owner.folder.joinpath(*self._parts)
        return found


class JobPaths:
    """The folder of one job. `key` has passed `names.job_key`."""

    claim = _In("claim")
    claim_info = _In("claim", "info.json")
    lock = _In("lock")
    # The command's process, written by itself before it becomes the command.
    process = _In("process.json")
    log = _In("log.txt")
    out_part = _In("out.part")
    out = _In("out")
    files = _In("files")
    progress = _In("progress.json")
    error = _In("error.json")
    outputs = _In("outputs.json")
    exit = _In("exit.json")
    tombstone = _In("tombstone.json")
    missing = _In("missing.json")
    needs = _In("needs.json")
    parameters = _In("parameters.json")

    def __init__(self, folder: Path, key: str) -> None:
        self.key = key
        self.folder = folder


class RunPaths:
    """The folder of one run. `key` has passed `names.run_key`."""

    plan = _In("plan.json")
    inputs = _In("inputs.json")
    input_dir = _In("in")
    jobs = _In("jobs")
    released = _In("released.json")

    def __init__(self, work: Work, key: str) -> None:
        self.key = key
        self.folder = work.runs / key
        self._work = work

    @property
    def receipt(self) -> Path:
        return self._work.receipts / (self.key + ".json")

    @property
    def refusal(self) -> Path:
        """The highest serial of this run that was refused, and why."""
        return self._work.refusals / (self.key + ".json")

    @property
    def pin(self) -> Path:
        return self._work.pins / (self.key + ".json")

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
        self.refusals = self.root / "refusals"
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
