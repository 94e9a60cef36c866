"""How jobs end: limits, cancel, failures, what the exit file says."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.agent.bench import ORPHANS, PYTHON, RUN, Bench, is_alive, sha256, wait_for


def pids(path: Path) -> list[int]:
    return [int(word) for word in path.read_text().split()] if path.exists() else []


@pytest.fixture
def stubborn(bench: Bench) -> str:
    """A command with a child that ignores SIGTERM, and one that left the session; their ids go to `pids`."""
    return (
        "trap '' TERM; (trap '' TERM; exec sleep 60) & echo $! >>PIDS; "
        "setsid sleep 60 & echo $! >>PIDS; echo $$ >>PIDS; sleep 60; sleep 60"
    ).replace("PIDS", str(bench.folder / "pids"))


def test_time_limit_ends_everything(bench: Bench, stubborn: str) -> None:
    bench.submit(bench.plan(bench.shell("one-a1", stubborn, time_limit_s=0.5)))
    exit_ = bench.exit("one-a1")
    assert (exit_["kind"], exit_["code"]) == ("timeout", 124)
    assert "0.5 s" in exit_["message"]
    started = pids(bench.folder / "pids")
    assert len(started) == 3
    wait_for(lambda: not any(map(is_alive, started)), "all processes of the job to die")


def test_cancel_ends_everything_and_starts_nothing(bench: Bench, stubborn: str) -> None:
    jobs = [bench.shell("one-a1", stubborn), bench.traced("two-a1", "one-a1"), bench.code("zero-a1")]
    bench.submit(bench.plan(*jobs))
    bench.exit("zero-a1")
    wait_for(lambda: len(pids(bench.folder / "pids")) == 3, "the job to begin")
    assert bench.submit(bench.plan(*jobs, serial=2, cancel=True)) == "accepted"
    assert bench.exit("one-a1")["kind"] == "cancelled"
    wait_for(lambda: not any(map(is_alive, pids(bench.folder / "pids"))), "all processes to die")
    assert bench.states() == {"zero-a1": "ended", "one-a1": "ended", "two-a1": "cancelled"}
    # A late request of the plan before changes nothing; nor does a stray task.
    assert bench.submit(bench.plan(*jobs)) == "newer"
    assert bench.run("two-a1") == 0
    assert bench.begun("two-a1") == 0
    assert bench.exit("zero-a1")["kind"] == "ok"


def test_cancel_in_the_moment_of_the_claim(bench: Bench) -> None:
    """The tombstone comes after the wrapper looked for it and before it claims: it looks again."""
    with bench.no_runner():
        bench.submit(bench.plan(bench.traced("one-a1")))
        tombstone = bench.job("one-a1") / "tombstone.json"
        script = (
            "import runpy, sys\n"
            "def hook(event, arguments):\n"
            "    if event == 'os.rename' and str(arguments[1]).endswith('claim'):\n"
            f"        open({str(tombstone)!r}, 'w').write('{{}}')\n"
            "sys.addaudithook(hook)\n"
            "sys.argv = sys.argv[1:]\n"
            "runpy.run_path(sys.argv[0], run_name='__main__')\n"
        )
        argv = bench.agent("run", f"{RUN}.one-a1")
        assert subprocess.run([*argv[:3], "-c", script, *argv[3:]], timeout=30, check=False).returncode == 1
    assert bench.exit("one-a1")["kind"] == "cancelled"
    assert bench.begun("one-a1") == 0


def test_cancel_before_any_plan(bench: Bench) -> None:
    jobs = [bench.traced("one-a1")]
    assert bench.submit(bench.plan(*jobs, serial=2, cancel=True)) == "accepted"
    assert bench.states() == {"one-a1": "cancelled"}
    assert bench.submit(bench.plan(*jobs)) == "newer"
    time.sleep(0.5)
    assert bench.begun("one-a1") == 0
    # A retry is a newer plan with new attempts; the old key stays dead even when named again.
    assert bench.submit(bench.plan(bench.traced("one-a1"), bench.traced("two-a2"), serial=3)) == "accepted"
    bench.exit("two-a2")
    assert bench.states() == {"one-a1": "cancelled", "two-a2": "ended"}
    assert bench.begun("one-a1") == 0


@ORPHANS
def test_cancel_of_an_orphan(bench: Bench) -> None:
    jobs = [bench.traced("one-a1", seconds=60)]
    bench.submit(bench.plan(*jobs))
    bench.kill_wrapper("one-a1")
    pid = bench.command_pid("one-a1")
    assert is_alive(pid)
    bench.submit(bench.plan(*jobs, serial=2, cancel=True))
    bench.wait_state("one-a1", "cancelled")
    assert not is_alive(pid)


@ORPHANS
def test_an_orphan_keeps_its_time_limit(bench: Bench) -> None:
    bench.submit(bench.plan(bench.traced("one-a1", seconds=60, time_limit_s=30)))
    bench.kill_wrapper("one-a1")
    pid = bench.command_pid("one-a1")
    bench.report()
    assert is_alive(pid)
    # Instead of waiting, we let it have begun long ago.
    info = bench.job("one-a1") / "claim" / "info.json"
    info.write_text(json.dumps({**json.loads(info.read_text()), "started_at": time.time() - 100}))
    bench.wait_state("one-a1", "lost")
    assert not is_alive(pid)


def test_a_newer_plan_without_a_job_ends_it(bench: Bench) -> None:
    bench.submit(bench.plan(bench.traced("one-a1", seconds=60)))
    wait_for(lambda: bench.begun("one-a1"), "the job to begin")
    bench.submit(bench.plan(bench.traced("one-a2"), serial=2))
    assert bench.exit("one-a1")["kind"] == "cancelled"
    assert bench.exit("one-a2")["kind"] == "ok"


CRASH = "import signal; os.kill(os.getpid(), signal.SIGSEGV)"
CRASHED = (139, "the command ended by signal 11")
if sys.platform == "win32":
    CRASH = "import ctypes; ctypes.windll.kernel32.ExitProcess(0xC0000005)"  # as Windows ends one that crashes
    CRASHED = (0xC0000005, "the command crashed (Windows status 0xC0000005)")


def test_what_a_failure_says(bench: Bench) -> None:
    said = """write(os.environ["MQI_ERROR"], '{"message": "the plan has\\\\nno beam 3\\\\u0007"}'); sys.exit(4)"""
    bench.submit(
        bench.plan(
            bench.code("told-a1", said),
            bench.code("silent-a1", "sys.exit(5)"),
            bench.code("garbage-a1", "write(os.environ['MQI_ERROR'], '{'); sys.exit(6)"),
            bench.code("crash-a1", CRASH),
            bench.a_job("absent-a1", ["/no/such/program"]),
        )
    )
    assert bench.exit("told-a1")["message"] == "the plan has no beam 3?"
    assert bench.exit("silent-a1")["message"] == "the command ended with code 5"
    assert bench.exit("garbage-a1")["code"] == 6
    crash = bench.exit("crash-a1")
    assert (crash["code"], crash["message"]) == CRASHED
    absent = bench.exit("absent-a1")
    assert (absent["kind"], absent["code"]) == ("spawn", 127)
    assert bench.report()[f"{RUN}.told-a1"]["exit"]["kind"] == "failed"


def test_missing_outputs(bench: Bench) -> None:
    script = "os.mkdir('a'); write('a/dose.mhd', '1\\n'); os.mkdir('folder.txt')"
    if sys.platform != "win32":  # links need a privilege there
        script += "; os.symlink('/etc/hostname', 'link.txt')"
    bench.submit(
        bench.plan(
            bench.code("good-a1", script, outputs=["a/*.mhd", "**/dose.*"]),
            bench.code("wrong-a1", script, outputs=["*.mhd"]),
            bench.code("link-a1", script, outputs=["*.txt"]),
        )
    )
    assert bench.exit("good-a1")["kind"] == "ok"
    assert bench.exit("wrong-a1")["kind"] == "missing_output"
    assert "*.mhd" in bench.exit("wrong-a1")["message"]
    assert bench.exit("link-a1")["kind"] == "missing_output"
    assert not (bench.job("wrong-a1") / "out").exists()
    keys = [f"{RUN}.good-a1", f"{RUN}.wrong-a1", f"{RUN}.never-a1"]
    jobs = bench.ask({"verb": "outputs", "jobs": keys})[0]["jobs"]
    assert jobs[keys[0]]["files"] == [{"path": "a/dose.mhd", "size": 2, "sha256": sha256(b"1\n")}]
    outputs = (bench.job("good-a1") / "outputs.json").read_bytes()
    assert jobs[keys[0]]["exit"]["outputs"] == sha256(outputs)
    assert jobs[keys[1]]["files"] == []
    assert jobs[keys[2]] is None


def test_tampered_inputs_are_refused_and_sent_again(bench: Bench) -> None:
    digest = bench.put(b"the plan")
    inputs = [{"n": "000001", "path": "P1/plan.dcm", "size": 8, "sha256": digest}]
    show = [*PYTHON, "-c", "import sys; print(open(sys.argv[1]).read())", "{input_dir}/000001"]
    plan = bench.plan(bench.a_job("one-a1", show), inputs=inputs)
    with bench.no_runner():
        bench.submit(plan)
        place = bench.work / "runs" / RUN / "in" / "000001"
        if sys.platform != "win32":
            assert place.stat().st_mode & 0o777 == 0o400
        place.chmod(0o600)
        place.write_bytes(b"the PLAN")
    bench.report()
    exit_ = bench.exit("one-a1")
    assert exit_["kind"] == "bad_input"
    assert "000001" in exit_["message"]
    assert "plan.dcm" not in exit_["message"]
    # The link in the store had the same bytes: it counts as missing now.
    again = bench.plan(bench.a_job("one-a2", show), inputs=inputs, serial=2)
    assert bench.submit(again) == "inputs_missing"
    bench.put(b"the plan")
    assert bench.submit(again) == "accepted"
    assert bench.exit("one-a2")["kind"] == "ok"
    assert (bench.job("one-a2") / "log.txt").read_text() == "the plan\n"


def test_what_a_command_gets(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_OF_THE_LOGIN", "x")
    digest = bench.put(b"machine model")
    bench.host = bench.new_host(environment={"SITE": "a b"})
    show = """
for name, value in sorted(os.environ.items()):
    print("%s=%s" % (name, value))
print("ARGS", sys.argv[1:])
print(os.getcwd())
for path in sys.argv[3], sys.argv[4], os.path.join(sys.argv[5], "models", "room1.csv"):
    print(open(path).read())
"""
    job = bench.code(
        "one.b3-a1",
        show,
        files=[{"name": "models/room1.csv", "sha256": digest, "size": 13}],
        parameters={"histories": 1000, "beam_name": "F 1"},
    )
    job["argv"] += ["{beam}", "{beam_name}", "{inputs}", "{parameters}", "{files}", "{histories}", '{"json": "{}"}']
    inputs = [{"n": "000001", "path": "Kim/plän.dcm", "size": 13, "sha256": digest}]
    bench.submit(bench.plan(job, inputs=inputs))
    assert bench.exit("one.b3-a1")["kind"] == "ok"
    log = (bench.job("one.b3-a1") / "log.txt").read_text()
    assert "SECRET_OF_THE_LOGIN" not in log
    assert "SITE=a b\n" in log
    assert f"MQI_JOB_KEY={RUN}.one.b3-a1\n" in log
    assert "MQI_BEAM=3\n" in log
    assert "CUDA_VISIBLE_DEVICES" not in log
    assert "ARGS ['3', 'F 1', " in log
    assert """, '1000', '{"json": "{}"}']\n""" in log
    assert f"{bench.job('one.b3-a1') / 'out.part'}\n" in log
    assert '"path": "Kim/pl\\u00e4n.dcm"' in log
    assert '{"beam_name": "F 1", "histories": 1000}' in log
    assert log.endswith("machine model\n")
    if sys.platform != "win32":
        assert (bench.work / "runs" / RUN / "inputs.json").stat().st_mode & 0o777 == 0o600
        assert bench.work.stat().st_mode & 0o777 == 0o700


def test_progress_and_log(bench: Bench) -> None:
    script = (
        """write(os.environ["MQI_PROGRESS"], '{"fraction": 0.25, "message": "beam on"}')\n"""
        """os.write(1, b"abcd\\303\\244b")\n"""
        f"while not os.path.exists({str(bench.folder / 'go')!r}): time.sleep(0.05)\n"
        """write(os.environ["MQI_PROGRESS"], "[1")"""
    )
    bench.submit(bench.plan(bench.code("one-a1", script)))
    job = wait_for(
        lambda: next((one for one in bench.report().values() if one["progress"] and one["progress"]["message"]), None),
        "progress",
    )
    assert job["progress"] == {"fraction": 0.25, "message": "beam on"}

    def log(offset: int, limit: int) -> dict[str, object]:
        return bench.ask({"verb": "log", "job_key": f"{RUN}.one-a1", "offset": offset, "limit": limit})[0]

    wait_for(lambda: log(0, 100)["size"] == 7, "the log")
    assert log(0, 100) == {"ok": True, "text": "abcdäb", "offset": 0, "next": 7, "size": 7, "ended": False}
    assert log(0, 5)["text"] == "abcd"  # not half of the next character
    assert log(-1, 100)["text"] == "b"
    assert log(99, 100) == {"ok": True, "text": "", "offset": 7, "next": 7, "size": 7, "ended": False}
    (bench.folder / "go").touch()
    bench.exit("one-a1")
    assert log(-100, 100)["ended"]


def test_foreign_leftovers_do_not_keep_locks(bench: Bench) -> None:
    # The command leaves a process behind in a session of its own; the job is over all the same.
    bench.submit(bench.plan(bench.shell("one-a1", f"setsid sleep 60 & echo $! >{bench.folder}/pids")))
    assert bench.exit("one-a1")["kind"] == "ok"
    wait_for(lambda: not any(map(is_alive, pids(bench.folder / "pids"))), "the leftover to die")


def test_what_killed_writers_left_is_swept(bench: Bench) -> None:
    bench.submit(bench.plan(bench.code("one-a1", "write('keep~', 'x')")))
    bench.exit("one-a1")
    job = bench.job("one-a1")
    (job / "claim.0123abcd~").mkdir()
    (job / "claim.0123abcd~" / "info.json").write_text("{}")
    left = [job / "claim.0123abcd~", job / ".outputs.json.0123abcd~", bench.work / ".seq.0123abcd~", bench.work / "pins" / ".x~"]
    (bench.work / "pins").mkdir(exist_ok=True)
    for path in left[1:]:
        path.write_text("half")
    bench.ask({"verb": "report", "runs": [RUN]})
    assert [path.exists() for path in left] == [True, True, False, False], "a run's own files go when it is released"
    bench.ask({"verb": "release", "run_key": RUN, "serial": 9})
    assert not any(path.exists() for path in left)
    assert (job / "out" / "keep~").exists(), "what a step wrote is not ours to judge"
