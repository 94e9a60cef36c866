"""The states of a case, and the only table that says how one follows another.

A case is one unit of work: room, path, fraction (or the whole folder), revision. The words below are
the words stored in the database and shown to people.
"""

from __future__ import annotations

from enum import StrEnum


class State(StrEnum):
    """Where a case stands; each member's comment is what it promises."""

    WAITING = "waiting"  # seen, not complete yet; `reason` says what it waits for
    NEW = "new"  # complete; may be submitted
    SUBMITTING = "submitting"  # intent recorded, inputs frozen; the effect may or may not have happened
    QUEUED = "queued"  # the host holds the run's plan
    RUNNING = "running"  # at least one job has started
    FETCHING = "fetching"  # no job can move any more; results wait on the host
    COMPLETED = "completed"  # results are here, verified
    FAILED = "failed"  # needs an operator; good parts are here, labelled
    CANCELLED = "cancelled"  # every unfinished job is tombstoned on the host
    SKIPPED = "skipped"  # an operator, the baseline or mqi (same contents) said: not this one


class Event(StrEnum):
    """What can happen to a case. Commands and steps offer events, never states."""

    COMPLETE_FOLDER = "complete folder"  # scan: complete and still
    FOLDER_CHANGED = "folder changed"  # scan or submit: not the folder that was judged complete
    SUPERSEDE = "supersede"  # scan or submit: another row stands for this work
    SKIP = "skip"  # operator or baseline
    BEGIN = "begin"  # submit: the intent, before any effect
    ACCEPT = "accept"  # submit: the host holds the plan
    REFUSE = "refuse"  # submit: the host answered no
    ADOPT = "adopt"  # the host has purged this run, and its verified results are here
    START = "start"  # sync: a job has started
    FINISH = "finish"  # sync: no job can move any more
    FORGET = "forget"  # sync or fetch: the host answered that it has no such run
    HOST_LOST = "host lost"  # operator: the host will never tell; computed again on another
    PUBLISH = "publish"  # fetch: everything good and here
    PUBLISH_PARTIAL = "publish partial"  # fetch: what is good is here, a job had failed
    CONFIRM_CANCEL = "confirm cancel"  # submit or sync: the host has tombstoned the rest
    RETRY = "retry"  # operator
    LOOK_AGAIN = "look again"  # operator: a skipped folder that was never judged complete


_S, _E = State, Event

TRANSITIONS: dict[tuple[State, Event], State] = {
    (_S.WAITING, _E.COMPLETE_FOLDER): _S.NEW,
    (_S.WAITING, _E.SKIP): _S.SKIPPED,
    (_S.WAITING, _E.SUPERSEDE): _S.SKIPPED,
    (_S.NEW, _E.FOLDER_CHANGED): _S.WAITING,
    (_S.NEW, _E.SKIP): _S.SKIPPED,
    (_S.NEW, _E.SUPERSEDE): _S.SKIPPED,
    (_S.NEW, _E.BEGIN): _S.SUBMITTING,
    (_S.SUBMITTING, _E.ACCEPT): _S.QUEUED,
    (_S.SUBMITTING, _E.REFUSE): _S.FAILED,
    (_S.SUBMITTING, _E.ADOPT): _S.COMPLETED,
    (_S.SUBMITTING, _E.HOST_LOST): _S.NEW,
    (_S.SUBMITTING, _E.FOLDER_CHANGED): _S.WAITING,
    (_S.SUBMITTING, _E.CONFIRM_CANCEL): _S.CANCELLED,
    (_S.QUEUED, _E.START): _S.RUNNING,
    (_S.QUEUED, _E.CONFIRM_CANCEL): _S.CANCELLED,
    (_S.QUEUED, _E.FORGET): _S.FAILED,
    (_S.QUEUED, _E.ADOPT): _S.COMPLETED,
    (_S.QUEUED, _E.HOST_LOST): _S.NEW,
    (_S.RUNNING, _E.FINISH): _S.FETCHING,
    (_S.RUNNING, _E.CONFIRM_CANCEL): _S.CANCELLED,
    (_S.RUNNING, _E.FORGET): _S.FAILED,
    (_S.RUNNING, _E.ADOPT): _S.COMPLETED,
    (_S.RUNNING, _E.HOST_LOST): _S.NEW,
    (_S.FETCHING, _E.PUBLISH): _S.COMPLETED,
    (_S.FETCHING, _E.PUBLISH_PARTIAL): _S.FAILED,
    (_S.FETCHING, _E.FORGET): _S.FAILED,
    (_S.FETCHING, _E.ADOPT): _S.COMPLETED,
    (_S.FETCHING, _E.HOST_LOST): _S.NEW,
    (_S.COMPLETED, _E.RETRY): _S.NEW,
    (_S.FAILED, _E.RETRY): _S.NEW,
    (_S.FAILED, _E.SKIP): _S.SKIPPED,
    (_S.CANCELLED, _E.RETRY): _S.NEW,
    (_S.CANCELLED, _E.SKIP): _S.SKIPPED,
    (_S.SKIPPED, _E.RETRY): _S.NEW,
    (_S.SKIPPED, _E.LOOK_AGAIN): _S.WAITING,
}

# States in which the host may hold or be working on the run.
ON_HOST = (State.SUBMITTING, State.QUEUED, State.RUNNING, State.FETCHING)
# States that mqi does not leave by itself.
SETTLED = (State.COMPLETED, State.FAILED, State.CANCELLED, State.SKIPPED)
UNSETTLED = tuple(state for state in State if state not in SETTLED)
# States in which a changed folder changes the row itself, because nothing was promised about it yet.
UNPROMISED = (State.WAITING, State.NEW)


def next_state(state: State, event: Event) -> State | None:
    """The state that follows, or None when `event` cannot happen in `state`."""
    return TRANSITIONS.get((state, event))


def states_that_allow(event: Event) -> tuple[State, ...]:
    """The states in which `event` may happen, in the table's order."""
    return tuple(state for state, allowed in TRANSITIONS if allowed is event)
