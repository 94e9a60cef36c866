"""What the search has found, played with the product itself: each the shortest story that shows it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from mqi.case import State
from mqi.site import Site
from mqi.steps import operate
from mqi.steps.submit import submit
from tests.week.host import SimulatedHost
from tests.week.jobs import Ending
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


def hand_over_meets(host: SimulatedHost, fault: str) -> None:
    """What becomes of the plan, after all that is asked of a new host before it."""
    host.faults.extend([*[""] * 4, fault])  # inventory, scripts, question, upload, plan


def plan_on(world: World, host: str) -> dict[str, Any]:
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


def test_a_hold_that_a_lost_database_gave_can_be_undone(world: World) -> None:
    """adopt_wishes: the host's plan is held, and the row that takes it over has to say so."""
    world.folders.arrive("P1", 1)
    cycles(world, 2)
    world.operator("hold", 0)
    cycles(world, 4)
    assert world.states() == ["running"]
    world.delete_database()
    cycles(world, 6)
    assert world.states() == ["running"]
    assert world.operator("release", 0) == "released"
    cycles(world, 6)
    assert world.states() == ["completed"]


def test_a_cancel_that_meets_a_newer_plan_is_not_forgotten(world: World) -> None:
    """wish_again: a restored database's cancel has a serial that the host has seen already."""
    world.endings.append(Ending(after_s=6000.0))
    world.folders.arrive("P1", 1)
    cycles(world, 3)
    world.back_up()
    world.operator("hold", 0)
    cycles(world, 1)
    world.operator("release", 0)
    cycles(world, 1)
    assert plan_on(world, "one")["serial"] == 3
    world.restore()
    world.operator("cancel", 0)
    cycles(world, 4)
    assert world.states() == ["cancelled"]
    assert not world.book.executions[1:]


def test_a_case_does_not_end_while_a_replaced_job_still_runs(world: World) -> None:
    """await_dropped: freezing again replaces a job that has begun after all, which takes a moment to end."""
    world.endings.append(Ending(after_s=600.0))
    world.folders.arrive("P1", 1)
    cycles(world, 1)
    host = world.hosts["one"]
    hand_over_meets(host, "reply lost")
    cycles(world, 1)
    world.update_mqi("simulate.py", "2")
    host.live()
    host.work.live = lambda: None  # type: ignore[method-assign]  # its wrappers are slow to notice
    cycles(world, 1)
    assert [job["job_key"].rpartition("-")[2] for job in plan_on(world, "one")["jobs"]] == ["a2"] * 3
    (begun,) = [job for job in host.work._jobs() if job.process]
    assert begun.key.endswith("prepare-a1")
    world.operator("cancel", 0)
    cycles(world, 2)
    assert world.states() == ["queued"]
    del host.work.live
    cycles(world, 2)
    assert world.states() == ["cancelled"]


def test_a_cancel_that_was_confirmed_holds_when_the_host_is_emptied(world: World) -> None:
    """confirm_empty: a case that is still submitting is sent no more, and has nobody to tell its end."""
    world.endings.append(Ending(after_s=600.0))
    world.folders.arrive("P1", 1)
    cycles(world, 1)
    host = world.hosts["one"]
    hand_over_meets(host, "reply lost")
    cycles(world, 1)
    host.live()
    host.work.live = lambda: None  # type: ignore[method-assign]  # its wrappers are slow to notice
    world.operator("cancel", 0)
    cycles(world, 1)
    assert world.states() == ["submitting"]
    assert plan_on(world, "one")["cancel"]
    world.empty("one")
    cycles(world, 3)
    assert world.states() == ["cancelled"]


def test_a_next_attempt_that_the_host_cannot_have_is_an_end(world: World) -> None:
    """hear_no: inputs that had gone bad were removed, and sync sends none."""
    world.endings.append(Ending("failed", 75))
    world.folders.arrive("P1", 1)
    cycles(world, 2)
    world.hosts["one"].work.blobs.clear()
    cycles(world, 6)
    assert world.states() == ["failed"]
    (reason,) = world.read("SELECT reason FROM cases")[0]
    assert "lacks some inputs" in reason
    world.operator("retry", 0, (None, False))
    cycles(world, 6)
    assert world.states() == ["completed"]


def test_a_hold_that_the_host_refuses_does_not_show(world: World) -> None:
    """hear_no: the jobs go on, and the row says so."""
    world.folders.arrive("P1", 1)
    cycles(world, 2)
    world.hosts["one"].work.blobs.clear()
    world.operator("hold", 0)
    cycles(world, 6)
    assert world.states() == ["completed"]
    assert [row["held"] for row in world.read("SELECT held FROM cases")] == [0]


def test_a_next_attempt_that_was_never_asked_for_hides_nothing(world: World) -> None:
    """plan_names_jobs: a late cancel of a lost database meets the next attempt that the new one plans."""
    world.endings.append(Ending("killed", after_s=300.0))
    world.folders.arrive("P1", 1)
    cycles(world, 3)
    host = world.hosts["one"]
    world.operator("cancel", 0)
    host.faults.append("late")
    cycles(world, 1)
    assert [call["verb"] for call in host.late[0]] == ["plan"]
    world.delete_database()

    def deliver() -> None:
        # Just before the next attempt of the new database, which has the same serial.
        lost = [row["state"] for row in world.read("SELECT state FROM jobs WHERE job_key LIKE '%prepare-a1'")]
        if host.late and lost == ["lost"]:
            host.deliver_late(0)
        host.meanwhile.append(("before", deliver))

    host.meanwhile.append(("before", deliver))
    cycles(world, 12)
    assert not host.late
    assert plan_on(world, "one")["cancel"]
    assert world.states() == ["cancelled"]


def test_a_case_that_a_lost_database_had_cancelled_ends(world: World) -> None:
    """end_unstarted: its jobs are forbidden before they start, and nothing of this database says so."""
    world.folders.arrive("P1", 1)
    cycles(world, 1)
    host = world.hosts["one"]
    hand_over_meets(host, "lost")
    cycles(world, 1)
    assert world.states() == ["submitting"]
    world.back_up()
    world.operator("cancel", 0)
    host.faults.append("late")
    cycles(world, 1)
    assert [call["verb"] for call in host.late[0]] == ["plan"]
    world.restore()
    world.operator("hold", 0)
    world.operator("release", 0)
    host.deliver_late(0)
    cycles(world, 6)
    assert world.states() == ["cancelled"]
    world.operator("retry", 0, (None, False))
    cycles(world, 6)
    assert world.states() == ["completed"]


def test_a_restored_database_does_not_end_a_newer_attempt(world: World) -> None:
    """forward: its wishes have the higher serial in the end, and name the attempt before."""
    world.endings.extend([Ending("failed", 75, after_s=60.0), Ending(after_s=6000.0)])
    world.folders.arrive("P1", 1)
    cycles(world, 2)
    world.back_up()
    cycles(world, 3)
    assert plan_on(world, "one")["serial"] == 2
    newest = [job["job_key"] for job in plan_on(world, "one")["jobs"]]
    assert newest[0].endswith("-a2")
    world.restore()
    for word in ("hold", "release", "hold", "release"):
        world.operator(word, 0)
    cycles(world, 3)
    assert [job["job_key"] for job in plan_on(world, "one")["jobs"]] == newest
    cycles(world, 6, gap_s=6100.0)
    assert world.states() == ["completed"]
    keys = [one.key for one in world.book.executions]
    assert len(keys) == len(set(keys)) == 4


def refusing(world: World, reason: str) -> None:
    """The only host takes no plan any more that would not only cancel, as if its configuration had changed."""
    world.hosts["one"].work._obstacle = lambda *_plan: reason  # type: ignore[method-assign]


def test_a_case_whose_run_goes_on_does_not_fail_for_a_wish_that_is_refused(world: World) -> None:
    """keep_refused: the acceptance was not heard of, and the hold that follows is refused."""
    world.folders.arrive("P1", 1)
    cycles(world, 1)
    hand_over_meets(world.hosts["one"], "reply lost")
    cycles(world, 1)
    assert world.states() == ["submitting"]
    world.operator("hold", 0)
    refusing(world, "no")
    cycles(world, 1)
    assert world.states() in (["queued"], ["running"])
    cycles(world, 6)
    assert world.states() == ["completed"]
    words = [row["reason"] for row in world.read("SELECT reason FROM events WHERE event = 'accept'")]
    assert words == ["one goes on with the plan before; of the newest it says: no"]
    assert [row["held"] for row in world.read("SELECT held FROM cases")] == [0]


def test_a_retry_that_is_refused_fails_at_once(world: World) -> None:
    """keep_refused: what the host has of it had ended before, and nobody waits for that."""
    world.endings.append(Ending("failed", 3))
    world.folders.arrive("P1", 1)
    cycles(world, 6)
    assert world.states() == ["failed"]
    refusing(world, "no")
    world.operator("retry", 0, (None, False))
    cycles(world, 1)
    assert world.states() == ["failed"]
    assert "refused it: no" in world.read("SELECT reason FROM cases")[0]["reason"]


def test_what_was_refused_stays_refused_and_so_does_what_is_late(world: World) -> None:
    """steady_no: a plan that comes after the refusal of a newer one starts nothing of a settled case."""
    world.folders.arrive("P1", 1)
    cycles(world, 1)
    host = world.hosts["one"]
    hand_over_meets(host, "late")
    cycles(world, 1)
    assert [call["verb"] for call in host.late[0]] == ["plan"]
    world.operator("hold", 0)
    refusing(world, "no")
    cycles(world, 1)
    assert world.states() == ["failed"]
    del host.work._obstacle
    host.deliver_late(0)
    cycles(world, 3)
    assert world.states() == ["failed"]
    assert not world.book.executions
    world.operator("retry", 0, (None, False))
    world.operator("release", 0)
    cycles(world, 6)
    assert world.states() == ["completed"]
