"""A job's command runs at most once, whatever is repeated, killed, lost or emptied."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from mqi.host import framing
from tests.agent.bench import ORPHANS, RUN, Bench, is_alive, kill, wait_for

KILLED_AT = Path(__file__).with_name("killed_at.py")


def test_chain_runs_by_itself(bench: Bench) -> None:
    jobs = [bench.traced("one-a1"), bench.traced("two.b1-a1", "one-a1"), bench.traced("three-a1", "two.b1-a1")]
    assert bench.submit(bench.plan(*jobs)) == "accepted"
    # No further request: each end of a run feeds the next job.
    assert bench.exit("three-a1")["kind"] == "ok"
    assert bench.order() == ["one-a1", "two.b1-a1", "three-a1"]
    wait_for(lambda: not bench.runners(), "the runner to end when there is no work")


def test_concurrent_plan_requests(bench: Bench) -> None:
    plan = bench.plan(*(bench.traced(f"step.b{beam}-a1", seconds=0.1) for beam in range(4)))
    with ThreadPoolExecutor(6) as pool:
        outcomes = sorted(pool.map(lambda _: bench.submit(plan), range(6)))
    assert outcomes == ["accepted"] + ["same"] * 5
    for beam in range(4):
        assert bench.exit(f"step.b{beam}-a1")["kind"] == "ok"
        assert bench.begun(f"step.b{beam}-a1") == 1


def test_lost_reply_and_repeated_request(bench: Bench) -> None:
    plan = bench.plan(bench.traced("one-a1"))
    channel = bench.host._open_agent(bench.host.deploy(), "request")
    request = {
        "protocol": 1,
        "nonce": "0" * 32,
        "installation": "installation-1",
        "now": time.time(),
        "settings": bench.host._request_settings(),
        "calls": [{"verb": "plan", "plan": plan}],
    }
    framing.write_frame(channel.stdin, "J", framing.encode(request))
    framing.write_frame(channel.stdin, "E")
    channel.stdin.close()
    assert channel.wait(20) == 0  # answered; nobody reads it
    channel.close()
    assert bench.submit(plan) == "same"
    assert bench.exit("one-a1")["kind"] == "ok"
    assert bench.submit(plan) == "same"
    assert bench.begun("one-a1") == 1


def test_copies_of_a_task(bench: Bench) -> None:
    with bench.no_runner():
        bench.submit(bench.plan(bench.traced("one-a1", seconds=0.3)))
        copies = [subprocess.Popen(bench.agent("run", f"{RUN}.one-a1")) for _ in range(8)]
        assert all(copy.wait(30) in (0, 75) for copy in copies)
    assert bench.begun("one-a1") == 1
    assert bench.exit("one-a1")["kind"] == "ok"
    assert bench.run("one-a1") == 0  # long after
    assert bench.begun("one-a1") == 1


def test_unknown_job_does_nothing(bench: Bench) -> None:
    bench.submit(bench.plan())
    assert bench.run("nothing-a1") == 0
    assert not bench.job("nothing-a1").exists()


def test_emptied_queue_while_a_job_runs(bench: Bench) -> None:
    bench.submit(bench.plan(bench.gated("one-a1"), bench.traced("two-a1", "one-a1")))
    wait_for(lambda: bench.begun("one-a1"), "the job to begin")
    kill(bench.runners()[0])
    # Windows keeps what is open: the log, which the job's wrapper writes.
    shutil.rmtree(bench.work / "queue", ignore_errors=sys.platform == "win32")
    job = bench.report()[f"{RUN}.one-a1"]
    assert (job["state"], job["orphan"]) == ("running", True)
    bench.open_gate()
    assert bench.exit("two-a1")["kind"] == "ok"
    assert bench.begun("one-a1") == 1


def test_emptied_queue_before_a_job_starts(bench: Bench) -> None:
    with bench.no_runner():
        bench.submit(bench.plan(bench.traced("one-a1")))
        shutil.rmtree(bench.work / "queue" / "local" / "cpu" / "tasks")
        assert bench.states() == {"one-a1": "queued"}  # fed again at once
    bench.report()
    assert bench.exit("one-a1")["kind"] == "ok"
    assert bench.begun("one-a1") == 1


def test_killed_runner_keeps_the_bound(make_bench: Callable[..., Bench]) -> None:
    bench = make_bench(slots=1)
    bench.submit(bench.plan(*(bench.gated(f"step.b{beam}-a1") for beam in range(3))))
    wait_for(lambda: bench.begun("step.b0-a1"), "the first job to begin")
    kill(bench.runners()[0])
    assert bench.states()["step.b0-a1"] == "running"  # and the request starts another runner
    wait_for(bench.runners, "another runner")
    time.sleep(1.0)  # time to do the wrong thing
    assert bench.order() == ["step.b0-a1"]
    bench.open_gate()
    for beam in range(3):
        assert bench.exit(f"step.b{beam}-a1")["kind"] == "ok"
        assert bench.begun(f"step.b{beam}-a1") == 1
    assert bench.most_at_once() == 1


@ORPHANS
def test_killed_wrapper_leaves_an_orphan_then_a_lost_job(make_bench: Callable[..., Bench]) -> None:
    bench = make_bench(slots=1)
    bench.submit(bench.plan(bench.gated("one-a1"), bench.traced("two-a1")))
    bench.kill_wrapper("one-a1")
    job = bench.wait_state("one-a1", "running")
    assert job["orphan"]
    assert bench.run("one-a1", "--slot") == 75  # the orphan keeps its slot: nothing starts beside it
    assert bench.order() == ["one-a1"]
    bench.open_gate()
    seen = []
    wait_for(lambda: seen.append(bench.states()["one-a1"]) or seen[-1] == "lost", "the job to be lost")
    # Not at the first look: three listings, and the time between them.
    assert seen.count("missing") >= 2
    assert seen.index("lost") == len(seen) - 1
    # Nobody holds its lock any more, but its claim stands for ever.
    assert bench.run("one-a1") == 0
    assert bench.begun("one-a1") == 1
    # A new plan brings the next attempt; the lost one stays lost.
    assert bench.submit(bench.plan(bench.traced("one-a2"), bench.traced("two-a1"), serial=2)) == "accepted"
    assert bench.exit("one-a2")["kind"] == "ok"
    assert bench.states() == {"one-a1": "lost", "one-a2": "ended", "two-a1": "ended"}
    assert bench.begun("one-a1") == 1


def test_killed_command_is_a_failure(bench: Bench) -> None:
    bench.submit(bench.plan(bench.traced("one-a1", seconds=30)))
    kill(bench.command_pid("one-a1"))
    exit_ = bench.exit("one-a1")
    if sys.platform == "win32":
        assert (exit_["kind"], exit_["code"]) == ("failed", signal.SIGTERM)  # what `kill` gives it as its code
    else:
        assert (exit_["kind"], exit_["code"]) == ("failed", 137)
        assert "memory" in exit_["message"]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no signal that asks a process to end")
def test_wrapper_told_to_end_writes_the_exit(bench: Bench) -> None:
    bench.submit(bench.plan(bench.traced("one-a1", seconds=30)))
    wait_for(lambda: bench.begun("one-a1"), "the job to begin")
    os.kill(bench.claim("one-a1")["wrapper"]["pid"], signal.SIGTERM)
    exit_ = bench.exit("one-a1")
    assert (exit_["kind"], exit_["code"]) == ("failed", 143)
    assert not is_alive(bench.command_pid("one-a1"))


@ORPHANS
def test_reboot_makes_a_job_lost_at_once(make_bench: Callable[..., Bench]) -> None:
    bench = make_bench(lost_after_s=1000.0)
    boot_id = bench.folder / "boot_id"
    boot_id.write_text("first boot\n")
    bench.host.extra = {"boot_id_file": str(boot_id)}
    bench.submit(bench.plan(bench.traced("one-a1", seconds=30)))
    bench.kill_wrapper("one-a1")
    pid = bench.command_pid("one-a1")
    boot_id.write_text("second boot\n")
    # A lock that is held speaks for life, whatever the boot: nothing is given up on a doubt.
    assert bench.states() == {"one-a1": "running"}
    kill(pid)
    bench.wait_state("one-a1", "lost")
    assert bench.begun("one-a1") == 1


def test_same_boot_is_patient(make_bench: Callable[..., Bench]) -> None:
    bench = make_bench(lost_after_s=1000.0)
    bench.submit(bench.plan(bench.traced("one-a1", seconds=30)))
    bench.kill_wrapper("one-a1")
    if sys.platform != "win32":
        kill(bench.command_pid("one-a1"))
    bench.wait_state("one-a1", "missing")
    assert [bench.states()["one-a1"] for _ in range(4)] == ["missing"] * 4


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no signal that asks a process to end")
def test_an_attempt_waits_for_the_end_of_the_one_that_it_replaces(bench: Bench) -> None:
    bench.host.extra = {"kill_grace_s": 1.0}
    stubborn = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\nwrite('begun', ''); time.sleep(30)"
    bench.submit(bench.plan(bench.code("one-a1", stubborn)))
    wait_for((bench.job("one-a1") / "out.part" / "begun").exists, "the job to begin")
    seen = f"write('seen', str(os.path.exists({str(bench.job('one-a1') / 'exit.json')!r})))"
    assert bench.submit(bench.plan(bench.code("one-a2", seen), serial=2)) == "accepted"
    assert bench.exit("one-a1")["kind"] == "cancelled"
    assert bench.exit("one-a2")["kind"] == "ok"
    assert (bench.job("one-a2") / "out" / "seen").read_text() == "True"


@ORPHANS
def test_the_orphan_of_a_replaced_job_is_ended(bench: Bench) -> None:
    bench.submit(bench.plan(bench.traced("one-a1", seconds=30)))
    bench.kill_wrapper("one-a1")
    bench.submit(bench.plan(bench.traced("one-a2"), serial=2))
    wait_for(lambda: bench.states()["one-a2"] == "ended", "the next attempt")
    assert not is_alive(bench.command_pid("one-a1"))


@pytest.mark.skipif(sys.platform != "linux", reason="needs SIGSTOP and /proc")
def test_a_copy_that_slept_since_before_the_purge_does_not_run_the_job_again(bench: Bench) -> None:
    with bench.no_runner():
        bench.submit(bench.plan(bench.traced("one-a1")))
        agent = bench.work / "scripts" / bench.host.deploy() / "agent"
        # Stopped before its first effect: it has read the plan, and has no lock yet.
        argv = [sys.executable, "-IBS", str(KILLED_AT), "1", str(agent), "run", f"{RUN}.one-a1"]
        sleeper = subprocess.Popen([*argv, "--work", str(bench.work), "--slot"], env={**os.environ, "KILLED_BY": "SIGSTOP"})
        stat = Path(f"/proc/{sleeper.pid}/stat")
        wait_for(lambda: stat.read_text().rpartition(")")[2].split()[0] == "T", "the copy to sleep")
    bench.states()
    assert bench.exit("one-a1")["kind"] == "ok"
    purge = {"verb": "purge", "run_keys": [RUN], "dry_run": False}
    assert bench.ask({"verb": "release", "run_key": RUN, "serial": 9}, purge)[1]["purged"] == [RUN]
    assert bench.submit(bench.plan(bench.traced("one-a2"), serial=2)) == "accepted"
    assert bench.exit("one-a2")["kind"] == "ok"
    os.kill(sleeper.pid, signal.SIGCONT)
    assert sleeper.wait(30) == 0
    assert (bench.begun("one-a1"), bench.begun("one-a2")) == (1, 1)
