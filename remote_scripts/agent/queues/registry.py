"""Which queue is which."""

from __future__ import annotations

import sys
from typing import Callable, Dict

from agent.problems import Refused
from agent.queues import Queue
from agent.settings import Settings
from agent.work import Work


# Imported when they are used: the agent is started often.
def _local(work: Work, settings: Settings) -> Queue:
    from agent.queues.local import LocalQueue

    return LocalQueue(work, settings)


def _pueue(work: Work, settings: Settings) -> Queue:
    from agent.queues.pueue import PueueQueue

    return PueueQueue(work, settings)


def _slurm(work: Work, settings: Settings) -> Queue:
    from agent.queues.slurm import SlurmQueue

    return SlurmQueue(work, settings)


TYPES: Dict[str, Callable[[Work, Settings], Queue]] = {
    "local": _local,
    "pueue": _pueue,
    "slurm": _slurm,
}


def open_queue(work: Work, settings: Settings) -> Queue:
    """The queue of this host. Raises Refused for a type that this agent does not know."""
    if settings.queue_type not in TYPES:
        raise Refused(
            "bad_request",
            "this host's agent knows no queue of type %.40r" % settings.queue_type,
            "known are: %s" % ", ".join(sorted(TYPES)),
        )
    if sys.platform == "win32" and settings.queue_type != "local":
        raise Refused("bad_request", "on Windows the only queue is `local`")
    return TYPES[settings.queue_type](work, settings)
