"""What a host knows and this database does not: its plan of a run, or the receipt of a purged one."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mqi import verdict
from mqi.case import Event, State
from mqi.job import JobState, case_progress
from mqi.planning import jobs_of_plan, jobs_of_receipt
from mqi.results import find_published
from mqi.rows import Case, dumps
from mqi.site import Site
from mqi.steps import StepReport
from mqi.steps.operate import follow_retry

log = logging.getLogger("mqi.adopt")


def adopt_jobs(site: Site, case: Case, plan: Mapping[str, Any]) -> None:
    """Job rows for the host's plan. What is known of a job stays known."""
    planned = {str(job["job_key"]) for job in plan["jobs"]}
    # An attempt that was only planned here would hide the one that the host has.
    never = [
        job.job_key
        for job in site.store.jobs(case.case_id)
        if job.state is JobState.PLANNED and job.job_key not in planned
    ]
    known = {job.job_key for job in site.store.jobs(case.case_id, all_attempts=True)}
    site.store.forget_jobs(never)
    site.store.put_jobs(job for job in jobs_of_plan(plan, case.case_id) if job.job_key not in known)


def columns_of_plan(site: Site, case: Case, plan: Mapping[str, Any]) -> dict[str, Any]:
    """The case's columns with the host's plan in place of its own. The serial that is the higher one was spoken
    of, and stays: the next wish must be newer than both. Wishes that this database has forgotten are seen through
    all the same."""
    serial = max(int(plan["serial"]), case.plan_serial)
    return {
        "plan": dumps({**plan, "serial": serial}),
        "plan_serial": serial,
        "host_serial": serial,
        "held": int(plan["held"]),
        "priority": int(plan["priority"]),
        "cancel_requested_at": site.now() if plan["cancel"] else None,
        "progress": case_progress(site.store.jobs(case.case_id)),
    }


def adopt_plan(
    site: Site,
    case: Case,
    plan: Mapping[str, Any],
    words: str = "the host already holds this run; taken over from there",
) -> None:
    """The host's plan in place of that of a `submitting` case; `words` tell why."""
    with site.store.together():
        adopt_jobs(site, case, plan)
        site.store.record(
            case,
            Event.ACCEPT,
            words,
            submitted_at=site.now(),
            retry=None,
            **columns_of_plan(site, case, plan),
        )


def adopt_receipt(site: Site, case: Case, receipt: Mapping[str, Any], report: StepReport) -> None:
    """Complete the case from its verified results, if they are here; else say that they are not.

    The run was computed, fetched and released, and the host keeps no more than the receipt. Nothing is
    computed again by itself: what became of the results is for a person to find out.
    """
    serial = int(receipt.get("serial") or 0)
    spent: dict[str, Any] = {
        "plan_serial": max(serial, case.plan_serial),
        "host_serial": max(serial, case.plan_serial),
    }
    known = site.store.jobs(case.case_id, all_attempts=True)
    site.store.put_jobs(jobs_of_receipt(receipt, case.case_id, known))
    published = find_published(site.settings.paths.results, case)
    if published is None:
        with site.store.together():
            follow_retry(site, _say_missing(site, case, spent))
        report.add("refused", f"case {case.case_id}: its results are missing")
        return
    with site.store.together():
        follow_retry(site, _complete(site, case, published, spent))
    report.add("adopted", f"case {case.case_id}: its results were here already")
    log.info("its verified results were found here")


def _complete(site: Site, case: Case, published: Path, spent: Mapping[str, Any]) -> Case:
    said = verdict.verdict_of_run(published, case)
    return site.store.record(
        case,
        Event.ADOPT,
        verdict.words(said, "computed earlier; its verified results were found here"),
        results_path=str(published),
        completed_at=site.now(),
        released_at=site.now(),
        purged_at=site.now(),
        progress=100.0,
        cancel_requested_at=None,
        **verdict.columns(said, case.case_id),
        **spent,
    )


def _say_missing(site: Site, case: Case, spent: Mapping[str, Any]) -> Case:
    return site.store.record(
        case,
        Event.REFUSE if case.status is State.SUBMITTING else Event.FORGET,
        "this very case was computed and fetched earlier, but its results are not below the results folder",
        hint=f"restore the results folder from its backup, or compute it again: mqi retry {case.case_id} --all",
        purged_at=site.now(),
        cancel_requested_at=None,
        **spent,
    )
