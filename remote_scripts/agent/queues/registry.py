"""Which queue is which."""

from __future__ import annotations

from typing import Callable, Dict

from agent.problems import Refused
from agent.queues import Queue
from agent.queues.local import LocalQueue
from agent.settings import Settings
from agent.work import Work

TYPES: Dict[str, Callable[[Work, Settings], Queue]] = {
    "local": LocalQueue,
}


def open_queue(work: Work, settings: Settings) -> Queue:
    """The queue of this host. Raises Refused for a type that this agent does not know."""
    if settings.queue_type not in TYPES:
        raise Refused(
            "bad_request",
            "this host's agent knows no queue of type %.40r" % settings.queue_type,
            "known are: %s" % ", ".join(sorted(TYPES)),
        )
    return TYPES[settings.queue_type](work, settings)
