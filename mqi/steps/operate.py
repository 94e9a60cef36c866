"""What operators say: retry, cancel, hold, release, priority, skip. Instant: the host hears it by sync."""

from __future__ import annotations

import json
from typing import Any

from mqi.actor import actor
from mqi.case import Event, State, next_state
from mqi.errors import ConfigurationProblem, UsageProblem
from mqi.rows import Case, dumps
from mqi.site import Site
from mqi.steps.begin import freeze_case, frozen_manifest, workflow_of

_WITH_THE_HOST = (State.SUBMITTING, State.QUEUED, State.RUNNING)


def retry(site: Site, case: Case, *, from_step: str | None, redo_all: bool, reason: str) -> str:
    """Compute a settled case again: what failed or changed, more if asked. Returns what will happen."""
    if from_step is not None and workflow_of(site, case).find(from_step) is None:
        names = ", ".join(step.name for step in workflow_of(site, case).steps)
        raise UsageProblem(f"workflow {case.workflow} has no step {from_step!r}", f"its steps: {names}")
    wish = dumps({"from": from_step, "all": redo_all, "reason": reason, "by": actor()})
    if case.status is State.SKIPPED and (case.beams == "[]" or case.snapshot != case.judged_snapshot):
        site.store.record(
            case, Event.LOOK_AGAIN, reason or "looked at again", judged_snapshot="", snapshot=""
        )
        return "it is looked at again by the next scan"
    if case.status in _WITH_THE_HOST:
        if case.cancel_requested_at is None:
            raise UsageProblem(
                f"case {case.case_id} is {case.status}; only a case that has ended can be computed again",
                f"end it first: mqi cancel {case.case_id}",
            )
        site.store.note(case, "retry", reason or "follows when the host has confirmed the cancel", retry=wish)
        return "the retry is recorded and follows when the host has confirmed the cancel"
    if next_state(case.status, Event.RETRY) is None:
        raise UsageProblem(f"case {case.case_id} is {case.status}; there is nothing to retry", _why(case))
    if case.status is State.COMPLETED:
        if not reason:
            raise UsageProblem(
                f"case {case.case_id} is completed; computing it again needs a reason, for the record",
                f'mqi retry {case.case_id} --from STEP --reason "…"',
            )
        if not _would_compute(site, case, from_step, redo_all):
            raise UsageProblem(
                f"every job of case {case.case_id} is good and nothing changed since; there is nothing to redo",
                "redo from one step on with --from STEP, or everything with --all",
            )
    site.store.record(
        case, Event.RETRY, reason or "asked for by an operator", retry=wish, cancel_requested_at=None
    )
    return "it is submitted again by the next run"


def _would_compute(site: Site, case: Case, from_step: str | None, redo_all: bool) -> bool:
    """Whether a retry of a completed case would run anything."""
    manifest = frozen_manifest(site, case)
    if manifest is None or redo_all or from_step or case.purged_at is not None:
        return True
    frozen = freeze_case(
        site, case, manifest, case.run_digest or "", case.run_key or "", from_step=None, redo_all=False
    )
    return not all(choice.keep for choice in frozen.choices)


def follow_retry(site: Site, case: Case) -> None:
    """Start the retry that waited for a cancel, now that the case has ended: cancelled, or in another way
    because the cancel came too late."""
    if case.retry is None:
        return
    wish = json.loads(case.retry)
    try:
        void = case.status is State.COMPLETED and not _would_compute(site, case, wish["from"], wish["all"])
    except ConfigurationProblem as error:
        void, words = True, f"the retry that waited for the cancel is void: {error}"
    else:
        words = "the retry that waited for the cancel is void: every job had ended well before it"
    if void:
        site.store.note(case, "retry", words, retry=None, reason=words)
    else:
        site.store.record(case, Event.RETRY, "the retry that was asked for meanwhile")


def cancel(site: Site, case: Case, *, reason: str = "") -> str:
    """End what runs and forbid the rest; the state follows when the host has confirmed it."""
    if case.status in (State.WAITING, State.NEW):
        raise UsageProblem(
            f"case {case.case_id} is {case.status}: nothing of it runs",
            f"to keep it from starting: mqi hold {case.case_id}, or for good: mqi skip {case.case_id}",
        )
    if case.status is State.FETCHING:
        raise UsageProblem(f"every job of case {case.case_id} has ended; its results are being fetched")
    if case.status not in _WITH_THE_HOST:
        raise UsageProblem(f"case {case.case_id} is {case.status} already")
    if case.cancel_requested_at is not None:
        return "it is being cancelled; the host has not confirmed it yet"
    _wish(
        site,
        case,
        "cancel",
        reason or "asked for by an operator",
        {"cancel": True},
        cancel_requested_at=site.now(),
        retry=None,  # the one that is cancelled; another may be asked for from now on
        reason="being cancelled; waits for the host to confirm it",
    )
    return f"{case.host} is told by the next run; the case shows as cancelled when it has confirmed"


def hold(site: Site, case: Case, *, reason: str = "") -> str:
    """Keep jobs that have not started from starting."""
    if case.held:
        return "it is held already"
    _refuse_settled(case, "held")
    _wish(site, case, "hold", reason, {"held": True}, held=1)
    running = sum(job.state == "running" for job in site.store.jobs(case.case_id))
    return f"held; {running} running jobs go on" if running else "held"


def release(site: Site, case: Case, *, reason: str = "") -> str:
    """Undo a hold."""
    if not case.held:
        return "it is not held"
    _wish(site, case, "release", reason, {"held": False}, held=0)
    return "released"


def set_priority(site: Site, case: Case, priority: int) -> str:
    """Higher goes first; jobs that have started go on."""
    _refuse_settled(case, "given a priority")
    _wish(site, case, "priority", str(priority), {"priority": priority}, priority=priority)
    return f"priority {priority}"


def skip(site: Site, case: Case, *, reason: str = "") -> str:
    """Not this one. A folder that changes afterwards becomes a new revision."""
    if case.status is State.SKIPPED:
        return "it is skipped already"
    if next_state(case.status, Event.SKIP) is None:
        hint = f"end it first: mqi cancel {case.case_id}" if case.status in _WITH_THE_HOST else ""
        raise UsageProblem(f"case {case.case_id} is {case.status} and cannot be skipped", hint)
    site.store.record(case, Event.SKIP, reason or "skipped by an operator", retry=None)
    return f"skipped; to have it after all: mqi retry {case.case_id}"


def _wish(site: Site, case: Case, action: str, words: str, change: dict[str, Any], **columns: object) -> None:
    """Record a wish; where a plan exists, as a new version of it that the host gets by the next run."""
    plan = case.frozen_plan
    if plan is not None and case.status in _WITH_THE_HOST:
        serial = case.plan_serial + 1
        columns |= {"plan": dumps({**plan, **change, "serial": serial}), "plan_serial": serial}
    site.store.note(case, action, words, **columns)


def _refuse_settled(case: Case, what: str) -> None:
    if case.status not in (State.WAITING, State.NEW, *_WITH_THE_HOST):
        raise UsageProblem(f"case {case.case_id} is {case.status} and cannot be {what}")


def _why(case: Case) -> str:
    return f"what it waits for: mqi why {case.case_id}"
