"""The step fetch: results home, then release and purge. Pure.

Repeats mqi.steps.bring_home (_not_there, _complete), mqi.steps.downloads.what_is_missing, mqi.steps.fetch._release
and mqi.steps.purge.
"""

from __future__ import annotations

from collections.abc import Iterator

from tests.protocol.adopt import by_receipt
from tests.protocol.model import Settings
from tests.protocol.operators import followed
from tests.protocol.world import (
    COMPLETED,
    DONE,
    FAILED,
    FETCH,
    FETCHING,
    Answer,
    Control,
    Move,
    Row,
)


def moves(control: Control, settings: Settings, row: Row) -> Iterator[Move]:
    """What the step can do next."""
    step = control.steps[FETCH]
    if step is not None:
        if step.answer is not None:
            after = control.with_step(FETCH, None)
            if step.is_fresh(row):
                after = _fetched(after, settings, row, step.request.verb, step.answer)
            yield Move(("fetch hears", step.request.verb, step.answer.outcome), "", after)
        return
    over = settings.keeping and row.status in (COMPLETED, FAILED) and row.published
    if row.status == FETCHING:
        yield Move(("fetch asks", "outputs"), "", control.asks(FETCH, row, "outputs"))
    elif over and not row.released:
        yield Move(("fetch asks", "release"), "", control.asks(FETCH, row, "release"))
    elif over and not row.purged:
        yield Move(("fetch asks", "purge"), "", control.asks(FETCH, row, "purge"))


def _fetched(control: Control, settings: Settings, row: Row, verb: str, answer: Answer) -> Control:
    if verb != "outputs":
        if answer.outcome != "ok":
            return control
        return control._replace(
            row=row._replace(released=True) if verb == "release" else row._replace(purged=True)
        )
    there = dict(answer.states)
    good = [state == DONE for _attempt, state in row.jobs]
    files = tuple((slot, attempt) in there for slot, (attempt, _state) in enumerate(row.jobs))
    if settings.guards.whole_fetch and any(is_good > has for is_good, has in zip(good, files, strict=True)):
        if answer.known == "receipt":
            return control._replace(row=by_receipt(control, settings, row, answer))
        return control._replace(row=followed(row._replace(status=FAILED, purged=True), settings.guards))
    done = followed(row._replace(status=COMPLETED if all(good) else FAILED, published=True), settings.guards)
    return control._replace(row=done, results=files if all(good) else control.results)
