"""init and config check: from nothing to a configuration that works."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from mqi.commands.invocation import Invocation, invocation
from mqi.errors import ConfigurationProblem, DiskProblem, MqiError, UsageProblem, exit_code_of


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    app.command()(init)
    group = typer.Typer(no_args_is_help=True, help="The configuration.")
    group.command()(check)
    app.add_typer(group, name="config")


def init(
    context: typer.Context,
    yes: Annotated[
        bool, typer.Option("--yes", "-y", help="Ask nothing; options and defaults answer.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace a configuration that exists.")] = False,
    cases: Annotated[str | None, typer.Option(help="The folder in which case folders appear.")] = None,
    room: Annotated[str | None, typer.Option(help="The treatment room that they come from.")] = None,
    depth: Annotated[
        str | None, typer.Option(help="How many levels below it case folders lie, or `any`.")
    ] = None,
    marker: Annotated[str | None, typer.Option(help="The file that says that a case is complete.")] = None,
    results: Annotated[str | None, typer.Option(help="Where the results go.")] = None,
    python: Annotated[str | None, typer.Option(help="The Python that runs the steps on the host.")] = None,
    timezone: Annotated[str | None, typer.Option(help="The time zone of the screen and the logs.")] = None,
) -> None:
    """Write a commented configuration, from questions or with --yes from options and defaults."""
    from mqi.init_config import QUESTIONS, render_config
    from mqi.resources import packaged_config

    invoked = invocation(context)
    target = (invoked.config or Path.cwd() / "config" / "mqi.yaml").absolute()
    if target.exists() and not force:
        raise UsageProblem(
            f"{target} exists and was left as it is", "replace it with --force, or name another with --config"
        )
    given = {
        "cases": cases, "room": room, "depth": depth, "marker": marker,
        "results": results, "python": python, "timezone": timezone,
    }  # fmt: skip
    if not yes and (sys.stdin is None or not sys.stdin.isatty()):
        raise UsageProblem(
            "there is nobody to ask", "say --yes, and give answers as options: mqi init --help"
        )
    answers: dict[str, str] = {}
    for question in QUESTIONS:
        answer = given[question.key]
        while answer is None and not yes:
            answer = typer.prompt(question.text, default=question.default)
            problem = question.problem(answer)
            if problem:
                typer.echo(f"  {problem}", err=True)
                answer = None
        answer = question.default if answer is None else answer
        if question.is_path and answer:
            # People mean a path from where they stand; in the file it would start at the file's folder.
            answer = os.path.abspath(Path(answer).expanduser())  # noqa: PTH100 - resolve() asks the disk
        answers[question.key] = answer
    try:
        text = render_config(answers, schema=(packaged_config() / "mqi.schema.json").as_uri())
    except ValueError as error:
        raise UsageProblem(str(error)) from error
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8")
    except OSError as error:
        raise DiskProblem(f"{target} cannot be written: {error.strerror or error}") from error
    machine = _example_machine(target.parent, answers["room"])
    lines = [
        f"wrote {target}",
        *([f"wrote {machine}: an example; put the machine's own beam model there"] if machine else []),
        "next: mqi config check; mqi scan --baseline (skips what is there already); then mqi cycle every minute",
    ]
    invoked.print("\n".join(lines), {"config": str(target), "machine": str(machine) if machine else None})


def _example_machine(folder: Path, room: str) -> Path | None:
    """The room's machine file, copied from the example unless there is one; None when there was."""
    from mqi.resources import packaged_config

    target = folder / "machines" / f"{room}.yaml"
    if target.exists():
        return None
    try:
        target.parent.mkdir(exist_ok=True)
        target.write_bytes((packaged_config() / "machines" / "G1.yaml").read_bytes())
    except OSError as error:
        raise DiskProblem(f"{target} cannot be written: {error.strerror or error}") from error
    return target


def check(context: typer.Context) -> None:
    """Check the configuration, the folders and the hosts that it names, and the database."""
    invoked = invocation(context)
    settings = invoked.settings
    lines = [f"configuration  {settings.source}"]
    errors: list[MqiError] = []
    for watch in settings.watch:
        problem = _folder_problem(watch.path, writable=False)
        lines.append(f"room {watch.room}  {watch.path}  {problem or 'ok'}")
        if problem:
            errors.append(DiskProblem(f"watch folder of room {watch.room}: {problem}", f"check {watch.path}"))
    problem = _folder_problem(settings.paths.results, writable=True)
    lines.append(f"results  {settings.paths.results}  {problem or 'ok'}")
    if problem:
        errors.append(DiskProblem(f"results folder: {problem}", f"check {settings.paths.results}"))
    errors += _check_workflows(invoked, lines)
    errors += _check_hosts(invoked, lines)
    value = {
        "config": str(settings.source),
        "checks": lines,
        "errors": [{"message": str(error), "hint": error.hint} for error in errors],
    }
    invoked.print("\n".join(lines), value)
    for error in errors:
        typer.echo(f"mqi: {error}", err=True)
        if error.hint:
            typer.echo(f"  {error.hint}", err=True)
    if errors:
        raise typer.Exit(exit_code_of(errors))


def _folder_problem(path: Path, *, writable: bool) -> str:
    try:
        if writable:
            path.mkdir(parents=True, exist_ok=True)
            probe = path / ".mqi-check"
            probe.write_bytes(b"")
            probe.unlink()
        elif not path.is_dir():
            return "does not exist, or is no folder"
        else:
            next(path.iterdir(), None)
    except OSError as error:
        return error.strerror or type(error).__name__
    return ""


def _check_workflows(invoked: Invocation, lines: list[str]) -> list[MqiError]:
    from mqi.planning import read_attachments
    from mqi.workflow import load_workflow

    errors: list[MqiError] = []
    for name, path in invoked.settings.workflows.items():
        try:
            workflow = load_workflow(path)
            for watch in invoked.settings.watch:
                for step in workflow.steps if watch.workflow == name else ():
                    read_attachments(step, invoked.settings.config_dir, watch.room)
            lines.append(f"workflow {name}  {' -> '.join(step.name for step in workflow.steps)}  ok")
        except ConfigurationProblem as error:
            lines.append(f"workflow {name}  {path}  wrong")
            errors.append(error)
    return errors


def _check_hosts(invoked: Invocation, lines: list[str]) -> list[MqiError]:
    errors: list[MqiError] = []
    with invoked.site() as site:
        lines.append(f"database  {invoked.settings.paths.database}  ok")
        for host in invoked.settings.hosts:
            try:
                answer = site.ask(host.name, [{"verb": "hello"}])
                queue = answer.probe.get("queue") or {}
                words = "ok" if queue.get("ok", True) else str(queue.get("message"))
                lines.append(f"host {host.name}  {host.type}  {host.work_dir}  {words}")
            except MqiError as error:
                lines.append(f"host {host.name}  {host.type}  {host.work_dir}  {error}")
                errors.append(error)
    return errors
