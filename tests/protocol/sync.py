"""The step sync: wishes to the host, news from it, conclusions. Pure.

Repeats mqi.steps.observe: _wish_answered, _not_taken, _take_over, _take_over_newer, _observe, _conclude,
_conclude_cancel.
"""

from __future__ import annotations

from collections.abc import Iterator

from tests.protocol.adopt import by_receipt, taken_over
from tests.protocol.decisions import can_move, observed, wants_another
from tests.protocol.model import Settings
from tests.protocol.operators import followed, wished
from tests.protocol.world import (
    CANCELLED,
    ENDED,
    FAILED,
    FETCHING,
    PLANNED,
    QUEUED,
    REFUSED,
    RUNNING,
    RUNS,
    STARTED,
    STOPPED,
    SUBMITTING,
    SYNC,
    WITH_THE_HOST,
    Answer,
    Control,
    Move,
    Plan,
    Row,
)


def moves(control: Control, settings: Settings, row: Row) -> Iterator[Move]:
    """What the step can do next."""
    step = control.steps[SYNC]
    if step is None:
        if row.status in (QUEUED, RUNNING) or (row.status == SUBMITTING and row.cancel):
            plan = row.plan if row.serial > row.host_serial else None
            yield Move(("sync asks", row.serial), "", control.asks(SYNC, row, "sync", plan))
    elif step.answer is not None and step.request.verb == "have":
        after, plan = control.with_step(SYNC, None), step.answer.plan
        if plan is not None and step.is_fresh(row):
            after = after._replace(row=_adds_to(row, settings, plan))
        yield Move(("sync takes over",), "", after)
    elif step.answer is not None and step.answer.outcome:
        told = control.with_step(SYNC, step._replace(answer=step.answer._replace(outcome="")))
        if step.is_fresh(row):
            told = told._replace(row=_wish_answered(row, settings, step.answer))
        yield Move(("sync hears", step.answer.outcome), "", told)
    elif step.answer is not None:
        yield _observed(control.with_step(SYNC, None), settings, row, step.answer)


def _wish_answered(row: Row, settings: Settings, answer: Answer) -> Row:
    if answer.outcome in ("accepted", "same"):
        return row._replace(host_serial=row.serial)
    if answer.plan is None:
        return row
    if answer.outcome == "refused":
        if not settings.guards.hear_no:
            return row
        kept = taken_over(row, settings, answer.plan)
        jobs = tuple(
            old if attempt == old[0] else (old[0], REFUSED)
            for attempt, old in zip(answer.plan.attempts, row.jobs, strict=True)
        )
        return kept._replace(jobs=jobs)
    return _adds_to(row, settings, answer.plan)


def _adds_to(row: Row, settings: Settings, plan: Plan) -> Row:
    """The row of a case whose host has a newer plan than this database knew."""
    taken = taken_over(row, settings, plan)
    if plan.cancel:
        return taken._replace(cancel=True)
    if row.cancel and settings.guards.wish_again:
        return wished(taken._replace(cancel=False), cancel=True)
    return taken._replace(cancel=False)


def _observed(control: Control, settings: Settings, row: Row, answer: Answer) -> Move:
    if row.status not in WITH_THE_HOST or row.plan is None:
        return Move(("sync finds the row changed",), "", control)
    if not answer.known:
        if row.status != SUBMITTING and row.host_serial:
            forgotten = followed(row._replace(status=FAILED, purged=True), settings.guards)
            # With a retry that followed, nobody wants the run ended any more.
            control = control._replace(row=forgotten, wish=control.wish and forgotten.status == FAILED)
        elif row.cancel and row.host_serial == row.serial and settings.guards.confirm_empty:
            ended = followed(row._replace(status=CANCELLED, cancel=False, purged=True), settings.guards)
            control = control._replace(row=ended, wish=False)
        return Move(("sync hears of no run",), "", control)
    if answer.known == "receipt" and settings.guards.hear_purged:
        row = by_receipt(control, settings, row, answer)
        return Move(("sync hears of a receipt",), "", control._replace(row=row, wish=False))
    if settings.guards.see_serial and answer.serial > row.serial:
        # A plan of a database that is no more.
        return Move(("sync hears of a newer plan",), "", control.asks(SYNC, row, "have"))
    told = dict(answer.states)
    jobs = []
    for slot, (attempt, state) in enumerate(row.jobs):
        jobs.append((attempt, observed(slot, attempt, state, told.get((slot, attempt)))))
    row = row._replace(jobs=tuple(jobs))
    if row.status == QUEUED and any(state in STARTED for _attempt, state in jobs):
        row = row._replace(status=RUNNING)
    own = [(slot, attempt) for slot, (attempt, _state) in enumerate(jobs)]
    dying = settings.guards.await_dropped and any(told[key] == RUNS for key in told if key not in own)
    if row.serial == row.host_serial and not dying:
        row, control = _concluded(row, settings, control)
    return Move(("sync records", row.status, row.jobs), "", control._replace(row=row))


def _concluded(row: Row, settings: Settings, control: Control) -> tuple[Row, Control]:
    """A confirmed cancel, next attempts, or the end of the run."""
    plan, states = row.plan, [state for _attempt, state in row.jobs]
    assert plan is not None
    if row.cancel and all(state in ENDED for state in states):
        control = control._replace(wish=False)
        if STOPPED in states:
            return followed(row._replace(status=CANCELLED, cancel=False), settings.guards), control
        row = row._replace(cancel=False)  # too late: every job had ended
    again = [
        slot
        for slot, (attempt, state) in enumerate(row.jobs)
        if wants_another(slot, attempt, state, settings.max_attempts)
    ]
    if again and not plan.cancel:
        jobs = tuple(
            (k + 1, PLANNED) if slot in again else (k, state) for slot, (k, state) in enumerate(row.jobs)
        )
        plan = plan._replace(serial=row.serial + 1, attempts=tuple(attempt for attempt, _state in jobs))
        return row._replace(plan=plan, serial=plan.serial, jobs=jobs), control
    if can_move(tuple(states)):
        return row, control
    if row.status == QUEUED and settings.guards.end_unstarted:
        row = followed(row._replace(status=CANCELLED, cancel=False), settings.guards)
    if row.status == RUNNING:
        row = row._replace(status=FETCHING, cancel=False)
    return row, control
