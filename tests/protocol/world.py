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

# How far `run JOBKEY` is. TOOK: it holds the job's lock and its claim. OVER_*: the command has ended, the
# exit file is not written yet. ORPHAN: the wrapper is dead, the command lives and holds the lock.
LOOKED, TOOK, COMMAND, ORPHAN = "looked", "took", "command", "orphan"
OVER_OK, OVER_BAD, OVER_STOPPED = "over ok", "over bad", "over stopped"
COMPUTES = (COMMAND, ORPHAN)


class Plan(NamedTuple):
    """A plan: `attempts` holds one number per slot. `scripts`: which version of mqi froze it."""

    serial: int
    cancel: bool
    held: bool
    scripts: int
    attempts: tuple[int, ...]

    def keys(self) -> tuple[Key, ...]:
        """The job keys of the plan, in order."""
        return tuple(enumerate(self.attempts))


class Row(NamedTuple):
    """The case in the database. `jobs`: the newest attempt of each slot and how it stands.
    `retry`: a wish; "" for none, "all" to redo good jobs too."""

    status: str = NEW
    plan: Plan | None = None
    serial: int = 0
    host_serial: int = 0
    jobs: tuple[tuple[int, str], ...] = ()
    held: bool = False
    cancel: bool = False
    retry: str = ""
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
    """A reply. `outcome`: of a plan (accepted, same, newer, receipt, refused), else ok or no. `known`: what the
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


class Control(NamedTuple):
    """The control PC. `results`: what was published as complete, per slot whether its files are there. The
    last two fields are for the promises only; no step reads them."""

    row: Row | None = Row()
    steps: tuple[Step | None, Step | None, Step | None] = (None, None, None)  # submit, sync, fetch
    late: tuple[Request, ...] = ()
    backup: Row | None = None
    scripts: int = 0
    results: tuple[bool, ...] | None = None
    wish: bool = False  # an operator wants the run ended, and nobody has said the opposite since
    amnesia: bool = False  # a database was deleted or restored


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

    at: str  # unrelease, look, judge, bring, tell
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


class Budget(NamedTuple):
    """What may still go wrong, and what operators may still wish."""

    kills: int = 0  # of a run, of the agent, of a step of the control PC
    late: int = 0  # requests that are lost, that come late, or whose reply is lost
    emptied: int = 0  # the queue forgets everything
    deleted: int = 0  # the database is gone
    restored: int = 0  # an older database is put back
    bad: int = 0  # commands that end badly with a transient code
    cancels: int = 0
    retries: int = 0
    holds: int = 0
    skips: int = 0
    updates: int = 0  # mqi gets a new version
    refusals: int = 0  # the host refuses a plan (a group is not in its configuration)
    losses: int = 0  # the published results are gone


class Guards(NamedTuple):
    """The protocol. Each guard can be taken away, to show what it is for."""

    # what the protocol rests on
    begin: bool = True  # the intent is committed before any effect
    flock: bool = True  # one agent at a time
    label: bool = True  # a job that the queue lists is not added
    claim: bool = True  # a job that was begun is not begun again
    serial: bool = True  # a plan that is not newer changes nothing
    tombstone: bool = True  # `run` looks for a tombstone after its claim
    lock_look: bool = True  # nothing is lost whose lock is held
    exit_first: bool = True  # the exit file is believed over the queue
    # what this search asked for: test_model.py has the counterexamples
    one_attempt: bool = True  # an attempt waits in the plan until the earlier ones of its slot are dead
    mind_dropped: bool = True  # orphans of dropped jobs are ended, too
    release_serial: bool = True  # a release is over when the plan is newer than it
    named_release: bool = True  # release and purge name the serial that they are for
    forward: bool = True  # a plan never goes back to an earlier attempt
    adopt_wishes: bool = True  # adopting a plan adopts its cancel and its hold
    wish_again: bool = True  # a cancel that met a newer plan is wished again on top of it
    keep_refused: bool = True  # a refused plan does not end a case whose earlier plan the host still holds
    receipt_serial: bool = True  # a receipt's serial and attempts are taken over
    see_serial: bool = True  # a report of a newer plan than the row's makes sync ask for that plan
    hold_seen: bool = True  # a hold that was given while inputs were hashed is in the plan
    steady_no: bool = True  # a plan that was refused is refused for ever, and so are those before it
    hear_no: bool = True  # a next attempt that the host refuses is an end
    hear_purged: bool = True  # a run of which only the receipt is left has been forgotten
    plan_names_jobs: bool = True  # the plan says which attempts count, not the highest number
    retry_first: bool = True  # results of an earlier run do not answer a retry
    retry_ends: bool = True  # a retry that waits for a cancel ends with it, too late or not
    whole_fetch: bool = True  # a good job without files on the host is not published


class Settings(NamedTuple):
    """One search: the protocol, the size of the run, what may happen to it."""

    budget: Budget
    guards: Guards = Guards()
    slots: int = 1
    max_attempts: int = 2
    lost_listings: int = 1
    keeping: bool = False  # results are released and purged on the host


class Move(NamedTuple):
    """Something that can happen to one side. `cost`: the field of Budget that pays for it; "" for what mqi does
    by itself, "free" for what need not happen. `answer`: for the step of this name; None for a broken line."""

    label: tuple[object, ...]
    cost: str
    after: Control | Host
    reply_to: str = ""
    answer: Answer | None = None
