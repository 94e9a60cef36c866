"""Jobs: one workflow step of one case, for one beam where the step says so. All decisions are pure.

A job's key is `<run key>.<step>[.b<beam>]-a<attempt>`; it is the label in the queue, the folder on the
host, and never used twice for two executions.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from mqi.workflow import JobPlan, Workflow


class JobState(StrEnum):
    """Where a job stands, as far as this side knows."""

    PLANNED = "planned"  # frozen here; the host has not confirmed it
    WAITING = "waiting"  # the host has it; its needs or the queue's limit hold it back
    HELD = "held"  # the host has it and an operator holds the case
    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"  # exit 0 and every declared output there
    FAILED = "failed"
    LOST = "lost"  # no exit file, no process, not in the queue: a new attempt or an operator
    CANCELLED = "cancelled"


ENDED = (JobState.DONE, JobState.FAILED, JobState.LOST, JobState.CANCELLED)
STARTED = (JobState.RUNNING, JobState.DONE, JobState.FAILED, JobState.LOST)

_KEY = re.compile(
    r"(?P<run>[0-9a-f]{12})\.(?P<step>[a-z][a-z0-9_]{0,31})(\.b(?P<beam>[0-9]+))?-a(?P<attempt>[1-9][0-9]*)"
)


def job_key(run_key: str, step: str, beam: int | None, attempt: int) -> str:
    """The name of one execution; see the module's docstring."""
    part = "" if beam is None else f".b{beam}"
    return f"{run_key}.{step}{part}-a{attempt}"


def parse_job_key(key: str) -> tuple[str, str, int | None, int]:
    """(run key, step, beam, attempt) of a job key. Raises ValueError for anything else."""
    match = _KEY.fullmatch(key)
    if match is None:
        raise ValueError(f"not a job key: {key!r}")
    beam = match["beam"]
    return match["run"], match["step"], None if beam is None else int(beam), int(match["attempt"])


class Job(NamedTuple):
    """One row of `jobs`. Times are Unix seconds by the host's clock; `progress` is a fraction 0..1."""

    job_key: str
    case_id: int
    step: str
    beam: int | None
    attempt: int
    state: JobState
    definition: str
    exit_code: int | None = None
    exit_kind: str = ""
    reason: str = ""
    progress: float = 0.0
    message: str = ""
    group: str = ""
    gpu: str = ""
    queue_id: str = ""
    started_at: float | None = None
    ended_at: float | None = None
    outputs: str = ""  # SHA-256 of the host's list of outputs
    log_path: str = ""

    @property
    def slot(self) -> tuple[str, int | None]:
        """What the job is for, whichever attempt it is."""
        return self.step, self.beam

    def title(self) -> str:
        """`moquisim, beam 2` as people say it."""
        return self.step if self.beam is None else f"{self.step}, beam {self.beam}"


_REPORTED = {
    "waiting": JobState.WAITING,
    "held": JobState.HELD,
    "queued": JobState.QUEUED,
    "running": JobState.RUNNING,
    "missing": JobState.RUNNING,  # not proven lost yet
    "lost": JobState.LOST,
    "cancelled": JobState.CANCELLED,
}


def observe(job: Job, report: Mapping[str, Any] | None) -> Job:
    """The job as the host's report says it stands; the job itself when the report adds nothing.

    An ended job never changes again (a late report cannot revive it), and progress never goes back
    within an attempt.
    """
    if report is None or job.state in (JobState.DONE, JobState.FAILED, JobState.CANCELLED):
        return job
    known = job._replace(
        group=str(report.get("group") or job.group),
        gpu=str(report.get("gpu") or job.gpu),
        queue_id=str(report.get("queue_id") or job.queue_id),
        started_at=_number(report.get("started_at"), job.started_at),
    )
    if report.get("state") == "ended":
        return _ended(known, report.get("exit") or {})
    state = _REPORTED.get(str(report.get("state")), job.state)
    if state is JobState.LOST:
        reason = "it vanished from the host without a result (killed, or the host restarted)"
        if report.get("fate"):
            reason += f"; its queue says: {str(report['fate'])[:200]}"
        return known._replace(state=state, reason=reason)
    progress = report.get("progress") or {}
    fraction = _number(progress.get("fraction"), 0.0) or 0.0
    reason = ""
    if report.get("orphan"):
        reason = "its queue forgot it, but it is still running; mqi waits for it to end"
    elif report.get("state") == "missing":
        reason = "not seen by its queue and without a result; mqi makes sure before it calls it lost"
    elif report.get("unknown"):
        reason = "the host's queue does not answer"
    return known._replace(
        state=state,
        reason=reason,
        progress=max(job.progress, min(1.0, max(0.0, fraction))),
        message=str(progress.get("message") or job.message)[:200],
    )


def _ended(job: Job, exit_: Mapping[str, Any]) -> Job:
    kind = str(exit_.get("kind", "failed"))
    states = {"ok": JobState.DONE, "cancelled": JobState.CANCELLED}
    state = states.get(kind, JobState.FAILED)
    return job._replace(
        state=state,
        exit_kind=kind,
        exit_code=int(_number(exit_.get("code"), -1.0) or 0),
        reason="" if state is JobState.DONE else str(exit_.get("message") or "no reason given")[:1000],
        progress=1.0 if state is JobState.DONE else job.progress,
        gpu=str(exit_.get("gpu") or job.gpu),
        started_at=_number(exit_.get("started_at"), job.started_at),
        ended_at=_number(exit_.get("ended_at"), job.ended_at),
        outputs=str(exit_.get("outputs") or ""),
    )


def _number(value: object, default: float | None) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else default


def wants_another_attempt(job: Job, workflow: Workflow) -> bool:
    """True for a lost job or a transient exit that may run again by itself (architecture, rule 5)."""
    step = workflow.find(job.step)
    if step is None or job.attempt >= step.max_attempts:
        return False
    if job.state is JobState.LOST:
        return True
    return (
        job.state is JobState.FAILED
        and job.exit_kind == "failed"
        and job.exit_code in step.transient_exit_codes
    )


def can_move(
    jobs: Sequence[Job], needs: Mapping[tuple[str, int | None], Sequence[tuple[str, int | None]]]
) -> bool:
    """True while some job runs or may still start: not ended, and everything it needs may still be good."""
    state = {job.slot: job.state for job in jobs}

    def hopeless(slot: tuple[str, int | None]) -> bool:
        if state[slot] in ENDED:
            return state[slot] is not JobState.DONE
        return any(hopeless(need) for need in needs.get(slot, ()) if need in state)

    return any(job.state not in ENDED and not hopeless(job.slot) for job in jobs)


def case_progress(jobs: Iterable[Job]) -> float:
    """0..95: the mean of the jobs' progress; the last twentieth belongs to the way home."""
    fractions = [job.progress for job in jobs]
    return round(95.0 * sum(fractions) / len(fractions), 1) if fractions else 0.0


def current_step(jobs: Sequence[Job]) -> str:
    """The step to show: the first that runs, else the first that has not ended, else the last."""
    for wanted in ((JobState.RUNNING,), tuple(state for state in JobState if state not in ENDED)):
        for job in jobs:
            if job.state in wanted:
                return job.step
    return jobs[-1].step if jobs else ""


def good_of_all(jobs: Sequence[Job], step: str) -> tuple[int, int]:
    """(good, all) jobs of one step: "2 of 3 beams"."""
    own = [job for job in jobs if job.step == step]
    return sum(job.state is JobState.DONE for job in own), len(own)


class Choice(NamedTuple):
    """What a retry does with one job: keep the good attempt, or run attempt `attempt`."""

    plan: JobPlan
    attempt: int
    keep: bool
    why: str


def choose_attempts(
    expansion: Sequence[JobPlan],
    history: Sequence[Job],
    *,
    from_step: str | None = None,
    redo_all: bool = False,
) -> tuple[Choice, ...]:
    """Which jobs run again. `history` holds every attempt of the run; without one, all is attempt 1.

    A good job is kept when its definition is the same as then and everything that it consumes is kept
    too; so a retry never mixes two versions of the physics and never repeats good work. `from_step` and
    `redo_all` redo more. The number of an attempt that was planned is spent, whether it reached the host
    or not.
    """
    latest: dict[tuple[str, int | None], Job] = {}
    for job in history:
        if job.slot not in latest or latest[job.slot].attempt < job.attempt:
            latest[job.slot] = job
    redone: set[tuple[str, int | None]] = set()
    choices = []
    for plan in expansion:
        slot = (plan.step, plan.beam)
        old = latest.get(slot)
        why = _why_redo(plan, old, redone, from_step, redo_all)
        if why:
            redone.add(slot)
            # PLANNED or not started by tombstone: the number is spent all the same, since a late
            # request may still carry it to the host.
            attempt = 1 if old is None else old.attempt + 1
        else:
            assert old is not None
            attempt = old.attempt
        choices.append(Choice(plan, attempt, keep=not why, why=why))
    return tuple(choices)


def _why_redo(
    plan: JobPlan,
    old: Job | None,
    redone: set[tuple[str, int | None]],
    from_step: str | None,
    redo_all: bool,
) -> str:
    if old is None:
        return "first attempt"
    if old.state is not JobState.DONE:
        return f"attempt {old.attempt} was not good ({old.state})"
    if redo_all:
        return "asked to redo everything"
    if from_step == plan.step:
        return f"asked to redo from {from_step}"
    if old.definition != plan.definition:
        return "its definition changed since it ran"
    upstream = sorted({step for step, beam in plan.needs if (step, beam) in redone})
    return f"{', '.join(upstream)} runs again" if upstream else ""
