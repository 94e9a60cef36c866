"""What the weeks have found, each as the shortest story that shows it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.week.jobs import Ending
from tests.week.known import OPEN
from tests.week.world import DAY, World


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


def nothing_ran_twice(world: World) -> bool:
    keys = [one.key for one in world.book.executions]
    return len(keys) == len(set(keys))


@pytest.mark.parametrize("look_at_an_empty_one", [False, True])
def test_a_restored_database_does_not_send_a_run_to_another_host(
    world: World, look_at_an_empty_one: bool
) -> None:
    world.folders.arrive("P1", 2)
    cycles(world, 2)
    world.back_up()
    world.folders.arrive("P2", 1)
    cycles(world, 6)
    assert {one.host for one in world.book.executions} == {"one", "two"}
    if look_at_an_empty_one:
        # It is noted as the one used last, and the backup is newer than that.
        world.delete_database()
        world.cycle("fetch")
    world.restore()
    # Two cases are on host one, as far as the restored database knows: the next goes to two, or the other way.
    world.folders.vanish("P1")
    cycles(world, 6)
    assert nothing_ran_twice(world)


def test_a_second_backup_with_more_history_than_the_first_sends_no_run_to_another_host(world: World) -> None:
    """What came after the first was put back is not in the second, which has more events all the same."""
    world.cycle()
    world.back_up()
    world.folders.arrive("P3", 3)
    cycles(world, 8)
    world.operator("retry", 0, (None, True))
    cycles(world, 8)
    world.back_up("longer.db")
    assert world.restore()
    world.folders.vanish("P3")
    world.folders.arrive("P2", 2)
    cycles(world, 1)
    world.folders.arrive("P1", 1)
    cycles(world, 2)
    assert {one.host for one in world.book.executions[-2:]} == {"one", "two"}
    assert world.restore("longer.db")
    # The case that went to the second host is seen first now, and the first host is free.
    world.folders.vanish("P2")
    cycles(world, 6)
    assert nothing_ran_twice(world)


def test_a_restored_database_does_not_wait_for_a_purged_run(world: World) -> None:
    world.folders.arrive("P1", 1)
    cycles(world, 3)
    assert world.states() == ["running"]
    world.back_up()
    cycles(world, 4)
    world.clock.move(1.1 * DAY)
    cycles(world, 2)
    assert not any(host.work.runs for host in world.hosts.values())
    world.restore()
    cycles(world, 20)
    assert world.states() == ["completed"]


def _emptied_after_a_cancel(world: World) -> None:
    world.folders.arrive("P1", 1)
    world.endings.extend([Ending(), Ending(after_s=600.0)])
    cycles(world, 4)
    world.operator("cancel", 0)
    cycles(world, 3)
    assert [(one.step, one.kind) for one in world.book.executions] == [
        ("prepare", "ok"),
        ("simulate", "cancelled"),
    ]
    assert world.states() == ["cancelled"]
    world.empty("one")
    world.operator("retry", 0, (None, False))


def test_a_retry_after_an_emptied_host_gives_new_attempts(world: World) -> None:
    _emptied_after_a_cancel(world)
    cycles(world, 8)
    assert world.states() == ["completed"]


def test_a_kept_job_that_fails_again_on_an_emptied_host_ends_its_case(world: World) -> None:
    world.book.strict = False  # this is about what comes after the second execution
    _emptied_after_a_cancel(world)
    world.endings.append(Ending("failed", 3))
    cycles(world, 20)
    assert world.states() == ["failed"]


def _restored_before_a_retry(world: World) -> None:
    world.folders.arrive("P1", 1)
    cycles(world, 3)
    assert world.states() == ["running"]
    world.back_up()
    cycles(world, 4)
    assert world.states() == ["completed"]
    world.operator("retry", 0, ("report", False))
    cycles(world, 2)
    assert world.book.executions[-1].key.endswith("report-a2")
    world.restore()


def test_a_restored_database_takes_over_a_newer_plan(world: World) -> None:
    _restored_before_a_retry(world)
    cycles(world, 6)
    assert world.states() == ["completed"]
    provenance = world.read("SELECT results_path FROM cases")[0][0] + "/provenance.json"
    assert "report-a2" in Path(provenance).read_text()


def test_a_retry_is_not_stuck_on_a_receipt_that_is_newer(world: World) -> None:
    _restored_before_a_retry(world)
    cycles(world, 6)
    world.clock.move(1.1 * DAY)
    cycles(world, 2)
    world.operator("retry", 0, (None, False))
    cycles(world, 20)
    assert world.states() == ["completed"]


@pytest.mark.xfail("W5" in OPEN, raises=AssertionError, strict=True, reason="W5: submitting for ever")
def test_a_machine_file_edited_before_the_upload(world: World) -> None:
    world.folders.arrive("P1", 1)
    cycles(world, 1)
    world.hosts["one"].faults.extend(["", "lost"])
    cycles(world, 1)
    assert world.states() == ["submitting"]
    world.edit_machine("2")
    cycles(world, 20)
    assert world.states() == ["completed"]


@pytest.mark.xfail("W6" in OPEN, raises=AssertionError, strict=True, reason="W6: the retry is forgotten")
def test_a_retry_that_follows_a_cancel_that_came_too_late(world: World) -> None:
    world.folders.arrive("P1", 1)
    cycles(world, 3)
    world.hosts["one"].silent = True
    world.operator("cancel", 0)
    world.operator("retry", 0, (None, True))
    cycles(world, 6)
    world.hosts["one"].silent = False
    cycles(world, 20)
    followed = any(one.key.endswith("report-a2") for one in world.book.executions)
    said = [row["reason"] for row in world.read("SELECT reason FROM events ORDER BY event_id DESC LIMIT 3")]
    assert followed or any("retry" in words for words in said)
    assert world.read("SELECT retry FROM cases")[0]["retry"] is None


def test_a_receipt_takes_no_progress_back(world: World) -> None:
    world.folders.arrive("P1", 1)
    world.endings.extend([Ending(after_s=600.0), Ending("failed", 3)])
    cycles(world, 4)
    world.back_up()
    (before,) = world.read("SELECT progress, definition FROM jobs WHERE step = 'prepare'")
    assert 0.0 < before["progress"] < 1.0
    cycles(world, 20)
    assert world.states() == ["failed"]
    world.clock.move(15 * DAY)
    cycles(world, 2)
    world.restore()
    cycles(world, 10)
    (after,) = world.read("SELECT progress, definition FROM jobs WHERE step = 'prepare'")
    assert after["progress"] >= before["progress"]
    assert after["definition"] == before["definition"]


def test_progress_is_that_of_the_attempt_that_counts(world: World) -> None:
    """A next attempt takes the place of one that was lost half-way: the case is back where that one began, at once."""
    world.endings.append(Ending("killed", after_s=600.0))
    world.folders.arrive("P1", 1)
    seen: list[float] = []
    cycles(world, 3)
    host = world.hosts["one"]
    for _number in range(30):
        host.faults.clear()
        host.faults.extend(["", "lost"])  # the next attempt is not sent in the run that decides on it
        cycles(world, 1)
        (row,) = world.read("SELECT * FROM cases")
        attempts = world.read("SELECT progress FROM jobs WHERE job_key LIKE '%-a2'")
        if attempts:
            break
        seen.append(row["progress"])
    assert max(seen) > 0.0
    assert (row["progress"], [one["progress"] for one in attempts]) == (0.0, [0.0])


def test_a_case_that_is_skipped_while_its_folder_cannot_be_read_stops_no_step(world: World) -> None:
    """What mqi would say of a case may be about one that an operator has just ended; the others go on."""
    world.folders.arrive("P1", 1)
    world.folders.arrive("P2", 2)
    world.cycle()
    world.clock.move(61.0)

    def skipped() -> None:
        world.operator("skip", 0)
        world.folders.disconnect()

    world.hosts["one"].meanwhile.append(("before", skipped))
    world.cycle()
    assert world.states() == ["skipped", "new"]
    world.folders.connect()
    cycles(world, 7)
    assert world.states() == ["skipped", "completed"]
