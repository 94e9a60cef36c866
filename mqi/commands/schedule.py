"""schedule install, show, remove: what runs mqi by itself."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mqi.commands.invocation import Invocation, invocation
from mqi.errors import ConfigurationProblem, MqiError, UsageProblem

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mqi.schedule.items import Held, Item, Scheduler
    from mqi.schedule.order import Computer, Order
    from mqi.schedule.place import Place
    from mqi.schedule.report import Beat, Shown

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
    from mqi.schedule.order import complete_order, notes
    from mqi.schedule.record import record_path, write_order

    invoked = invocation(context)
    settings = invoked.settings
    computer = look_around()
    order = complete_order(
        computer,
        backend=backend,
        every=every,
        interval_s=settings.timing.interval_s,
        user=user,
        logon=logon,
        steps=steps,
        on_failure=on_failure,
    )
    place = _place(invoked)
    scheduler = SCHEDULERS[order.backend](order.user, place.config)
    items = scheduler.expected(order, place)
    remarks = notes(order, computer, settings.timing.interval_s, place.paths)
    if dry_run or output is not None:
        folder = "" if output is None else os.path.abspath(output)  # noqa: PTH100  resolve() asks the disk
        if output is not None:
            _write_files(items, Path(folder))
            write_order(record_path(settings.source), order)
        commands = scheduler.by_hand(order, place, items, folder)
        _print_files(invoked, items, folder, commands, remarks)
        return
    _check_ready(computer, order, place)
    _check_free(scheduler, order, place, items, force)
    _check_earlier(computer, order, place)
    scheduler.install(order, place, items)
    scheduler.remove(_left_over(scheduler, items, place))
    write_order(record_path(settings.source), order)
    _say_installed(invoked, scheduler, items, place, remarks)


def show(context: typer.Context) -> None:
    """Compare what is installed with what is expected, and say how the last runs ended."""
    from mqi.schedule.report import as_json, as_text

    invoked = invocation(context)
    shown = _look(invoked)
    now, zone = time.time(), invoked.settings.timezone
    invoked.print(as_text(shown, now, zone), as_json(shown, now, zone))


def remove(
    context: typer.Context,
    backend: BACKEND = "auto",
    force: FORCE = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would be removed.")] = False,
) -> None:
    """Take from the schedulers what `mqi schedule install` has put there for this configuration."""
    from mqi.config import find_config
    from mqi.schedule.computer import SCHEDULERS, look_around
    from mqi.schedule.order import AUTO, choose_backend
    from mqi.schedule.programs import SchedulerProblem, remove_file
    from mqi.schedule.record import read_order, record_path

    invoked = invocation(context)
    # The file's place is enough: a configuration that cannot be read any more must not keep its schedule.
    config = os.path.abspath(find_config(invoked.config, os.environ, Path.cwd()))  # noqa: PTH100
    computer = look_around()
    order = read_order(record_path(Path(config)))
    named = None if backend == AUTO else choose_backend(backend, computer)
    lines = []
    for name in computer.backends if named is None else (named,):
        scheduler = SCHEDULERS[name](order.user if order and order.backend == name else "", config)
        try:
            held = scheduler.held()
        except SchedulerProblem:
            if named is not None or (order is not None and order.backend == name):
                raise
            continue  # nobody asked about this one
        ours = [one for one in held if one.owner == config or (force and one.owner is not None)]
        lines += [f"{'would remove' if dry_run else 'removed'} {one.name} ({name})" for one in ours]
        if not dry_run:
            scheduler.remove(ours)
    if not dry_run and (named is None or (order is not None and order.backend == named)):
        remove_file(record_path(Path(config)))
    invoked.print(
        "\n".join(lines) or f"nothing was scheduled for {config}", {"config": config, "lines": lines}
    )


# --- install -----------------------------------------------------------------------------------------


def _place(invoked: Invocation) -> Place:
    from mqi.schedule.computer import libraries
    from mqi.schedule.place import place_of

    if not sys.executable:
        raise ConfigurationProblem("this Python does not know where its program is", "run mqi from a venv")
    return place_of(invoked.settings, sys.executable, libraries())


def _check_ready(computer: Computer, order: Order, place: Place) -> None:
    """The scheduler is here, and what it shall run runs. Raises UsageProblem, ConfigurationProblem."""
    from mqi.schedule import programs
    from mqi.schedule.place import arguments

    if order.backend not in computer.backends:
        raise UsageProblem(
            f"{order.backend} does not run on this computer, or not for {computer.user}",
            f"here: {', '.join(computer.backends) or 'no scheduler'}; --dry-run shows the files all the same",
        )
    options = arguments(place, "")[:5]
    done = programs.run([place.python, *options, "--version"], cwd=place.folder)
    if done.code != 0 or not done.text.startswith("mqi "):
        raise ConfigurationProblem(
            f"{place.python} {' '.join(options)} does not start: {done.err[-300:] or done.text[-300:]}",
            f"install mqi into that Python: {place.python} -m pip install mqi",
        )


def _check_free(scheduler: Scheduler, order: Order, place: Place, items: Sequence[Item], force: bool) -> None:
    """No name is taken by somebody else. Raises UsageProblem."""
    from mqi.schedule.items import FOREIGN, OTHERS, compare

    for one in compare(items, scheduler.held(), place.config, scheduler.differences):
        if one.state == FOREIGN:
            raise UsageProblem(
                f"{order.backend} has a {one.name} already, which {FOREIGN}",
                "rename or remove that one first",
            )
        if one.state == OTHERS and not force:
            raise UsageProblem(
                f"{order.backend} runs mqi already, for the configuration {one.details[0]}",
                "remove that with its own --config, or replace it with --force; cron can hold several",
            )


def _check_earlier(computer: Computer, order: Order, place: Place) -> None:
    """The configuration is not scheduled in another way already. Raises UsageProblem."""
    from mqi.schedule.computer import SCHEDULERS
    from mqi.schedule.order import CRON
    from mqi.schedule.record import read_order, record_path

    earlier = read_order(record_path(Path(place.config)))
    if earlier is None or earlier.backend not in computer.backends:
        return
    same = earlier.backend == order.backend and (earlier.backend != CRON or earlier.user == order.user)
    if same:
        return
    held = SCHEDULERS[earlier.backend](earlier.user, place.config).held()
    if any(one.owner == place.config for one in held):
        raise UsageProblem(
            f"{earlier.backend} runs this configuration already, for {earlier.user or 'you'}",
            "say mqi schedule remove first",
        )


def _left_over(scheduler: Scheduler, items: Sequence[Item], place: Place) -> list[Held]:
    """What an earlier order has put there under names that this one does not use."""
    names = {item.name for item in items}
    return [one for one in scheduler.held() if one.owner == place.config and one.name not in names]


def _say_installed(
    invoked: Invocation, scheduler: Scheduler, items: Sequence[Item], place: Place, remarks: Sequence[str]
) -> None:
    from mqi.schedule.items import AS_EXPECTED, compare

    standings = compare(items, scheduler.held(), place.config, scheduler.differences)
    lines = [f"installed {one.name}" for one in standings if one.state == AS_EXPECTED]
    for one in standings:
        if one.state != AS_EXPECTED:
            lines += [f"! {one.name}: {one.state}", *(f"    {detail}" for detail in one.details)]
    lines += [f"note: {remark}" for remark in remarks]
    lines.append("how it fares: mqi schedule show")
    value = {"installed": [one.name for one in standings], "notes": list(remarks)}
    invoked.print("\n".join(lines), value)


def _files(items: Sequence[Item]) -> dict[str, tuple[str, bytes]]:
    """File name -> (text, bytes). Items that share a file follow each other in it."""
    files: dict[str, tuple[str, bytes]] = {}
    for item in items:
        text, data = files.get(item.file, ("", b""))
        files[item.file] = (text + item.text.rstrip("\n") + "\n", data + item.data)
    return files


def _write_files(items: Sequence[Item], folder: Path) -> None:
    from mqi.schedule.programs import write_file

    for name, (_text, data) in _files(items).items():
        write_file(folder / name, data)


def _print_files(
    invoked: Invocation, items: Sequence[Item], folder: str, commands: Sequence[str], remarks: Sequence[str]
) -> None:
    files = _files(items)
    parts = [f"wrote {Path(folder) / name}" for name in files] if folder else []
    if not folder:
        parts += [f"--- {name}\n{text}" for name, (text, _data) in files.items()]
    parts += ["--- to install it:", *commands]
    parts += [f"note: {remark}" for remark in remarks]
    value = {
        "files": [{"name": name, "text": text} for name, (text, _data) in files.items()],
        "folder": folder or None,
        "commands": list(commands),
        "notes": list(remarks),
    }
    invoked.print("\n".join(parts), value)


# --- show --------------------------------------------------------------------------------------------


def _look(invoked: Invocation) -> Shown:
    from mqi.schedule.computer import SCHEDULERS, look_around
    from mqi.schedule.items import Outcome, Standing, compare
    from mqi.schedule.record import read_order, record_path
    from mqi.schedule.report import Shown

    settings = invoked.settings
    computer = look_around()
    place = _place(invoked)
    given = read_order(record_path(settings.source))
    problems: list[str] = []
    order = given
    if order is None:
        try:
            order = _default_order(computer, settings.timing.interval_s)
        except UsageProblem:
            pass  # there is nothing to compare with: the advice says what to do
    standings: list[Standing] = []
    outcomes: list[Outcome] = []
    if order is not None and order.backend not in computer.backends:
        problems.append(f"{order.backend} does not run on this computer, or not for {computer.user}")
    elif order is not None:
        scheduler = SCHEDULERS[order.backend](order.user, place.config)
        try:
            items = scheduler.expected(order, place)
            standings = compare(items, scheduler.held(), place.config, scheduler.differences)
            outcomes = scheduler.outcomes(order, place)
        except MqiError as error:
            problems.append(f"{error}{f' ({error.hint})' if error.hint else ''}")
    every_s = order.every_s if order else int(settings.timing.interval_s)
    beats = _beats(invoked, every_s, problems)
    return Shown(order, given is not None, place.python, place.config, standings, outcomes, beats, problems)


def _default_order(computer: Computer, interval_s: float) -> Order:
    """What `install` without options would do."""
    from mqi.schedule.order import AUTO, complete_order

    return complete_order(
        computer,
        backend=AUTO,
        every=None,
        interval_s=interval_s,
        user="",
        logon=None,
        steps=False,
        on_failure="",
    )


def _beats(invoked: Invocation, every_s: int, problems: list[str]) -> list[Beat]:
    from mqi.schedule.report import beats

    steps: dict[str, tuple[float | None, float | None, str]] = {}
    # Looking must not make a database: an administrator's would keep the service's account out.
    if os.path.isfile(invoked.settings.paths.database):  # noqa: PTH113  Path.is_file raises where we may not look
        try:
            with invoked.store() as store:
                steps = store.steps()
        except MqiError as error:
            problems.append(str(error))
    return beats(steps, every_s, time.time())
