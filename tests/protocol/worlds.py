"""The worlds that are searched, and the mutants of the protocol with the smallest world that shows each."""

from __future__ import annotations

from collections import Counter
from itertools import combinations_with_replacement

from tests.protocol.model import SHIPPED, Budget, Guards, Settings
from tests.protocol.promises import (
    ALONE,
    CANCEL_HOLDS,
    FETCHED_FIRST,
    HOLD_SHOWS,
    LATE,
    LISTED_ONCE,
    ONCE,
    RETRY_FOLLOWS,
    SETTLED_IS_SETTLED,
    STUCK,
    UNASKED,
    UNWISHED,
    WHOLE,
)


def world(*, slots: int = 1, keeping: bool = False, guards: Guards = SHIPPED, **budget: int) -> Settings:
    """One search. `keeping`: what is fetched is released and purged."""
    return Settings(Budget(**budget), guards, slots=slots, keeping=keeping)


def name(settings: Settings) -> str:
    """What may happen in it, for people."""
    words = [f"{field}*{count}" for field, count in settings.budget._asdict().items() if count]
    words += [f"{settings.slots} jobs"] * (settings.slots > 1) + ["purged"] * settings.keeping
    return " ".join(words) or "nothing"


def with_faults(count: int, **options: int) -> list[Settings]:
    """The worlds in which any `count` of the things of a Budget happen."""
    found = []
    for fields in combinations_with_replacement(Budget._fields, count):
        keeping, slots = bool(options.get("keeping")), options.get("slots", 1)
        found.append(world(keeping=keeping, slots=slots, **Counter(fields)))
    return found


# A few that together reach everything that the model knows to happen.
REACH = [
    world(slots=2, keeping=True),
    *with_faults(1, slots=2),
    *with_faults(1, keeping=True),
    *(
        one
        for one in with_faults(2, keeping=True)
        if name(one).removesuffix(" purged")
        in (
            "cancels*1 retries*1",
            "retries*1 refusals*1",
            "deleted*1 bad*1",
            "skips*1 refusals*1",
            "cancels*1 skips*1",
            "retries*1 skips*1",
            "kills*1 emptied*1",
        )
    ),
]
# The slowest of them are left to the slow suite.
_LARGE = ("restored*1 holds*1 purged", "restored*1 retries*1 purged")
EVERYDAY = [one for one in with_faults(2, keeping=True) if name(one) not in _LARGE]
# The others make worlds of millions with two more faults, or add little to them. Nothing can guard an emptied host
# against a request that is late.
_MAIN = {"kills", "late", "emptied", "wiped", "deleted", "bad", "cancels", "retries"}


def _is_main(one: Settings) -> bool:
    fields = {field for field, count in one.budget._asdict().items() if count}
    return fields <= _MAIN and max(one.budget) == 1 and not ("wiped" in fields and fields & {"kills", "late"})


SLOW = [
    *(one for one in with_faults(2, keeping=True) if name(one) in _LARGE),
    *(one for one in (*with_faults(2, slots=2), *with_faults(3)) if _is_main(one)),
]

# Guard -> the world, and the promise that is broken in it without the guard.
MUTANTS: dict[str, tuple[Settings, str]] = {
    "begin": (world(kills=1, skips=1), SETTLED_IS_SETTLED),
    "flock": (world(late=1), LISTED_ONCE),
    "label": (world(), LISTED_ONCE),
    "claim": (world(kills=1), ONCE),
    "look_again": (world(emptied=1, retries=1, keeping=True), ONCE),
    "serial": (world(late=1, cancels=1), LATE),
    "tombstone": (world(cancels=1), SETTLED_IS_SETTLED),
    "lock_look": (world(emptied=1), UNASKED),
    "exit_first": (world(), UNASKED),
    "one_attempt": (world(late=1, updates=1), ALONE),
    "mind_dropped": (world(late=1, updates=1, kills=1), STUCK),
    "unrelease_first": (world(keeping=True, retries=1, kills=1), STUCK),
    "named_release": (world(keeping=True, retries=1, late=2), FETCHED_FIRST),
    "forward": (world(restored=1, bad=1, holds=1), UNWISHED),
    "steady_no": (world(late=1, refusals=1), SETTLED_IS_SETTLED),
    "await_dropped": (world(late=1, updates=1, cancels=1), SETTLED_IS_SETTLED),
    "adopt_wishes": (world(deleted=1, holds=1), HOLD_SHOWS),
    "wish_again": (world(restored=1, cancels=1, holds=1), CANCEL_HOLDS),
    "see_serial": (world(deleted=1, late=1, holds=1), STUCK),
    "plan_names_jobs": (world(deleted=1, bad=1, cancels=1), STUCK),
    "keep_refused": (world(holds=1, refusals=1), SETTLED_IS_SETTLED),
    "hear_no": (world(bad=1, refusals=1), STUCK),
    "hold_seen": (world(holds=1), HOLD_SHOWS),
    "retry_follows": (world(cancels=1, retries=1), RETRY_FOLLOWS),
    "confirm_empty": (world(wiped=1, cancels=1), STUCK),
    "end_unstarted": (world(deleted=1, cancels=1, holds=1), STUCK),
    "hear_purged": (world(keeping=True, restored=1), STUCK),
    "receipt_serial": (world(keeping=True, restored=1, retries=1), STUCK),
    "whole_fetch": (world(keeping=True, restored=1), WHOLE),
}
# Those whose worlds take more than two seconds.
LONG = ("forward", "wish_again", "end_unstarted", "see_serial", "receipt_serial")


def mutated(guard: str) -> Settings:
    """The mutant's world: the protocol as it should be, but for this guard."""
    return MUTANTS[guard][0]._replace(guards=Guards()._replace(**{guard: False}))
