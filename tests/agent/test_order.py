"""Who starts when: slots, priority, hold, the queue's limit, needs."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable

import pytest
from agent.locks import Lock

from tests.agent.bench import RUN, Bench, wait_for

OTHER = "ba9876543210"


def tasks(bench: Bench) -> set[str]:
    folder = bench.work / "queue" / "local" / "cpu" / "tasks"
    return {path.name[:-5] for path in folder.glob("*.json")}


def test_no_more_at_once_than_slots(make_bench: Callable[..., Bench]) -> None:
    bench = make_bench(slots=2, max_queued=10)
    bench.submit(bench.plan(*(bench.gated(f"step.b{beam}-a1") for beam in range(5))))
    wait_for(lambda: len(bench.order()) == 2, "two jobs to begin")
    time.sleep(0.5)  # time to do the wrong thing
    bench.open_gate()
    for beam in range(5):
        bench.exit(f"step.b{beam}-a1")
    assert bench.most_at_once() == 2


def test_the_queue_is_fed_in_small_portions(make_bench: Callable[..., Bench]) -> None:
    bench = make_bench(slots=1, max_queued=2)
    with bench.no_runner():
        bench.submit(bench.plan(*(bench.traced(f"step.b{beam}-a1") for beam in range(5))))
        assert tasks(bench) == {f"{RUN}.step.b0-a1", f"{RUN}.step.b1-a1"}
    bench.report()
    for beam in range(5):
        assert bench.exit(f"step.b{beam}-a1")["kind"] == "ok"


def test_urgent_runs_go_first_even_past_a_full_queue(make_bench: Callable[..., Bench]) -> None:
    bench = make_bench(slots=1, max_queued=1)
    with bench.no_runner():
        bench.submit(bench.plan(bench.traced("first-a1"), bench.traced("second-a1")))
        urgent = bench.plan(bench.traced("urgent-a1", run=OTHER), run=OTHER, priority=5)
        bench.submit(urgent)
        assert tasks(bench) == {f"{OTHER}.urgent-a1"}
        assert bench.states() == {"first-a1": "waiting", "second-a1": "waiting"}
    bench.report()
    bench.exit("second-a1")
    assert bench.order() == ["urgent-a1", "first-a1", "second-a1"]


def test_a_new_priority_reorders_what_has_not_started(make_bench: Callable[..., Bench]) -> None:
    bench = make_bench(slots=1)
    with bench.no_runner():
        jobs = [bench.traced("one-a1")]
        others = [bench.traced("other-a1", run=OTHER)]
        bench.submit(bench.plan(*jobs))
        bench.submit(bench.plan(*others, run=OTHER))
        assert bench.submit(bench.plan(*others, run=OTHER, serial=2, priority=1)) == "accepted"
    bench.report()
    bench.exit("one-a1")
    assert bench.order() == ["other-a1", "one-a1"]


def test_hold_withdraws_and_release_feeds_again(make_bench: Callable[..., Bench]) -> None:
    bench = make_bench(slots=1)
    jobs = [bench.gated("one-a1"), bench.traced("two-a1"), bench.traced("three-a1", "one-a1")]
    bench.submit(bench.plan(*jobs))
    wait_for(lambda: bench.begun("one-a1"), "the first job to begin")
    assert bench.submit(bench.plan(*jobs, serial=2, held=True)) == "accepted"
    assert bench.states() == {"one-a1": "running", "two-a1": "held", "three-a1": "held"}
    assert tasks(bench) <= {f"{RUN}.one-a1"}
    # What has started goes on; what has not does not, not even by its task.
    bench.open_gate()
    assert bench.exit("one-a1")["kind"] == "ok"
    assert bench.run("two-a1") == 0
    assert bench.states() == {"one-a1": "ended", "two-a1": "held", "three-a1": "held"}
    bench.submit(bench.plan(*jobs, serial=3))
    assert bench.exit("two-a1")["kind"] == bench.exit("three-a1")["kind"] == "ok"
    assert [bench.begun(name) for name in ("one-a1", "two-a1", "three-a1")] == [1, 1, 1]


def test_jobs_wait_for_what_they_need(bench: Bench) -> None:
    bench.submit(bench.plan(bench.code("one-a1", "sys.exit(3)"), bench.traced("two-a1", "one-a1")))
    assert bench.exit("one-a1")["code"] == 3
    time.sleep(0.3)
    assert bench.states() == {"one-a1": "ended", "two-a1": "waiting"}
    # A second attempt of the first; the second now needs that one, under its own old key.
    bench.submit(bench.plan(bench.code("one-a2"), bench.traced("two-a1", "one-a2"), serial=2))
    assert bench.exit("two-a1")["kind"] == "ok"


def test_a_good_job_of_an_earlier_plan_is_used_in_place(bench: Bench) -> None:
    first = bench.code("one-a1", "write('r.txt', 'result')")
    bench.submit(bench.plan(first, bench.code("two-a1", "sys.exit(1)", "one-a1")))
    assert bench.exit("two-a1")["kind"] == "failed"
    again = bench.code("two-a2", "for path in sys.argv[1:]: print(open(path).read())", "one-a1")
    again["argv"] += ["{outputs.one}/r.txt", "{needs}"]
    assert bench.submit(bench.plan(again, serial=2)) == "accepted"
    assert bench.exit("two-a2")["kind"] == "ok"
    result, needs = (bench.job("two-a2") / "log.txt").read_text().splitlines()
    assert (result, json.loads(needs)) == ("result", {"one": {"": str(bench.job("one-a1") / "out")}})


def test_a_group_that_is_gone_keeps_its_jobs_waiting(bench: Bench) -> None:
    with bench.no_runner():
        bench.submit(bench.plan(bench.traced("one-a1")))
        bench.host = bench.new_host(queue=type(bench.host.settings.queue)(groups=()))
        answer = bench.host.ask([{"verb": "report", "runs": [RUN]}])
    assert "group" in answer.probe["queue"]["message"]
    assert not tasks(bench)
    assert answer.replies[0]["runs"][RUN]["jobs"][f"{RUN}.one-a1"]["state"] == "waiting"


@pytest.mark.skipif(sys.platform == "win32", reason="the runner's log cannot be taken away there while it is open")
def test_a_task_that_the_system_does_not_let_start_is_started_later_by_the_same_runner(bench: Bench) -> None:
    plan = bench.plan(bench.gated("one-a1"), bench.traced("two-a1"))
    bench.submit({**plan, "jobs": plan["jobs"][:1]})
    wait_for(lambda: bench.begun("one-a1"), "the first job to begin")
    log = bench.work / "queue" / "local" / "cpu" / "runner.log"
    log.unlink()
    log.mkdir()  # what cannot be written: no process starts
    bench.submit({**plan, "serial": plan["serial"] + 1})
    time.sleep(1.0)
    with Lock(log.with_name("runner.lock")) as lock:
        assert not lock.acquire(), "the runner has ended"
    assert bench.begun("two-a1") == 0
    log.rmdir()
    assert bench.exit("two-a1")["kind"] == "ok"  # and nobody asked for anything
    bench.open_gate()
    assert bench.exit("one-a1")["kind"] == "ok"
    assert bench.begun("one-a1") == bench.begun("two-a1") == 1
