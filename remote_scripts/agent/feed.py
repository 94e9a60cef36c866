"""Feeding the queue from the plans. Under the agent's lock, at every request and at the end of every run.

There is no recovery: what a killed process left half done is done by the next feed, because every feed
looks at the files and does what they call for.
"""

from __future__ import annotations

import time
from typing import Any, Dict, List, NamedTuple, Optional, Set, Tuple

from agent import names
from agent.files import read_json_object, write_json
from agent.locks import Lock
from agent.plans import StoredPlan, load
from agent.problems import NotTaken, QueueProblem, Refused
from agent.processes import end_orphan
from agent.queues import Queue, Task
from agent.queues.registry import open_queue
from agent.settings import Settings, kept_settings
from agent.survey import Facts, Listing, Standing, examine, judge, note_absence, note_fate
from agent.work import JobPaths, RunPaths, Work

# An orphan has no wrapper to mind its time limit; the feed does, this much later.
_ORPHAN_GRACE_S = 60.0


class Candidate(NamedTuple):
    """A job that may be in the queue now: nothing keeps it from starting but the queue itself."""

    job_key: str
    group: str
    priority: int
    order: int


class Fed(NamedTuple):
    """What a feed left behind: the queue's tasks (None: it did not answer, see `problem`) and how the jobs
    of the active runs stand."""

    listing: Listing
    problem: str
    standings: Dict[str, Tuple[Facts, Standing]]


def choose(
    candidates: List[Candidate], tasks: List[Task], max_queued: int, slots: Optional[Dict[str, int]] = None
) -> Tuple[List[str], List[Candidate]]:
    """(job keys to withdraw, jobs to add): per group, the `max_queued` most urgent candidates shall wait in
    the queue, under their present priority. Started tasks are nobody's business here. Pure.

    `slots`: a queue that does not bound them itself gets no more than these of a group, started ones included.
    """
    first = sorted(candidates, key=lambda one: (-one.priority, one.order, one.job_key))
    wanted: Dict[str, Candidate] = {}
    room: Dict[str, int] = {}
    started = {task.job_key for task in tasks if task.running}
    for group, most in (slots or {}).items():
        running = sum(task.running and task.group == group for task in tasks)
        room[group] = min(max_queued, most - running)
    for candidate in first:
        if candidate.job_key not in started and room.get(candidate.group, max_queued) > 0:
            room[candidate.group] = room.get(candidate.group, max_queued) - 1
            wanted[candidate.job_key] = candidate
    withdrawn = []
    for task in tasks:
        if not task.running:
            candidate_ = wanted.get(task.job_key)
            if candidate_ is not None and (candidate_.group, candidate_.priority) == (task.group, task.priority):
                del wanted[task.job_key]
            else:
                withdrawn.append(task.job_key)
    return withdrawn, list(wanted.values())


def feed(work: Work, settings: Settings, queue: Queue, *, count: bool) -> Fed:
    """Brings the queue to what the plans ask for. Call under the agent's lock.

    `count`: this counts as one listing for jobs that are nowhere to be seen.
    """
    tasks, problem = _listed(queue)
    listing: Listing = None if tasks is None else {task.job_key: task for task in tasks}
    boot_id, now = settings.boot_id(), time.time()
    standings: Dict[str, Tuple[Facts, Standing]] = {}
    candidates: List[Candidate] = []
    for run_key in work.run_keys():
        run = work.run(run_key)
        if run.released.exists():
            continue
        try:
            stored = load(run)
            if stored is None:
                continue
            settle(run, stored)
            replaced = _mind_dropped(run, stored, listing, boot_id, now)
            for position, job in enumerate(stored.jobs):
                paths = run.job(job["job_key"])
                facts = examine(paths, listing, boot_id)
                standing = judge(facts, stored.plan["held"])
                if count:
                    before, standing = standing, note_absence(paths, facts, standing, settings, now)
                    if standing.state == "lost" and (before.state != "lost" or before.nowhere):
                        note_fate(paths, queue.fate(paths.key))
                standings[job["job_key"]] = (facts, standing)
                _mind_orphan(paths, facts, now)
                busy = (job["step"], job["beam"]) in replaced
                if not busy and not stored.plan["held"] and may_start(run, job, facts):
                    order = stored.order * 100000 + position
                    candidates.append(Candidate(job["job_key"], job["group"], stored.plan["priority"], order))
        except (ValueError, KeyError, TypeError) as error:
            # One broken file must not stop the other runs; the probe tells it until somebody looks.
            problem = problem or "the files of run %s are broken (%s)" % (run_key, type(error).__name__)
    if tasks is not None and listing is not None:
        # The run that feeds us at its end is in the list still, and its place is free.
        ended = {key for key, (facts, _) in standings.items() if facts.exit is not None}
        living = [task for task in tasks if task.job_key not in ended or not task.running]
        problem = _bring(queue, settings, candidates, living, listing) or problem
    return Fed(listing, problem, standings)


def _listed(queue: Queue) -> Tuple[Optional[List[Task]], str]:
    try:
        return queue.list(), ""
    except QueueProblem as error:
        return None, str(error)


def _bring(
    queue: Queue, settings: Settings, candidates: List[Candidate], tasks: List[Task], listing: Dict[str, Task]
) -> str:
    """Withdraws and adds; keeps `listing` true. The problem met, or ""."""
    problem = ""
    closed: Dict[str, str] = {}
    usable = [candidate for candidate in candidates if candidate.group in settings.groups]
    if len(usable) < len(candidates):
        problem = "jobs wait for a group that the configuration of this host's queue does not have"
    slots = None if queue.bounded else {group.name: group.slots for group in settings.groups.values()}
    withdrawn, added = choose(usable, tasks, settings.max_queued, slots)
    try:
        for key in withdrawn:
            queue.remove(key)
            del listing[key]
        for one in added:
            if one.group in closed:
                continue
            try:
                queue_id = queue.add(one.job_key, one.group, one.priority, one.order)
            except NotTaken as error:
                # Of this group it will take none today; the others shall not wait for that.
                closed[one.group] = str(error)
                continue
            listing[one.job_key] = Task(one.job_key, one.group, queue_id, one.priority, False)
        queue.check()
    except QueueProblem as error:
        problem = str(error)
    return next(iter(closed.values()), problem)


def settle(run: RunPaths, stored: StoredPlan) -> None:
    """Puts a tombstone on every job that the plan does not want any more and that has not ended: all of a
    cancelled plan's, and those of earlier plans that this one leaves out."""
    keys = set(stored.dropped)
    if stored.plan["cancel"]:
        keys.update(job["job_key"] for job in stored.jobs)
    for key in sorted(keys):
        paths = run.job(key)
        if not paths.exit.exists() and not paths.tombstone.exists():
            paths.folder.mkdir(parents=True, exist_ok=True)
            write_json(paths.tombstone, {"at": time.time(), "serial": stored.serial})


def may_start(run: RunPaths, job: Dict[str, Any], facts: Facts) -> bool:
    """Nothing has become of the job yet, and all that it needs is there."""
    if facts.exit is not None or facts.tombstone or facts.claim is not None:
        return False
    return all(is_good(run, need) for need in job["needs"])


def is_good(run: RunPaths, job_key: str) -> bool:
    return (read_json_object(run.job(job_key).exit) or {}).get("kind") == "ok"


def _mind_dropped(
    run: RunPaths, stored: StoredPlan, listing: Listing, boot_id: str, now: float
) -> Set[Tuple[str, Optional[int]]]:
    """(step, beam) of jobs that the plan does not want any more and that still run: their successors wait,
    since two attempts of one job at once would fight over a GPU. A command without a wrapper is ended."""
    living = set()
    for key in stored.dropped:
        paths = run.job(key)
        facts = examine(paths, listing, boot_id)
        if facts.locked:
            _mind_orphan(paths, facts, now)
            name = names.parse_job_key(key)
            living.add((name.step, name.beam))
    return living


def _mind_orphan(paths: JobPaths, facts: Facts, now: float) -> None:
    """Ends a command that lost its wrapper when nobody wants it any more or its time is up."""
    if facts.claim is None or not facts.locked or facts.wrapper:
        return
    limit = facts.claim["started_at"] + facts.claim["time_limit_s"] + _ORPHAN_GRACE_S
    if facts.tombstone or now > limit:
        end_orphan(read_json_object(paths.process), paths.folder)


def feed_after_run(work: Work) -> None:
    """The feed at the end of a run, so that the next step starts without waiting for the control PC.

    When it cannot be had (the lock is busy, the queue silent, a file broken), the next request feeds.
    """
    with Lock(work.lock) as lock:
        if lock.acquire(30.0):
            try:
                settings = kept_settings(work)
                if settings is not None:
                    feed(work, settings, open_queue(work, settings), count=False)
            except (OSError, ValueError, Refused):
                pass
