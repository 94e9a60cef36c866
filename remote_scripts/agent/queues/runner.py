"""The local queue's runner of one group: starts its tasks in order, as many at once as there are slots.

It knows nothing that is not in files. Killed at any moment, it leaves jobs that go on, hold their slots
themselves, and a folder of tasks for the next runner.
"""

from __future__ import annotations

import subprocess
import time
from typing import Dict, List

from agent import names
from agent.files import remove
from agent.locks import Lock
from agent.processes import start_apart
from agent.queues.local import AGENT, has_started, runner_lock, task_file, tasks_of
from agent.settings import kept_settings
from agent.survey import examine
from agent.work import Work

_LOOK_EVERY_S = 0.1
# A task that did not start (its slot or GPU is taken by a job of an earlier runner) is tried again after
# this, doubled each time up to the maximum.
_RETRY_FIRST_S = 0.25
_RETRY_MAX_S = 8.0
# What the system refuses (no more processes, on Windows a file that somebody holds) it may allow later. After so many
# times in a row the runner ends; the next request starts another.
_REFUSALS = 8


def run_group(root: str, group: str) -> int:
    """Runs the group's tasks until there are none. Returns at once when the group has a runner."""
    work = Work(root)
    names.group(group)
    with Lock(runner_lock(work, group)) as lock:
        if lock.acquire():
            _Runner(work, group).serve(lock)
    return 0


class _Runner:
    def __init__(self, work: Work, group: str) -> None:
        self._work = work
        self._group = group
        self._children: Dict[str, "subprocess.Popen[bytes]"] = {}
        self._failures: Dict[str, int] = {}
        self._not_before: Dict[str, float] = {}

    def serve(self, lock: Lock) -> None:
        """Runs the tasks until there are none. Raises OSError when the system goes on refusing."""
        refusals = 0
        while True:
            try:
                if self._is_done(lock):
                    return
                refusals = 0
            except OSError:
                refusals += 1
                if refusals > _REFUSALS:
                    raise
            time.sleep(min(_RETRY_MAX_S, _LOOK_EVERY_S * 2**refusals))

    def _is_done(self, lock: Lock) -> bool:
        self._reap()
        self._start(self._to_start())
        return not self._children and self._end(lock)

    def _reap(self) -> None:
        for key, child in list(self._children.items()):
            if child.poll() is not None:
                del self._children[key]
                if not has_started(self._work.job(key)):
                    failures = self._failures.get(key, 0) + 1
                    self._failures[key] = failures
                    delay = min(_RETRY_MAX_S, _RETRY_FIRST_S * 2.0 ** min(failures - 1, 20))
                    self._not_before[key] = time.monotonic() + delay

    def _to_start(self) -> List[str]:
        """The tasks that nobody has started, in order. Drops those that are over for the queue."""
        keys = []
        for _, _, key in tasks_of(self._work, self._group):
            if key in self._children:
                continue
            if not has_started(self._work.job(key)):
                keys.append(key)
            elif not self._runs_elsewhere(key):
                remove(task_file(self._work, self._group, key))
        return keys

    def _runs_elsewhere(self, key: str) -> bool:
        """Whether a wrapper that an earlier runner started still minds this job."""
        facts = examine(self._work.job(key), None, "")
        return facts.exit is None and facts.wrapper

    def _start(self, keys: List[str]) -> None:
        slots = self._slots()
        for key in keys:
            if len(self._children) >= slots:
                return
            if time.monotonic() >= self._not_before.get(key, 0.0):
                argv = [*AGENT, "run", key, "--work", str(self._work.root), "--slot"]
                log = runner_lock(self._work, self._group).with_name("runner.log")
                self._children[key] = start_apart(argv, log, self._work.root)

    def _slots(self) -> int:
        settings = kept_settings(self._work)
        group = settings.groups.get(self._group) if settings else None
        return group.slots if group else 0

    def _end(self, lock: Lock) -> bool:
        """Ends the runner when no task is left, so that no task is added to a runner that is ending:
        tasks are added under the agent's lock, and so is this decision made."""
        if tasks_of(self._work, self._group):
            return False
        with Lock(self._work.lock) as agent_lock:
            if not agent_lock.acquire() or tasks_of(self._work, self._group):
                return False
            lock.release()
            return True
