"""What fetch does at one host: download what finished, verify it, publish it by one rename, complete the case."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from mqi import __version__, verdict
from mqi.case import Event
from mqi.errors import AuthenticationProblem, DiskProblem, MqiError, TemporaryProblem
from mqi.job import Job, JobState, good_of_all
from mqi.render import iso
from mqi.results import (
    Output,
    lay_out,
    part_folder,
    point_latest,
    provenance_of,
    publish,
    run_folder,
)
from mqi.rows import Case
from mqi.site import Site
from mqi.steps import StepReport, about
from mqi.steps.adopt import adopt_receipt
from mqi.steps.begin import workflow_of
from mqi.steps.downloads import download, download_together, outputs_to_fetch, what_is_missing
from mqi.steps.operate import follow_retry

log = logging.getLogger("mqi.fetch")

LOGS = "logs"
# The end of a log is what explains a failure; engines can write hundreds of megabytes before it.
_LOG_BYTES = 256 * 1024


def bring_home_from(site: Site, host: str, cases: Sequence[Case], report: StepReport) -> None:
    jobs = {case.case_id: site.store.jobs(case.case_id) for case in cases}
    calls: list[dict[str, Any]] = []
    for case in cases:
        own = jobs[case.case_id]
        calls.append({"verb": "outputs", "jobs": [job.job_key for job in own if job.state is JobState.DONE]})
        calls += [
            {"verb": "log", "job_key": job.job_key, "offset": -_LOG_BYTES, "limit": _LOG_BYTES} for job in own
        ]
    replies = iter(site.ask(host, calls).replies)
    found = []
    for case in cases:
        told = next(replies)
        logs = {job.job_key: str(next(replies).get("text") or "") for job in jobs[case.case_id]}
        found.append((case, told, logs))
    arrived = download_together(site, host, [(case, jobs[case.case_id], told) for case, told, _logs in found])
    for case, told, logs in found:
        with about(case):
            try:
                _bring_home(site, case, jobs[case.case_id], told, logs, arrived, report)
            except (AuthenticationProblem, TemporaryProblem) as error:
                site.met(error)
                site.store.update(case, reason=f"{error}; what has arrived is kept", hint=error.hint)
                if not isinstance(error, DiskProblem):
                    raise
            except MqiError as error:
                site.met(error)


def _bring_home(
    site: Site,
    case: Case,
    jobs: Sequence[Job],
    reply: Mapping[str, Any],
    logs: Mapping[str, str],
    arrived: Collection[Path],
    report: StepReport,
) -> None:
    obstacle = what_is_missing(jobs, reply)
    if obstacle:
        _not_there(site, case, obstacle, report)
        return
    workflow = workflow_of(site, case)
    layout = lay_out(outputs_to_fetch(workflow, jobs, reply["jobs"]))
    final = run_folder(site.settings.paths.results, case, layout)
    part = part_folder(site.settings.paths.results, case)
    if not final.exists():
        if not download(site, case, layout, part, arrived, report):
            return
        _keep_logs(part, jobs, logs)
    provenance = _provenance(site, case, jobs, reply["jobs"], layout)
    publish(part, final, layout, provenance)
    point_latest(site.settings.paths.results, case, final)
    shutil.rmtree(part, ignore_errors=True)  # left by a run that was killed after its rename
    _complete(site, case, jobs, final, provenance["notes"], report)


def _keep_logs(part: Path, jobs: Sequence[Job], logs: Mapping[str, str]) -> None:
    """The end of every job's log goes home too: the host forgets it when the run is purged."""
    try:
        folder = part / LOGS
        folder.mkdir(parents=True, exist_ok=True)
        for job in jobs:
            if logs[job.job_key]:
                (folder / log_name(job)).write_text(logs[job.job_key], encoding="utf-8", newline="\n")
    except OSError as error:
        raise DiskProblem(f"the results folder cannot be written: {error.strerror or error}") from error


def _with_logs_at_home(jobs: Sequence[Job], final: Path) -> list[Job]:
    paths = {job: final / LOGS / log_name(job) for job in jobs}
    return [job._replace(log_path=str(path)) for job, path in paths.items() if path.is_file()]


def log_name(job: Job) -> str:
    """The name of a job's log among the results; without the run key, which the folder has."""
    return job.job_key.split(".", 1)[1] + ".log"


def _complete(
    site: Site, case: Case, jobs: Sequence[Job], final: Path, notes: str, report: StepReport
) -> None:
    site.store.put_jobs(_with_logs_at_home(jobs, final))
    good = all(job.state is JobState.DONE for job in jobs)
    columns: dict[str, Any] = {"results_path": str(final), "completed_at": site.now()}
    if good:
        said = verdict.verdict_of_run(final, case)
        with site.store.together():
            words = verdict.words(said, "its verified results are here")
            columns |= verdict.columns(said, case.case_id)
            follow_retry(site, site.store.record(case, Event.PUBLISH, words, progress=100.0, **columns))
        told = f"case {case.case_id}: completed, {final}"
        report.add("completed", told if said is None else f"{told}; verdict {said.word}")
        log.info("completed" if said is None else f"completed, verdict {said.word}")
        return
    # The first that failed, not one that only waited for it in vain.
    bad = [job for job in jobs if job.state is not JobState.DONE]
    failed = next((job for job in bad if job.state in (JobState.FAILED, JobState.LOST)), bad[0])
    reason = f"{failed.title()}: {failed.reason}" + (f" ({notes})" if notes else "")
    hint = f"read the log: mqi logs {case.case_id}; when the cause is gone: mqi retry {case.case_id}"
    with site.store.together():
        follow_retry(site, site.store.record(case, Event.PUBLISH_PARTIAL, reason, hint=hint, **columns))
    report.add("failed", f"case {case.case_id}: failed, {reason}")
    log.error("failed: %s", reason)


def _not_there(site: Site, case: Case, why: str, report: StepReport) -> None:
    """The host does not have the results (any more): perhaps they were fetched before a backup was restored."""
    run = (
        site.ask(case.host, [{"verb": "report", "runs": [case.run_key]}])
        .replies[0]
        .get("runs", {})
        .get(case.run_key)
    )
    if run is not None and run.get("receipt") is not None and not run.get("jobs"):
        adopt_receipt(site, case, run["receipt"], report)
        return
    words = f"host {case.host} no longer has its results: {why}"
    hint = f"compute it again: mqi retry {case.case_id}"
    with site.store.together():
        follow_retry(site, site.store.record(case, Event.FORGET, words, purged_at=site.now(), hint=hint))
    report.add("forgotten", f"case {case.case_id}: {why}")


def _notes(jobs: Sequence[Job]) -> str:
    """ "2 of 3 beams of moquisim" for every step that is not complete; '' when all is good."""
    parts = []
    for step in dict.fromkeys(job.step for job in jobs):
        good, total = good_of_all(jobs, step)
        if good < total:
            beams = any(job.beam is not None for job in jobs if job.step == step)
            parts.append(f"{good} of {total} {'beams of ' if beams else ''}{step}")
    return ", ".join(parts)


def _provenance(
    site: Site, case: Case, jobs: Sequence[Job], told: Mapping[str, Any], layout: Mapping[str, Output]
) -> dict[str, Any]:
    plan = case.frozen_plan or {}
    planned = {str(job["job_key"]): job for job in plan.get("jobs", ())}
    row = site.store.host(case.host)
    return provenance_of(
        case,
        version=__version__,
        jobs=[_job_facts(site, job, planned.get(job.job_key, {}), told) for job in jobs],
        inputs=[
            {name: entry[name] for name in ("path", "size", "sha256")} for entry in plan.get("inputs", ())
        ],
        layout=layout,
        host={
            "name": case.host,
            "work_id": row.work_id if row else "",
            "clock_skew_s": row.clock_skew_s if row else None,
        },
        notes=_notes(jobs),
        complete=all(job.state is JobState.DONE for job in jobs),
        times={
            "first_seen_at": iso(case.first_seen_at, site.settings.timezone),
            "submitted_at": iso(case.submitted_at, site.settings.timezone),
            "started_at": iso(case.started_at, site.settings.timezone),
        },
    )


def _job_facts(site: Site, job: Job, planned: Mapping[str, Any], told: Mapping[str, Any]) -> dict[str, Any]:
    exit_ = (told.get(job.job_key) or {}).get("exit") or {}
    return {
        "job_key": job.job_key,
        "step": job.step,
        "beam": job.beam,
        "attempt": job.attempt,
        "state": str(job.state),
        "exit_code": job.exit_code,
        "reason": job.reason,
        "definition": job.definition,
        "command": planned.get("argv"),
        "parameters": planned.get("parameters"),
        "files": planned.get("files"),
        "gpu": job.gpu,
        "versions": exit_.get("versions"),
        "started_at": iso(job.started_at, site.settings.timezone),
        "ended_at": iso(job.ended_at, site.settings.timezone),
    }
