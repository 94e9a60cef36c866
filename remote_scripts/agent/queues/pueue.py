"""Pueue (3.x and 4.x) as the queue: each of our groups is one of its groups, each job a task with the job key
as its label and our work directory as its folder.

Its list says what waits. It never says what became of a job: a daemon that was killed calls a task `Killed`
whose process goes on, and a damaged state file is taken for an empty one. So tasks are counted and removed by
what lies in our own files, and a second copy of a task does nothing (see `execute`).
"""

from __future__ import annotations

import os
import re
import shlex
import time
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Tuple, TypeVar

from agent import names
from agent.command import one_line
from agent.problems import NotTaken, QueueProblem, Refused
from agent.queues import BUSY, Task
from agent.queues.local import AGENT, has_started
from agent.queues.programs import Finished, ask, option, options_of, small_environment
from agent.queues.pueue_daemon import Daemon
from agent.queues.pueue_words import (
    NotPueue,
    PueueGroup,
    PueueTask,
    parse_added,
    parse_groups,
    parse_status,
)
from agent.settings import Settings
from agent.survey import is_lost
from agent.work import Work

_Words = TypeVar("_Words")
_UNDER_WAY = ("running", "paused")
# 3.x makes groups in its own time.
_GROUP_WAIT_S = 3.0
_PREFIX = re.compile(r"[A-Za-z0-9_.-]{0,32}")


class Place(NamedTuple):
    """A group of Pueue's: for the jobs of which of ours, so many at once, on which GPU ("": see `gpus`)."""

    group: str
    parallel: int
    gpu: str


class PueueQueue:
    """See `queues.Queue`."""

    bounded = True

    def __init__(self, work: Work, settings: Settings) -> None:
        options = options_of(settings, "pueue")
        self._work = work
        self._program = option(options, "program") or "pueue"
        self._config = option(options, "config")
        self._environment = small_environment(os.environ, {})
        self._places = places(settings, options)
        self._daemon = Daemon(work.queue / "pueue" / "daemon.json", self._config, self._environment)
        # What the last listing showed, for the calls that follow it under the same lock.
        self._load: Dict[str, int] = {}
        self._existing: Dict[str, PueueGroup] = {}
        self._busy_groups: List[str] = []
        self._results: Dict[str, str] = {}
        self._complaints: List[str] = []

    # --- the queue

    def list(self) -> List[Task]:
        tasks, self._existing = self._status()
        self._complaints = []
        self._busy_groups = [task.group for task in tasks if task.state in _UNDER_WAY]
        ours = [task for task in tasks if self._is_ours(task)]
        living, surplus = told_apart([task for task in ours if task.state != "ended"])
        self._load = dict.fromkeys(self._places, 0)
        for task in living:
            self._load[task.group] = self._load.get(task.group, 0) + 1
        self._results = {task.label: task.result for task in ours if task.state == "ended"}
        self._forget(surplus + self._over([task for task in ours if task.state == "ended"]))
        stashed = sum(task.state == "stashed" for task in living)
        if stashed:
            self._complaints.append("somebody stashed %d of our tasks: see `pueue enqueue`" % stashed)
        living.sort(key=lambda task: (-task.priority, task.id))
        return [
            Task(task.label, self._group_of(task), str(task.id), task.priority, task.state in _UNDER_WAY)
            for task in living
        ]

    def add(self, job_key: str, group: str, priority: int, order: int) -> str:
        name = min(
            (name for name, place in self._places.items() if place.group == group),
            key=lambda name: self._load.get(name, 0),
        )
        if name not in self._existing:
            self._make_group(name, self._places[name].parallel)
        words = [*AGENT, "run", job_key, "--work", str(self._work.root), "--slot", "--wait"]
        if self._places[name].gpu:
            words += ["--gpu", self._places[name].gpu]
        argv = ["add", "--print-task-id", "--group", name, "--label=" + job_key, "--priority=%d" % priority]
        argv += ["--working-directory", str(self._work.root), "--", shlex.join(words)]
        try:
            finished = self._ask(argv)
            task_id = parse_added(finished.out)
        except QueueProblem as error:
            task_id = self._taken_after_all(job_key, error)
        except NotPueue:
            task_id = self._taken_after_all(job_key, NotTaken("Pueue did not take a job: " + finished.complaint()))
        self._load[name] = self._load.get(name, 0) + 1
        return str(task_id)

    def remove(self, job_key: str) -> None:
        # Pueue itself refuses to remove what has started, so nothing is lost between look and removal.
        self._forget([task.id for task in self._labelled(job_key) if task.state in ("waiting", "stashed")])

    def fate(self, job_key: str) -> str:
        return self._results.get(job_key, "")

    def check(self) -> None:
        # A listing tells the groups too, and every program that is not started is time for the jobs.
        groups = self._existing = self._existing or self._groups()
        for name, place in self._places.items():
            if name not in groups:
                self._make_group(name, place.parallel)
            elif groups[name].parallel != place.parallel:
                self._demand(["parallel", str(place.parallel), "--group", name])
        paused = [name for name in self._places if name in groups and groups[name].paused]
        if paused:
            self._mind_paused(paused)
        self._daemon.remember()
        if self._complaints:
            raise QueueProblem("; ".join(self._complaints))

    # --- tasks

    def _is_ours(self, task: PueueTask) -> bool:
        """Others use this daemon too: people, and other work directories."""
        try:
            names.job_key(task.label)
        except Refused:
            return False
        root = str(self._work.root)
        return task.path == root or os.path.realpath(task.path) == os.path.realpath(root)

    def _group_of(self, task: PueueTask) -> str:
        place = self._places.get(task.group)
        # The name of a group that the configuration no longer has: the feed withdraws the task.
        return place.group if place else task.group

    def _over(self, ended: List[PueueTask]) -> List[int]:
        """Ids of ended tasks that nobody needs any more: the job's own files tell what became of it. The
        newest that ended before its job began is kept, for its log, and complained about."""
        over: List[int] = []
        failed: Optional[PueueTask] = None
        for task in ended:
            job = self._work.job(task.label)
            if job.claim.exists() and not (job.exit.exists() or job.tombstone.exists() or is_lost(job)):
                continue  # its end is not known yet, and this may be all that tells it (see `fate`)
            idle = job.folder.exists() and not has_started(job)
            if idle and task.result not in ("Success", "Failed %d" % BUSY):
                over += [failed.id] if failed else []
                failed = task
            else:
                over.append(task.id)
        if failed:
            self._complaints.append(
                "the task of %s ended before its job began (%s): see `pueue log %d`"
                % (failed.label, one_line(failed.result), failed.id)
            )
        return over

    def _labelled(self, job_key: str) -> List[PueueTask]:
        """Our tasks with this label that have not ended. Raises QueueProblem."""
        tasks, _ = self._status("label=" + job_key)
        return [task for task in tasks if task.label == job_key and self._is_ours(task) and task.state != "ended"]

    def _taken_after_all(self, job_key: str, problem: QueueProblem) -> int:
        """A daemon that is slow, or that cannot save, takes a task and says no. Raises `problem` when it did
        not; what arrives later still is found by the next listing."""
        found = self._labelled(job_key)
        if not found:
            raise problem
        return found[0].id

    def _forget(self, ids: List[int]) -> None:
        if ids:
            try:
                self._ask(["remove", *(str(one) for one in ids)])
            except QueueProblem:
                pass  # tried again after the next listing

    # --- groups

    def _make_group(self, name: str, parallel: int) -> None:
        self._ask(["group", "add", name, "--parallel", str(parallel)])  # it may exist by now
        give_up = time.monotonic() + _GROUP_WAIT_S
        while True:
            self._existing = self._groups()
            if name in self._existing:
                return
            if time.monotonic() > give_up:
                raise QueueProblem("Pueue does not make its group %s" % name)
            time.sleep(0.1)

    def _mind_paused(self, paused: List[str]) -> None:
        """A daemon that starts again pauses what has work; a person who pauses means it."""
        restarted = self._daemon.restarted()
        for name in paused:
            by_hand = name in self._busy_groups if restarted is None else not restarted
            if by_hand:
                self._complaints.append("its group %s is paused by hand: `pueue start -g %s`" % (name, name))
            else:
                self._demand(["start", "--group", name])

    def _groups(self) -> Dict[str, PueueGroup]:
        return _understood(parse_groups, self._demand(["group", "--json"]).out)

    # --- the program

    def _status(self, *query: str) -> Tuple[List[PueueTask], Dict[str, PueueGroup]]:
        return _understood(parse_status, self._demand(["status", "--json", *query]).out)

    def _demand(self, arguments: List[str]) -> Finished:
        finished = self._ask(arguments)
        if finished.code != 0:
            raise QueueProblem("Pueue says: %s" % finished.complaint())
        return finished

    def _ask(self, arguments: List[str]) -> Finished:
        """Raises QueueProblem when it does not answer; a failure that it tells is the caller's to judge."""
        argv = [self._program, *(["--config", self._config] if self._config else []), *arguments]
        finished = ask(argv, self._environment)
        if finished.code != 0 and re.search(r"Did you start (it|the daemon)", finished.err + finished.out):
            start = "pueued%s --daemonize" % (" --config " + self._config if self._config else "")
            raise QueueProblem(
                "Pueue's daemon does not run on this host; start it there: `%s`, or by `systemctl --user start pueued` "
                "with `loginctl enable-linger`" % start
            )
        return finished


def places(settings: Settings, options: Dict[str, Any]) -> Dict[str, Place]:
    """Pueue's group -> what it stands for. Raises Refused for options that cannot be. Pure."""
    prefix = option(options, "group_prefix", "mqi-")
    if _PREFIX.fullmatch(prefix) is None:
        raise Refused("bad_request", "not the beginning of a group's name: %.40r" % prefix)
    found = {}
    for group in settings.groups.values():
        if options.get("group_per_gpu") is True and not isinstance(group.gpus, str):
            for number, uuid in enumerate(group.gpus):
                # The dot keeps it apart from a configured group `gpu-0`.
                found["%s%s.%d" % (prefix, group.name, number)] = Place(group.name, 1, uuid)
        else:
            found[prefix + group.name] = Place(group.name, group.slots, "")
    return found


def told_apart(tasks: List[PueueTask]) -> Tuple[List[PueueTask], List[int]]:
    """One task for each label, and the ids of others that have not started: a person restarted a task, or one
    that was given up arrived late. Pure."""
    first = sorted(tasks, key=lambda task: (task.state not in _UNDER_WAY, task.id))
    chosen: Dict[str, PueueTask] = {}
    surplus = []
    for task in first:
        if task.label not in chosen:
            chosen[task.label] = task
        elif task.state not in _UNDER_WAY:
            surplus.append(task.id)
    return list(chosen.values()), surplus


def _understood(parse: Callable[[str], _Words], text: str) -> _Words:
    try:
        return parse(text)
    except NotPueue as error:
        raise QueueProblem("Pueue's answer cannot be read: is it 3.x or 4.x? (%s)" % one_line(str(error))) from None

