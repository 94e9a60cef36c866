"""The control PC: scan, submit, sync, fetch, operators. Pure: a control PC in, next control PCs out."""

from __future__ import annotations

from collections.abc import Iterator

from tests.protocol.world import (
    BAD,
    CANCELLED,
    COMPLETED,
    DONE,
    ENDED,
    FAILED,
    FETCHING,
    LOST,
    NEW,
    PLANNED,
    QUEUED,
    REFUSED,
    RUNNING,
    RUNS,
    SETTLED,
    SKIPPED,
    STARTED,
    STOPPED,
    SUBMITTING,
    WAITS,
    WITH_THE_HOST,
    Answer,
    Control,
    Move,
    Plan,
    Request,
    Row,
    Settings,
    Step,
)

_SUBMIT, _SYNC, _FETCH = 0, 1, 2
NAMES = ("submit", "sync", "fetch")
_REPORTED = {
    WAITS: WAITS,
    RUNS: RUNS,
    "missing": RUNS,
    "nowhere": RUNS,
    "lost": LOST,
    "stopped": STOPPED,
    "ended ok": DONE,
    "ended bad": BAD,
    "ended stopped": STOPPED,
}


def moves(control: Control, settings: Settings) -> Iterator[Move]:
    """Everything that can happen next on the control PC, but for the arrival of an answer."""
    row = control.row
    if row is None:
        yield Move(("scan",), "", control._replace(row=Row()))
    else:
        yield from _submit(control, settings, row)
        yield from _sync(control, settings, row)
        yield from _fetch(control, settings, row)
        yield from _operator(control, row)
    for number, step in enumerate(control.steps):
        if step is not None:
            # Killed, timed out, or the answer was lost: to the row it is all the same.
            yield Move((NAMES[number], "is cut off"), "cut", cut_off(control, number))
    yield from _accidents(control, settings)


def requests(control: Control) -> Iterator[tuple[Request, Control, bool]]:
    """Requests that may arrive: (request, the control PC once it has, whether somebody waits for it)."""
    for number, step in enumerate(control.steps):
        if step is not None and step.answer is None and not step.under_way:
            yield step.request, _with(control, number, step._replace(under_way=True)), True
    for request in dict.fromkeys(control.late):
        rest = list(control.late)
        rest.remove(request)
        yield request, control._replace(late=tuple(rest)), False


def answered(control: Control, who: str, answer: Answer | None) -> Control:
    """The control PC once the host's answer, or the end of the connection, has come to the step `who`."""
    if who not in NAMES:
        return control
    number = NAMES.index(who)
    step = control.steps[number]
    if step is None or not step.under_way or step.answer is not None:
        return control
    return _with(control, number, None if answer is None else step._replace(answer=answer, under_way=False))


def cut_off(control: Control, number: int) -> Control:
    """The control PC without this step; a request that the host has not taken goes its own way."""
    step = control.steps[number]
    if step is None:
        return control
    after, request = _with(control, number, None), step.request
    changes = request.plan is not None or request.verb in ("release", "purge")
    if step.under_way or step.answer is not None or not changes:
        return after
    late = Request("", "plan" if request.plan else request.verb, request.plan, request.serial)
    return after._replace(late=tuple(sorted((*control.late, late), key=repr)))


def _with(control: Control, number: int, step: Step | None, row: Row | None = None) -> Control:
    steps = list(control.steps)
    steps[number] = step
    return control._replace(steps=(steps[0], steps[1], steps[2]), row=row or control.row)


def _asks(control: Control, number: int, row: Row, verb: str, plan: Plan | None = None) -> Control:
    # What a step does not look at again is not kept: equal worlds shall be equal.
    kept = row if number == _SUBMIT else Row(status=row.status, serial=row.serial)
    return _with(control, number, Step(kept, Request(NAMES[number], verb, plan, row.serial)))


def _fresh(row: Row, step: Step) -> bool:
    """The guard of every transaction: the row is still the one that the decision was made for."""
    return (row.status, row.serial) == (step.row.status, step.row.serial)


# --- submit ----------------------------------------------------------------------------------------------


def _submit(control: Control, settings: Settings, row: Row) -> Iterator[Move]:
    step, begin = control.steps[_SUBMIT], settings.guards.begin
    if step is None and row.status == NEW and not row.held:
        # Reading and hashing the inputs takes its time; the host has no part in it.
        hashing = Step(row, Request("submit", "begin", None, row.serial), Answer(""))
        yield Move(("submit hashes",), "", _with(control, _SUBMIT, hashing))
    elif step is None and row.status == SUBMITTING and not row.cancel:
        if row.plan is not None and row.plan.scripts != control.scripts and row.host_serial < row.serial:
            again = _begun(row, settings, control.scripts)
            yield Move(("submit freezes again", again.serial), "", control._replace(row=again))
        else:
            yield Move(("submit asks", row.serial), "", _asks(control, _SUBMIT, row, "have"))
    elif step is not None and step.answer is not None:
        unwritten = not begin and row.status == NEW and row.serial == step.row.serial - 1
        if not unwritten and not _fresh(row, step):
            yield Move(("submit finds the row changed",), "", _with(control, _SUBMIT, None))
        elif step.request.verb == "begin":
            frozen = row if settings.guards.hold_seen else step.row
            begun = _begun(frozen, settings, control.scripts)._replace(held=row.held)
            if begin:
                yield Move(("submit begins", begun.serial), "", _with(control, _SUBMIT, None, begun))
            else:
                asking = _asks(control, _SUBMIT, begun, "have")
                yield Move(("submit begins without a record", begun.serial), "", asking)
        elif step.request.verb == "have":
            yield _offered(control, settings, step, step.answer)
        else:
            yield _settled(control, settings, step.row, step.answer)


def _begun(row: Row, settings: Settings, scripts: int) -> Row:
    """The row with a plan of the next serial: good jobs are kept, the others get their next number."""
    jobs: list[tuple[int, str]] = []
    redone = False
    for slot in range(settings.slots):
        attempt, state = row.jobs[slot] if slot < len(row.jobs) else (0, "")
        redone = redone or state != DONE or row.retry == "all" or row.purged
        jobs.append((attempt + 1, PLANNED) if redone else (attempt, state))
    plan = Plan(row.serial + 1, False, row.held, scripts, tuple(attempt for attempt, _state in jobs))
    kept = row._replace(cancel=False, released=False, purged=False, published=False)
    return kept._replace(status=SUBMITTING, plan=plan, serial=plan.serial, jobs=tuple(jobs))


def _offered(control: Control, settings: Settings, step: Step, answer: Answer) -> Move:
    adopted = _adopted(control, settings, step.row, answer)
    if adopted is not None:
        return Move(("submit adopts", adopted.status), "", _with(control, _SUBMIT, None, adopted))
    sent = _asks(control, _SUBMIT, step.row, "plan", step.row.plan)
    return Move(("submit sends", step.row.serial), "", sent)


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
    if not answer.receipt:
        return None
    if control.results is not None and not (row.retry and guards.retry_first):
        return row._replace(status=COMPLETED, published=True, released=True, purged=True)
    if row.retry or row.serial > answer.receipt:
        return None
    refused = row._replace(status=FAILED, host_serial=answer.receipt)
    if guards.receipt_serial:
        jobs = tuple((attempt, BAD) for attempt in answer.attempts)
        refused = refused._replace(serial=answer.receipt, jobs=jobs)
    return refused


def _settled(control: Control, settings: Settings, row: Row, answer: Answer) -> Move:
    if answer.outcome in ("accepted", "same"):
        row = row._replace(status=QUEUED, host_serial=row.serial, retry="")
    elif answer.outcome == "newer" and answer.plan is not None and settings.guards.forward:
        kept = _taken_over(row, settings, answer.plan)
        row = kept._replace(status=QUEUED, cancel=answer.plan.cancel, retry="")
    elif answer.outcome in ("newer", "receipt"):
        row = _adopted(control, settings, row, answer) or row
    elif answer.plan is not None and settings.guards.keep_refused:
        kept = _taken_over(row, settings, answer.plan)
        row = kept._replace(status=QUEUED, cancel=answer.plan.cancel, retry="")
    else:
        row = row._replace(status=FAILED)
    return Move(("submit hears", answer.outcome), "", _with(control, _SUBMIT, None, row))


def _taken_over(row: Row, settings: Settings, plan: Plan) -> Row:
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


# --- sync ------------------------------------------------------------------------------------------------


def _sync(control: Control, settings: Settings, row: Row) -> Iterator[Move]:
    step = control.steps[_SYNC]
    if step is None:
        if row.status in (QUEUED, RUNNING) or (row.status == SUBMITTING and row.cancel):
            plan = row.plan if row.serial > row.host_serial else None
            yield Move(("sync asks", row.serial), "", _asks(control, _SYNC, row, "sync", plan))
    elif step.answer is not None and step.answer.outcome:
        told = _with(control, _SYNC, step._replace(answer=step.answer._replace(outcome="")))
        if _fresh(row, step):
            told = told._replace(row=_wish_answered(row, settings, step.answer))
        yield Move(("sync hears", step.answer.outcome), "", told)
    elif step.answer is not None:
        yield _observed(_with(control, _SYNC, None), settings, row, step.answer)


def _wish_answered(row: Row, settings: Settings, answer: Answer) -> Row:
    if answer.outcome in ("accepted", "same"):
        return row._replace(host_serial=row.serial)
    if answer.plan is None:
        return row
    if answer.outcome == "refused":
        if not settings.guards.hear_no:
            return row
        kept = _taken_over(row, settings, answer.plan)
        jobs = tuple(
            old if attempt == old[0] else (old[0], REFUSED)
            for attempt, old in zip(answer.plan.attempts, row.jobs, strict=True)
        )
        return kept._replace(jobs=jobs)
    taken = _taken_over(row, settings, answer.plan)
    if settings.guards.adopt_wishes and answer.plan.cancel:
        return taken._replace(cancel=True)
    if settings.guards.wish_again and row.cancel:
        return _wished(taken, cancel=True)
    return taken


def _observed(control: Control, settings: Settings, row: Row, answer: Answer) -> Move:
    if row.status not in WITH_THE_HOST or row.plan is None:
        return Move(("sync finds the row changed",), "", control)
    if not answer.known or (answer.known == "receipt" and settings.guards.hear_purged):
        if row.status != SUBMITTING and row.host_serial:
            control = control._replace(row=row._replace(status=FAILED, purged=True))
        return Move(("sync hears of no run",), "", control)
    if settings.guards.see_serial and answer.serial > row.serial:
        # A plan of a database that is no more: ours goes there again and comes back as "newer", with that one.
        return Move(("sync hears of a newer plan",), "", control._replace(row=row._replace(host_serial=0)))
    told = dict(answer.states)
    jobs = []
    for slot, (attempt, state) in enumerate(row.jobs):
        said = told.get((slot, attempt))
        jobs.append((attempt, state if said is None or state in (DONE, BAD, STOPPED) else _REPORTED[said]))
    row = row._replace(jobs=tuple(jobs))
    if row.status == QUEUED and any(state in STARTED for _attempt, state in jobs):
        row = row._replace(status=RUNNING)
    if row.serial == row.host_serial:
        row, control = _concluded(row, settings, control)
    return Move(("sync records", row.status, row.jobs), "", control._replace(row=row))


def _concluded(row: Row, settings: Settings, control: Control) -> tuple[Row, Control]:
    """A confirmed cancel, next attempts, or the end of the run."""
    assert row.plan is not None
    states = [state for _attempt, state in row.jobs]
    if row.cancel and all(state in ENDED for state in states):
        control = control._replace(wish=False)
        if STOPPED in states:
            return row._replace(status=NEW if row.retry else CANCELLED, cancel=False), control
        # Too late: every job had ended.
        row = row._replace(cancel=False, retry="" if settings.guards.retry_ends else row.retry)
    again = [
        slot
        for slot, (attempt, state) in enumerate(row.jobs)
        if state in (LOST, BAD) and attempt < settings.max_attempts
    ]
    if again and not row.plan.cancel:
        jobs = tuple((k + 1, PLANNED) if slot in again else (k, state) for slot, (k, state) in enumerate(row.jobs))
        plan = row.plan._replace(serial=row.serial + 1, attempts=tuple(attempt for attempt, _state in jobs))
        return row._replace(plan=plan, serial=plan.serial, jobs=jobs), control
    if row.status == RUNNING and not _can_move(states):
        row = row._replace(status=FETCHING, cancel=False)
    return row, control


def _can_move(states: list[str]) -> bool:
    hopeless = False
    for state in states:
        if state in ENDED:
            hopeless = state != DONE
        elif not hopeless:
            return True
    return False


# --- fetch -----------------------------------------------------------------------------------------------


def _fetch(control: Control, settings: Settings, row: Row) -> Iterator[Move]:
    step = control.steps[_FETCH]
    if step is not None:
        if step.answer is not None:
            after = _with(control, _FETCH, None)
            if _fresh(row, step):
                after = _fetched(after, settings, row, step.request.verb, step.answer)
            yield Move(("fetch hears", step.request.verb, step.answer.outcome), "", after)
        return
    over = settings.keeping and row.status in (COMPLETED, FAILED) and row.published
    if row.status == FETCHING:
        yield Move(("fetch asks", "outputs"), "", _asks(control, _FETCH, row, "outputs"))
    elif over and not row.released:
        yield Move(("fetch asks", "release"), "", _asks(control, _FETCH, row, "release"))
    elif over and not row.purged:
        yield Move(("fetch asks", "purge"), "", _asks(control, _FETCH, row, "purge"))


def _fetched(control: Control, settings: Settings, row: Row, verb: str, answer: Answer) -> Control:
    if verb != "outputs":
        if answer.outcome != "ok":
            return control
        return control._replace(row=row._replace(released=True) if verb == "release" else row._replace(purged=True))
    there = dict(answer.states)
    good = [state == DONE for _attempt, state in row.jobs]
    files = tuple((slot, attempt) in there for slot, (attempt, _state) in enumerate(row.jobs))
    if settings.guards.whole_fetch and any(is_good > has for is_good, has in zip(good, files, strict=True)):
        return control._replace(row=row._replace(status=FAILED, purged=True))
    done = row._replace(status=COMPLETED if all(good) else FAILED, published=True)
    return control._replace(row=done, results=files if all(good) else control.results)


# --- operators and accidents -----------------------------------------------------------------------------


def _wished(row: Row, *, cancel: bool = False, held: bool | None = None) -> Row:
    """The row with a wish; where the host may have a plan, as a new version of it."""
    row = row._replace(cancel=row.cancel or cancel, held=row.held if held is None else held)
    if row.plan is None or row.status not in WITH_THE_HOST:
        return row
    plan = row.plan._replace(
        serial=row.serial + 1,
        cancel=row.plan.cancel or cancel,
        held=row.plan.held if held is None else held,
    )
    return row._replace(plan=plan, serial=plan.serial)


def _operator(control: Control, row: Row) -> Iterator[Move]:
    if row.status in WITH_THE_HOST and not row.cancel:
        yield Move(("cancel",), "cancels", control._replace(row=_wished(row, cancel=True), wish=True))
    if row.status in SETTLED:
        again = row._replace(status=NEW, cancel=False, retry="all" if row.status == COMPLETED else "some")
        yield Move(("retry", again.retry), "retries", control._replace(row=again, wish=False))
    elif row.status in WITH_THE_HOST and row.cancel and not row.retry:
        yield Move(("retry follows",), "retries", control._replace(row=row._replace(retry="some")))
    if row.status in (NEW, *WITH_THE_HOST):
        if row.held:
            yield Move(("let go",), "free", control._replace(row=_wished(row, held=False)))
        else:
            yield Move(("hold",), "holds", control._replace(row=_wished(row, held=True)))
    if row.status in (NEW, FAILED, CANCELLED):
        yield Move(("skip",), "skips", control._replace(row=row._replace(status=SKIPPED)))


def _accidents(control: Control, settings: Settings) -> Iterator[Move]:
    yield Move(("mqi is updated",), "updates", control._replace(scripts=1))
    if control.results is not None:
        yield Move(("the results are lost",), "losses", control._replace(results=None))
    if control.row is None:
        return
    alone = control
    for number in range(3):
        alone = cut_off(alone, number)
    alone = alone._replace(wish=False, amnesia=True)
    yield Move(("the database is deleted",), "deleted", alone._replace(row=None))
    if control.backup is None and settings.budget.restored:
        yield Move(("the database is backed up",), "free", control._replace(backup=control.row))
    elif control.backup is not None and control.backup != control.row:
        yield Move(("the database is restored",), "restored", alone._replace(row=control.backup))
