"""What the search has found, played with the product itself: each the shortest story that shows it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from mqi.case import State
from mqi.site import Site
from mqi.steps import operate
from mqi.steps.submit import submit
from tests.week.world import World


@pytest.fixture
def world() -> Iterator[World]:
    """A world in which nothing is gone around."""
    world = World(known=())
    yield world
    world.close()


def cycles(world: World, count: int, gap_s: float = 61.0) -> None:
    for _number in range(count):
        world.cycle()
        world.clock.move(gap_s)


def plan_on(world: World, host: str) -> dict[str, object]:
    (run,) = world.hosts[host].work.runs.values()
    return run.plan


def test_a_hold_that_is_given_while_inputs_are_hashed_holds(world: World) -> None:
    """hold_seen: submit hashes, hold, submit begins."""
    world.folders.arrive("P1", 1)
    world.folders.arrive("P2", 3)
    world.cycle("scan")
    world.clock.move(61.0)
    world.cycle("scan")
    assert world.states() == ["new", "new"]

    def hold_the_second(site: Site) -> None:
        # Told before each case and after every file that is hashed: the rows of both have been read.
        if site.store.case(1).status is State.SUBMITTING and not site.store.case(2).held:
            assert operate.hold(site, site.store.case(2)) == "held"

    def submit_it(site: Site) -> None:
        site.alive = lambda: hold_the_second(site)
        submit(site)

    world.command(submit_it)
    cycles(world, 6)
    assert world.states() == ["completed", "new"]
    world.operator("release", 1)
    cycles(world, 6)
    assert world.states() == ["completed", "completed"]
