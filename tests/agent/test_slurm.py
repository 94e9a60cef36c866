"""Slurm's controller and node killed and stopped, its jobs requeued, cancelled and forgotten: nothing is lost,
nothing runs twice."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from agent.problems import QueueProblem, Refused
from agent.queues import programs
from agent.queues import slurm as driver
from agent.queues.slurm import SlurmJob, parse_squeue, parse_submitted, told_apart, wishes
from agent.settings import parse_settings
from hypothesis import given, settings
from hypothesis import strategies as st

from mqi.settings import Group
from tests.agent.bench import RUN, Bench, kill, wait_for
from tests.agent.daemons import AccountedSlurmStand, SlurmStand
from tests.agent.test_queue_contract import keys, opened

CPU = Group("cpu", slots=1)
ONE = f"{RUN}.one-a1"


@pytest.fixture
def cluster(short_folder: Path) -> Iterator[SlurmStand]:
    started = SlurmStand(short_folder)
    yield started
    started.stop()


@pytest.fixture
def on(cluster: SlurmStand, make_bench: Callable[..., Bench]) -> Bench:
    return make_bench(queue=cluster.queue((CPU,)))


def queue_of(bench: Bench) -> dict[str, Any]:
    return dict(bench.host.ask([]).probe["queue"])


# --- words


def test_lines_of_squeue() -> None:
    ours = f"12|PENDING|Priority|{ONE}|mqi group=gpu priority=-3 order=17|/w/a|b"
    others = ["", "JOBID|STATE", f"12_3|PENDING|None|{ONE}||/w", "x|y|z|name|c|/w", "٣|PENDING|None|a||/w", "7|RUNNING|None|bash||/home"]
    assert parse_squeue("\n".join([*others, ours])) == [
        SlurmJob(12, "PENDING", "Priority", ONE, "gpu", -3, 17, "/w/a|b")
    ]
    # A site's plugin that writes its own comments: the job is ours all the same.
    assert parse_squeue(f"1|RUNNING|None|{ONE}|approved|/w")[0].group == ""


@pytest.mark.parametrize("state", ["PENDING", "RUNNING", "SUSPENDED", "COMPLETING", "CONFIGURING", "REQUEUED", "STOPPED", "OF_A_LATER_VERSION"])
def test_states_that_are_no_end(state: str) -> None:
    (job,) = parse_squeue(f"1|{state}|None|{ONE}||/w")
    assert (job.ended, job.started) == (False, state != "PENDING")


@pytest.mark.parametrize("state", ["COMPLETED", "FAILED", "TIMEOUT", "NODE_FAIL", "CANCELLED", "OUT_OF_MEMORY"])
def test_states_that_are_an_end(state: str) -> None:
    (job,) = parse_squeue(f"1|{state}|None|{ONE}||/w")
    assert (job.ended, job.started) == (True, False)


@settings(max_examples=50, deadline=None)
@given(st.text())
def test_any_text_is_no_problem(text: str) -> None:
    parse_squeue(text)
    try:
        parse_submitted(text)
    except QueueProblem:
        pass


@pytest.mark.parametrize(("text", "job_id"), [("12\n", 12), ("12;cluster\n", 12), ("plugin says hello\n7\n", 7)])
def test_ids(text: str, job_id: int) -> None:
    assert parse_submitted(text) == job_id


@pytest.mark.parametrize("text", ["", "\n", "12", "Submitted batch job 12\n", "-1\n"])
def test_no_ids(text: str) -> None:
    # "12" without its end of line may be the beginning of 123.
    with pytest.raises(QueueProblem):
        parse_submitted(text)


def test_copies_are_told_apart() -> None:
    def job(job_id: int, name: str, state: str) -> SlurmJob:
        return SlurmJob(job_id, state, "None", name, "cpu", 0, 0, "/w")

    kept, surplus = told_apart([job(3, "a", "PENDING"), job(5, "a", "RUNNING"), job(7, "b", "PENDING"), job(6, "b", "PENDING")])
    assert sorted(one.id for one in kept) == [5, 6]
    assert sorted(surplus) == [3, 7]


def test_what_a_job_asks_for() -> None:
    groups = [{"name": "cpu"}, {"name": "gpu", "gpus": "auto", "options": ["--partition=big"]}]
    options = {"partition": "main", "account": "qa", "time": "2:00:00", "gres": "gpu:a100:1", "options": ["--qos=low"]}
    of = parse_settings({"queue": {"type": "slurm", "groups": groups}})
    assert wishes(of, options, "cpu") == ["--partition=main", "--account=qa", "--time=2:00:00", "--qos=low"]
    assert wishes(of, options, "gpu") == [
        "--partition=main", "--account=qa", "--time=2:00:00", "--gres=gpu:a100:1", "--qos=low", "--partition=big",
    ]  # fmt: skip
    assert wishes(of, {}, "gpu") == ["--gres=gpu:1", "--partition=big"]
    for wrong in ({"options": ["-p x"]}, {"options": "x"}, {"partition": 7}, {"time": "1\n2"}):
        with pytest.raises(Refused):
            wishes(of, wrong, "cpu")


# --- faults


@pytest.mark.slow
def test_a_controller_that_is_down_is_unknown(cluster: SlurmStand, on: Bench) -> None:
    on.submit(on.plan(on.gated("one-a1"), on.traced("two-a1", "one-a1")))
    wait_for(lambda: on.begun("one-a1"), "the job to begin")
    cluster.controller.kill()
    cluster.controller.wait()
    queue = queue_of(on)
    assert not queue["ok"]
    assert "Slurm does not answer" in queue["message"]
    assert (on.report()[ONE]["state"], on.report()[ONE]["unknown"]) == ("running", True)
    on.open_gate()
    assert on.exit("one-a1")["kind"] == "ok"
    cluster.start_controller()
    # A controller that was killed may have forgotten the job or call it cancelled; the exit file counts. It may
    # also take its node out of service (`Duplicate jobid`), which is an operator's to mend.
    on.report()
    cluster.run("scontrol", "update", "nodename=ALL", "state=resume", code=None)
    assert on.exit("two-a1")["kind"] == "ok"
    assert (on.begun("one-a1"), on.begun("two-a1")) == (1, 1)


def test_a_job_that_the_controller_forgets(cluster: SlurmStand, on: Bench) -> None:
    with cluster.held(on.work, "cpu"):
        on.submit(on.plan(on.traced("one-a1")))
        assert on.states() == {"one-a1": "queued"}
        cluster.controller.kill()
        cluster.controller.wait()
        for path in (cluster.folder / "state").iterdir():
            if path.is_file():
                path.unlink()
        cluster.start_controller()
    on.report()
    assert on.exit("one-a1")["kind"] == "ok"
    assert on.begun("one-a1") == 1


def test_a_controller_that_hangs(cluster: SlurmStand, on: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    with cluster.held(on.work, "cpu"):
        on.submit(on.plan(on.traced("one-a1")))
        cluster.empty(on.work)
        queue = opened(on)
        assert queue.list() == []
        monkeypatch.setattr(programs, "TIME_LIMIT_S", 1.0)
        os.kill(cluster.controller.pid, signal.SIGSTOP)
        for call in (queue.list, lambda: queue.add(ONE, "cpu", 0, 1)):
            with pytest.raises(QueueProblem, match="did not answer"):
                call()
        os.kill(cluster.controller.pid, signal.SIGCONT)
        monkeypatch.undo()
    # Whether the controller has taken what the killed sbatch had sent or not: the job runs once.
    for _ in range(2):
        on.report()
    assert on.exit("one-a1")["kind"] == "ok"
    wait_for(lambda: not keys(opened(on)), "the queue to be empty")
    assert on.begun("one-a1") == 1


def test_a_job_that_was_taken_though_sbatch_failed(cluster: SlurmStand, on: Bench) -> None:
    # A real sbatch that is killed when it has its answer: an accepted job, and no word of it.
    programs_ = cluster.folder / "bin"
    programs_.mkdir()
    for name in ("squeue", "scancel", "scontrol"):
        (programs_ / name).write_text(f'#!/bin/sh\nexec /usr/bin/{name} "$@"\n')
    (programs_ / "sbatch").write_text('#!/bin/sh\n/usr/bin/sbatch "$@" >/dev/null\nkill -9 $$\n')
    for path in programs_.iterdir():
        path.chmod(0o755)
    settings_ = on.host.settings.queue
    with cluster.held(on.work, "cpu"):
        on.host = on.new_host(queue=settings_._replace(slurm=settings_.slurm._replace(bin=str(programs_))))
        on.submit(on.plan(on.traced("one-a1")))
        assert on.states() == {"one-a1": "queued"}
        assert queue_of(on)["message"].startswith("Slurm holds 1 of our jobs back (PartitionDown")
        assert list(cluster.jobs()) == [ONE]
    assert on.exit("one-a1")["kind"] == "ok"
    assert on.begun("one-a1") == 1


def test_a_node_daemon_that_is_killed(cluster: SlurmStand, on: Bench) -> None:
    on.submit(on.plan(on.gated("one-a1"), on.traced("two-a1", "one-a1")))
    wait_for(lambda: on.begun("one-a1"), "the job to begin")
    cluster.node.kill()
    cluster.node.wait()
    assert on.states()["one-a1"] == "running"
    cluster.start_node()
    on.open_gate()
    assert on.exit("one-a1")["kind"] == "ok"
    on.report()
    assert on.exit("two-a1")["kind"] == "ok"
    assert (on.begun("one-a1"), on.begun("two-a1")) == (1, 1)


def test_a_node_that_fails(cluster: SlurmStand, on: Bench) -> None:
    on.submit(on.plan(on.gated("one-a1")))
    wait_for(lambda: on.begun("one-a1"), "the job to begin")
    # All at once, as when the power goes: the node's daemon, the job's own daemon (slurmstepd, the wrapper's
    # parent), the wrapper and the command.
    cluster.node.kill()
    cluster.node.wait()
    wrapper = on.claim("one-a1")["wrapper"]["pid"]
    kill(int(Path(f"/proc/{wrapper}/stat").read_text().rpartition(")")[2].split()[1]))
    kill(wrapper)
    kill(on.command_pid("one-a1"))
    cluster.run("scontrol", "update", "nodename=ALL", "state=down", "reason=power")
    assert on.wait_state("one-a1", "lost")["fate"].startswith("NODE_FAIL")
    cluster.run("scontrol", "update", "nodename=ALL", "state=resume")
    cluster.start_node()
    assert on.submit(on.plan(on.traced("one-a2"), serial=2)) == "accepted"
    assert on.exit("one-a2")["kind"] == "ok"
    assert (on.begun("one-a1"), on.begun("one-a2")) == (1, 1)


def test_a_job_that_somebody_requeues(cluster: SlurmStand, on: Bench) -> None:
    on.submit(on.plan(on.traced("one-a1", seconds=60)))
    wait_for(lambda: on.begun("one-a1"), "the job to begin")
    (task,) = opened(on).list()
    cluster.run("scontrol", "update", f"jobid={task.queue_id}", "requeue=1")
    cluster.run("scontrol", "requeue", task.queue_id)
    # Ended politely, it says so; a second start of the same job finds its claim and does nothing.
    exit_ = on.exit("one-a1")
    assert (exit_["kind"], exit_["code"]) == ("failed", 143)
    wait_for(lambda: on.report() and not keys(opened(on)), "the second start to be over", 40)
    assert on.begun("one-a1") == 1


def test_a_job_that_somebody_cancels(cluster: SlurmStand, on: Bench) -> None:
    on.submit(on.plan(on.traced("one-a1", seconds=60)))
    wait_for(lambda: on.begun("one-a1"), "the job to begin")
    cluster.run("scancel", "--full", opened(on).list()[0].queue_id)
    exit_ = on.exit("one-a1")
    assert (exit_["kind"], exit_["code"]) == ("failed", 143)
    assert on.begun("one-a1") == 1


def test_a_job_that_cannot_begin_is_told(cluster: SlurmStand, on: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    with cluster.held(on.work, "cpu"):
        on.submit(on.plan(on.traced("one-a1")))
        cluster.empty(on.work)
        monkeypatch.setattr(driver, "AGENT", ("/nowhere/python",))
        opened(on).add(ONE, "cpu", 0, 1)
    wait_for(lambda: cluster.jobs()[ONE] == "FAILED", "the job to fail")
    queue = opened(on)
    assert queue.list() == []
    with pytest.raises(QueueProblem, match=f"ended before {ONE} began .FAILED, NonZeroExitCode"):
        queue.check()
    assert "/nowhere/python" in (on.job("one-a1") / "slurm.log").read_text()
    monkeypatch.undo()
    on.report()
    assert on.exit("one-a1")["kind"] == "ok"
    assert queue_of(on)["message"] == ""


def test_a_group_that_slurm_does_not_take_holds_no_other_up(cluster: SlurmStand, make_bench: Callable[..., Bench]) -> None:
    greedy = Group("gpu", slots=2, gpus="auto", options=("--gres=gpu:9",))
    on = make_bench(queue=cluster.queue((greedy, CPU)))
    on.submit(on.plan(on.traced("big.b1-a1", group="gpu"), on.traced("big.b2-a1", group="gpu"), on.traced("one-a1")))
    assert "Slurm did not take a job" in queue_of(on)["message"]
    assert on.exit("one-a1")["kind"] == "ok"
    assert on.states()["big.b1-a1"] == "waiting"


def test_slurm_is_not_there(on: Bench) -> None:
    settings_ = on.host.settings.queue
    on.host = on.new_host(queue=settings_._replace(slurm=settings_.slurm._replace(bin="/nowhere")))
    queue = queue_of(on)
    assert not queue["ok"]
    assert "`/nowhere/squeue` does not start" in queue["message"]


def test_no_more_jobs_than_slots_and_no_more_waiting_than_configured(
    cluster: SlurmStand, make_bench: Callable[..., Bench]
) -> None:
    on = make_bench(queue=cluster.queue((Group("cpu", slots=3),), max_queued=2))
    with cluster.held(on.work, "cpu"):
        on.submit(on.plan(*(on.gated(f"step.b{beam}-a1") for beam in range(6))))
        assert len(keys(opened(on))) == 2
    wait_for(lambda: len(on.order()) == 2, "two jobs to begin")
    on.report()
    wait_for(lambda: len(on.order()) == 3, "the third to begin")
    on.report()
    time.sleep(0.5)  # time to do the wrong thing
    # Slurm has room for four: what it does not bound is bounded by the feed.
    assert len(keys(opened(on))) == 3
    on.open_gate()
    for beam in range(6):
        assert on.exit(f"step.b{beam}-a1")["kind"] == "ok"


def test_each_job_has_the_gpu_that_slurm_gives_it(cluster: SlurmStand, make_bench: Callable[..., Bench]) -> None:
    on = make_bench(queue=cluster.queue((CPU, Group("gpu", slots=2, gpus="auto"))))
    show = "print(os.environ['CUDA_VISIBLE_DEVICES'], flush=True)\n"
    show += f"while not os.path.exists({str(on.folder / 'go')!r}): time.sleep(0.05)"
    on.submit(on.plan(*(on.code(f"step.b{beam}-a1", show, group="gpu", gpu=True) for beam in range(2))))
    wait_for(lambda: [job["state"] for job in on.report().values()] == ["running"] * 2, "two jobs on two GPUs")
    assert sorted(str(job["gpu"]) for job in on.report().values()) == ["0", "1"]
    (on.folder / "go").touch()
    logs = set()
    for beam in range(2):
        assert on.exit(f"step.b{beam}-a1")["kind"] == "ok"
        logs.add((on.job(f"step.b{beam}-a1") / "log.txt").read_text())
    assert logs == {"0\n", "1\n"}


def test_a_job_that_slurm_gives_no_gpu(cluster: SlurmStand, make_bench: Callable[..., Bench]) -> None:
    on = make_bench(queue=cluster.queue((Group("gpu", slots=2, gpus="auto"),), gres=""))
    on.submit(on.plan(on.traced("one-a1", group="gpu", gpu=True)))
    exit_ = on.exit("one-a1")
    assert exit_["kind"] == "gpu"
    assert "`gres`" in exit_["message"]
    assert on.begun("one-a1") == 0


@pytest.mark.slow
def test_slurms_time_limit_ends_a_job_politely(cluster: SlurmStand, make_bench: Callable[..., Bench]) -> None:
    on = make_bench(queue=cluster.queue((CPU,), time="0:01"))
    on.submit(on.plan(on.traced("one-a1", seconds=300, time_limit_s=300)))
    path = on.job("one-a1") / "exit.json"
    # Slurm looks at limits twice a minute.
    wait_for(path.exists, "the exit", 100)
    assert on.exit("one-a1")["code"] == 143
    assert on.begun("one-a1") == 1


@pytest.mark.slow
def test_accounting_remembers_what_the_controller_forgot(short_folder: Path, make_bench: Callable[..., Bench]) -> None:
    cluster = AccountedSlurmStand(short_folder)
    try:
        on = make_bench(queue=cluster.queue((CPU,)))
        on.submit(on.plan(on.gated("one-a1"), on.gated("two-a1")))
        wait_for(lambda: on.begun("one-a1"), "the job to begin")
        # -9 for the wrapper, whose command is ended when the host finds it: the job is lost.
        on.kill_wrapper("one-a1")
        on.open_gate()
        assert on.wait_state("one-a1", "lost")
        assert on.exit("two-a1")["kind"] == "ok"
        wait_for(lambda: opened(on).fate(ONE), "accounting to know the job", 30)
        assert opened(on).fate(ONE).startswith(("FAILED", "OUT_OF_MEMORY")), opened(on).fate(ONE)
        assert opened(on).fate(f"{RUN}.never-a1") == ""
        # The database is away: Slurm itself goes on, and so do we.
        cluster.accounting.kill()
        cluster.accounting.wait()
        assert on.submit(on.plan(on.traced("one-a2"), on.gated("two-a1"), serial=2)) == "accepted"
        assert on.exit("one-a2")["kind"] == "ok"
        assert opened(on).fate(ONE) == ""
        assert [on.begun(name) for name in ("one-a1", "one-a2", "two-a1")] == [1, 1, 1]
    finally:
        cluster.stop()
