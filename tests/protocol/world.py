"""The states of the model: frozen values that hash. What each stands for in the real thing is in model.py."""

from __future__ import annotations

from typing import NamedTuple

# One execution: (slot, attempt). A slot is a job whichever attempt it is; slot n needs slot n - 1.
Key = tuple[int, int]

# Where a case stands: the words of mqi.case.State.
NEW, SUBMITTING, QUEUED, RUNNING, FETCHING = "new", "submitting", "queued", "running", "fetching"
COMPLETED, FAILED, CANCELLED, SKIPPED = "completed", "failed", "cancelled", "skipped"
SETTLED = (COMPLETED, FAILED, CANCELLED, SKIPPED)
WITH_THE_HOST = (SUBMITTING, QUEUED, RUNNING)

# How the control PC thinks that a job stands: mqi.job.JobState, with waiting, held and queued as one.
# REFUSED: an attempt that the host does not take.
PLANNED, WAITS, RUNS, DONE, BAD, LOST = "planned", "waits", "runs", "done", "bad", "lost"
STOPPED, REFUSED = "stopped", "refused"
ENDED = (DONE, BAD, LOST, STOPPED, REFUSED)
STARTED = (RUNS, DONE, BAD, LOST, REFUSED)

# How far `run JOBKEY` is. LOCKED: it holds the job's lock. TOOK: and its claim. OVER_*: the command has ended, the
# exit file is not written yet. ORPHAN: the wrapper is dead, the command lives and holds the lock.
LOOKED, LOCKED, TOOK, COMMAND, ORPHAN = "looked", "locked", "took", "command", "orphan"
OVER_OK, OVER_BAD, OVER_STOPPED = "over ok", "over bad", "over stopped"
COMPUTES = (COMMAND, ORPHAN)


# The steps of the control PC, and their places in Control.steps.
STEPS = ("submit", "sync", "fetch")
SUBMIT, SYNC, FETCH = 0, 1, 2


class Plan(NamedTuple):
    """A plan: `attempts` holds one number per slot. `scripts`: which version of mqi froze it."""

    serial: int
    cancel: bool
    held: bool
    scripts: int
    attempts: tuple[int, ...]

    def job_keys(self) -> tuple[Key, ...]:
        """The job keys of the plan, in order."""
        return tuple(enumerate(self.attempts))


class Row(NamedTuple):
    """The case in the database. `jobs`: the newest attempt of each slot and how it stands.
    `retry`: a wish; "" for none, "all" to redo good jobs too. `over`: the attempts that had ended by then."""

    status: str = NEW
    plan: Plan | None = None
    serial: int = 0
    host_serial: int = 0
    jobs: tuple[tuple[int, str], ...] = ()
    held: bool = False
    cancel: bool = False
    retry: str = ""
    over: tuple[int, ...] = ()
    published: bool = False
    released: bool = False
    purged: bool = False


class Request(NamedTuple):
    """What goes to the host. `who`: the step that waits for the answer, "" when nobody does any more.
    `verb`: have, plan, sync (a plan or none, then a report), outputs, release or purge."""

    who: str
    verb: str
    plan: Plan | None
    serial: int


class Answer(NamedTuple):
    """A reply. `outcome`: of a plan (accepted, same, newer, receipt, refused, inputs missing), else ok or no. `known`: what the
    host has of the run ("", plan, receipt); `states`: of its jobs; `attempts`: the last ones of a receipt."""

    outcome: str
    plan: Plan | None = None
    serial: int = 0  # of the host's plan, in a report
    receipt: int = 0
    attempts: tuple[int, ...] = ()
    known: str = ""
    states: tuple[tuple[Key, str], ...] = ()


class Step(NamedTuple):
    """A running step: the row as it read it, what it asked, the answer once there is one."""

    row: Row
    request: Request
    answer: Answer | None = None
    under_way: bool = False  # the agent serves it

    def is_fresh(self, row: Row) -> bool:
        """The guard of every transaction: the row is still the one that the decision was made for."""
        return (row.status, row.serial) == (self.row.status, self.row.serial)


class Control(NamedTuple):
    """The control PC. `results`: what was published as complete, per slot whether its files are there. The
    last four fields are for the promises only; no step reads them."""

    row: Row | None = Row()
    steps: tuple[Step | None, Step | None, Step | None] = (None, None, None)  # submit, sync, fetch
    late: tuple[Request, ...] = ()
    backup: Row | None = None
    scripts: int = 0
    results: tuple[bool, ...] | None = None
    wish: bool = False  # an operator wants the run ended, and nobody has said the opposite since
    amnesia: bool = False  # a database was deleted or restored
    forgotten: bool = False  # with a cancel in it
    redo: bool = False  # a retry or a new version of mqi asks for next attempts

    def with_step(self, number: int, step: Step | None, row: Row | None = None) -> Control:
        """The control PC with this step in its place, and the row if one is given."""
        steps = list(self.steps)
        steps[number] = step
        return self._replace(steps=(steps[0], steps[1], steps[2]), row=row or self.row)

    def asks(self, number: int, row: Row, verb: str, plan: Plan | None = None) -> Control:
        """The control PC with a step that has sent its request."""
        # What a step does not look at again is not kept: equal worlds shall be equal.
        kept = row if number == SUBMIT else Row(status=row.status, serial=row.serial)
        return self.with_step(number, Step(kept, Request(STEPS[number], verb, plan, row.serial)))


class File(NamedTuple):
    """A job's folder. `missing`: listings counted without it; -1 when it is written down as lost."""

    claim: bool = False
    exit: str = ""  # ok, bad, stopped
    tombstone: bool = False
    missing: int = 0


class Run(NamedTuple):
    """A process of `run JOBKEY` (or, as an orphan, its command). `known`: its queue lists it."""

    key: Key
    at: str
    known: bool


class Agent(NamedTuple):
    """A process that serves a request, or feeds after a run (`request` None): what it has in memory."""

    at: str  # store, look, judge, bring, tell
    request: Request | None
    answer: Answer
    listed: tuple[Key, ...] = ()
    waiting: tuple[Key, ...] = ()  # those of `listed` that had not started
    seen: tuple[tuple[Key, str, bool], ...] = ()  # key, exit and claim at the look
    todo: tuple[tuple[str, Key], ...] = ()


class Receipt(NamedTuple):
    """What is kept of a run for ever: its serial and the keys that were claimed."""

    serial: int
    keys: tuple[Key, ...]


class Host(NamedTuple):
    """The execution host. `ran` counts the starts of commands; it is for the promises only."""

    stored: Plan | None = None
    dropped: tuple[Key, ...] = ()
    released: int = 0  # the serial at the release, 0 for none
    receipt: Receipt | None = None
    refused: int = 0  # the highest serial that was refused
    inputs: bool = False  # submit has asked what is missing, and sent it
    files: tuple[tuple[Key, File], ...] = ()
    queue: tuple[Key, ...] = ()
    runs: tuple[Run, ...] = ()
    agents: tuple[Agent, ...] = ()
    ran: tuple[tuple[Key, int], ...] = ()

    def file(self, key: Key) -> File:
        """The job's folder."""
        return dict(self.files).get(key, _NO_FILE)

    def locked(self, key: Key) -> bool:
        """Whether some process of the job holds its lock."""
        return any(run.key == key and run.at != LOOKED for run in self.runs)

    def put(self, key: Key, file: File) -> Host:
        """The host with this folder in its place."""
        return self._replace(files=tuple(sorted({**dict(self.files), key: file}.items())))

    def moved(self, old: Run, *new: Run) -> Host:
        """The host with `new` in place of the process `old`."""
        runs = list(self.runs)
        runs.remove(old)
        return self._replace(runs=tuple(sorted([*runs, *new])))


_NO_FILE = File()


class Move(NamedTuple):
    """Something that can happen to one side. `cost`: the field of Budget that pays for it; "" for what mqi does
    by itself, "free" for what need not happen. `answer`: for the step of this name; None for a broken line."""

    label: tuple[object, ...]
    cost: str
    after: Control | Host
    reply_to: str = ""
    answer: Answer | None = None
