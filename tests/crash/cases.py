"""The cases: which process is killed where, what goes wrong besides, and how the rest of the life goes on."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tests.crash.checks import wrong_with
from tests.crash.lab import Lab

CYCLES = 8  # more than any case needs to complete
# What a late request may do harm with.
HARMFUL = re.compile(rb'"verb":"(have|put|plan|release|purge)"')


@dataclass(frozen=True)
class Phase:
    """One command of a case's life: run from `stage`, and the processes that it lets work."""

    name: str
    stage: str
    command: str
    roles: tuple[str, ...]  # how the roles that are killed here begin
    failing: bool = False  # the first attempt of beam 2 fails, and a second one follows

    def has(self, role: str) -> bool:
        return any(role == one or role.startswith((f"{one} ", f"{one}/")) for one in self.roles)


PHASES = {
    phase.name: phase
    for phase in (
        Phase("first scan", "fresh", "scan", ("scan",)),
        Phase("scan", "seen", "scan", ("scan",)),
        Phase("submit", "new", "submit", ("submit",)),
        Phase("jobs", "planned", "sync", ("sync", "runner", "run", "command")),
        Phase("sync", "computed", "sync", ("sync",)),
        Phase("again", "failed once", "sync", ("sync",), failing=True),
        Phase("fetch", "fetching", "fetch", ("fetch",)),
    )
}


def prepare(lab: Lab) -> None:
    """Run one case through its life, keeping every stage of it. Nothing is killed here."""

    def run(step: str, stage: str) -> None:
        assert lab.mqi(step) == 0, lab.said()
        lab.keep(stage)

    lab.keep("fresh")
    run("scan", "seen")
    run("scan", "new")
    with lab.no_runner():
        run("submit", "planned")
    run("sync", "computed")
    run("sync", "fetching")
    lab.put_back("planned")
    lab.failing.touch()
    run("sync", "failed once")
    lab.failing.unlink()


def boundaries(lab: Lab, phase: Phase) -> dict[str, list[str]]:
    """Role -> its boundaries, in order, when nothing is killed."""
    lab.put_back(phase.stage)
    assert lab.mqi(phase.command) == 0, lab.said()
    assert lab.wait_quiet()
    return {role: crossed for role, crossed in lab.traces().items() if phase.has(role)}


@dataclass(frozen=True)
class Case:
    """A process of `phase` with this role is killed at `boundary`, and `fault` happens besides."""

    phase: Phase
    role: str
    boundary: str
    fault: str = "nothing"

    def __str__(self) -> str:
        return f"{self.phase.name}: {self.role} killed at `{self.boundary}`, then {self.fault}"


@dataclass(frozen=True)
class Outcome:
    """`reached`: the process came to its boundary (what runs at the same time may keep it from there)."""

    case: Case
    reached: bool
    wrong: Sequence[str]


def carry_out(lab: Lab, case: Case) -> Outcome:
    """Kill, let the fault happen, let `mqi cycle` run to the end, and look at everything."""
    lab.put_back(case.phase.stage)
    lab.mqi(case.phase.command, at=f"{case.role}|{case.boundary}")
    if case.role != case.phase.command:
        lab.wait_killed()
    reached = lab.killed() == f"{case.role}|{case.boundary}"
    lab.forget_kill()
    FAULTS[case.fault](lab)
    go_on(lab)
    if case.fault == "late requests":
        late_requests(lab)
        lab.mqi("cycle")
        lab.wait_quiet()
    killed_a_job = case.role.startswith(("run ", "command "))
    again = None if killed_a_job else frozenset({"simulate.b2"} if case.phase.failing else ())
    return Outcome(case, reached, wrong_with(lab, next_attempts=again))


def go_on(lab: Lab) -> None:
    """Let the scheduler run mqi until the case is over and the host knows it."""
    for _cycle in range(CYCLES):
        cycle(lab)
        if lab.rows("SELECT 1 FROM cases WHERE status = 'completed' AND released_at IS NOT NULL"):
            return


def cycle(lab: Lab, at: str = "") -> None:
    """One `mqi cycle`, and as long a time as jobs need."""
    lab.let_time_pass()
    lab.mqi("cycle", at=at)
    lab.wait_quiet()


# --- what happens besides


def nothing(lab: Lab) -> None:
    """The kill alone."""


def lost_reply(lab: Lab) -> None:
    """The next request is served, and its answer is lost."""
    for _cycle in range(3):
        cycle(lab, at="cycle/*|reply #1")
        if lab.killed():
            return


def late_requests(lab: Lab) -> None:
    """After newer requests, all older ones arrive once more."""
    requests = [request for request in lab.requests() if HARMFUL.search(request[:4096])]
    cycle(lab)
    for request in requests:
        lab.replay(request)


def emptied_queue(lab: Lab) -> None:
    """Somebody empties the folder of the queue."""
    for _attempt in range(5):
        shutil.rmtree(lab.work / "queue", ignore_errors=True)


def lost_database(lab: Lab) -> None:
    """The database is gone."""
    for path in lab.root.glob("mqi.db*"):
        if path.is_file():
            path.unlink()


FAULTS: dict[str, Callable[[Lab], None]] = {
    "nothing": nothing,
    "a lost reply": lost_reply,
    "late requests": late_requests,
    "an emptied queue": emptied_queue,
    "a lost database": lost_database,
}
