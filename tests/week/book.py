"""What was executed, who asked for it, and whether that was right: the exactly-once promises."""

from __future__ import annotations

from dataclasses import dataclass

from tests.week.jobs import Job, Json, Run

STEPS = ("prepare", "simulate", "report")


class Broken(AssertionError):
    """A promise of mqi is broken."""


@dataclass
class Execution:
    """One command that was started. `work`: the work directory; `kind`: how it ended, '' while it runs."""

    host: str
    work: str
    key: str
    digest: str
    step: str
    beam: int | None
    definition: str
    at: float
    kind: str = ""

    @property
    def slot(self) -> tuple[str, int | None]:
        return self.step, self.beam


@dataclass(frozen=True)
class Wish:
    """An operator's retry of a run."""

    digest: str
    at: float
    from_step: str | None
    redo_all: bool


@dataclass(frozen=True)
class Emptied:
    """A work directory was emptied. `known`: the runs (digests) of which the database knew then."""

    host: str
    at: float
    known: frozenset[str]


class Book:
    """The ledger outside of everything that can be lost."""

    def __init__(self) -> None:
        self.executions: list[Execution] = []
        self.wishes: list[Wish] = []
        self.losses: list[float] = []  # a database was deleted or put back
        self.emptied: list[Emptied] = []
        # False: only write down.
        self.strict = True

    def started(self, host: str, work: str, run: Run, planned: Json, job: Job, now: float) -> None:
        """Write down a start. Raises Broken when it should not have happened."""
        new = Execution(
            host, work, job.key, run.plan["digest"], planned["step"], planned["beam"], planned["definition"], now
        )  # fmt: skip
        self.executions.append(new)
        if self.strict:
            self._check(new, host, run)

    def _check(self, new: Execution, host: str, run: Run) -> None:
        earlier = [one for one in self.executions[:-1] if (one.digest, one.slot) == (new.digest, new.slot)]
        for old in earlier:
            if old.key == new.key and not self._forgiven(old):
                raise Broken(f"{new.key} was executed twice")
            if not old.kind and not self._forgiven(old):
                raise Broken(f"{new.key} started while {old.key} still runs")
        good = [one for one in earlier if one.kind == "ok"]
        if good and not self._forgiven(good[-1]):
            self._needs_a_wish(new, good[-1], host, run)

    def newest_good(self, key: str) -> str:
        """The key of the newest good execution of the same job, whichever attempt it is."""
        same = key.rpartition("-a")[0]
        return [
            one.key for one in self.executions if one.kind == "ok" and one.key.rpartition("-a")[0] == same
        ][-1]

    def ended(self, job: Job) -> None:
        """Write down how the newest execution of this key ended."""
        found = [one for one in self.executions if one.key == job.key]
        found[-1].kind = "vanished" if job.exit is None else str(job.exit["kind"])

    def _forgiven(self, old: Execution) -> bool:
        """Nobody can know of it any more: the work directory is lost, and so is the database, before or after.

        A database that was lost between the hand-over and the execution is one that did not know of the run.
        """
        later = [one for one in self.emptied if one.host == old.host and one.at >= old.at]
        lost = any(at >= old.at for at in self.losses)
        return any(lost or old.digest not in one.known for one in later)

    def _needs_a_wish(self, new: Execution, good: Execution, host: str, run: Run) -> None:
        wishes = [wish for wish in self.wishes if wish.digest == new.digest and wish.at >= good.at]
        if not wishes:
            raise Broken(f"{new.key} repeats {good.key}, which was good, and nobody asked for it")
        if any(wish.redo_all for wish in wishes) or any(at >= good.at for at in self.losses):
            return
        place = STEPS.index(new.step)
        if any(wish.from_step and STEPS.index(wish.from_step) <= place for wish in wishes):
            return
        gone = good.host != host or good.key not in run.jobs
        upstream = any(
            one.digest == new.digest and one.at > good.at and STEPS.index(one.step) < place
            for one in self.executions
        )
        if not (gone or upstream or new.definition != good.definition):
            raise Broken(f"{new.key} repeats {good.key}, which a plain retry keeps")
