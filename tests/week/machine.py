"""The rules of a week: everything that people, programs and disks do to an installation."""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from tests.week.book import STEPS
from tests.week.folders import SEEDS
from tests.week.host import FAULTS
from tests.week.jobs import Ending
from tests.week.peace import peace
from tests.week.promises import Promises
from tests.week.world import World

names = st.sampled_from(["P1", "P2", "P3"])
seeds = st.sampled_from(SEEDS)
hosts = st.sampled_from(["one", "two"])
picks = st.integers(0, 5)
looks = st.integers(0, 60)
gaps = st.sampled_from([5.0, 61.0, 61.0, 200.0, 900.0])
endings = st.one_of(
    st.just(Ending()),
    st.builds(
        Ending,
        st.sampled_from(["ok", "failed", "killed", "orphaned"]),
        st.sampled_from([75, 3]),
        st.sampled_from([1.0, 60.0, 400.0]),
    ),
)
wishes = st.one_of(
    st.tuples(st.just("retry"), st.tuples(st.none() | st.sampled_from(STEPS), st.booleans())),
    st.tuples(st.sampled_from(["cancel", "hold", "release", "skip"]), st.none()),
    st.tuples(st.just("priority"), st.integers(-2, 2)),
)
steps = st.sampled_from(["", "", "scan", "submit", "sync", "fetch"])


class Week(RuleBasedStateMachine):
    """Chaos by rules, promises after each; in the end everything becomes well."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World()
        self.promises = Promises(self.world)

    def teardown(self) -> None:
        try:
            peace(self.world, self.promises)
        finally:
            self.world.close()

    # --- time and the program -------------------------------------------------------------------------------

    @initialize(name=names, seed=seeds)
    def first_case(self, name: str, seed: int) -> None:
        self.world.folders.arrive(name, seed)

    @rule(gap=gaps, count=st.integers(1, 4))
    def cycles(self, gap: float, count: int) -> None:
        for _number in range(count):
            self.world.clock.move(gap)
            self.world.cycle()

    @rule(gap=gaps, count=st.integers(1, 6))
    def more_cycles(self, gap: float, count: int) -> None:
        self.cycles(gap, count)

    @rule(step=steps, gap=gaps)
    def one_step(self, step: str, gap: float) -> None:
        self.world.clock.move(gap)
        self.world.cycle(step)

    @rule(step=steps, looks=looks)
    def killed(self, step: str, looks: int) -> None:
        self.world.clock.kill_after(looks)
        self.world.cycle(step)
        self.world.clock.let_live()

    @rule(days=st.sampled_from([0.1, 1.1]))
    def a_long_time(self, days: float) -> None:
        self.world.clock.move(days * 86400.0)

    # --- folders ------------------------------------------------------------------------------------------------

    @rule(name=names, seed=seeds, note=st.sampled_from(["", "a", "b"]), keep_times=st.booleans())
    def arrive(self, name: str, seed: int, note: str, keep_times: bool) -> None:
        self.world.folders.arrive(name, seed, note, keep_times)

    @rule(name=names, seed=seeds, part=st.sampled_from([".part", ".tmp", ""]))
    def copy(self, name: str, seed: int, part: str) -> None:
        self.world.folders.copy(name, seed, part)

    @rule(name=names, seed=seeds, how_far=st.integers(0, 2))
    def copy_goes_on(self, name: str, seed: int, how_far: int) -> None:
        self.world.folders.go_on(name, seed, how_far)

    @rule(name=names, file=st.sampled_from(["late.csv", "late.csv", "second.dcm"]), text=st.sampled_from("xyz"))
    def late_file(self, name: str, file: str, text: str) -> None:
        if name in self.world.folders.names():
            self.world.folders.write(name, file, text.encode())

    @rule(name=names, how=st.sampled_from(["touch", "touch", "empty", "vanish"]))
    def disturb(self, name: str, how: str) -> None:
        folders = self.world.folders
        {"touch": folders.touch, "empty": folders.empty, "vanish": folders.vanish}[how](name)

    @rule()
    def watch_folder_goes_or_comes(self) -> None:
        folders = self.world.folders
        (folders.disconnect if folders.connected() else folders.connect)()

    # --- operators ----------------------------------------------------------------------------------------------

    @rule(wish=wishes, pick=picks)
    def operator(self, wish: tuple[str, object], pick: int) -> None:
        self.world.operator(wish[0], pick, wish[1])

    @rule(wish=wishes, pick=picks, host=hosts, when=st.sampled_from(["before", "after"]))
    def operator_meanwhile(self, wish: tuple[str, object], pick: int, host: str, when: str) -> None:
        """Said while a step waits for a host."""
        self._meanwhile(host, when, lambda: self.world.operator(wish[0], pick, wish[1]))

    @rule(step=steps, host=hosts, when=st.sampled_from(["before", "after"]))
    def another_process(self, step: str, host: str, when: str) -> None:
        """Started while a step waits for a host."""
        self._meanwhile(host, when, lambda: self.world.cycle(step))

    @rule(name=names, seed=seeds, host=hosts)
    def folder_changes_meanwhile(self, name: str, seed: int, host: str) -> None:
        """While a step waits for a host."""
        self._meanwhile(host, "before", lambda: self.world.folders.arrive(name, seed))

    def _meanwhile(self, host: str, when: str, act: Callable[[], object]) -> None:
        def once() -> None:
            act()

        self.world.hosts[host].meanwhile.append((when, once))

    # --- hosts --------------------------------------------------------------------------------------------------

    @rule(ending=endings)
    def next_ending(self, ending: Ending) -> None:
        self.world.endings.append(ending)

    @rule(host=hosts)
    def silence(self, host: str) -> None:
        self.world.hosts[host].silent = not self.world.hosts[host].silent

    @rule(host=hosts, faults=st.lists(st.sampled_from(["", *FAULTS]), min_size=1, max_size=4))
    def bad_line(self, host: str, faults: list[str]) -> None:
        self.world.hosts[host].faults.extend(faults)

    @rule(host=hosts, number=picks)
    def late_request(self, host: str, number: int) -> None:
        late = self.world.hosts[host].late
        if late:
            self.world.hosts[host].deliver_late(number % len(late))

    @rule(host=hosts, what=st.sampled_from(["kill", "reboot", "forget the queue", "queue silent", "disk"]))
    def trouble(self, host: str, what: str) -> None:
        there = self.world.hosts[host]
        there.live()
        if what == "kill":
            there.kill(lambda job: True)
        elif what == "reboot":
            there.reboot()
        elif what == "forget the queue":
            there.work.queue.clear()
        elif what == "queue silent":
            there.work.queue_answers = not there.work.queue_answers
        else:
            there.disk_free = 2**20 if there.disk_free > 2**20 else 2**40

    @rule(host=hosts)
    def emptied(self, host: str) -> None:
        self.world.empty(host)

    # --- the control PC -----------------------------------------------------------------------------------------

    @rule()
    def back_up(self) -> None:
        self.world.back_up()

    @rule()
    def restore(self) -> None:
        self.world.restore()

    @rule()
    def delete_database(self) -> None:
        self.world.delete_database()

    @rule(script=st.sampled_from(["agent/agent.py", "simulate.py"]), version=st.sampled_from("123"))
    def update(self, script: str, version: str) -> None:
        self.world.update_mqi(script, version)

    @rule(version=st.sampled_from("123"))
    def edit_machine_file(self, version: str) -> None:
        self.world.edit_machine(version)

    @invariant()
    def promises_hold(self) -> None:
        self.promises.hold()
