"""What every queue must do: each with its real daemons. A new type joins by its line in `daemons.STANDS`."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

import pytest
from agent.queues import Queue
from agent.queues.registry import TYPES, open_queue
from agent.settings import parse_settings
from agent.work import Work

from mqi.settings import Group
from tests.agent.bench import RUN, Bench, wait_for
from tests.agent.daemons import STANDS, Stand

FIRST, SECOND = f"{RUN}.one.b1-a1", f"{RUN}.one.b2-a1"
GROUPS = (Group("cpu", slots=1), Group("gpu", slots=1))


@pytest.fixture
def on(stand: Stand, make_bench: Callable[..., Bench]) -> Bench:
    """A bench whose host has this queue."""
    return make_bench(queue=stand.queue(GROUPS))


def opened(bench: Bench) -> Queue:
    """The queue as the agent of this bench opens it."""
    bench.work.mkdir(exist_ok=True)
    return open_queue(Work(str(bench.work)), parse_settings(bench.host._request_settings()))


def keys(queue: Queue) -> list[str]:
    return [task.job_key for task in queue.list()]


@contextlib.contextmanager
def nothing_starts(stand: Stand, bench: Bench) -> Iterator[None]:
    """Tasks of both groups wait."""
    bench.work.mkdir(exist_ok=True)
    with stand.held(bench.work, "cpu"), stand.held(bench.work, "gpu"):
        yield


def test_every_type_is_tried() -> None:
    assert sorted(TYPES) == sorted(STANDS)


def test_starts_empty(on: Bench) -> None:
    queue = opened(on)
    queue.check()
    assert queue.list() == []


def test_shows_what_was_added_until_it_is_removed(stand: Stand, on: Bench) -> None:
    with nothing_starts(stand, on):
        queue = opened(on)
        queue_id = queue.add(FIRST, "cpu", 3, 1)
        queue.add(SECOND, "gpu", 0, 2)
        tasks = {task.job_key: task for task in queue.list()}
        assert set(tasks) == {FIRST, SECOND}
        first = tasks[FIRST]
        assert (first.group, first.queue_id, first.priority, first.running) == ("cpu", queue_id, 3, False)
        queue.remove(FIRST)
        queue.remove(FIRST)
        queue.remove(f"{RUN}.never-a1")
        assert keys(queue) == [SECOND]


def test_shows_a_job_once_even_when_it_was_added_twice(stand: Stand, on: Bench) -> None:
    with nothing_starts(stand, on):
        queue = opened(on)
        queue.add(FIRST, "cpu", 0, 1)
        queue.add(FIRST, "cpu", 0, 1)
        assert keys(queue) == [FIRST]
        queue.remove(FIRST)
        assert keys(queue) == []


def test_higher_priority_first_then_older(stand: Stand, on: Bench) -> None:
    with nothing_starts(stand, on):
        queue = opened(on)
        queue.add(f"{RUN}.early-a1", "cpu", 0, 1)
        queue.add(f"{RUN}.late-a1", "cpu", 0, 9)
        queue.add(f"{RUN}.urgent-a1", "cpu", 5, 20)
        queue.add(f"{RUN}.patient-a1", "cpu", -5, 0)
        assert keys(queue) == [f"{RUN}.{name}-a1" for name in ("urgent", "early", "late", "patient")]


def test_starts_in_that_order(stand: Stand, on: Bench) -> None:
    other = "ba9876543210"
    with nothing_starts(stand, on):
        on.submit(on.plan(on.traced("early-a1"), on.traced("late-a1")))
        on.submit(on.plan(on.traced("urgent-a1", run=other), run=other, priority=5))
    on.report()
    on.exit("late-a1")
    assert on.order() == ["urgent-a1", "early-a1", "late-a1"]


def test_shows_only_the_tasks_of_its_own_work_directory(
    stand: Stand, on: Bench, make_bench: Callable[..., Bench]
) -> None:
    # Two control PCs, or a test installation, and one queue: the same case has the same keys in both.
    other = make_bench("other", queue=stand.queue(GROUPS))
    with nothing_starts(stand, on), nothing_starts(stand, other):
        opened(on).add(FIRST, "cpu", 0, 1)
        assert keys(opened(other)) == []
        opened(other).remove(FIRST)
        assert keys(opened(on)) == [FIRST]


def test_starts_tasks_and_forgets_them(on: Bench) -> None:
    # Through the agent, as ever: `check` after `add` makes the queue move, and what has ended is not listed.
    on.submit(on.plan(on.gated("one-a1")))
    wait_for(lambda: on.begun("one-a1"), "the job to begin")
    queue = opened(on)
    assert [(task.job_key, task.running) for task in queue.list()] == [(f"{RUN}.one-a1", True)]
    queue.remove(f"{RUN}.one-a1")  # too late, and so it does nothing
    on.open_gate()
    assert on.exit("one-a1")["kind"] == "ok"
    wait_for(lambda: not queue.list(), "the task to be forgotten")


def test_a_chain_runs_by_itself(on: Bench) -> None:
    jobs = [on.traced("one-a1"), on.traced("two.b1-a1", "one-a1"), on.traced("two.b2-a1", "one-a1", group="gpu")]
    assert on.submit(on.plan(*jobs, on.traced("three-a1", "two.b1-a1", "two.b2-a1"))) == "accepted"
    # No further request: each end of a run feeds the next jobs.
    assert on.exit("three-a1")["kind"] == "ok"
    assert sorted(on.order()) == ["one-a1", "three-a1", "two.b1-a1", "two.b2-a1"]


def test_no_more_at_once_than_slots(stand: Stand, make_bench: Callable[..., Bench]) -> None:
    on = make_bench(queue=stand.queue((Group("cpu", slots=2),), max_queued=10))
    on.submit(on.plan(*(on.gated(f"step.b{beam}-a1") for beam in range(4))))
    wait_for(lambda: len(on.order()) == 2, "two jobs to begin")
    on.report()
    time.sleep(0.5)  # time to do the wrong thing
    on.open_gate()
    for beam in range(4):
        assert on.exit(f"step.b{beam}-a1")["kind"] == "ok"
    assert on.most_at_once() == 2


def test_an_emptied_queue_is_filled_again(stand: Stand, on: Bench) -> None:
    with nothing_starts(stand, on):
        on.submit(on.plan(on.traced("one-a1")))
        stand.empty(on.work)
        assert keys(opened(on)) == []
        assert on.states() == {"one-a1": "queued"}
    on.report()
    assert on.exit("one-a1")["kind"] == "ok"
    assert on.begun("one-a1") == 1


def test_hold_withdraws_and_release_feeds_again(stand: Stand, on: Bench) -> None:
    jobs = [on.gated("one-a1"), on.traced("two-a1")]
    on.submit(on.plan(*jobs))
    wait_for(lambda: on.begun("one-a1"), "the first job to begin")
    assert on.submit(on.plan(*jobs, serial=2, held=True)) == "accepted"
    assert on.states() == {"one-a1": "running", "two-a1": "held"}
    assert f"{RUN}.two-a1" not in keys(opened(on))
    on.open_gate()
    assert on.exit("one-a1")["kind"] == "ok"
    on.submit(on.plan(*jobs, serial=3))
    assert on.exit("two-a1")["kind"] == "ok"
    assert (on.begun("one-a1"), on.begun("two-a1")) == (1, 1)


def test_cancel_ends_what_runs(on: Bench) -> None:
    on.submit(on.plan(on.traced("one-a1", seconds=60), on.traced("two-a1")))
    wait_for(lambda: on.begun("one-a1"), "the first job to begin")
    on.submit(on.plan(on.traced("one-a1", seconds=60), on.traced("two-a1"), serial=2, cancel=True))
    assert on.exit("one-a1")["kind"] == "cancelled"
    assert on.states()["two-a1"] == "cancelled"
    wait_for(lambda: not keys(opened(on)), "the queue to be empty")


def test_jobs_get_a_small_environment(on: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_OF_THE_LOGIN", "s3cret")
    on.submit(on.plan(on.code("one-a1", "print(sorted(os.environ))")))
    assert on.exit("one-a1")["kind"] == "ok"
    names = (on.job("one-a1") / "log.txt").read_text()
    assert "PATH" in names
    assert "SECRET" not in names
    assert "CUDA_VISIBLE_DEVICES" not in names


def test_a_killed_wrapper_leaves_an_orphan_then_a_lost_job(stand: Stand, on: Bench) -> None:
    on.submit(on.plan(on.gated("one-a1")))
    on.kill_wrapper("one-a1")
    on.open_gate()
    on.wait_state("one-a1", "lost")
    assert on.submit(on.plan(on.traced("one-a2"), serial=2)) == "accepted"
    assert on.exit("one-a2")["kind"] == "ok"
    assert (on.begun("one-a1"), on.begun("one-a2")) == (1, 1)


def test_strange_files_in_the_local_queue(bench: Bench) -> None:
    queue = opened(bench)
    queue.add(FIRST, "cpu", 0, 1)
    folder = bench.work / "queue" / "local" / "cpu" / "tasks"
    (folder / "README.json").write_text("{}")
    (folder / f"{SECOND}.json").write_bytes(b"\0broken")
    (bench.work / "queue" / "local" / "not a group!").mkdir()
    assert keys(queue) == [FIRST]


def test_the_local_queue_knows_the_order_of_equals(bench: Bench) -> None:
    queue = opened(bench)
    with bench.no_runner():
        queue.add(f"{RUN}.late-a1", "cpu", 0, 9)
        queue.add(f"{RUN}.early-a1", "cpu", 0, 1)
        assert keys(queue) == [f"{RUN}.early-a1", f"{RUN}.late-a1"]
