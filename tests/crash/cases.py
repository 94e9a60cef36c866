"""The cases: which process is stopped where, what goes wrong besides, and how the rest of the life goes on."""

from __future__ import annotations

import contextlib
import re
import shutil
import sqlite3
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from tests.crash.checks import Expected, wrong_with
from tests.crash.lab import Lab

CYCLES = 8  # more than any case needs to complete
# What may happen besides.
NOTHING, UNANSWERED, LATE, NO_QUEUE = "nothing", "a lost reply", "late requests", "an emptied queue"
NO_DATABASE, CHANGED, SLOW, HELD = "a lost database", "a changed folder", "slow jobs", "held up"
# What a late request may do harm with.
HARMFUL = re.compile(rb'"verb":"(have|put|plan|release|purge)"')


@dataclass(frozen=True)
class Phase:
    """One command of a case's life: run from `stage`, and the processes that it lets work."""

    name: str
    stage: str
    command: str
    roles: tuple[str, ...]  # how the roles that are stopped here begin
    failing: bool = False  # the first attempt of beam 2 fails, and a second one follows
    works: bool = True  # jobs are started here, or later

    @property
    def faults(self) -> tuple[str, ...]:
        """What may go wrong besides."""
        return (*(fault for fault in FAULTS if self.works or fault != SLOW), HELD)

    def has(self, role: str) -> bool:
        """Whether processes of this role belong to this phase."""
        return any(role == one or role.startswith((f"{one} ", f"{one}/")) for one in self.roles)


PHASES = {
    phase.name: phase
    for phase in (
        Phase("first scan", "fresh", "scan", ("scan",)),
        Phase("scan", "seen", "scan", ("scan",)),
        Phase("submit", "new", "submit", ("submit",)),
        Phase("jobs", "planned", "sync", ("sync", "runner", "run", "command")),
        Phase("sync", "computed", "sync", ("sync",), works=False),
        Phase("again", "failed once", "sync", ("sync",), failing=True),
        Phase("fetch", "fetching", "fetch", ("fetch",), works=False),
    )
}


def prepare(lab: Lab) -> None:
    """Run one case through its life, keeping every stage of it. Nothing is stopped here."""

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


def boundaries(lab: Lab, phase: Phase, run: Callable[[str], int] | None = None) -> dict[str, list[str]]:
    """Role -> its boundaries, in order, when nothing is stopped; `run` runs mqi."""
    lab.put_back(phase.stage)
    assert (run or lab.mqi)(phase.command) == 0, lab.said()
    assert lab.wait_quiet()
    return {role: crossed for role, crossed in lab.traces().items() if phase.has(role)}


@dataclass(frozen=True)
class Case:
    """A process of `phase` with this role is killed at `boundary`, and `fault` happens besides."""

    phase: Phase
    role: str
    boundary: str
    fault: str = NOTHING

    def __str__(self) -> str:
        return f"{self.phase.name}: {self.role} at `{self.boundary}`, then {self.fault}"

    @property
    def at(self) -> str:
        """As processes are told it."""
        return f"{self.role}|{self.boundary}"


@dataclass(frozen=True)
class Outcome:
    """`reached`: the process came to its boundary (what runs at the same time may keep it from there)."""

    case: Case
    reached: bool
    wrong: Sequence[str]


def carry_out(lab: Lab, case: Case) -> Outcome:
    """Stop a process, let the fault happen, let `mqi cycle` run to the end, and look at everything."""
    lab.put_back(case.phase.stage)
    if case.fault == SLOW:
        lab.slow_down(_job_of(case.role))
    if case.fault == HELD:
        reached = hold(lab, case)
    else:
        first = lab.start(case.phase.command, at=case.at)
        lab.wait_stopped(first)
        reached = lab.stopped() == case.at
        lab.end_of(first)
        lab.stop_another()
        FAULTS[case.fault](lab)
    go_on(lab)
    if case.fault == LATE:
        replay(lab, lab.requests())
        cycle(lab)
    return Outcome(case, reached, wrong_with(lab, _expected(case)))


def _job_of(role: str) -> str:
    """The end of a job's key that `role` works on; of every key, when it works on none."""
    word, _, job = role.partition(" ")
    return job if word in ("run", "command") else ""


def _expected(case: Case) -> Expected:
    a_job_died = case.role.startswith(("run ", "command ")) and case.fault != HELD
    again = {"simulate.b2"} if case.phase.failing else set()
    return Expected(
        next_attempts=None if a_job_died else frozenset(again),
        revisions=2 if case.fault == CHANGED else 1,
        history_lost=case.fault == NO_DATABASE,
    )


def go_on(lab: Lab) -> None:
    """Let the scheduler run mqi until every case is over and the host knows it; then let an hour pass."""
    for _cycle in range(CYCLES):
        cycle(lab)
        if over(lab):
            break
    if any(lab.root.rglob("*~")):
        lab.let_time_pass(an_hour=True)
        cycle(lab)


def over(lab: Lab) -> bool:
    """Whether nothing is left to do for mqi."""
    cases = lab.rows("SELECT status = 'completed' AND released_at IS NOT NULL FROM cases")
    return bool(cases) and all(done for (done,) in cases)


def cycle(lab: Lab, at: str = "") -> None:
    """One `mqi cycle`, and as long a time as jobs need."""
    lab.let_time_pass()
    lab.mqi("cycle", at=at)
    lab.wait_quiet()


# --- what happens besides a kill


def nothing(lab: Lab) -> None:
    """The kill alone."""


def lost_reply(lab: Lab) -> None:
    """The next request is served, and its answer is lost."""
    for _cycle in range(3):
        cycle(lab, at="cycle/*|reply #1")
        if lab.stopped():
            return


def late_requests(lab: Lab) -> None:
    """After newer requests, all older ones arrive once more."""
    requests = lab.requests()
    cycle(lab)
    replay(lab, requests)


def replay(lab: Lab, requests: Iterable[bytes]) -> None:
    """Requests arrive once more, oldest first."""
    for request in requests:
        if HARMFUL.search(request[:4096]):
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


def changed_folder(lab: Lab) -> None:
    """The case's folder gets another file: a revision of its own, once this one is promised."""
    (lab.folder / "late.log").write_text("came later\n", encoding="utf-8")


def slow_jobs(lab: Lab) -> None:
    """The scheduler runs mqi several times before a job ends, whoever minds the job."""
    for _cycle in range(3):
        lab.let_time_pass()
        lab.mqi("cycle")
    lab.let_jobs_end()


FAULTS: dict[str, Callable[[Lab], None]] = {
    NOTHING: nothing,
    UNANSWERED: lost_reply,
    LATE: late_requests,
    NO_QUEUE: emptied_queue,
    NO_DATABASE: lost_database,
    CHANGED: changed_folder,
    SLOW: slow_jobs,
}


# --- in place of a kill


def hold(lab: Lab, case: Case) -> bool:
    """The process is not killed but held up at its boundary (a full disk cache, a machine that swaps) while
    the scheduler runs mqi; then it goes on, from old knowledge. Whether it came to its boundary."""
    first = lab.start(case.phase.command, at=case.at, how="hold")
    lab.wait_stopped(first)
    reached = lab.stopped() == case.at
    if case.role.startswith(f"{case.phase.command}/"):
        lab.kill(first)  # else it would wait for its answer, and hold the lock of its step
    other = _go_on_beside(lab)
    lab.resume()
    if other:
        lab.end_of(other)
    lab.end_of(first)
    lab.wait_quiet()
    return reached


def _go_on_beside(lab: Lab) -> int:
    """Cycles beside a process that is held, for as long as they bring the case further; the id of one that
    waits for that process, or 0."""
    for _cycle in range(CYCLES):
        before = _progress(lab)
        with contextlib.suppress(sqlite3.OperationalError):  # the held one is in the middle of a transaction
            lab.let_time_pass(wait_s=0.1)
        other = lab.start("cycle")
        lab.wait_still(other)
        if lab.lives(other):
            return other
        lab.end_of(other)
        if over(lab):
            break
        lab.wait_still()  # as long as jobs need
        if _progress(lab) == before:
            break
    return 0


def _progress(lab: Lab) -> object:
    return lab.ledger(), lab.rows("SELECT status, plan_serial, host_serial, released_at FROM cases")
