"""What operators say: wishes in the row, which the steps carry to the host. Pure.

Repeats mqi.steps.operate: cancel, retry, follow_retry, hold, release, skip, _wish.
"""

from __future__ import annotations

from collections.abc import Iterator

from tests.protocol.decisions import next_attempts
from tests.protocol.model import Guards
from tests.protocol.world import (
    CANCELLED,
    COMPLETED,
    FAILED,
    NEW,
    SETTLED,
    SKIPPED,
    WITH_THE_HOST,
    Control,
    Move,
    Row,
)


def wished(row: Row, *, cancel: bool = False, held: bool | None = None) -> Row:
    """The row with a wish; where the host may have a plan, as a new version of it."""
    row = row._replace(cancel=row.cancel or cancel, held=row.held if held is None else held)
    if cancel:
        row = row._replace(retry="")
    if row.plan is None or row.status not in WITH_THE_HOST:
        return row
    plan = row.plan._replace(
        serial=row.serial + 1,
        cancel=row.plan.cancel or cancel,
        held=row.plan.held if held is None else held,
    )
    return row._replace(plan=plan, serial=plan.serial)


def followed(row: Row, guards: Guards) -> Row:
    """The row of a case that has just ended, once the retry that waited for a cancel has followed."""
    if not row.retry or not guards.retry_follows:
        return row
    kept = next_attempts(len(row.jobs), row.jobs, row.retry == "all" or row.purged) == row.jobs
    if row.status == COMPLETED and kept:
        return row._replace(retry="")
    return _again(row)


def _again(row: Row) -> Row:
    return row._replace(status=NEW, over=tuple(attempt for attempt, _state in row.jobs))


def moves(control: Control, row: Row) -> Iterator[Move]:
    """What may be said about the case as it stands."""
    if row.status in WITH_THE_HOST and not row.cancel:
        yield Move(("cancel",), "cancels", control._replace(row=wished(row, cancel=True), wish=True))
    if row.status in SETTLED:
        again = _again(row)._replace(cancel=False, retry="all" if row.status == COMPLETED else "some")
        yield Move(("retry", again.retry), "retries", control._replace(row=again, wish=False, redo=True))
    elif row.status in WITH_THE_HOST and row.cancel and not row.retry:
        yield Move(("retry follows",), "retries", control._replace(row=row._replace(retry="some"), redo=True))
    if row.status in (NEW, *WITH_THE_HOST):
        if row.held:
            yield Move(("let go",), "free", control._replace(row=wished(row, held=False)))
        else:
            yield Move(("hold",), "holds", control._replace(row=wished(row, held=True)))
    if row.status in (NEW, FAILED, CANCELLED):
        yield Move(("skip",), "skips", control._replace(row=row._replace(status=SKIPPED, retry="")))
