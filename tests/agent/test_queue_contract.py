"""What every queue must do. A new type joins by its line in the registry and by a fixture that starts it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from agent.queues import Queue
from agent.queues.registry import TYPES, open_queue
from agent.settings import parse_settings
from agent.work import Work

from tests.agent.bench import RUN, Bench, wait_for

FIRST, SECOND = f"{RUN}.one.b1-a1", f"{RUN}.one.b2-a1"


@pytest.fixture(params=sorted(TYPES))
def queue(request: pytest.FixtureRequest, bench: Bench) -> Iterator[Queue]:
    groups = [{"name": "cpu", "slots": 1}, {"name": "gpu", "slots": 1}]
    raw: dict[str, Any] = {"queue": {"type": request.param, "groups": groups}}
    yield open_queue(Work(str(bench.work)), parse_settings(raw))


def keys(queue: Queue) -> list[str]:
    return [task.job_key for task in queue.list()]


def test_starts_empty(queue: Queue) -> None:
    queue.check()
    assert queue.list() == []


def test_shows_what_was_added_until_it_is_removed(queue: Queue, bench: Bench) -> None:
    with bench.no_runner():
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


def test_higher_priority_first_then_older(queue: Queue, bench: Bench) -> None:
    with bench.no_runner():
        queue.add(f"{RUN}.late-a1", "cpu", 0, 9)
        queue.add(f"{RUN}.early-a1", "cpu", 0, 1)
        queue.add(f"{RUN}.urgent-a1", "cpu", 5, 20)
        assert keys(queue) == [f"{RUN}.urgent-a1", f"{RUN}.early-a1", f"{RUN}.late-a1"]


def test_starts_tasks_and_forgets_them(bench: Bench) -> None:
    # Through the agent, as ever: `check` after `add` makes the queue move, and what has ended is not listed.
    bench.submit(bench.plan(bench.gated("one-a1")))
    wait_for(lambda: bench.begun("one-a1"), "the job to begin")
    queue = open_queue(Work(str(bench.work)), parse_settings(bench.host._request_settings()))
    assert [(task.job_key, task.running) for task in queue.list()] == [(f"{RUN}.one-a1", True)]
    bench.open_gate()
    bench.exit("one-a1")
    wait_for(lambda: not queue.list(), "the task to be forgotten")


def test_survives_strange_files(queue: Queue, bench: Bench) -> None:
    queue.add(FIRST, "cpu", 0, 1)
    folder = bench.work / "queue" / "local" / "cpu" / "tasks"
    (folder / "README.json").write_text("{}")
    (folder / f"{SECOND}.json").write_bytes(b"\0broken")
    (bench.work / "queue" / "local" / "not a group!").mkdir()
    assert keys(queue) == [FIRST]
