"""install: put an order into the scheduler, when nothing is in its way, and look whether it is there."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mqi.errors import ConfigurationProblem, UsageProblem
from mqi.schedule import programs
from mqi.schedule.computer import SCHEDULERS
from mqi.schedule.items import FOREIGN, MISSING, OTHERS, Held, Item, Scheduler, Standing, compare
from mqi.schedule.order import CRON, Computer, Order
from mqi.schedule.place import Place, arguments
from mqi.schedule.programs import SchedulerProblem
from mqi.schedule.record import read_order, record_path, write_order


def install(computer: Computer, order: Order, place: Place, *, force: bool) -> list[Standing]:
    """Install, and read back what the scheduler made of it. May be repeated.

    `force`: replace what another configuration has under the same names; what is not mqi's is never
    touched. Raises UsageProblem, ConfigurationProblem, SchedulerProblem, NotAllowed, DiskProblem.
    """
    if order.backend not in computer.backends:
        raise UsageProblem(
            f"{order.backend} does not run on this computer, or not for {computer.user}",
            f"here: {', '.join(computer.backends) or 'no scheduler'}; --dry-run shows the files all the same",
        )
    scheduler = SCHEDULERS[order.backend](order.user, place.config)
    items = scheduler.expected(order, place)
    _check_starts(place)
    _check_free(scheduler, order, place, items, force)
    _check_earlier(computer, order, place)
    scheduler.install(order, place, items)
    scheduler.remove(_left_over(scheduler, items, place))
    write_order(record_path(Path(place.config)), order)
    standings = compare(items, scheduler.held(), place.config, scheduler.differences)
    gone = [one.name for one in standings if one.state == MISSING]
    if gone:
        raise SchedulerProblem(
            f"{order.backend} took {', '.join(gone)} without complaint, and does not show it now",
            "look with its own tools, as administrator; then mqi schedule show",
        )
    return standings


def files_of(items: Sequence[Item]) -> dict[str, tuple[str, bytes]]:
    """File name -> (text, bytes). Items that share a file follow each other in it. Pure."""
    files: dict[str, tuple[str, bytes]] = {}
    for item in items:
        text, data = files.get(item.file, ("", b""))
        files[item.file] = (text + item.text.rstrip("\n") + "\n", data + item.data)
    return files


def write_files(order: Order, place: Place, items: Sequence[Item], folder: Path) -> None:
    """Write the files for an administrator; `show` compares with this order from now on."""
    for name, (_text, data) in files_of(items).items():
        programs.write_file(folder / name, data)
    write_order(record_path(Path(place.config)), order)


def _check_starts(place: Place) -> None:
    """What the scheduler shall run runs. Raises ConfigurationProblem."""
    options = arguments(place, "")[:5]
    done = programs.run([place.python, *options, "--version"], cwd=place.folder)
    if done.code != 0 or not done.text.startswith("mqi "):
        raise ConfigurationProblem(
            f"{place.python} {' '.join(options)} does not start: {done.err[-300:] or done.text[-300:]}",
            f"install mqi into that Python: {place.python} -m pip install mqi",
        )


def _check_free(scheduler: Scheduler, order: Order, place: Place, items: Sequence[Item], force: bool) -> None:
    """No name is taken by somebody else. Raises UsageProblem."""
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
