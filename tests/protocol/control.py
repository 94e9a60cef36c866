"""The control PC: its steps, operators and accidents. Pure: a control PC in, next control PCs out."""

from __future__ import annotations

from collections.abc import Iterator

from tests.protocol import fetch, operators, submit, sync
from tests.protocol.model import Settings
from tests.protocol.world import CANCELLED, STEPS, Answer, Control, Move, Request, Row


def moves(control: Control, settings: Settings) -> Iterator[Move]:
    """Everything that can happen next on the control PC, but for the arrival of an answer."""
    row = control.row
    if row is None:
        yield Move(("scan",), "", control._replace(row=Row()))
    else:
        yield from submit.moves(control, settings, row)
        yield from sync.moves(control, settings, row)
        yield from fetch.moves(control, settings, row)
        yield from operators.moves(control, row)
    for number, step in enumerate(control.steps):
        if step is not None:
            # Killed, timed out, or the answer was lost: to the row it is all the same.
            yield Move((STEPS[number], "is cut off"), "cut", cut_off(control, number))
    yield from accidents(control, settings)


def requests(control: Control) -> Iterator[tuple[Request, Control, bool]]:
    """Requests that may arrive: (request, the control PC once it has, whether somebody waits for it)."""
    for number, step in enumerate(control.steps):
        if step is not None and step.answer is None and not step.under_way:
            yield step.request, control.with_step(number, step._replace(under_way=True)), True
    for request in dict.fromkeys(control.late):
        rest = list(control.late)
        rest.remove(request)
        yield request, control._replace(late=tuple(rest)), False


def answered(control: Control, who: str, answer: Answer | None) -> Control:
    """The control PC once the host's answer, or the end of the connection, has come to the step `who`."""
    if who not in STEPS:
        return control
    number = STEPS.index(who)
    step = control.steps[number]
    if step is None or not step.under_way or step.answer is not None:
        return control
    return control.with_step(
        number, None if answer is None else step._replace(answer=answer, under_way=False)
    )


def cut_off(control: Control, number: int) -> Control:
    """The control PC without this step; a request that the host has not taken goes its own way."""
    step = control.steps[number]
    if step is None:
        return control
    after, request = control.with_step(number, None), step.request
    changes = request.plan is not None or request.verb in ("release", "purge")
    if step.under_way or step.answer is not None or not changes:
        return after
    late = Request("", "plan" if request.plan else request.verb, request.plan, request.serial)
    return after._replace(late=tuple(sorted((*control.late, late), key=repr)))


def accidents(control: Control, settings: Settings) -> Iterator[Move]:
    """What happens to the control PC and nobody wished."""
    yield Move(("mqi is updated",), "updates", control._replace(scripts=1, redo=True))
    if control.results is not None:
        yield Move(("the results are lost",), "losses", control._replace(results=None))
    if control.row is None:
        return
    alone = control
    for number in range(3):
        alone = cut_off(alone, number)
    forgotten = control.forgotten or control.wish or control.row.status == CANCELLED
    alone = alone._replace(wish=False, amnesia=True, forgotten=forgotten)
    yield Move(("the database is deleted",), "deleted", alone._replace(row=None))
    if control.backup is None and settings.budget.restored:
        yield Move(("the database is backed up",), "free", control._replace(backup=control.row))
    elif control.backup is not None and control.backup != control.row:
        yield Move(("the database is restored",), "restored", alone._replace(row=control.backup))
