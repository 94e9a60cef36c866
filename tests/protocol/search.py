"""Every world that can be reached, the shortest way to a broken promise, and the worlds that cannot end.

A world is a control PC, a host and a budget. Both sides' moves are worked out once for each of their states
and kept, so that a world is no more than a number made of three small numbers.
"""

from __future__ import annotations

from array import array
from collections.abc import Hashable, Iterator
from typing import Generic, NamedTuple, TypeVar

from tests.protocol import control, host
from tests.protocol.promises import (
    SETTLED_IS_SETTLED,
    STUCK,
    computes,
    control_breaks,
    host_breaks,
    is_rest,
    wants_silence,
)
from tests.protocol.world import Answer, Budget, Control, Host, Request, Settings

_T = TypeVar("_T", bound=Hashable)
_Label = tuple[object, ...]


class Found(NamedTuple):
    """What a search found. `trace`: the shortest way to what is `wrong`; `labels`: all that happened."""

    worlds: int
    wrong: str
    trace: tuple[str, ...]
    labels: frozenset[str]


class _Numbered(Generic[_T]):
    """Values and their numbers, in the order in which they were met."""

    def __init__(self) -> None:
        self.values: list[_T] = []
        self._numbers: dict[_T, int] = {}

    def number(self, value: _T) -> int:
        found = self._numbers.get(value)
        if found is None:
            found = self._numbers[value] = len(self.values)
            self.values.append(value)
        return found


class _Search:
    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.controls: _Numbered[Control] = _Numbered()
        self.hosts: _Numbered[Host] = _Numbered()
        self.budgets: _Numbered[Budget] = _Numbered()
        self.answers: _Numbered[tuple[str, Answer | None]] = _Numbered()
        self.labels: _Numbered[_Label] = _Numbered()
        self.requests: _Numbered[Request] = _Numbered()
        self._alone: dict[int, list[tuple[int, str, int, str]]] = {}
        self._asks: dict[int, list[tuple[int, int, bool]]] = {}
        self._works: dict[int, list[tuple[int, str, int, int, str]]] = {}
        self._arrivals: dict[tuple[int, int], list[tuple[int, str, int, int, str]]] = {}
        self._answered: dict[tuple[int, int], tuple[int, str]] = {}
        self._paid: dict[tuple[int, str], int] = {}
        self._silent: dict[int, bool] = {}
        self._busy: dict[int, bool] = {}

    # Each of the following is worked out once per state; what comes back is numbers.

    def _control_moves(self, here: int) -> list[tuple[int, str, int, str]]:
        if here not in self._alone:
            self._alone[here] = [
                (self.labels.number(move.label), move.cost, self._control(move.after), control_breaks(move.after))
                for move in control.moves(self.controls.values[here], self.settings)
                if isinstance(move.after, Control) and self._is_possible(move.cost)
            ]
        return self._alone[here]

    def _control(self, value: Control) -> int:
        number = self.controls.number(value)
        self._silent.setdefault(number, wants_silence(value))
        return number

    def _is_possible(self, cost: str) -> bool:
        budget = self.settings.budget
        if cost == "cut":
            return bool(budget.late or budget.kills)
        return cost in ("", "free") or bool(getattr(budget, cost))

    def _host_moves(self, here: int) -> list[tuple[int, str, int, int, str]]:
        if here not in self._works:
            self._works[here] = self._of_host(here, host.moves(self.hosts.values[here], self.settings))
        return self._works[here]

    def _arrival_moves(self, here: int, request: int) -> list[tuple[int, str, int, int, str]]:
        key = (here, request)
        if key not in self._arrivals:
            arriving = host.arrivals(self.hosts.values[here], self.settings, self.requests.values[request])
            self._arrivals[key] = self._of_host(here, arriving)
        return self._arrivals[key]

    def _of_host(self, here: int, moves: Iterator[host.Move]) -> list[tuple[int, str, int, int, str]]:
        found = []
        for move in moves:
            if isinstance(move.after, Host) and self._is_possible(move.cost):
                there = self.hosts.number(move.after)
                self._busy.setdefault(there, computes(move.after))
                reply = self.answers.number((move.reply_to, move.answer)) if move.reply_to else -1
                wrong = host_breaks(self.hosts.values[here], move.after)
                found.append((self.labels.number(move.label), move.cost, there, reply, wrong))
        return found

    def _requests(self, here: int) -> list[tuple[int, int, bool]]:
        if here not in self._asks:
            self._asks[here] = [
                (self.requests.number(request), self._control(after), waits)
                for request, after, waits in control.requests(self.controls.values[here])
            ]
        return self._asks[here]

    def _after_answer(self, here: int, answer: int) -> tuple[int, str]:
        if answer < 0:
            return here, ""
        key = (here, answer)
        if key not in self._answered:
            after = control.answered(self.controls.values[here], *self.answers.values[answer])
            self._answered[key] = self._control(after), control_breaks(after)
        return self._answered[key]

    def _after_paying(self, budget: int, cost: str) -> int:
        """The budget that is left, or -1 when there is none for this."""
        if not cost or cost == "free":
            return budget
        key = (budget, cost)
        if key not in self._paid:
            left = self.budgets.values[budget]
            name = ("late" if left.late else "kills") if cost == "cut" else cost
            have = getattr(left, name)
            self._paid[key] = self.budgets.number(left._replace(**{name: have - 1})) if have else -1
        return self._paid[key]

    def successors(self, world: int) -> Iterator[tuple[int, bool, str, int]]:
        """(label, whether mqi does it by itself, the promise that it breaks or "", the world afterwards)."""
        here_c, here_h, here_b = world >> 44, world >> 16 & 0xFFFFFFF, world & 0xFFFF
        rest = here_h << 16
        for label, cost, there_c, wrong in self._control_moves(here_c):
            budget = self._after_paying(here_b, cost)
            if budget >= 0:
                if self._silent[there_c] and self._busy[here_h]:
                    wrong = wrong or SETTLED_IS_SETTLED
                yield label, not cost, wrong, there_c << 44 | rest | budget
        for label, cost, there_h, reply, wrong in self._host_moves(here_h):
            budget = self._after_paying(here_b, cost)
            if budget >= 0:
                yield self._both(here_c, there_h, budget, label, not cost, wrong, reply)
        for request, there_c, waits in self._requests(here_c):
            for label, cost, there_h, reply, wrong in self._arrival_moves(here_h, request):
                budget = self._after_paying(here_b, cost)
                if budget >= 0:
                    yield self._both(there_c, there_h, budget, label, waits and not cost, wrong, reply)

    def _both(
        self, there_c: int, there_h: int, budget: int, label: int, alone: bool, wrong: str, reply: int
    ) -> tuple[int, bool, str, int]:
        there_c, also_wrong = self._after_answer(there_c, reply)
        if self._silent[there_c] and self._busy[there_h]:
            also_wrong = also_wrong or SETTLED_IS_SETTLED
        return label, alone, wrong or also_wrong, there_c << 44 | there_h << 16 | budget

    def first(self) -> int:
        """A complete folder was seen, and nothing else has happened."""
        here_c, here_h = self._control(Control()), self.hosts.number(Host())
        self._busy[here_h] = False
        return here_c << 44 | here_h << 16 | self.budgets.number(self.settings.budget)

    def rests(self, world: int) -> bool:
        return is_rest(self.controls.values[world >> 44])


def explore(settings: Settings, *, most: int = 5_000_000) -> Found:
    """All worlds, breadth first. Stops at the first broken promise. Raises MemoryError beyond `most` worlds."""
    search = _Search(settings)
    worlds = [search.first()]
    number = {worlds[0]: 0}
    came_from, by = array("q", [-1]), array("q", [-1])
    # mqi's own moves: what leads to whatever can still end.
    sources, targets = array("q"), array("q")

    def found(wrong: str, here: int) -> Found:
        words = []
        while here > 0:
            words.append(" ".join(str(part) for part in search.labels.values[by[here]]))
            here = came_from[here]
        labels = frozenset(str(label[0]) for label in search.labels.values)
        return Found(len(worlds), wrong, tuple(reversed(words)), labels)

    for here, world in enumerate(worlds):
        for label, alone, wrong, after in search.successors(world):
            there = number.get(after)
            if there is None or wrong:
                there = number[after] = len(worlds)
                worlds.append(after)
                came_from.append(here)
                by.append(label)
                if wrong:
                    return found(wrong, there)
            if alone:
                sources.append(here)
                targets.append(there)
        if len(worlds) > most:
            raise MemoryError(f"more than {most} worlds")
    stuck = _first_stuck(len(worlds), [search.rests(world) for world in worlds], sources, targets)
    return found("", 0) if stuck is None else found(STUCK, stuck)


def _first_stuck(count: int, ends: list[bool], sources: array[int], targets: array[int]) -> int | None:
    """The first world from which no way of mqi's own leads to an end."""
    before: list[list[int]] = [[] for _ in range(count)]
    for source, target in zip(sources, targets, strict=True):
        before[target].append(source)
    todo = [here for here in range(count) if ends[here]]
    while todo:
        for earlier in before[todo.pop()]:
            if not ends[earlier]:
                ends[earlier] = True
                todo.append(earlier)
    return next((here for here in range(count) if not ends[here]), None)
