"""Pueue's daemon killed, stopped, robbed of its state, paused and meddled with: nothing is lost, nothing runs twice."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from agent.problems import QueueProblem
from agent.queues import programs
from agent.queues import pueue as driver

from mqi.settings import Group
from tests.agent.bench import RUN, Bench, wait_for
from tests.agent.daemons import PueueStand
from tests.agent.test_queue_contract import keys, opened

CPU = Group("cpu", slots=1)


@pytest.fixture
def daemon(short_folder: Path) -> Iterator[PueueStand]:
    started = PueueStand(short_folder)
    yield started
    started.stop()


@pytest.fixture
def on(daemon: PueueStand, make_bench: Callable[..., Bench]) -> Bench:
    return make_bench(queue=daemon.queue((CPU,)))


def queue_of(bench: Bench) -> dict[str, Any]:
    return dict(bench.host.ask([]).probe["queue"])


def test_a_daemon_that_is_down_is_unknown_and_its_start_is_told(daemon: PueueStand, on: Bench) -> None:
    on.submit(on.plan(on.gated("one-a1"), on.traced("two-a1")))
    wait_for(lambda: on.begun("one-a1"), "the job to begin")
    daemon.kill()
    queue = queue_of(on)
    assert queue["ok"] is False
    assert "pueued --config" in queue["message"]
    jobs = on.report()
    assert (jobs[f"{RUN}.one-a1"]["state"], jobs[f"{RUN}.one-a1"]["unknown"]) == ("running", True)
    assert (jobs[f"{RUN}.two-a1"]["state"], jobs[f"{RUN}.two-a1"]["unknown"]) == ("waiting", True)
    # New work is accepted meanwhile, and waits in its plan.
    other = "ba9876543210"
    assert on.submit(on.plan(on.traced("late-a1", run=other), run=other)) == "accepted"
    daemon.start()
    on.open_gate()
    on.report()
    for name, run in (("one-a1", RUN), ("two-a1", RUN), ("late-a1", other)):
        assert on.exit(name, run)["kind"] == "ok"
        assert on.begun(name, run) == 1


@pytest.mark.parametrize(
    "state_too", [pytest.param(False, marks=pytest.mark.slow), True], ids=["state kept", "state gone"]
)
def test_killed_while_a_job_runs(daemon: PueueStand, on: Bench, state_too: bool) -> None:
    on.submit(on.plan(on.gated("one-a1"), on.traced("two-a1")))
    wait_for(lambda: on.begun("one-a1"), "the job to begin")
    daemon.kill()
    if state_too:
        daemon.state.unlink()
    daemon.start()
    job = on.report()[f"{RUN}.one-a1"]
    assert (job["state"], job["orphan"]) == ("running", True)
    # The daemon believes that its group is empty, or paused; the orphan keeps the slot all the same.
    wait_for(lambda: any("Running" in task["status"] for task in daemon.tasks()), "the second task to be started")
    time.sleep(0.5)  # time to do the wrong thing
    assert on.order() == ["one-a1"]
    assert queue_of(on)["message"] == ""
    on.open_gate()
    for name in ("one-a1", "two-a1"):
        assert on.exit(name)["kind"] == "ok"
        assert on.begun(name) == 1
    assert on.most_at_once() == 1


def test_ended_while_a_job_runs(daemon: PueueStand, on: Bench) -> None:
    # A shutdown: Pueue kills what runs with -9, wrapper first. What the command leaves is ended by the host.
    on.submit(on.plan(on.gated("one-a1"), on.traced("two-a1")))
    wait_for(lambda: on.begun("one-a1"), "the job to begin")
    daemon.end()
    daemon.start()
    on.open_gate()
    assert on.wait_state("one-a1", "lost")["fate"] == "Killed"
    assert on.exit("two-a1")["kind"] == "ok"
    assert on.submit(on.plan(on.traced("one-a2"), on.traced("two-a1"), serial=2)) == "accepted"
    assert on.exit("one-a2")["kind"] == "ok"
    assert [on.begun(name) for name in ("one-a1", "one-a2", "two-a1")] == [1, 1, 1]


def test_a_restarted_daemons_paused_group_goes_on(daemon: PueueStand, on: Bench) -> None:
    on.submit(on.plan(on.gated("one-a1"), on.traced("two-a1")))
    wait_for(lambda: on.begun("one-a1"), "the job to begin")
    daemon.kill()
    daemon.start()
    assert daemon.groups()["mqi-cpu"]["status"] == "Paused"
    on.open_gate()
    on.exit("one-a1")
    assert queue_of(on)["message"] == ""
    assert daemon.groups()["mqi-cpu"]["status"] == "Running"
    assert on.exit("two-a1")["kind"] == "ok"


def test_a_group_that_somebody_paused_stays_paused_and_is_told(daemon: PueueStand, on: Bench) -> None:
    assert queue_of(on)["message"] == ""
    daemon.run("pause", "-g", "mqi-cpu")
    on.submit(on.plan(on.traced("one-a1")))
    queue = queue_of(on)
    assert queue["ok"]
    assert "pueue start -g mqi-cpu" in queue["message"]
    assert daemon.groups()["mqi-cpu"]["status"] == "Paused"
    daemon.run("start", "-g", "mqi-cpu")
    assert on.exit("one-a1")["kind"] == "ok"
    assert queue_of(on)["message"] == ""


def test_slots_are_set_again_when_somebody_changed_them(daemon: PueueStand, on: Bench) -> None:
    queue_of(on)
    daemon.run("parallel", "9", "-g", "mqi-cpu")
    queue_of(on)
    assert daemon.groups()["mqi-cpu"]["parallel_tasks"] == 1


def test_a_stashed_task_is_told(daemon: PueueStand, on: Bench) -> None:
    with daemon.held(on.work, "cpu"):
        on.submit(on.plan(on.traced("one-a1")))
        daemon.run("stash", str(daemon.tasks()[0]["id"]))
        assert "stashed" in queue_of(on)["message"]
        daemon.run("enqueue", str(daemon.tasks()[0]["id"]))
    assert on.exit("one-a1")["kind"] == "ok"


def test_a_task_that_was_taken_though_pueue_said_no(daemon: PueueStand, on: Bench) -> None:
    with daemon.held(on.work, "cpu"):
        # The daemon takes a task first and then cannot save its state, which it says as a failure.
        partial = daemon.state.with_name("state.json.partial")
        partial.mkdir()
        on.submit(on.plan(on.traced("one-a1")))
        assert on.states() == {"one-a1": "queued"}
        assert [task["label"] for task in daemon.tasks()] == [f"{RUN}.one-a1"]
        partial.rmdir()
    assert on.exit("one-a1")["kind"] == "ok"
    assert on.begun("one-a1") == 1


def test_a_daemon_that_hangs(daemon: PueueStand, on: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = on.plan(on.traced("one-a1"))
    with daemon.held(on.work, "cpu"):
        on.submit(plan)
        daemon.empty(on.work)
        queue = opened(on)
        assert queue.list() == []
        monkeypatch.setattr(programs, "TIME_LIMIT_S", 0.5)
        os.kill(daemon.pid, signal.SIGSTOP)
        for call in (queue.list, opened(on).check, lambda: queue.add(f"{RUN}.one-a1", "cpu", 0, 1)):
            with pytest.raises(QueueProblem, match="did not answer"):
                call()
        os.kill(daemon.pid, signal.SIGCONT)
        monkeypatch.undo()
    # Whether the daemon has found what the killed client had sent or not: the job runs once.
    for _ in range(3):
        on.report()
    assert on.exit("one-a1")["kind"] == "ok"
    wait_for(lambda: not keys(opened(on)), "the queue to be empty")
    assert on.begun("one-a1") == 1


def test_a_task_that_somebody_restarts_or_copies_does_nothing(daemon: PueueStand, on: Bench) -> None:
    on.submit(on.plan(on.traced("one-a1")))
    assert on.exit("one-a1")["kind"] == "ok"
    wait_for(lambda: "Done" in str(daemon.tasks()[0]["status"]), "the task to be done")
    daemon.run("restart", str(daemon.tasks()[0]["id"]))
    wait_for(lambda: all("Done" in str(task["status"]) for task in daemon.tasks()), "the copy to be done")
    assert on.begun("one-a1") == 1


def test_finished_tasks_are_removed_and_no_others(daemon: PueueStand, on: Bench) -> None:
    daemon.run("add", "-l", "mine", "--", "true")
    daemon.run("add", "-l", f"{RUN}.one-a1", "--", "true")
    on.submit(on.plan(on.traced("one-a1"), on.code("two-a1", "sys.exit(3)")))
    assert on.exit("two-a1")["code"] == 3

    def left() -> list[str]:
        on.report()
        return sorted(task["label"] for task in daemon.tasks())

    # Somebody's own task stays, and so does one with our label in another folder.
    wait_for(lambda: left() == [f"{RUN}.one-a1", "mine"], "our tasks to be removed")


def test_a_task_that_cannot_begin_is_told(
    daemon: PueueStand, on: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    with daemon.held(on.work, "cpu"):
        on.submit(on.plan(on.traced("one-a1")))
        daemon.empty(on.work)
        monkeypatch.setattr(driver, "AGENT", ("/nowhere/python",))
        opened(on).add(f"{RUN}.one-a1", "cpu", 0, 1)
        opened(on).add(f"{RUN}.one-a1", "cpu", 0, 1)
    wait_for(lambda: all("Done" in str(task["status"]) for task in daemon.tasks()), "the tasks to fail")
    newest = max(task["id"] for task in daemon.tasks())
    queue = opened(on)
    assert queue.list() == []
    with pytest.raises(QueueProblem, match=rf"ended before its job began \(Failed 127\): see `pueue log {newest}`"):
        queue.check()
    assert [task["id"] for task in daemon.tasks()] == [newest]  # one is kept, for its log
    monkeypatch.undo()
    on.report()
    assert on.exit("one-a1")["kind"] == "ok"
    wait_for(lambda: queue_of(on)["message"] == "", "the complaint to end")
    assert on.begun("one-a1") == 1


def test_pueue_is_not_there(on: Bench) -> None:
    settings = on.host.settings.queue
    on.host = on.new_host(queue=settings._replace(pueue=settings.pueue._replace(program="no-pueue")))
    queue = queue_of(on)
    assert not queue["ok"]
    assert "`no-pueue` does not start" in queue["message"]


def test_never_more_tasks_than_configured(daemon: PueueStand, make_bench: Callable[..., Bench]) -> None:
    on = make_bench(queue=daemon.queue((CPU,), max_queued=2))
    on.submit(on.plan(*(on.traced(f"step.b{beam}-a1") for beam in range(6))))
    most = 0
    while not (on.job("step.b5-a1") / "exit.json").exists():
        most = max(most, sum("Done" not in str(task["status"]) for task in daemon.tasks()))
        on.report()
        time.sleep(0.2)
    # Those that wait, the one that runs, and one that has just ended.
    assert 1 <= most <= 4
    for beam in range(6):
        assert on.exit(f"step.b{beam}-a1")["kind"] == "ok"


def test_what_the_daemon_keeps_tells_nothing(daemon: PueueStand, on: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_OF_THE_LOGIN", "s3cret")
    with daemon.held(on.work, "cpu"):
        on.submit(on.plan(on.traced("one-a1")))
        (task,) = daemon.tasks()
        assert task["label"] == f"{RUN}.one-a1"
        assert "s3cret" not in daemon.state.read_text()
        assert set(task["envs"]) <= {"PATH", "HOME", "LANG", "USER", "LOGNAME", "XDG_RUNTIME_DIR", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "PUEUE_GROUP", "PUEUE_WORKER_ID"}  # fmt: skip


@pytest.mark.parametrize(
    "per_gpu", [pytest.param(False, marks=pytest.mark.slow), True], ids=["one group", "a group per GPU"]
)
def test_each_task_has_a_gpu_of_its_own(daemon: PueueStand, make_bench: Callable[..., Bench], per_gpu: bool) -> None:
    gpus = Group("gpu", slots=2, gpus=("GPU-aaaa", "GPU-bbbb"))
    on = make_bench(queue=daemon.queue((CPU, gpus), group_per_gpu=per_gpu))
    show = "print(os.environ['CUDA_VISIBLE_DEVICES'], flush=True)\n"
    show += f"while not os.path.exists({str(on.folder / 'go')!r}): time.sleep(0.05)"
    on.submit(on.plan(*(on.code(f"step.b{beam}-a1", show, group="gpu", gpu=True) for beam in range(4))))

    def running() -> list[str]:
        return sorted(str(job["gpu"]) for job in on.report().values() if job["state"] == "running")

    wait_for(lambda: len(running()) == 2, "two jobs on two GPUs")
    assert running() == ["GPU-aaaa", "GPU-bbbb"]
    expected = {"mqi-gpu.0": 1, "mqi-gpu.1": 1} if per_gpu else {"mqi-gpu": 2}
    assert {name: group["parallel_tasks"] for name, group in daemon.groups().items() if "gpu" in name} == expected
    if per_gpu:
        # Work is spread: both wait for another card.
        assert sorted(task["group"] for task in daemon.tasks()) == ["mqi-gpu.0", "mqi-gpu.0", "mqi-gpu.1", "mqi-gpu.1"]
    (on.folder / "go").touch()
    for beam in range(4):
        assert on.exit(f"step.b{beam}-a1")["kind"] == "ok"


def test_an_orphan_keeps_its_gpu(daemon: PueueStand, make_bench: Callable[..., Bench]) -> None:
    on = make_bench(queue=daemon.queue((Group("gpu", slots=2, gpus=("GPU-cccc",)),)))
    on.submit(on.plan(*(on.gated(f"{name}-a1", gpu=True, group="gpu") for name in ("one", "two"))))
    wait_for(on.order, "the first job to begin")
    first = on.order()[0]
    on.kill_wrapper(first)
    time.sleep(0.5)  # time to do the wrong thing
    on.open_gate()
    assert on.exit({"one-a1": "two-a1", "two-a1": "one-a1"}[first])["kind"] == "ok"
    assert on.most_at_once() == 1


def test_a_task_that_waits_for_its_gpu_gives_up_when_it_is_cancelled(
    daemon: PueueStand, make_bench: Callable[..., Bench]
) -> None:
    on = make_bench(queue=daemon.queue((Group("gpu", slots=2, gpus=("GPU-cccc",)),)))
    jobs = [on.gated("one-a1", gpu=True, group="gpu"), on.gated("two-a1", gpu=True, group="gpu")]
    on.submit(on.plan(*jobs))
    wait_for(lambda: sum("Running" in task["status"] for task in daemon.tasks()) == 2, "both tasks to start")
    wait_for(on.order, "the first job to begin")
    on.submit(on.plan(*jobs, serial=2, cancel=True))
    wait_for(lambda: on.report() and not daemon.tasks(), "both tasks to end and to be removed")
    assert len(on.order()) == 1


@pytest.mark.slow
def test_killed_again_and_again(daemon: PueueStand, make_bench: Callable[..., Bench]) -> None:
    on = make_bench(queue=daemon.queue((Group("cpu", slots=2),)))
    names = [f"step.b{beam}-a1" for beam in range(6)]
    on.submit(on.plan(*(on.traced(name, seconds=0.4) for name in names)))
    for round_ in range(4):
        time.sleep(0.2 * round_)
        daemon.kill()
        with contextlib.suppress(AssertionError):
            on.report()
        if round_ % 2:
            daemon.state.unlink(missing_ok=True)
        daemon.start()
        on.report()
    for name in names:
        wait_for(lambda name=name: on.report() and (on.job(name) / "exit.json").exists(), f"the exit of {name}", 60)  # type: ignore[misc]
        assert json.loads((on.job(name) / "exit.json").read_text())["kind"] == "ok"
        assert on.begun(name) == 1
    assert on.most_at_once() <= 2
