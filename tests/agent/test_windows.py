"""What is different on Windows: jobs end with their wrappers, and files that others have open cannot be replaced."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.agent.bench import PYTHON, RUN, Bench, is_alive, kill, wait_for

pytestmark = pytest.mark.skipif(sys.platform != "win32", reason="only on Windows")

# A command with a child, and one that wants to leave: no console, no group, no job object in common with us.
FAMILY = """
import subprocess
sleeper = [sys.executable, "-I", "-S", "-c", "import time; time.sleep(60)"]
apart = 0x8 | 0x200  # DETACHED_PROCESS, CREATE_NEW_PROCESS_GROUP
children = [subprocess.Popen(sleeper), subprocess.Popen(sleeper, creationflags=apart)]
try:
    subprocess.Popen(sleeper, creationflags=apart | 0x1000000)  # CREATE_BREAKAWAY_FROM_JOB
    write("escaped", "")
except PermissionError:
    pass  # as it must be
write(PIDS + "~", " ".join(str(one.pid) for one in children) + " " + str(os.getpid()))
os.rename(PIDS + "~", PIDS)
"""
STAYS = FAMILY + "time.sleep(60)\n"


@pytest.fixture
def pids_file(bench: Bench) -> Path:
    return bench.folder / "pids"


def family(code: str, pids_file: Path) -> str:
    return f"PIDS = {str(pids_file)!r}\n{code}"


def started(pids_file: Path) -> list[int]:
    wait_for(pids_file.exists, "the job to begin")
    return [int(word) for word in pids_file.read_text().split()]


def all_die(pids: list[int]) -> None:
    assert len(pids) == 3
    wait_for(lambda: not any(map(is_alive, pids)), "all processes of the job to die")


def test_time_limit_ends_everything(bench: Bench, pids_file: Path) -> None:
    bench.submit(bench.plan(bench.code("one-a1", family(STAYS, pids_file), time_limit_s=3.0)))
    pids = started(pids_file)
    assert bench.exit("one-a1")["kind"] == "timeout"
    all_die(pids)


def test_cancel_ends_everything(bench: Bench, pids_file: Path) -> None:
    jobs = [bench.code("one-a1", family(STAYS, pids_file)), bench.traced("two-a1", "one-a1")]
    bench.submit(bench.plan(*jobs))
    pids = started(pids_file)
    bench.submit(bench.plan(*jobs, serial=2, cancel=True))
    assert bench.exit("one-a1")["kind"] == "cancelled"
    all_die(pids)
    assert bench.states() == {"one-a1": "ended", "two-a1": "cancelled"}


def test_a_job_that_leaves_processes_behind(bench: Bench, pids_file: Path) -> None:
    # Their current folder is the job's outputs, which can get its final name all the same.
    bench.submit(bench.plan(bench.code("one-a1", family(FAMILY, pids_file))))
    assert bench.exit("one-a1")["kind"] == "ok"
    assert not (bench.job("one-a1") / "out" / "escaped").exists()
    all_die(started(pids_file))


def test_a_killed_wrapper_takes_its_command_along(make_bench: Callable[..., Bench], tmp_path: Path) -> None:
    bench = make_bench(slots=1)
    pids_file = tmp_path / "pids"
    bench.submit(bench.plan(bench.code("one-a1", family(STAYS, pids_file)), bench.traced("two-a1")))
    pids = started(pids_file)
    kill(bench.claim("one-a1")["wrapper"]["pid"])
    all_die(pids)
    # Its slot is free, and the job is given up after several looks, as everywhere.
    assert bench.exit("two-a1")["kind"] == "ok"
    seen: list[str] = []
    wait_for(lambda: seen.append(bench.states()["one-a1"]) or seen[-1] == "lost", "the job to be lost")
    assert seen.count("missing") >= 2
    assert bench.submit(bench.plan(bench.traced("one-a2"), bench.traced("two-a1"), serial=2)) == "accepted"
    assert bench.exit("one-a2")["kind"] == "ok"


def test_a_killed_runner_leaves_its_jobs_alone(make_bench: Callable[..., Bench]) -> None:
    bench = make_bench(slots=1)
    bench.submit(bench.plan(bench.gated("one-a1"), bench.traced("two-a1", "one-a1")))
    wait_for(lambda: bench.begun("one-a1"), "the job to begin")
    kill(bench.runners()[0])
    assert bench.states() == {"one-a1": "running", "two-a1": "waiting"}
    bench.open_gate()
    assert bench.exit("two-a1")["kind"] == "ok"
    assert bench.begun("one-a1") == bench.begun("two-a1") == 1


HOLD = """
import sys, time
with open(sys.argv[1], "rb"):
    print("open", flush=True)
    time.sleep(float(sys.argv[2]))
"""


@pytest.mark.parametrize("name", ["seq", "settings.json", f"runs/{RUN}/plan.json"])
def test_a_file_that_a_virus_scanner_has_open_is_replaced_a_little_later(bench: Bench, name: str) -> None:
    with bench.no_runner():
        bench.submit(bench.plan(bench.traced("one-a1")))
        scanner = subprocess.Popen([*PYTHON, "-c", HOLD, str(bench.work / name), "0.8"], stdout=subprocess.PIPE)
        assert scanner.stdout is not None
        assert scanner.stdout.readline().strip() == b"open"
        begun = time.monotonic()
        bench.host.extra = {"kill_grace_s": 0.25}  # other settings than before
        assert bench.submit(bench.plan(bench.traced("one-a2"), serial=2)) == "accepted"
        assert time.monotonic() - begun > 0.3
        assert scanner.wait(10) == 0
    assert bench.states()["one-a2"] in ("queued", "running", "ended")


def test_outputs_that_a_virus_scanner_has_open_get_their_name_a_little_later(bench: Bench) -> None:
    code = "import subprocess\nwrite('dose.mhd', '1')\n"
    bench.submit(bench.plan(bench.code("one-a1", f"{code}while not os.path.exists({str(bench.folder / 'go')!r}): time.sleep(0.05)")))
    dose = bench.job("one-a1") / "out.part" / "dose.mhd"
    wait_for(dose.exists, "the output")
    scanner = subprocess.Popen([*PYTHON, "-c", HOLD, str(dose), "1.0"], stdout=subprocess.PIPE)
    assert scanner.stdout is not None
    assert scanner.stdout.readline().strip() == b"open"
    (bench.folder / "go").touch()
    exit_ = bench.exit("one-a1")
    assert (exit_["kind"], exit_["message"]) == ("ok", "")
    scanner.wait(10)


def test_a_run_that_somebody_looks_at_is_kept_and_stops_no_other_purge(bench: Bench) -> None:
    other = "ba9876543210"
    bench.submit(bench.plan(bench.code("one-a1", "write('dose.mhd', '1')\n")))
    bench.submit(bench.plan(bench.code("one-a1", run=other), run=other))
    assert bench.exit("one-a1")["kind"] == bench.exit("one-a1", run=other)["kind"] == "ok"
    bench.ask({"verb": "release", "run_key": RUN, "serial": 9}, {"verb": "release", "run_key": other, "serial": 9})
    purge = {"verb": "purge", "run_keys": [RUN, other], "dry_run": False}
    with (bench.job("one-a1") / "out" / "dose.mhd").open("rb"):
        reply = bench.ask(purge)[0]
        assert [key for key, _ in reply["refused"]] == [RUN]
        assert "remove" in reply["refused"][0][1]
        assert other in reply["purged"]
    reply = bench.ask(purge)[0]
    assert reply["refused"] == []
    assert [path.name for path in (bench.work / "runs").iterdir()] == []
