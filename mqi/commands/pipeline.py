"""scan, submit, sync, fetch, cycle, purge: what the scheduler runs."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from mqi.commands.invocation import invocation


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    app.command()(scan)
    app.command()(submit)
    app.command()(sync)
    app.command()(fetch)
    app.command()(cycle)
    app.command()(purge)


def scan(
    context: typer.Context,
    baseline: Annotated[
        bool,
        typer.Option(
            "--baseline",
            help="The first day: mark everything present as skipped, so that years of old folders do not start.",
        ),
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="With --baseline: do not ask.")] = False,
) -> None:
    """Look at the watch folders and record what is there."""
    from mqi.lock import step_lock
    from mqi.steps import scan as step

    if not baseline:
        _run(context, "scan")
        return
    invoked = invocation(context)

    def confirm(count: int) -> bool:
        if yes:
            return True
        if sys.stdin is None or not sys.stdin.isatty():
            typer.echo(f"{count} cases would be marked as skipped; nothing was done. Say --yes to do it.")
            return False
        return typer.confirm(f"Mark {count} cases as skipped?")

    with (
        invoked.site() as site,
        step_lock(site.settings.paths.locks, "scan", site.settings.timing.lock_stall_s),
    ):
        report = step.baseline(site, confirm)
        count = report.counts.get("skipped", 0)
        report.lines = [f"{count} cases marked as skipped"] if count else []
        invoked.finish(site, [report])


def submit(context: typer.Context) -> None:
    """Send new cases to the hosts, within their capacity."""
    _run(context, "submit")


def sync(context: typer.Context) -> None:
    """Ask the hosts how their jobs stand, and tell them what operators want."""
    _run(context, "sync")


def fetch(context: typer.Context) -> None:
    """Bring finished results home, verified."""
    _run(context, "fetch")


def _run(context: typer.Context, name: str) -> None:
    from mqi.steps.cycle import run_step

    invoked = invocation(context)
    with invoked.site() as site:
        invoked.finish(site, [run_step(site, name)])


def cycle(context: typer.Context) -> None:
    """scan, submit, sync and fetch, once each: what the scheduler runs every minute."""
    from mqi.steps.cycle import cycle as run

    invoked = invocation(context)
    with invoked.site() as site:
        invoked.finish(site, run(site))


def purge(
    context: typer.Context,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would be removed.")] = False,
) -> None:
    """Remove from the hosts what was fetched long enough ago (retention: host_runs)."""
    from mqi.steps import StepReport
    from mqi.steps.purge import due_cases, purge_due

    invoked = invocation(context)
    with invoked.site() as site:
        report = StepReport("purge")
        due = len(due_cases(site))
        freed = purge_due(site, report, dry_run=dry_run)
        verb = "would be freed" if dry_run else "freed"
        report.lines.append(f"{due} runs due; {freed / 2**20:.1f} MiB {verb}")
        invoked.finish(site, [report])
