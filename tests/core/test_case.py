"""The table of transitions: one test covers every pair of state and event."""

from __future__ import annotations

import itertools

import pytest

from mqi.case import ON_HOST, SETTLED, TRANSITIONS, Event, State, next_state, states_that_allow

# Written out by hand from the design, so that a change of the table in the code is a change here too.
ALLOWED = {
    ("waiting", "complete folder"): "new",
    ("waiting", "skip"): "skipped",
    ("waiting", "supersede"): "skipped",
    ("new", "folder changed"): "waiting",
    ("new", "skip"): "skipped",
    ("new", "supersede"): "skipped",
    ("new", "begin"): "submitting",
    ("submitting", "accept"): "queued",
    ("submitting", "refuse"): "failed",
    ("submitting", "adopt"): "completed",
    ("submitting", "host lost"): "new",
    ("submitting", "folder changed"): "waiting",
    ("submitting", "confirm cancel"): "cancelled",
    ("queued", "start"): "running",
    ("queued", "confirm cancel"): "cancelled",
    ("queued", "forget"): "failed",
    ("queued", "adopt"): "completed",
    ("queued", "host lost"): "new",
    ("running", "finish"): "fetching",
    ("running", "confirm cancel"): "cancelled",
    ("running", "forget"): "failed",
    ("running", "adopt"): "completed",
    ("running", "host lost"): "new",
    ("fetching", "publish"): "completed",
    ("fetching", "publish partial"): "failed",
    ("fetching", "forget"): "failed",
    ("fetching", "adopt"): "completed",
    ("fetching", "host lost"): "new",
    ("completed", "retry"): "new",
    ("failed", "retry"): "new",
    ("failed", "skip"): "skipped",
    ("cancelled", "retry"): "new",
    ("cancelled", "skip"): "skipped",
    ("skipped", "retry"): "new",
    ("skipped", "look again"): "waiting",
}


@pytest.mark.parametrize(("state", "event"), list(itertools.product(State, Event)))
def test_every_pair_of_state_and_event(state: State, event: Event) -> None:
    expected = ALLOWED.get((str(state), str(event)))
    assert next_state(state, event) == (None if expected is None else State(expected))


def test_every_state_can_be_reached_and_no_state_is_a_trap() -> None:
    assert set(TRANSITIONS.values()) | {State.WAITING} == set(State)
    assert {state for state, _event in TRANSITIONS} == set(State)


def test_every_event_is_possible_somewhere() -> None:
    assert all(states_that_allow(event) for event in Event)


def test_a_case_on_a_host_leaves_it_only_by_the_hosts_word() -> None:
    # No operator's event moves a case that a host may be working on: cancel follows the confirmation.
    assert not {Event.SKIP, Event.RETRY, Event.SUPERSEDE} & {
        event for state, event in TRANSITIONS if state in ON_HOST
    }


def test_settled_cases_move_only_by_an_operator() -> None:
    by_operators = {Event.RETRY, Event.SKIP, Event.LOOK_AGAIN}
    assert {event for state, event in TRANSITIONS if state in SETTLED} <= by_operators
