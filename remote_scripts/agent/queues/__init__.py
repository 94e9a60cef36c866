"""Queues: whoever decides when a job of a group starts. One file and one line in `queues.registry` each.

A queue never decides that a job is done, and never twice about the same job: that is the business of the
exit files and of `run`, which every task goes through.
"""

from __future__ import annotations

from typing import List, NamedTuple, Protocol

# What `run` ends with when its slot or GPU is taken and it was not told to wait. Also a task's exit code.
BUSY = 75


class Task(NamedTuple):
    """A job in a queue. `running`: the queue has started it (which says little: see the claim)."""

    job_key: str
    group: str
    queue_id: str
    priority: int
    running: bool


class Queue(Protocol):
    """What the agent asks of a queue; always under the agent's lock. All raise QueueProblem when the queue
    does not answer: nothing is known then. A queue that others use too shows and touches only the tasks of
    this work directory."""

    # Whether it holds what has more jobs than slots back. Others are given no more than there are slots.
    bounded: bool

    def check(self) -> None:
        """Makes sure that the queue works, has its groups, and moves: whatever starts jobs is started."""

    def list(self) -> List[Task]:
        """Every task that has not ended, one for each job: the more urgent first, among equals the older."""

    def add(self, job_key: str, group: str, priority: int, order: int) -> str:
        """Adds a task that will call `run JOBKEY`; its id in the queue. Higher priority starts first; then
        lower `order`, in a queue that can be told (others: what was added first)."""

    def remove(self, job_key: str) -> None:
        """Withdraws a task that has not started; nothing happens when it has, or is not there."""

    def fate(self, job_key: str) -> str:
        """How it says that the job's last task ended, for people: "Killed", "NODE_FAIL". "" when it cannot tell;
        raises nothing."""
