"""What the weeks have found, each as the shortest story that shows it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.week.known import OPEN
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


@pytest.mark.xfail("W1" in OPEN, raises=AssertionError, strict=True, reason="W1: a restored database does not ask the hosts again")
def test_a_restored_database_does_not_send_a_run_to_another_host(world: World) -> None:
    world.folders.arrive("P1", 2)
    cycles(world, 2)
    world.back_up()
    world.folders.arrive("P2", 1)
    cycles(world, 6)
    assert {one.host for one in world.book.executions} == {"one", "two"}
    world.restore()
    # Two cases are on host one, as far as the restored database knows: the next goes to two, or the other way.
    world.folders.vanish("P1")
    cycles(world, 6)
    keys = [one.key for one in world.book.executions]
    assert len(keys) == len(set(keys))
