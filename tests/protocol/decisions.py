"""Where mqi itself decides: the model's values put to the pure functions of the product. Pure.

    standing          agent.survey.judge
    queue_changes     agent.feed.choose
    observed          mqi.job.observe
    can_move          mqi.job.can_move
    next_attempts     mqi.job.choose_attempts
    wants_another     mqi.job.wants_another_attempt

A change of one of these is a change of the model, too. What the model repeats instead, because the product decides
it in the middle of reading and writing, is named in the table of model.py and at the top of each module.
"""

from __future__ import annotations

import sys
from functools import cache
from typing import Any

from mqi import job as jobs
from mqi.job import Job, JobState
from mqi.resources import remote_scripts
from mqi.workflow import JobPlan, Step, Workflow
from tests.protocol.world import BAD, DONE, LOST, PLANNED, REFUSED, RUNS, STOPPED, WAITS, Key

sys.path.insert(0, str(remote_scripts()))

from agent.feed import Candidate, choose
from agent.queues import Task
from agent.survey import Facts, judge

_Slot = tuple[str, int | None]
_TRANSIENT = 75
_MANY = 1000  # as good as no limit
_STATES = {
    PLANNED: JobState.PLANNED,
    WAITS: JobState.WAITING,
    RUNS: JobState.RUNNING,
    DONE: JobState.DONE,
    BAD: JobState.FAILED,
    LOST: JobState.LOST,
    STOPPED: JobState.CANCELLED,
    REFUSED: JobState.FAILED,
}
_WORDS = {state: word for word, state in _STATES.items() if word != REFUSED}
_STANDINGS = {"waiting": WAITS, "queued": WAITS, "running": RUNS, "lost": "lost", "cancelled": STOPPED}
_EXITS: dict[str, dict[str, Any]] = {
    "ok": {"kind": "ok", "code": 0},
    "bad": {"kind": "failed", "code": _TRANSIENT},
    "stopped": {"kind": "cancelled", "code": 143},
}
# What a report says of a job, as the agent words it.
_TOLD: dict[str, dict[str, Any]] = {
    WAITS: {"state": "waiting"},
    RUNS: {"state": "running"},
    "missing": {"state": "missing"},
    "nowhere": {"state": "missing"},
    "lost": {"state": "lost"},
    STOPPED: {"state": "cancelled"},
    **{f"ended {kind}": {"state": "ended", "exit": exit_} for kind, exit_ in _EXITS.items()},
}


@cache
def standing(exit_: str, tombstone: bool, claim: bool, locked: bool, listed: bool, lost: bool) -> str:
    """How a job stands on the host: waits, runs, missing (and listed), nowhere, lost, stopped, ended <how>."""
    facts = Facts(
        exit=_EXITS[exit_] if exit_ else None,
        tombstone=tombstone,
        claim={"boot_id": ""} if claim else None,
        locked=locked,
        wrapper=locked,
        listed=True,
        task=Task("k", "cpu", "k", 0, True) if listed else None,
        missing={"lost": True} if lost else None,
        boot_id="",
    )
    found = judge(facts, held=False)
    if found.state == "ended":
        return "ended " + exit_
    if found.state == "missing":
        return "nowhere" if found.nowhere else "missing"
    return _STANDINGS[found.state]


@cache
def queue_changes(
    wanted: tuple[Key, ...], waiting: tuple[Key, ...], started: tuple[Key, ...]
) -> tuple[tuple[str, Key], ...]:
    """What a feed does to the queue: ("withdraws", key) and ("adds", key)."""
    keys = {_name(key): key for key in (*wanted, *waiting, *started)}
    candidates = [Candidate(_name(key), "cpu", 0, key[0]) for key in wanted]
    tasks = [Task(_name(key), "cpu", "", 0, False) for key in waiting]
    tasks += [Task(_name(key), "cpu", "", 0, True) for key in started]
    withdrawn, added = choose(candidates, tasks, _MANY)
    changes = [("withdraws", keys[name]) for name in withdrawn]
    return (*changes, *(("adds", keys[one.job_key]) for one in added))


@cache
def observed(slot: int, attempt: int, state: str, said: str | None) -> str:
    """The job's state here once a report has said `said` of it."""
    after = jobs.observe(_job(slot, attempt, state), None if said is None else _TOLD[said])
    return state if after.state is _STATES[state] else _WORDS[after.state]


@cache
def can_move(states: tuple[str, ...]) -> bool:
    """Whether a job runs or may still start; each needs the one before."""
    needs: dict[_Slot, tuple[_Slot, ...]] = {(_step(slot), None): _needs(slot) for slot in range(len(states))}
    return jobs.can_move([_job(slot, 1, state) for slot, state in enumerate(states)], needs)


@cache
def next_attempts(
    slots: int, known: tuple[tuple[int, str], ...], redo_all: bool
) -> tuple[tuple[int, str], ...]:
    """Per slot the attempt that the next plan has and how it stands: good ones are kept."""
    expansion = [JobPlan(_step(slot), None, "", _needs(slot)) for slot in range(slots)]
    history = [_job(slot, attempt, state) for slot, (attempt, state) in enumerate(known)]
    chosen = jobs.choose_attempts(expansion, history, redo_all=redo_all)
    return tuple((one.attempt, DONE if one.keep else PLANNED) for one in chosen)


@cache
def wants_another(slot: int, attempt: int, state: str, max_attempts: int) -> bool:
    """Whether the job runs again by itself."""
    step = Step(_step(slot), (), transient_exit_codes=frozenset({_TRANSIENT}), max_attempts=max_attempts)
    return jobs.wants_another_attempt(_job(slot, attempt, state), Workflow("w", (step,)))


def _job(slot: int, attempt: int, state: str) -> Job:
    kind, code = ("failed", _TRANSIENT) if state == BAD else ("", None)
    return Job(_name((slot, attempt)), 1, _step(slot), None, attempt, _STATES[state], "", code, kind)


def _step(slot: int) -> str:
    return f"step{slot}"


def _name(key: Key) -> str:
    return jobs.job_key("0123456789ab", _step(key[0]), None, key[1])


def _needs(slot: int) -> tuple[_Slot, ...]:
    return ((_step(slot - 1), None),) if slot else ()
