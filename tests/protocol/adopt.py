"""What the host knows and the database does not: newer plans and receipts. Pure.

Repeats mqi.steps.adopt.adopt_receipt, mqi.steps.deliver._freeze_above and mqi.steps.observe._take_over.
"""

from __future__ import annotations

from tests.protocol.model import Settings
from tests.protocol.operators import followed
from tests.protocol.world import (
    BAD,
    COMPLETED,
    FAILED,
    PLANNED,
    Answer,
    Control,
    Plan,
    Row,
)


def by_receipt(control: Control, settings: Settings, row: Row, answer: Answer) -> Row:
    """The run was fetched and purged: its results are here, or an operator has to say what became of them."""
    row = above(row._replace(purged=True, cancel=False), settings, answer)
    row = row._replace(host_serial=row.serial)
    if control.results is not None:
        return followed(row._replace(status=COMPLETED, published=True, released=True), settings.guards)
    return followed(row._replace(status=FAILED), settings.guards)


def above(row: Row, settings: Settings, answer: Answer) -> Row:
    """The row with a serial and attempts that are no lower than those of the host's receipt."""
    if not settings.guards.receipt_serial:
        return row
    jobs = list(row.jobs)
    for slot, attempt in enumerate(answer.attempts):
        if attempt > jobs[slot][0]:
            jobs[slot] = (attempt, BAD)
    return row._replace(serial=max(row.serial, answer.receipt), jobs=tuple(jobs))


def taken_over(row: Row, settings: Settings, plan: Plan) -> Row:
    """The host's plan in place of ours; jobs that the database did not know are new rows."""
    jobs = []
    for slot, attempt in enumerate(plan.attempts):
        known, state = row.jobs[slot] if slot < len(row.jobs) else (0, "")
        newer = attempt > known or (settings.guards.plan_names_jobs and attempt < known)
        jobs.append((attempt, PLANNED) if newer else (known, state))
    # The higher serial stays: it was spoken of, and the next wish must be newer than both.
    serial = max(row.serial, plan.serial)
    kept = plan._replace(serial=serial)
    return row._replace(plan=kept, serial=serial, host_serial=serial, held=plan.held, jobs=tuple(jobs))
