"""What an idle cycle costs does not grow with the cases that have ended."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from mqi.steps.cycle import cycle
from tests.week.world import World

_COLUMNS = (
    "room, path, case_path, results_name, workflow, status, status_updated_at, first_seen_at, run_key, run_digest, "
    "host, plan_serial, host_serial, released_at, purged_at, results_path"
)


@pytest.fixture
def world() -> Iterator[World]:
    world = World(known=())
    yield world
    world.close()


def effort(world: World) -> int:
    """What SQLite did for one cycle, in hundreds of its virtual machine's instructions."""
    hundreds = 0

    def count() -> int:
        nonlocal hundreds
        hundreds += 1
        return 0

    with world.site() as site:
        site.store.database.connection.set_progress_handler(count, 100)
        cycle(site)
    return hundreds


def test_an_idle_cycle_costs_the_same_with_many_ended_cases(world: World) -> None:
    for _number in range(3):
        world.cycle()
        world.clock.move(61.0)
    before = effort(world)
    with world.site() as site, site.store.database.write() as connection:
        connection.executemany(
            f"INSERT INTO cases ({_COLUMNS}) VALUES ('G1', ?, '/x', ?, 'default_qa', 'completed', 1.0, 1.0, ?, ?, "
            "'one', 1, 1, 1.0, 1.0, '/r')",
            ((f"p{n}", f"p{n}", f"{n:012x}", f"{n:064x}") for n in range(5000)),
        )
    world.clock.move(61.0)
    # One step through 5,000 rows would be at least 150 hundreds.
    assert effort(world) - before < 50
