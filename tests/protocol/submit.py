"""The step submit: begin, offer, hand over. Pure.

Repeats mqi.steps.begin (begin, refreeze, _check_wishes) and mqi.steps.deliver (_offer, _freeze_above, _adopt,
_hand_over, _settle).
"""

from __future__ import annotations

from collections.abc import Iterator

from tests.protocol.adopt import above, by_receipt, taken_over
from tests.protocol.decisions import next_attempts
from tests.protocol.model import Settings
from tests.protocol.world import (
    DONE,
    FAILED,
    NEW,
    PLANNED,
    QUEUED,
    SUBMIT,
    SUBMITTING,
    Answer,
    Control,
    Move,
    Plan,
    Request,
    Row,
    Step,
)


def moves(control: Control, settings: Settings, row: Row) -> Iterator[Move]:
    """What the step can do next."""
    step, begin = control.steps[SUBMIT], settings.guards.begin
    if step is None and row.status == NEW and not row.held:
        # Reading and hashing the inputs takes its time; the host has no part in it.
        hashing = Step(row, Request("submit", "begin", None, row.serial), Answer(""))
        yield Move(("submit hashes",), "", control.with_step(SUBMIT, hashing))
    elif step is None and row.status == SUBMITTING and not row.cancel:
        if row.plan is not None and row.plan.scripts != control.scripts and row.host_serial < row.serial:
            again = _begun(row, settings, control.scripts)
            yield Move(("submit freezes again", again.serial), "", control._replace(row=again))
        else:
            yield Move(("submit asks", row.serial), "", control.asks(SUBMIT, row, "have"))
    elif step is not None and step.answer is not None:
        unwritten = not begin and row.status == NEW and row.serial == step.row.serial - 1
        if not unwritten and not step.is_fresh(row):
            yield Move(("submit finds the row changed",), "", control.with_step(SUBMIT, None))
        elif step.request.verb == "begin":
            frozen = row if settings.guards.hold_seen else step.row
            begun = _begun(frozen, settings, control.scripts)._replace(held=row.held)
            if begin:
                yield Move(("submit begins", begun.serial), "", control.with_step(SUBMIT, None, begun))
            else:
                asking = control.asks(SUBMIT, begun, "have")
                yield Move(("submit begins without a record", begun.serial), "", asking)
        elif step.request.verb == "have":
            yield _offered(control, settings, step, step.answer)
        else:
            yield _settled(control, settings, step.row, step.answer)


def _begun(row: Row, settings: Settings, scripts: int) -> Row:
    """The row with a plan of the next serial: good jobs are kept, the others get their next number."""
    jobs = next_attempts(settings.slots, row.jobs, row.retry == "all" or row.purged)
    plan = Plan(row.serial + 1, False, row.held, scripts, tuple(attempt for attempt, _state in jobs))
    kept = row._replace(cancel=False, released=False, purged=False, published=False)
    return kept._replace(status=SUBMITTING, plan=plan, serial=plan.serial, jobs=jobs)


def _offered(control: Control, settings: Settings, step: Step, answer: Answer) -> Move:
    adopted = _adopted(control, settings, step.row, answer)
    if adopted is not None:
        return Move(("submit adopts", adopted.status), "", control.with_step(SUBMIT, None, adopted))
    row, spent = step.row, settings.guards.receipt_serial and answer.receipt >= step.row.serial
    if answer.plan is None and (spent or any(state == DONE for _attempt, state in row.jobs)):
        # What the plan would build upon is not there any more, or its serial was used before.
        row = _begun(above(row, settings, answer)._replace(purged=True), settings, control.scripts)
        control = control._replace(row=row)
    return Move(("submit sends", row.serial), "", control.asks(SUBMIT, row, "plan", row.plan))


def _adopted(control: Control, settings: Settings, row: Row, answer: Answer) -> Row | None:
    """The row once what the host knows is taken over; None when there is something to send."""
    plan, guards = answer.plan, settings.guards
    if plan is not None and row.plan is not None:
        if plan.serial < row.serial:
            return None
        other = plan != row.plan if guards.adopt_wishes else plan.attempts != row.plan.attempts
        if plan.serial > row.serial or other:
            jobs = tuple((attempt, PLANNED) for attempt in plan.attempts)
            row = row._replace(plan=plan, serial=plan.serial, jobs=jobs)
            if guards.adopt_wishes:
                row = row._replace(cancel=plan.cancel, held=plan.held)
        return row._replace(status=QUEUED, host_serial=plan.serial, retry="")
    if not answer.receipt or row.retry or row.serial > answer.receipt:
        return None
    return by_receipt(control, settings, row, answer)


def _is_on_its_way(row: Row, plan: Plan | None) -> bool:
    """Whether something of the host's plan had not ended when the case was tried again, if it was."""
    if plan is None:
        return False
    return not row.over or any(attempt > over for attempt, over in zip(plan.attempts, row.over, strict=True))


def _settled(control: Control, settings: Settings, row: Row, answer: Answer) -> Move:
    if answer.outcome in ("accepted", "same"):
        row = row._replace(status=QUEUED, host_serial=row.serial, retry="")
    elif answer.outcome == "newer" and answer.plan is not None and settings.guards.forward:
        kept = taken_over(row, settings, answer.plan)
        row = kept._replace(status=QUEUED, cancel=answer.plan.cancel, retry="")
    elif answer.outcome == "inputs missing":
        pass  # they are sent in the next run
    elif answer.outcome in ("newer", "receipt"):
        row = _adopted(control, settings, row, answer) or row
    elif settings.guards.keep_refused and _is_on_its_way(row, answer.plan):
        kept = taken_over(row, settings, answer.plan)
        row = kept._replace(status=QUEUED, cancel=answer.plan.cancel, retry="")
    else:
        row = row._replace(status=FAILED, retry="")
    return Move(("submit hears", answer.outcome), "", control.with_step(SUBMIT, None, row))
