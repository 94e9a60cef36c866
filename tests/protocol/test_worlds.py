"""No world breaks a promise, and the worlds reach everything that they should."""

from __future__ import annotations

from functools import cache

import pytest

from mqi.case import TRANSITIONS, Event, State
from tests.protocol.model import Settings
from tests.protocol.search import Found, explore
from tests.protocol.worlds import EVERYDAY, REACH, SLOW, name, world

# Transactions of two or three events: a job that was never seen running has ended, a retry waits for the end.
TOGETHER = [
    (Event.START, Event.FINISH),
    (Event.START, Event.CONFIRM_CANCEL),
    (Event.CONFIRM_CANCEL, Event.RETRY),
    (Event.START, Event.CONFIRM_CANCEL, Event.RETRY),
    (Event.PUBLISH, Event.RETRY),
    (Event.PUBLISH_PARTIAL, Event.RETRY),
    (Event.ADOPT, Event.RETRY),
    (Event.FORGET, Event.RETRY),
    (Event.REFUSE, Event.RETRY),
]
# What the watch folder does to a case is not part of the model; neither is a second host, to which a lost one's
# cases go under another installation's name and other job keys.
NOT_IN_THE_MODEL = (
    Event.COMPLETE_FOLDER,
    Event.FOLDER_CHANGED,
    Event.SUPERSEDE,
    Event.LOOK_AGAIN,
    Event.HOST_LOST,
)
# The first words of all labels: everything that the model knows to happen. "submit", "sync", "fetch": is cut off.
MOVES = """
scan; submit; submit hashes; submit begins; submit freezes again; submit asks; submit sends; submit adopts; submit hears;
submit finds the row changed; sync; sync asks; sync hears; sync records; sync takes over; sync hears of no run;
sync hears of a receipt; sync hears of a newer plan; fetch; fetch asks; fetch hears; cancel; retry; retry follows;
hold; let go; skip; mqi is updated; the results are lost; the database is deleted; the database is backed up;
the database is restored; the agent takes; the agent stores the plan; the agent looks; the agent judges;
the agent adds; the agent withdraws; the agent answers; the agent is killed before it; the queue starts;
the queue is emptied; the work directory is emptied; run locks; run finds taken; run claims; run finds a claim;
run finds a tombstone; run starts the command; run ends the command; run writes the exit file;
the command ends well; the command ends badly; the wrapper is killed; run and its command are killed;
the orphan ends
"""


def check(result: Found) -> None:
    print(f"{result.worlds} worlds")
    assert not result.wrong, "\n".join([result.wrong, *result.trace])
    assert result.worlds > 100
    assert result.changes <= allowed()


@cache
def allowed() -> frozenset[tuple[str, str]]:
    """From where to where a move of the control PC may lead, by the product's table."""
    pairs = {(str(before), str(after)) for (before, _event), after in TRANSITIONS.items()}
    for state in State:
        pairs.add((str(state), str(state)))
        for events in TOGETHER:
            after: State | None = state
            for event in events:
                after = TRANSITIONS.get((after, event)) if after is not None else None
            if after is not None:
                pairs.add((str(state), str(after)))
    return frozenset(pairs)


@pytest.mark.parametrize("settings", EVERYDAY, ids=name)
def test_no_world_breaks_a_promise(settings: Settings) -> None:
    check(explore(settings))


@pytest.mark.slow
@pytest.mark.parametrize("settings", SLOW, ids=name)
def test_no_larger_world_breaks_a_promise(settings: Settings) -> None:
    check(explore(settings))


def test_the_worlds_reach_everything_that_the_model_knows() -> None:
    """A search that finds nothing because it goes nowhere would be the worst of all."""
    results = [explore(settings) for settings in REACH]
    for result in results:
        check(result)
    assert sum(result.worlds for result in results) > 80_000
    labels = frozenset[str]().union(*(result.labels for result in results))
    assert sorted(labels) == sorted(" ".join(word.split()) for word in MOVES.split(";"))
    changes = frozenset[tuple[str, str]]().union(*(result.changes for result in results))
    # A transition that is added to the table has to come into the model.
    wanted = {
        (str(before), str(after))
        for (before, event), after in TRANSITIONS.items()
        if event not in NOT_IN_THE_MODEL and before is not State.WAITING
    }
    assert wanted <= changes


def test_a_search_that_is_cut_short_says_so() -> None:
    with pytest.raises(MemoryError, match="more than 50"):
        explore(world(), most=50)
