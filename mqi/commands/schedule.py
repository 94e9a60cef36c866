"""schedule install, show, remove: what runs mqi by itself."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mqi.commands.invocation import Invocation, invocation
from mqi.errors import ConfigurationProblem, MqiError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mqi.schedule.items import Item
    from mqi.schedule.place import Place
    from mqi.schedule.show import Steps

BACKEND = Annotated[
    str,
    typer.Option(
        "--backend", metavar="NAME", help="auto, schtasks (Windows), systemd, systemd-user or cron."
    ),
]
FORCE = Annotated[
    bool, typer.Option("--force", help="Also what another configuration of mqi has put under the same names.")
]


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    group = typer.Typer(
        no_args_is_help=True, help="What runs mqi by itself: Task Scheduler, systemd or cron."
    )
    group.command()(install)
    group.command()(show)
    group.command()(remove)
    app.add_typer(group, name="schedule")


def install(
    context: typer.Context,
    backend: BACKEND = "auto",
    every: Annotated[
        str | None,
        typer.Option("--every", metavar="TIME", help="Such as 1m or 5 min; else `timing: interval:`."),
    ] = None,
    user: Annotated[str, typer.Option("--user", help="The account that it runs as.")] = "",
    logon: Annotated[
        str | None,
        typer.Option(
            "--logon",
            metavar="HOW",
            help="Windows: gmsa (a managed account, best), password, s4u (no network shares) or interactive.",
        ),
    ] = None,
    steps: Annotated[
        bool, typer.Option("--steps", help="Run scan, submit, sync and fetch by jobs of their own.")
    ] = False,
    on_failure: Annotated[
        str,
        typer.Option(
            "--on-failure", metavar="UNIT", help="systemd: a unit that is started when a run fails."
        ),
    ] = "",
    force: FORCE = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only show the files and the administrator's commands.")
    ] = False,
    output: Annotated[
        Path | None,
        typer.Option("--output", metavar="FOLDER", help="Write the files there, for an administrator."),
    ] = None,
) -> None:
    """Let this computer's scheduler run mqi."""
    from mqi.schedule.computer import SCHEDULERS, look_around
    from mqi.schedule.install import install as put
    from mqi.schedule.install import write_files
    from mqi.schedule.items import AS_EXPECTED
    from mqi.schedule.order import complete_order, notes

    invoked = invocation(context)
    interval_s = invoked.settings.timing.interval_s
    computer = look_around()
    order = complete_order(
        computer,
        backend=backend,
        every=every,
        interval_s=interval_s,
        user=user,
        logon=logon,
        steps=steps,
        on_failure=on_failure,
    )
    place = _place(invoked)
    remarks = notes(order, computer, interval_s, place.paths)
    if dry_run or output is not None:
        scheduler = SCHEDULERS[order.backend](order.user, place.config)
        items = scheduler.expected(order, place)
        folder = "" if output is None or dry_run else os.path.abspath(output)  # noqa: PTH100  resolve() asks the disk
        commands = scheduler.by_hand(order, place, items, folder)
        if folder:
            write_files(order, place, items, Path(folder))
        _print_files(invoked, items, folder, commands, remarks)
        return
    standings = put(computer, order, place, force=force)
    lines = []
    for one in standings:
        known = one.state == AS_EXPECTED
        lines.append(f"installed {one.name}" if known else f"! {one.name}: {one.state}")
        lines += [f"    {detail}" for detail in one.details]
    lines += [f"note: {remark}" for remark in remarks]
    lines.append("how it fares: mqi schedule show")
    value = {
        "installed": [one.name for one in standings],
        "as_expected": all(one.state == AS_EXPECTED for one in standings),
        "notes": remarks,
    }
    invoked.print("\n".join(lines), value)


def show(context: typer.Context) -> None:
    """Compare what is installed with what is expected, and say how the last runs ended."""
    from mqi.schedule.computer import look_around
    from mqi.schedule.report import as_json, as_text
    from mqi.schedule.show import show as look

    invoked = invocation(context)
    now, zone = time.time(), invoked.settings.timezone
    steps, problem = _steps(invoked)
    shown = look(look_around(), invoked.settings, _place(invoked), steps, now, problem)
    invoked.print(as_text(shown, now, zone), as_json(shown, now, zone))


def remove(
    context: typer.Context,
    backend: BACKEND = "auto",
    force: FORCE = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would be removed.")] = False,
) -> None:
    """Take from the schedulers what `mqi schedule install` has put there for this configuration."""
    from mqi.config_place import find_config
    from mqi.schedule.computer import look_around
    from mqi.schedule.remove import remove as take

    invoked = invocation(context)
    # The file's place is enough: a configuration that cannot be read any more must not keep its schedule.
    config = os.path.abspath(find_config(invoked.config, os.environ, Path.cwd()))  # noqa: PTH100
    lines = take(look_around(), Path(config), backend=backend, force=force, dry_run=dry_run)
    invoked.print(
        "\n".join(lines) or f"nothing was scheduled for {config}", {"config": config, "lines": lines}
    )


def _place(invoked: Invocation) -> Place:
    from mqi.schedule.computer import libraries
    from mqi.schedule.place import place_of

    if not sys.executable:
        raise ConfigurationProblem("this Python does not know where its program is", "run mqi from a venv")
    return place_of(invoked.settings, sys.executable, libraries())


def _print_files(
    invoked: Invocation, items: Sequence[Item], folder: str, commands: Sequence[str], remarks: Sequence[str]
) -> None:
    from mqi.schedule.install import files_of

    files = files_of(items)
    if folder:
        parts = [f"wrote {Path(folder) / name}" for name in files]
    else:
        parts = [f"--- {name}\n{text}" for name, (text, _data) in files.items()]
    parts += ["--- to install it:", *commands, *(f"note: {remark}" for remark in remarks)]
    value = {
        "files": [{"name": name, "text": text} for name, (text, _data) in files.items()],
        "folder": folder or None,
        "commands": list(commands),
        "notes": list(remarks),
    }
    invoked.print("\n".join(parts), value)


def _steps(invoked: Invocation) -> tuple[Steps, str]:
    """The signs of life in the database, and why there are none."""
    # Looking must not make a database: an administrator's would keep the service's account out.
    if not os.path.isfile(invoked.settings.paths.database):  # noqa: PTH113  Path.is_file raises where we may not look
        return {}, ""
    try:
        with invoked.store() as store:
            return store.steps(), ""
    except MqiError as error:
        return {}, str(error)
