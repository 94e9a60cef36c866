"""The end of a week: everything that can become well by itself does, and every case has to come to rest."""

from __future__ import annotations

from tests.week.book import Broken
from tests.week.promises import Promises
from tests.week.wishes import Wishes
from tests.week.world import World

# Minutes between the cycles: often at first, then long enough for every back-off and every full look.
GAPS_S = (61.0,) * 30 + (301.0,) * 12 + (1801.0,) * 8


def peace(world: World, promises: Promises) -> None:
    """Everything is healthy from now on. Raises Broken unless all cases come to rest in time."""
    world.clock.let_live()
    world.folders.connect()
    world.endings.clear()
    for host in world.hosts.values():
        host.silent, host.disk_free = False, 2**40
        host.faults.clear()
        host.meanwhile.clear()
        host.work.queue_answers = True
        while host.late:
            host.deliver_late(0)
    wishes = Wishes(world)
    restless: list[str] = []
    quiet = 0
    for gap in GAPS_S:
        world.clock.move(gap)
        world.cycle()
        promises.hold()
        restless = promises.restless()
        # A folder that was rewritten in place is only seen at the next full look.
        quiet = 0 if restless else quiet + 1
        if quiet == 3:
            world.clock.move(3700.0)
        if quiet >= 6:
            wishes.done()
            return
    raise Broken("after the end of all trouble: " + "; ".join(restless))
