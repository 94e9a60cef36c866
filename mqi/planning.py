"""From a case to the plan that the host gets: what runs, under which names, with which definitions."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mqi.errors import ConfigurationProblem
from mqi.job import Choice, Job, JobState, choose_attempts, job_key, observe, parse_job_key
from mqi.manifest import Manifest
from mqi.rows import Case
from mqi.workflow import JobPlan, Step, Workflow, expand


class Attachment(NamedTuple):
    """A configuration file (a machine model, say) that travels with the jobs of a step."""

    name: str
    path: Path
    size: int
    sha256: str


def read_attachments(step: Step, config_dir: Path, room: str) -> tuple[Attachment, ...]:
    """The files that a step names, read and hashed. Raises ConfigurationProblem for one that is missing."""
    found = []
    for name in step.files_in_room(room):
        path = config_dir / name
        try:
            content = path.read_bytes()
        except OSError as error:
            raise ConfigurationProblem(
                f"step {step.name} needs the file {name}, which cannot be read: {error.strerror}",
                f"put it into {config_dir}, or take it out of the step's `files:`",
            ) from error
        found.append(Attachment(path.name, path, len(content), hashlib.sha256(content).hexdigest()))
    return tuple(found)


def digest_of_scripts(folder: Path, step: Step) -> str:
    """SHA-256 over the names and contents of the remote scripts that are part of a step's definition."""
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = path.relative_to(folder).as_posix()
        if step.uses_script(name):
            digest.update(name.encode("utf-8") + b"\0")
            # Line ends differ between a Windows and a Linux checkout of the same version.
            digest.update(hashlib.sha256(path.read_bytes().replace(b"\r\n", b"\n")).digest())
    return digest.hexdigest()


class Frozen(NamedTuple):
    """What `begin` freezes: the plan for the host, its jobs, and what each job is for."""

    plan: dict[str, Any]
    jobs: tuple[Job, ...]
    choices: tuple[Choice, ...]


def freeze(
    case: Case,
    manifest: Manifest,
    digest: str,
    run_key: str,
    workflow: Workflow,
    *,
    scripts: str,
    scripts_digest: Callable[[Step], str],
    attachments: Mapping[str, Sequence[Attachment]],
    history: Sequence[Job],
    from_step: str | None = None,
    redo_all: bool = False,
) -> Frozen:
    """The plan of a case's next submission, with serial `case.plan_serial + 1`.

    `history` holds the attempts so far; `attachments` the files per step, `scripts_digest` what the scripts
    hold that are part of a step's definition (see `digest_of_scripts`). Pure.
    """

    def files_digest(step: Step) -> str:
        entries = [(file.name, file.sha256) for file in attachments.get(step.name, ())]
        return hashlib.sha256(json.dumps(entries).encode("utf-8")).hexdigest()

    beams = case.beam_numbers
    expansion = expand(workflow, beams, scripts_digest=scripts_digest, files_digest=files_digest)
    choices = choose_attempts(expansion, history, from_step=from_step, redo_all=redo_all)
    keys = {
        (c.plan.step, c.plan.beam): job_key(run_key, c.plan.step, c.plan.beam, c.attempt) for c in choices
    }
    old = {job.job_key: job for job in history}
    jobs, planned = [], []
    for choice in choices:
        step = workflow.step(choice.plan.step)
        key = keys[choice.plan.step, choice.plan.beam]
        planned.append(
            _job_plan(step, choice.plan, key, choice.attempt, keys, attachments.get(step.name, ()))
        )
        jobs.append(
            old[key]
            if choice.keep
            else Job(
                job_key=key,
                case_id=case.case_id,
                step=step.name,
                beam=choice.plan.beam,
                attempt=choice.attempt,
                state=JobState.PLANNED,
                definition=choice.plan.definition,
                group=step.group,
            )
        )
    plan = {
        "format": 1,
        "run_key": run_key,
        "digest": digest,
        "serial": case.plan_serial + 1,
        "scripts": scripts,
        "priority": case.priority,
        "held": case.held,
        "cancel": False,
        "inputs": [
            {"n": f"{number:06d}", "path": entry.path, "size": entry.size, "sha256": entry.sha256}
            for number, entry in enumerate(manifest.entries, start=1)
        ],
        "jobs": planned,
    }
    return Frozen(plan, tuple(jobs), choices)


def _job_plan(
    step: Step,
    plan: JobPlan,
    key: str,
    attempt: int,
    keys: Mapping[tuple[str, int | None], str],
    files: Sequence[Attachment],
) -> dict[str, Any]:
    return {
        "job_key": key,
        "step": step.name,
        "beam": plan.beam,
        "attempt": attempt,
        "argv": list(step.run),
        "needs": [keys[need] for need in plan.needs],
        "group": step.group,
        "gpu": step.gpu,
        "time_limit_s": step.time_limit_s,
        "outputs": list(step.outputs),
        "files": [{"name": file.name, "sha256": file.sha256, "size": file.size} for file in files],
        "parameters": dict(step.parameters),
        "definition": plan.definition,
    }


def with_next_attempt(plan: Mapping[str, Any], lost: Sequence[Job]) -> tuple[dict[str, Any], tuple[Job, ...]]:
    """The plan with a<k+1> in place of each of these jobs, and the new jobs. The serial goes up by one.

    Jobs that wait for a replaced one now need its successor; they have not started, so their own key
    stays.
    """
    run_key = str(plan["run_key"])
    successor = {job.job_key: job_key(run_key, job.step, job.beam, job.attempt + 1) for job in lost}
    jobs = []
    for planned in plan["jobs"]:
        key = str(planned["job_key"])
        changed = {**planned, "needs": [successor.get(need, need) for need in planned["needs"]]}
        if key in successor:
            changed |= {"job_key": successor[key], "attempt": int(planned["attempt"]) + 1}
        jobs.append(changed)
    fresh = tuple(
        Job(
            job_key=successor[job.job_key],
            case_id=job.case_id,
            step=job.step,
            beam=job.beam,
            attempt=job.attempt + 1,
            state=JobState.PLANNED,
            definition=job.definition,
            group=job.group,
        )
        for job in lost
    )
    return {**plan, "jobs": jobs, "serial": int(plan["serial"]) + 1}, fresh


def needs_of(plan: Mapping[str, Any]) -> dict[tuple[str, int | None], list[tuple[str, int | None]]]:
    """(step, beam) -> what it consumes, as (step, beam), for the jobs of a frozen plan."""
    slots = {str(job["job_key"]): (str(job["step"]), job["beam"]) for job in plan["jobs"]}
    return {
        (str(job["step"]), job["beam"]): [slots[need] for need in job["needs"] if need in slots]
        for job in plan["jobs"]
    }


def jobs_of_receipt(receipt: Mapping[str, Any], case_id: int, known: Sequence[Job]) -> tuple[Job, ...]:
    """Job rows for what a host's receipt says has run: their keys are spent, their outputs are gone.

    `known`: the rows that the database has; what they tell stays (an ended job never changes again).
    """
    rows = {job.job_key: job for job in known}
    jobs = []
    for key, exit_ in (receipt.get("jobs") or {}).items():
        job = rows.get(str(key))
        if job is None:
            _run, step, beam, attempt = parse_job_key(str(key))
            job = Job(str(key), case_id, step, beam, attempt, JobState.PLANNED, "")
        jobs.append(observe(job, {"state": "ended", "exit": exit_} if exit_ else {"state": "cancelled"}))
    return tuple(jobs)


def jobs_of_plan(plan: Mapping[str, Any], case_id: int) -> tuple[Job, ...]:
    """Fresh job rows for a plan that the host already holds (a lost or restored database)."""
    return tuple(
        Job(
            job_key=str(job["job_key"]),
            case_id=case_id,
            step=str(job["step"]),
            beam=job["beam"],
            attempt=int(job["attempt"]),
            state=JobState.PLANNED,
            definition=str(job["definition"]),
            group=str(job["group"]),
        )
        for job in plan["jobs"]
    )
