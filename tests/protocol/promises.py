"""What must hold in every world and at every move: each function returns the promise that is broken, or ""."""

from __future__ import annotations

from tests.protocol.world import (
    CANCELLED,
    COMPLETED,
    COMPUTES,
    FAILED,
    FETCHING,
    NEW,
    QUEUED,
    RUNNING,
    SETTLED,
    STOPPED,
    WITH_THE_HOST,
    Control,
    Host,
)

ONCE = "a job key was executed twice"
ALONE = "two attempts of one job ran at once"
FORWARD = "an attempt started after a later one had"
LISTED_ONCE = "the queue held a job twice"
SETTLED_IS_SETTLED = "a job of a settled case ran"
CANCEL_HOLDS = "a wish to cancel was forgotten"
RETRY_FOLLOWS = "a case ended with a retry that was not followed"
HOLD_SHOWS = "the row did not show whether its plan was held"
UNWISHED = "a job was stopped that nobody wished to stop"
LATE = "a plan with a lower serial changed the host's"
WHOLE = "a case was completed without its results"
UNASKED = "an attempt ran although the one before had not failed and nobody asked for it"
FETCHED_FIRST = "a run was purged before its results were here"
STUCK = "nothing that mqi does by itself ends the case any more"


def host_breaks(before: Host, after: Host) -> str:
    """What a move of the host breaks."""
    for key, count in after.ran:
        if count > 1:
            return ONCE
        if (key, count) not in before.ran and any(
            s == key[0] and k > key[1] for (s, k), _count in before.ran
        ):
            return FORWARD
    slots = [run.key[0] for run in after.runs if run.at in COMPUTES]
    if len(set(slots)) < len(slots):
        return ALONE
    listed = [*after.queue, *(run.key for run in after.runs if run.known)]
    if len(set(listed)) < len(listed):
        return LISTED_ONCE
    if before.stored is not None and after.stored is not None and after.stored.serial < before.stored.serial:
        return LATE
    return ""


def control_breaks(after: Control) -> str:
    """What is wrong on the control PC."""
    row = after.row
    if row is None:
        return ""
    if row.plan is not None and row.status in WITH_THE_HOST:
        if after.wish and not (row.cancel and row.plan.cancel):
            return CANCEL_HOLDS
        if row.held != row.plan.held:
            return HOLD_SHOWS
    if after.wish and row.status == CANCELLED:
        return CANCEL_HOLDS
    if row.retry and row.status in SETTLED:
        return RETRY_FOLLOWS
    stopped = any(state == STOPPED for _attempt, state in row.jobs)
    if row.status == FAILED and stopped and not (after.wish or after.forgotten):
        return UNWISHED
    if row.status == COMPLETED and after.results is not None and not all(after.results):
        return WHOLE
    return ""


def computes(host: Host) -> bool:
    """Whether a command of the run lives."""
    return any(run.at in COMPUTES for run in host.runs)


def wants_silence(control: Control) -> bool:
    """Whether nothing of the run may run any more. A database that was deleted or put back cannot promise it: a
    request of the one before it may still arrive. Then the promise is that nothing runs twice and all ends."""
    return control.row is not None and control.row.status in SETTLED and not control.amnesia


def has_unasked(host: Host) -> bool:
    """Whether an attempt has run though an earlier one was good, or was stopped in its favour."""
    ended = [key for key, file in host.files if file.exit in ("ok", "stopped")]
    return any(slot == other and k > j for (slot, k), _count in host.ran for other, j in ended)


def wants_each_once(control: Control) -> bool:
    """Whether only a job that failed or was lost may have a next attempt."""
    return not control.amnesia and not control.redo


def purged_serial(host: Host) -> int:
    """The serial of a run of which only the receipt is left, else 0."""
    return host.receipt.serial if host.receipt and host.stored is None else 0


def unfetched_serial(control: Control) -> int:
    """The serial of a run whose results are not here, else 0."""
    row = control.row
    if row is None or control.amnesia or row.status not in (QUEUED, RUNNING, FETCHING):
        return 0
    return row.host_serial


def is_rest(control: Control) -> bool:
    """The case has ended, or an operator knowingly holds it."""
    row = control.row
    return row is not None and (row.status in SETTLED or (row.held and row.status in (NEW, *WITH_THE_HOST)))
