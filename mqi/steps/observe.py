"""What sync does at one host: ask once about everything in flight, record the answer, draw the conclusions.

The exit file on the host is believed over its queue; silence is never an answer.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from mqi.case import Event, State
from mqi.errors import ConfigurationProblem, MqiError
from mqi.job import (
    ENDED,
    STARTED,
    Job,
    JobState,
    can_move,
    case_progress,
    current_step,
    observe,
    wants_another_attempt,
)
from mqi.planning import needs_of, with_next_attempt
from mqi.rows import Case, dumps
from mqi.site import Site
from mqi.steps import StepReport, about, operate
from mqi.steps.adopt import adopt_jobs, adopt_receipt, columns_of_plan
from mqi.steps.begin import workflow_of
from mqi.steps.operate import follow_retry

log = logging.getLogger("mqi.sync")


def ask_about(site: Site, host: str, cases: Sequence[Case], report: StepReport) -> None:
    wishes = [case for case in cases if case.plan_serial > case.host_serial and case.plan is not None]
    calls: list[dict[str, Any]] = [{"verb": "plan", "plan": case.frozen_plan} for case in wishes]
    calls.append({"verb": "report", "runs": [case.run_key for case in cases]})
    answer = site.ask(host, calls)
    for case, raw in zip(wishes, answer.replies[:-1], strict=True):
        with about(case):
            _wish_answered(site, case, raw)
    if not answer.fresh:
        log.info("an older answer of %s arrived late and is dropped", host)
        return
    runs = answer.replies[-1].get("runs") or {}
    taken_over = _take_over_newer(site, host, [site.store.case(case.case_id) for case in cases], runs)
    for case in cases:
        if case.case_id in taken_over:
            continue  # the next question is about the plan that it has now
        with about(case):
            try:
                _observe(site, site.store.case(case.case_id), runs, report)
            except MqiError as error:
                site.met(error)


def _wish_answered(site: Site, case: Case, raw: Mapping[str, Any]) -> None:
    outcome = str(raw.get("outcome", ""))
    if outcome in ("accepted", "same"):
        site.store.update(case, host_serial=case.plan_serial)
    elif outcome == "newer":
        _take_over(site, case, raw["plan"])
    elif outcome in ("refused", "inputs_missing") and raw.get("plan"):
        lacks = "it lacks some inputs, which a retry sends again"
        reason = lacks if outcome == "inputs_missing" else str(raw.get("reason"))
        _not_taken(site, case, raw["plan"], reason, spent=int(raw.get("serial") or 0))
    else:
        log.warning("the host did not take the changed plan: %s", raw.get("message") or outcome)


def _not_taken(site: Site, case: Case, plan: Mapping[str, Any], reason: str, *, spent: int) -> None:
    """The host stays with the plan that it has: what it did not take is over, and said, not asked for again."""
    planned = {str(job["job_key"]) for job in plan["jobs"]}
    words = f"{case.host} does not take it: {reason}"
    refused = [job for job in site.store.jobs(case.case_id) if job.job_key not in planned]
    with site.store.together():
        site.store.put_jobs(
            job._replace(state=JobState.FAILED, exit_kind="refused", reason=words) for job in refused
        )
        # The serial that was refused is spent: the next wish is newer than both. A restored database may not know it.
        serial = max(case.plan_serial, spent)
        site.store.note(
            case,
            "not taken",
            words,
            plan=dumps({**plan, "serial": serial}),
            plan_serial=serial,
            host_serial=serial,
            held=int(plan["held"]),
            priority=int(plan["priority"]),
        )
    log.warning("the host did not take the changed plan: %s", reason)


def _take_over(site: Site, case: Case, plan: Mapping[str, Any]) -> None:
    """A restored database: the host has seen later wishes than this side remembers. They stand.

    Also with a lower serial: the host refuses to go back to an attempt before the one that it has."""
    with site.store.together():
        adopt_jobs(site, case, plan)
        taken = site.store.note(
            case,
            "taken over",
            "the host knew a later plan of this run than the database",
            **columns_of_plan(site, case, plan),
        )
        if case.cancel_requested_at is not None and not plan["cancel"]:
            # The cancel was asked for here and now, by somebody who saw this run.
            operate.cancel(site, taken, reason="asked for before the later plan was known")


def _take_over_newer(site: Site, host: str, cases: Sequence[Case], runs: Mapping[str, Any]) -> set[int]:
    """Ask for the plans that the host has and this database does not know; the cases that have changed."""
    behind = [
        case
        for case in cases
        if int((runs.get(case.run_key or "") or {}).get("serial") or 0) > case.plan_serial
    ]
    if not behind:
        return set()
    calls: list[dict[str, Any]] = [
        {"verb": "have", "run_key": case.run_key, "digest": case.run_digest, "blobs": []} for case in behind
    ]
    changed = set()
    for case, reply in zip(behind, site.ask(host, calls).replies, strict=True):
        plan = (reply.get("known") or {}).get("plan")
        if plan:
            changed.add(case.case_id)
            with about(case):
                _take_over(site, case, plan)
    return changed


def _observe(site: Site, case: Case, runs: Mapping[str, Any], report: StepReport) -> None:
    """Record what the host says about one run, and draw the conclusions."""
    run = runs.get(case.run_key or "")
    if run is None or run.get("digest") not in (None, case.run_digest):
        if case.status is not State.SUBMITTING and case.host_serial > 0:
            _forgotten(site, case, report)
        elif case.cancel_requested_at is not None and case.host_serial == case.plan_serial:
            # Emptied after it had confirmed the cancel, and nothing of it will ever be sent again.
            _confirm_cancel(
                site, case, "cancelled; the host has nothing of it any more", report, emptied=True
            )
        return
    receipt = run.get("receipt")
    if receipt is not None and not run.get("jobs"):
        adopt_receipt(
            site, case, receipt, report
        )  # purged before this (restored) database knew that it ended
        return
    before = site.store.jobs(case.case_id)
    reported = run.get("jobs") or {}
    after = [
        _with_log(site, case, observe(job, reported.get(job.job_key)), reported.get(job.job_key))
        for job in before
    ]
    with site.store.together():
        changed = [new for new, old in zip(after, before, strict=True) if new != old]
        site.store.put_jobs(changed)
        _log_endings(changed)
        _judge_host(site, case.host, changed)
        case = _columns_from_jobs(site, case, after)
        if case.status is State.QUEUED and any(job.state in STARTED for job in after):
            started = min((job.started_at for job in after if job.started_at), default=site.now())
            case = site.store.record(case, Event.START, "its first job has started", started_at=started)
            report.add("started", f"case {case.case_id}: started")
        own = {job.job_key for job in after}
        # A job of an earlier plan that is being ended: until then nothing of this run is over.
        dying = any(job.get("state") == "running" for key, job in reported.items() if key not in own)
        if case.plan_serial == case.host_serial and not dying:
            _conclude(site, case, after, report)


def _with_log(site: Site, case: Case, job: Job, told: Mapping[str, Any] | None) -> Job:
    """The job with the place of its log on the host, once it has one."""
    if job.log_path or told is None or job.state not in STARTED:
        return job
    folder = site.host_settings(case.host).work_dir
    return job._replace(log_path=f"{case.host}:{folder}/runs/{case.run_key}/jobs/{job.job_key}/log.txt")


def _columns_from_jobs(site: Site, case: Case, jobs: Sequence[Job]) -> Case:
    step = current_step(jobs)
    running = next((job for job in jobs if job.state is JobState.RUNNING), None)
    shown = running or next((job for job in jobs if job.step == step), None)
    columns: dict[str, Any] = {
        "progress": case_progress(jobs),
        "current_step": step,
        "pueue_group": shown.group if shown else case.pueue_group,
        "reason": _reason(case, jobs, running),
    }
    if all(getattr(case, name) == value for name, value in columns.items()):
        return case
    return site.store.update(case, **columns)


def _reason(case: Case, jobs: Sequence[Job], running: Job | None) -> str:
    if case.cancel_requested_at is not None:
        running_now = sum(job.state is JobState.RUNNING for job in jobs)
        return f"being cancelled; {running_now} jobs still run" if running_now else "being cancelled"
    failed = next((job for job in jobs if job.state in (JobState.FAILED, JobState.LOST)), None)
    if running is not None:
        words = running.reason or running.message or running.title()
        return words if failed is None else f"{words}; {failed.title()} has failed: {failed.reason}"
    if failed is not None:
        return f"{failed.title()}: {failed.reason}"
    if case.held:
        return "held by an operator"
    waiting = next((job for job in jobs if job.state not in ENDED), None)
    return f"{waiting.title()} waits for a place in {waiting.group}" if waiting else ""


def _log_endings(jobs: Sequence[Job]) -> None:
    for job in jobs:
        if job.state is JobState.DONE:
            log.info("%s is done", job.job_key)
        elif job.state in (JobState.FAILED, JobState.LOST):
            log.warning("%s: %s, exit code %s: %s", job.job_key, job.state, job.exit_code, job.reason)


# Endings that say more about the host than about the job.
_OF_THE_HOST = ("spawn", "gpu", "bad_input")


def _judge_host(site: Site, host: str, changed: Sequence[Job]) -> None:
    """A host on which jobs cannot even start must not take, and fail, one case after the other."""
    bad = [job for job in changed if job.state is JobState.LOST or job.exit_kind in _OF_THE_HOST]
    if any(job.state is JobState.DONE for job in changed):
        site.praise(host)
    elif bad:
        site.strike(host, f"a job ended with: {bad[0].reason}")


def _conclude(site: Site, case: Case, jobs: Sequence[Job], report: StepReport) -> None:
    """Next attempts, a confirmed cancel, or the end of the run. The host has confirmed the newest plan."""
    plan = case.frozen_plan
    assert plan is not None
    if case.cancel_requested_at is not None:
        _conclude_cancel(site, case, jobs, report)
        if site.store.case(case.case_id).status is not case.status:
            return
    again = [] if plan["cancel"] else _to_repeat(site, case, jobs)
    if again:
        successor, fresh = with_next_attempt(plan, again)
        names = ", ".join(job.title() for job in again)
        site.store.put_jobs(fresh)
        site.store.note(
            case,
            "next attempt",
            f"{names}: {again[0].reason}",
            plan=dumps(successor),
            plan_serial=int(successor["serial"]),
            progress=case_progress(site.store.jobs(case.case_id)),
            reason=f"{names} runs again by itself: {again[0].reason}",
        )
        report.add("next attempt", f"case {case.case_id}: {names} runs again ({again[0].reason})")
        log.warning("next attempt of %s: %s", ", ".join(job.job_key for job in again), again[0].reason)
        return
    if can_move(jobs, needs_of(plan)):
        return
    if case.status is State.QUEUED:
        # Nothing has started and nothing will: tombstones of a plan that a lost database had sent.
        _confirm_cancel(
            site, case, "cancelled on the host by a plan that this database does not know", report
        )
    if case.status is State.RUNNING:
        failed = [job for job in jobs if job.state is not JobState.DONE]
        reason = "results wait on the host" if not failed else f"{failed[0].title()}: {failed[0].reason}"
        site.store.record(case, Event.FINISH, reason, cancel_requested_at=None)
        report.add("finished", f"case {case.case_id}: finished on {case.host}")


def _to_repeat(site: Site, case: Case, jobs: Sequence[Job]) -> list[Job]:
    try:
        workflow = workflow_of(site, case)
    except ConfigurationProblem as error:
        site.met(error)
        return []
    return [job for job in jobs if wants_another_attempt(job, workflow)]


def _conclude_cancel(site: Site, case: Case, jobs: Sequence[Job], report: StepReport) -> None:
    unfinished = [job for job in jobs if job.state not in ENDED]
    if unfinished:
        return
    if not any(job.state is JobState.CANCELLED for job in jobs):
        # Everything had ended before the word arrived: the results are good, and are fetched.
        site.store.note(case, "cancel", "came too late, every job had ended", cancel_requested_at=None)
        return
    done = sum(job.state is JobState.DONE for job in jobs)
    words = f"cancelled; {done} of {len(jobs)} jobs had finished, and are reused by a retry"
    _confirm_cancel(site, case, words, report)


def _confirm_cancel(site: Site, case: Case, words: str, report: StepReport, *, emptied: bool = False) -> None:
    with site.store.together():
        ended = site.store.record(
            case,
            Event.CONFIRM_CANCEL,
            words,
            cancel_requested_at=None,
            purged_at=site.now() if emptied else None,
        )
        follow_retry(site, ended)
    report.add("cancelled", f"case {case.case_id}: cancelled")


def _forgotten(site: Site, case: Case, report: StepReport) -> None:
    with site.store.together():
        forgotten = site.store.record(
            case,
            Event.FORGET,
            f"host {case.host} answers that it has no such run; its work directory was emptied or replaced",
            hint=f"find out what happened there, then: mqi retry {case.case_id}",
            # Nothing that it computed can be reused.
            purged_at=site.now(),
        )
        follow_retry(site, forgotten)
    report.add("forgotten", f"case {case.case_id}: the host has forgotten it")
    log.error("the host has no such run")
