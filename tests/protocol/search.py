"""Every world that can be reached, the shortest way to a broken promise, and the worlds that cannot end.

A world is a control PC, a host and a budget. The moves of each side are worked out once for each of its
states and kept, so that a world is no more than one number made of three small ones.
"""

from __future__ import annotations

from array import array
from collections.abc import Hashable, Iterator
from itertools import accumulate
from typing import Generic, NamedTuple, TypeVar

from tests.protocol import control, host
from tests.protocol.model import Budget, Settings
from tests.protocol.promises import (
    FETCHED_FIRST,
    SETTLED_IS_SETTLED,
    STUCK,
    UNASKED,
    computes,
    control_breaks,
    has_unasked,
    host_breaks,
    is_rest,
    purged_serial,
    unfetched_serial,
    wants_each_once,
    wants_silence,
)
from tests.protocol.world import Answer, Control, Host, Move, Request

_T = TypeVar("_T", bound=Hashable)


class Found(NamedTuple):
    """What a search found. `trace`: the shortest way to what is `wrong`; `labels`: what happened;
    `changes`: from which state of the case to which a move of the control PC led."""

    worlds: int
    wrong: str
    trace: tuple[str, ...]
    labels: frozenset[str]
    changes: frozenset[tuple[str, str]]


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


class _Way(NamedTuple):
    """A move in numbers. `reply`: -1 for none. `wrong`: the promise that it breaks, or ""."""

    label: int
    cost: str
    there: int
    reply: int
    wrong: str


class _Step(NamedTuple):
    """A move of the whole world. `alone`: mqi does it by itself."""

    label: int
    alone: bool
    wrong: str
    world: int


class _Search:
    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.controls: _Numbered[Control] = _Numbered()
        self.hosts: _Numbered[Host] = _Numbered()
        self.budgets: _Numbered[Budget] = _Numbered()
        self.answers: _Numbered[tuple[str, Answer | None]] = _Numbered()
        self.requests: _Numbered[Request] = _Numbered()
        self.labels: _Numbered[tuple[object, ...]] = _Numbered()
        self.changes: set[tuple[str, str]] = set()
        self._control_ways: dict[int, list[_Way]] = {}
        self._host_ways: dict[int, list[_Way]] = {}
        self._arrival_ways: dict[tuple[int, int], list[_Way]] = {}
        self._requests_of: dict[int, list[tuple[int, int, bool]]] = {}
        self._after_answers: dict[tuple[int, int], tuple[int, str]] = {}
        self._after_paying: dict[tuple[int, str], int] = {}
        # What the promises about both sides at once look at.
        self._silent: dict[int, bool] = {}
        self._busy: dict[int, bool] = {}
        self._each_once: dict[int, bool] = {}
        self._unasked: dict[int, bool] = {}
        self._unfetched: dict[int, int] = {}
        self._purged: dict[int, int] = {}

    # --- the two sides: everything is worked out once per state, and what comes back is numbers

    def _control(self, value: Control) -> int:
        number = self.controls.number(value)
        if number not in self._silent:
            self._silent[number] = wants_silence(value)
            self._each_once[number] = wants_each_once(value)
            self._unfetched[number] = unfetched_serial(value)
        return number

    def _host(self, value: Host) -> int:
        number = self.hosts.number(value)
        if number not in self._busy:
            self._busy[number] = computes(value)
            self._unasked[number] = has_unasked(value)
            self._purged[number] = purged_serial(value)
        return number

    def _ways_of_control(self, here: int) -> list[_Way]:
        if here not in self._control_ways:
            before = self.controls.values[here]
            ways = self._control_ways[here] = []
            for move in control.moves(before, self.settings):
                if self._is_possible(move.cost) and isinstance(move.after, Control):
                    wrong = control_breaks(move.after)
                    there = self._control(move.after)
                    ways.append(_Way(self.labels.number(move.label), move.cost, there, -1, wrong))
                    if before.row and move.after.row and move.cost != "restored":
                        self.changes.add((before.row.status, move.after.row.status))
        return self._control_ways[here]

    def _ways_of_host(self, here: int) -> list[_Way]:
        if here not in self._host_ways:
            self._host_ways[here] = self._of_host(here, host.moves(self.hosts.values[here], self.settings))
        return self._host_ways[here]

    def _ways_of_arrival(self, here: int, request: int) -> list[_Way]:
        key = (here, request)
        if key not in self._arrival_ways:
            arriving = host.arrivals(self.hosts.values[here], self.settings, self.requests.values[request])
            self._arrival_ways[key] = self._of_host(here, arriving)
        return self._arrival_ways[key]

    def _of_host(self, here: int, moves: Iterator[Move]) -> list[_Way]:
        ways = []
        for move in moves:
            if self._is_possible(move.cost) and isinstance(move.after, Host):
                reply = self.answers.number((move.reply_to, move.answer)) if move.reply_to else -1
                wrong = host_breaks(self.hosts.values[here], move.after)
                there = self._host(move.after)
                ways.append(_Way(self.labels.number(move.label), move.cost, there, reply, wrong))
        return ways

    def _asked(self, here: int) -> list[tuple[int, int, bool]]:
        if here not in self._requests_of:
            self._requests_of[here] = [
                (self.requests.number(request), self._control(after), waits)
                for request, after, waits in control.requests(self.controls.values[here])
            ]
        return self._requests_of[here]

    def _answered(self, here: int, reply: int) -> tuple[int, str]:
        key = (here, reply)
        if key not in self._after_answers:
            after = control.answered(self.controls.values[here], *self.answers.values[reply])
            self._after_answers[key] = self._control(after), control_breaks(after)
        return self._after_answers[key]

    # --- the budget

    def _is_possible(self, cost: str) -> bool:
        budget = self.settings.budget
        if cost == "cut":
            return bool(budget.late or budget.kills)
        return cost in ("", "free") or bool(getattr(budget, cost))

    def _paid(self, budget: int, cost: str) -> int:
        """The budget that is left; -1 when there is none for this."""
        if not cost or cost == "free":
            return budget
        key = (budget, cost)
        if key not in self._after_paying:
            left = self.budgets.values[budget]
            # A step that is cut off may have been killed or not: whichever leaves more for others.
            name = ("late" if left.late else "kills") if cost == "cut" else cost
            have = getattr(left, name)
            after = self.budgets.number(left._replace(**{name: have - 1})) if have else -1
            self._after_paying[key] = after
        return self._after_paying[key]

    # --- worlds

    def first(self) -> int:
        """A complete folder was seen, and nothing else has happened."""
        return self._world(
            self._control(Control()), self._host(Host()), self.budgets.number(self.settings.budget)
        )

    @staticmethod
    def _world(control_: int, host_: int, budget: int) -> int:
        return control_ << 44 | host_ << 16 | budget

    def rests(self, world: int) -> bool:
        return is_rest(self.controls.values[world >> 44])

    def next_steps(self, world: int) -> Iterator[_Step]:
        """Everything that can happen next in the whole world."""
        control_, host_, budget = world >> 44, world >> 16 & 0xFFFFFFF, world & 0xFFFF
        for way in self._ways_of_control(control_):
            left = self._paid(budget, way.cost)
            if left >= 0:
                yield self._both(way, way.there, host_, left, not way.cost)
        for way in self._ways_of_host(host_):
            left = self._paid(budget, way.cost)
            if left >= 0:
                yield self._both(way, control_, way.there, left, not way.cost)
        for request, asked, waits in self._asked(control_):
            for way in self._ways_of_arrival(host_, request):
                left = self._paid(budget, way.cost)
                if left >= 0:
                    yield self._both(way, asked, way.there, left, waits and not way.cost)

    def _both(self, way: _Way, control_: int, host_: int, budget: int, alone: bool) -> _Step:
        wrong = way.wrong
        if way.reply >= 0:
            control_, also = self._answered(control_, way.reply)
            wrong = wrong or also
        if not wrong and self._silent[control_] and self._busy[host_]:
            wrong = SETTLED_IS_SETTLED
        if not wrong and self._unasked[host_] and self._each_once[control_]:
            wrong = UNASKED
        if not wrong and self._purged[host_] and self._purged[host_] == self._unfetched[control_]:
            wrong = FETCHED_FIRST
        return _Step(way.label, alone, wrong, self._world(control_, host_, budget))


def explore(settings: Settings, *, most: int = 10_000_000) -> Found:
    """All worlds, breadth first. Stops at the first broken promise. Raises MemoryError beyond `most` worlds."""
    search = _Search(settings)
    worlds = [search.first()]
    number = {worlds[0]: 0}
    came_from, by = array("i", [-1]), array("i", [-1])
    met: set[int] = set()
    # mqi's own moves: what leads to whatever can still end.
    sources, targets = array("i"), array("i")

    def found(wrong: str, here: int) -> Found:
        words = []
        while here > 0:
            words.append(" ".join(str(part) for part in search.labels.values[by[here]]).strip())
            here = came_from[here]
        labels = frozenset(str(search.labels.values[label][0]) for label in met)
        return Found(len(worlds), wrong, tuple(reversed(words)), labels, frozenset(search.changes))

    for here, world in enumerate(worlds):  # which grows meanwhile
        for label, alone, wrong, after in search.next_steps(world):
            met.add(label)
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
    stuck = _first_stuck(bytearray(map(search.rests, worlds)), sources, targets)
    return found("", 0) if stuck < 0 else found(STUCK, stuck)


def _first_stuck(ends: bytearray, sources: array[int], targets: array[int]) -> int:
    """The first world from which no way of mqi's own leads to an end (`ends` is 1); -1 when there is none."""
    counts = array("i", bytes(4 * (len(ends) + 1)))
    for target in targets:
        counts[target + 1] += 1
    starts = array("i", accumulate(counts))
    place, before = array("i", starts), array("i", bytes(4 * len(sources)))
    for source, target in zip(sources, targets, strict=True):
        before[place[target]] = source
        place[target] += 1
    todo = [here for here, is_end in enumerate(ends) if is_end]
    while todo:
        here = todo.pop()
        for earlier in before[starts[here] : starts[here + 1]]:
            if not ends[earlier]:
                ends[earlier] = 1
                todo.append(earlier)
    return ends.find(0)
