"""The rules of a week: everything that people, programs and disks do to an installation.

There is one rule, which chooses among events: with one rule per event Hypothesis would leave out many of them
in each week, and often repeat one of them for a whole week. After every event some cycles follow, so that
whatever happened meets mqi in the middle of its work.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from tests.week.book import STEPS
from tests.week.folders import SEEDS
from tests.week.host import FAULTS
from tests.week.jobs import Ending
from tests.week.peace import peace
from tests.week.promises import Promises
from tests.week.world import World

_Act = TypeVar("_Act", bound=Callable[..., None])

names = st.sampled_from(["P1", "P2", "P3"])
seeds = st.sampled_from(SEEDS)
hosts = st.sampled_from(["one", "two"])
picks = st.integers(0, 5)
looks = st.integers(0, 60)
steps = st.sampled_from(["", "scan", "submit", "sync", "fetch"])
# The seconds before each of the cycles that follow an event.
gaps = st.lists(st.sampled_from([61.0, 61.0, 5.0, 200.0, 900.0]), max_size=4)
endings = st.one_of(
    st.just(Ending()),
    st.builds(
        Ending,
        st.sampled_from(["ok", "failed", "killed", "orphaned"]),
        st.sampled_from([75, 3]),
        st.sampled_from([1.0, 60.0, 400.0]),
    ),
)
words = st.one_of(
    st.tuples(st.just("retry"), st.tuples(st.none() | st.sampled_from(STEPS), st.booleans())),
    st.tuples(st.sampled_from(["cancel", "hold", "release", "skip"]), st.none()),
    st.tuples(st.just("priority"), st.integers(-2, 2)),
)


_EVENTS: list[st.SearchStrategy[tuple[str, dict[str, Any]]]] = []


def event(weight: int = 1, **strategies: st.SearchStrategy[Any]) -> Callable[[_Act], _Act]:
    """Something that may happen, with what is drawn for it; `weight` times as often as other things."""

    def decorate(act: _Act) -> _Act:
        one = st.tuples(st.just(act.__name__), st.fixed_dictionaries(strategies))
        _EVENTS.extend([one] * weight)
        return act

    return decorate


class Events(RuleBasedStateMachine):
    """What may happen."""

    def __init__(self) -> None:
        super().__init__()
        self._level = logging.getLogger("mqi").level
        logging.getLogger("mqi").setLevel(logging.CRITICAL)
        self.world = World()
        self.promises = Promises(self.world)
        # False once something is broken: then there is no use in waiting for peace.
        self.whole = True

    def teardown(self) -> None:
        try:
            if self.whole:
                peace(self.world, self.promises)
        finally:
            self.world.close()
            logging.getLogger("mqi").setLevel(self._level)

    @initialize(name=names, seed=seeds)
    def first_case(self, name: str, seed: int) -> None:
        self.world.folders.arrive(name, seed)
        self.promises.hold()

    # --- time and processes ---------------------------------------------------------------------------------

    @event(step=steps)
    def one_step(self, step: str) -> None:
        self.world.cycle(step)

    @event(step=steps, looks=looks)
    def killed(self, step: str, looks: int) -> None:
        """A process that is killed at some look at the clock."""
        self.world.clock.kill_after(looks)
        self.world.cycle(step)
        self.world.clock.let_live()

    @event(step=steps, host=hosts, when=st.sampled_from(["before", "after"]))
    def another_process(self, step: str, host: str, when: str) -> None:
        """Started while a step waits for a host."""
        self._meanwhile(host, when, lambda: self.world.cycle(step))

    @event(days=st.sampled_from([0.1, 1.1]))
    def a_long_time(self, days: float) -> None:
        self.world.clock.move(days * 86400.0)

    # --- folders ------------------------------------------------------------------------------------------------

    @event(weight=2, name=names, seed=seeds, note=st.sampled_from(["", "a", "b"]), keep_times=st.booleans())
    def arrive(self, name: str, seed: int, note: str, keep_times: bool) -> None:
        self.world.folders.arrive(name, seed, note, keep_times)

    @event(name=names, seed=seeds, part=st.sampled_from([".part", ".tmp", ""]), how_far=st.integers(0, 3))
    def copy(self, name: str, seed: int, part: str, how_far: int) -> None:
        """A copy begins, or the one under way goes on."""
        if how_far == 3 or not self.world.folders.go_on(name, seed, how_far):
            self.world.folders.copy(name, seed, part)

    @event(
        name=names, file=st.sampled_from(["late.csv", "late.csv", "second.dcm"]), text=st.sampled_from("xyz")
    )
    def late_file(self, name: str, file: str, text: str) -> None:
        if name in self.world.folders.names():
            self.world.folders.write(name, file, text.encode())

    @event(name=names, how=st.sampled_from(["touch", "empty", "vanish", "disk"]))
    def disturb(self, name: str, how: str) -> None:
        folders = self.world.folders
        if how == "disk":
            (folders.disconnect if folders.connected() else folders.connect)()
        else:
            {"touch": folders.touch, "empty": folders.empty, "vanish": folders.vanish}[how](name)

    @event(name=names, seed=seeds, host=hosts)
    def folder_changes_meanwhile(self, name: str, seed: int, host: str) -> None:
        """While a step waits for a host."""
        self._meanwhile(host, "before", lambda: self.world.folders.arrive(name, seed))

    # --- operators ----------------------------------------------------------------------------------------------

    @event(weight=3, word=words, pick=picks)
    def operator(self, word: tuple[str, object], pick: int) -> None:
        self.world.operator(word[0], pick, word[1])

    @event(word=words, pick=picks, host=hosts, when=st.sampled_from(["before", "after"]))
    def operator_meanwhile(self, word: tuple[str, object], pick: int, host: str, when: str) -> None:
        """Said while a step waits for a host."""
        self._meanwhile(host, when, lambda: self.world.operator(word[0], pick, word[1]))

    def _meanwhile(self, host: str, when: str, act: Callable[[], object]) -> None:
        def once() -> None:
            act()

        self.world.hosts[host].meanwhile.append((when, once))

    # --- hosts --------------------------------------------------------------------------------------------------

    @event(ending=st.lists(endings, min_size=1, max_size=3))
    def next_endings(self, ending: list[Ending]) -> None:
        self.world.endings.extend(ending)

    @event(host=hosts, faults=st.lists(st.sampled_from(["", *FAULTS]), min_size=1, max_size=4))
    def bad_line(self, host: str, faults: list[str]) -> None:
        self.world.hosts[host].faults.extend(faults)

    @event(host=hosts, number=picks)
    def late_request(self, host: str, number: int) -> None:
        late = self.world.hosts[host].late
        if late:
            self.world.hosts[host].deliver_late(number % len(late))

    @event(
        host=hosts,
        what=st.sampled_from(
            ["silence", "kill", "reboot", "forget the queue", "queue silent", "disk", "emptied"]
        ),
    )
    def trouble(self, host: str, what: str) -> None:
        there = self.world.hosts[host]
        there.live()
        if what == "silence":
            there.silent = not there.silent
        elif what == "kill":
            there.kill(lambda job: True)
        elif what == "reboot":
            there.reboot()
        elif what == "forget the queue":
            there.work.queue.clear()
        elif what == "queue silent":
            there.work.queue_answers = not there.work.queue_answers
        elif what == "disk":
            there.disk_free = 2**20 if there.disk_free > 2**20 else 2**40
        else:
            self.world.empty(host)

    # --- the control PC -----------------------------------------------------------------------------------------

    @event(what=st.sampled_from(["back up", "back up", "restore", "restore", "delete"]))
    def database(self, what: str) -> None:
        if what == "back up":
            self.world.back_up()
        elif what == "restore":
            self.world.restore()
        else:
            self.world.delete_database()

    @event(
        what=st.sampled_from(["agent/agent.py", "simulate.py", "machine.txt"]), version=st.sampled_from("123")
    )
    def update(self, what: str, version: str) -> None:
        """mqi or the machine file gets a new version."""
        if what == "machine.txt":
            self.world.edit_machine(version)
        else:
            self.world.update_mqi(what, version)


class Week(Events):
    """Chaos by rules, promises after each; in the end everything becomes well."""

    @rule(event=st.one_of(_EVENTS), after=gaps)
    def happens(self, event: tuple[str, dict[str, Any]], after: Sequence[float]) -> None:
        """One event, and the cycles that follow it."""
        self.whole = False
        name, arguments = event
        getattr(self, name)(**arguments)
        self.promises.hold()
        for gap in after:
            self.world.clock.move(gap)
            self.world.cycle()
            self.promises.hold()
        self.whole = True
