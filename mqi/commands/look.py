"""why and logs: what holds a case back, and what its jobs wrote."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mqi.commands.cases import CASE
from mqi.commands.invocation import find_case, invocation
from mqi.errors import HostRefused, UsageProblem
from mqi.job import ENDED, Job, JobState

if TYPE_CHECKING:
    from mqi.rows import Case
    from mqi.site import Site

_CHUNK = 256 * 1024
_FOLLOW_EVERY_S = 1.0


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    app.command()(why)
    app.command()(logs)


def why(context: typer.Context, case: CASE) -> None:
    """Say what a case waits for, since when, what mqi does next and when, and what would help."""
    from dataclasses import asdict

    from mqi.explain import explain
    from mqi.render import facts

    invoked = invocation(context)
    with invoked.store() as store:
        found = find_case(store, case)
        said = explain(
            found,
            store.jobs(found.case_id),
            store.host(found.host) if found.host else None,
            store.steps(),
            interval_s=invoked.settings.timing.interval_s,
            now=store.now(),
            zone=invoked.settings.timezone,
        )
    pairs: list[tuple[str, object]] = [
        ("case", f"{found.case_id}  {found.name}"),
        ("state", said.state),
        ("why", said.why),
        ("since", said.since),
        ("next", said.next),
    ]
    pairs += [("help" if number == 0 else "", line) for number, line in enumerate(said.help)]
    invoked.print(facts(pairs), {"case_id": found.case_id, **asdict(said)})


def logs(
    context: typer.Context,
    case: CASE,
    job: Annotated[
        str | None,
        typer.Option("--job", help="A job's key, a step, or step.bN; else the one that matters most."),
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on while the job runs.")] = False,
    lines: Annotated[
        int, typer.Option("--lines", "-n", min=1, help="How many lines of the end to show.")
    ] = 200,
) -> None:
    """Show what a job wrote: from the host while it is there, else from the results."""
    invoked = invocation(context)
    with invoked.site() as site:
        found = find_case(site.store, case)
        chosen = _choose(site.store.jobs(found.case_id, all_attempts=True), found, job)
        if not invoked.as_json:
            typer.echo(f"--- {chosen.job_key}: {chosen.title()}, {chosen.state}", err=True)
        local = _local_log(found, chosen)
        if local is not None:
            text = local.read_text(encoding="utf-8", errors="replace")
            invoked.print(_tail(text, lines), {"job_key": chosen.job_key, "source": str(local), "text": text})
            return
        if found.purged_at is not None or not found.host:
            raise UsageProblem(
                f"the log of {chosen.job_key} is not on a host any more, nor among the results"
            )
        text, offset, ended = _remote_log(site, found.host, chosen.job_key, -_CHUNK)
        invoked.print(_tail(text, lines), {"job_key": chosen.job_key, "source": found.host, "text": text})
        while follow and not ended:
            time.sleep(_FOLLOW_EVERY_S)
            text, offset, ended = _remote_log(site, found.host, chosen.job_key, offset)
            if text:
                typer.echo(text, nl=False)


def _choose(jobs: list[Job], case: Case, wanted: str | None) -> Job:
    if not jobs:
        raise UsageProblem(
            f"case {case.case_id} has no jobs yet", f"what it waits for: mqi why {case.case_id}"
        )
    newest_first = sorted(jobs, key=lambda job: job.attempt, reverse=True)
    if wanted is not None:
        names = {
            job: (job.job_key, job.job_key.split(".", 1)[1], job.step, _slot_name(job))
            for job in newest_first
        }
        for job in newest_first:
            if wanted in names[job]:
                return job
        known = ", ".join(dict.fromkeys(_slot_name(job) for job in jobs))
        raise UsageProblem(f"case {case.case_id} has no job {wanted!r}", f"its jobs: {known}")
    for state in (JobState.FAILED, JobState.LOST, JobState.RUNNING):
        for job in newest_first:
            if job.state is state:
                return job
    started = [job for job in jobs if job.started_at is not None or job.state in ENDED]
    return max(started or jobs[:1], key=lambda job: job.ended_at or job.started_at or 0.0)


def _slot_name(job: Job) -> str:
    return job.step if job.beam is None else f"{job.step}.b{job.beam}"


def _local_log(case: Case, job: Job) -> Path | None:
    from mqi.steps.bring_home import LOGS, log_name

    if not case.results_path:
        return None
    path = Path(case.results_path) / LOGS / log_name(job)
    return path if path.is_file() else None


def _remote_log(site: Site, host: str, job_key: str, offset: int) -> tuple[str, int, bool]:
    call = {"verb": "log", "job_key": job_key, "offset": offset, "limit": _CHUNK}
    reply = site.ask(host, [call]).replies[0]
    if not reply.get("ok"):
        raise HostRefused(
            str(reply.get("message") or "the host has no log of this job"), str(reply.get("code"))
        )
    text = str(reply.get("text") or "")
    start = int(reply.get("offset") or 0)
    return text, int(reply.get("next") or start + len(text.encode("utf-8"))), bool(reply.get("ended"))


def _tail(text: str, lines: int) -> str:
    return "\n".join(text.splitlines()[-lines:])
