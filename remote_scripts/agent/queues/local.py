"""The built-in queue: a folder of tasks per group, and a runner that lives while there are any.

    queue/local/<group>/tasks/<job key>.json     {"priority", "order"}
    queue/local/<group>/runner.lock, runner.log
    slots/<group>/<n>.lock                       held by the running jobs themselves

Nothing to install and no daemon: any request, and the end of any job, starts the runners that are needed.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any, Dict, List, Tuple

from agent import names
from agent.files import read_json_object, remove, write_json
from agent.locks import is_locked
from agent.problems import QueueProblem, Refused
from agent.processes import start_apart
from agent.queues import Task
from agent.settings import Settings
from agent.work import JobPaths, Work

# The agent that serves this request also runs the jobs that it starts.
# Without site-packages it starts twice as fast, and nothing that is installed there can disturb it.
AGENT = (sys.executable, "-I", "-S", str(Path(__file__).resolve().parent.parent))


def runner_lock(work: Work, group: str) -> Path:
    return work.queue / "local" / group / "runner.lock"


def task_file(work: Work, group: str, job_key: str) -> Path:
    return work.queue / "local" / group / "tasks" / (job_key + ".json")


def tasks_of(work: Work, group: str) -> List[Tuple[int, int, str]]:
    """(-priority, order, job key) of the group's tasks, in the order in which they shall start."""
    folder = work.queue / "local" / group / "tasks"
    found = []
    for name in _names(folder):
        task = _read(folder / name)
        if task is not None:
            found.append((-int(task["priority"]), int(task["order"]), name[: -len(".json")]))
    return sorted(found)


def _names(folder: Path) -> List[str]:
    """The names of task files in `folder`; others are nobody's business here."""
    try:
        candidates = os.listdir(str(folder))
    except FileNotFoundError:
        return []
    good = []
    for name in candidates:
        if name.endswith(".json") and not name.startswith("."):
            try:
                names.job_key(name[: -len(".json")])
            except Refused:
                continue
            good.append(name)
    return good


def _read(path: Path) -> Any:
    """The task, or None when it was withdrawn this moment or is not one (its plan adds it again)."""
    try:
        task = read_json_object(path)
        if task is not None:
            return {"priority": int(task["priority"]), "order": int(task["order"])}
    except (ValueError, KeyError, TypeError):
        remove(path)
    return None


def has_started(job: JobPaths) -> bool:
    """Nothing is left to start: it has ended, must not start, or somebody has claimed it."""
    return job.exit.exists() or job.tombstone.exists() or job.claim.exists()


class LocalQueue:
    """See `queues.Queue`."""

    bounded = True

    def __init__(self, work: Work, settings: Settings) -> None:
        self._work = work
        self._settings = settings

    def list(self) -> List[Task]:
        tasks = []
        try:
            for group in self._groups():
                for minus_priority, _, key in tasks_of(self._work, group):
                    tasks.append(Task(key, group, key, -minus_priority, has_started(self._work.job(key))))
        except OSError as error:
            raise QueueProblem("the local queue's folder cannot be read (%s)" % error.strerror) from error
        return tasks

    def add(self, job_key: str, group: str, priority: int, order: int) -> str:
        path = task_file(self._work, group, job_key)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, {"priority": priority, "order": order})
        return job_key

    def remove(self, job_key: str) -> None:
        for group in self._groups():
            remove(task_file(self._work, group, job_key))

    def fate(self, job_key: str) -> str:
        return ""

    def check(self) -> None:
        for group in self._groups():
            if tasks_of(self._work, group) and not is_locked(runner_lock(self._work, group)):
                self._start_runner(group)

    def _start_runner(self, group: str) -> None:
        # Two may be started when requests follow each other closely: the second finds the lock and ends.
        argv = [*AGENT, "runner", group, "--work", str(self._work.root)]
        log = runner_lock(self._work, group).with_name("runner.log")
        try:
            start_apart(argv, log, self._work.root)
        except OSError as error:
            raise QueueProblem("the local queue's runner does not start (%s)" % error.strerror) from error

    def _groups(self) -> List[str]:
        """Those of the configuration, and those that it had once and that still have tasks."""
        known: Dict[str, None] = dict.fromkeys(self._settings.groups)
        folder = self._work.queue / "local"
        if folder.is_dir():
            known.update(dict.fromkeys(sorted(entry.name for entry in folder.iterdir() if entry.is_dir())))
        return [name for name in known if _is_group(name)]


def _is_group(name: str) -> bool:
    try:
        names.group(name)
    except Refused:
        return False
    return True
