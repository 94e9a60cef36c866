"""What a scheduler should hold, what it holds, and how its last runs ended: the words of all backends."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from mqi.schedule.order import Order
from mqi.schedule.place import Place

AS_EXPECTED = "as expected"
MISSING = "not installed"
DIFFERS = "differs"
LEFT_OVER = "left over"
OTHERS = "belongs to another configuration"
FOREIGN = "was not made by mqi"


@dataclass(frozen=True, slots=True)
class Item:
    """One thing that the scheduler should hold: a unit file, a task, a line."""

    command: str
    # As the scheduler calls it: unique among the items of an order.
    name: str
    text: str
    # The file that holds it when it is written to a folder, and its bytes there.
    file: str
    data: bytes


@dataclass(frozen=True, slots=True)
class Held:
    """One thing under a name of ours that the scheduler holds. `owner`: its configuration; None: not ours."""

    command: str
    name: str
    text: str
    owner: str | None


@dataclass(frozen=True, slots=True)
class Outcome:
    """The last run of a command as its scheduler knows it. Times are Unix seconds, None for unknown.

    `code` is the raw number and `meaning` what it means; `trouble` is what keeps it from running.
    """

    command: str
    running: bool = False
    last_at: float | None = None
    next_at: float | None = None
    code: int | None = None
    meaning: str = ""
    trouble: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()


class Scheduler(Protocol):
    """A backend. What is pure in it says so; the rest raises SchedulerProblem, NotAllowed, DiskProblem."""

    def expected(self, order: Order, place: Place) -> list[Item]:
        """Pure. Raises ConfigurationProblem for paths that this scheduler cannot take."""

    def differences(self, item: Item, held: Held) -> tuple[str, ...]:
        """Pure, after `held`. What is not as expected, one sentence each."""

    def by_hand(self, order: Order, place: Place, items: Sequence[Item], folder: str) -> list[str]:
        """The commands by which an administrator installs the items whose files are in `folder`.

        Changes nothing; `folder` "" stands for the folder in which the commands are given.
        """

    def held(self) -> list[Held]:
        """Everything under our names."""

    def install(self, order: Order, place: Place, items: Sequence[Item]) -> None:
        """Put the items there, in place of earlier ones with the same names."""

    def remove(self, held: Sequence[Held]) -> None:
        """Take these away. A run that is under way goes on to its end."""

    def outcomes(self, order: Order, place: Place) -> list[Outcome]:
        """How the commands of `order` fared."""


@dataclass(frozen=True, slots=True)
class Standing:
    """How one item or one held thing stands. `state` is one of the words above."""

    command: str
    name: str
    state: str
    details: tuple[str, ...] = ()


def compare(
    items: Sequence[Item],
    held: Sequence[Held],
    config: str,
    differences: Callable[[Item, Held], tuple[str, ...]],
) -> list[Standing]:
    """What is expected and what is there, side by side. Pure."""
    there = {one.name: one for one in held if one.owner in (config, None)}
    others = {one.name: one for one in held if one.owner not in (config, None)}
    standings = []
    for item in items:
        found = there.pop(item.name, None)
        other = others.pop(item.name, None)
        if found is None and other is not None:
            standings.append(Standing(item.command, item.name, OTHERS, (other.owner or "",)))
        elif found is None:
            standings.append(Standing(item.command, item.name, MISSING))
        elif found.owner is None:
            standings.append(Standing(item.command, item.name, FOREIGN))
        else:
            lines = differences(item, found)
            standings.append(Standing(item.command, item.name, DIFFERS if lines else AS_EXPECTED, lines))
    # Of what nobody expects, only what is this configuration's own matters.
    standings += [
        Standing(one.command, one.name, LEFT_OVER) for one in there.values() if one.owner is not None
    ]
    return standings
