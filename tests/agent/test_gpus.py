"""GPUs, with a fake nvidia-smi on the PATH."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mqi.settings import Group, Queue
from tests.agent.bench import ORPHANS, PYTHON, RUN, Bench, wait_for

# The agent's modules, whose folder the bench has put on the path.
from agent.gpu_care import FOREIGN, FREE, OURS, QUARANTINED, after_job, use_of  # isort: skip
from agent.settings import GpuRules  # isort: skip


def nvidia_smi(folder: Path, monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    """Puts a program of this name, made of Python code, before all others on the PATH."""
    folder = folder / "bin"
    folder.mkdir()
    (folder / "fake.py").write_text("import sys, time\n" + code)
    command = " ".join(f'"{word}"' for word in (*PYTHON, folder / "fake.py"))
    if sys.platform == "win32":
        (folder / "nvidia-smi.cmd").write_text(f"@{command} %*\n")
    else:
        (folder / "nvidia-smi").write_text(f'#!/bin/sh\nexec {command} "$@"\n')
        (folder / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")


def gpu_host(bench: Bench, gpus: str | tuple[str, ...], slots: int = 3) -> None:
    bench.host = bench.new_host(queue=Queue(groups=(Group("cpu", slots=slots, gpus=gpus),)))


# Whatever the files beside it say: cards.txt, and processes.txt if somebody computes.
WORKING = """
import pathlib
name = "cards.txt" if sys.argv[1].startswith("--query-gpu=") else "processes.txt" if "apps" in sys.argv[1] else "list.txt"
path = pathlib.Path(__file__).with_name(name)
sys.stdout.write(path.read_text() if path.exists() else "")
"""
CARDS = "GPU-aaaa, Fake One, 8000, 100, 7, 40, 0\nGPU-bbbb, Fake Two, 8000, 100, [N/A], 41, 1\n"


def shows(bench: Bench, **files: str) -> None:
    """What the fake nvidia-smi shows from now on; its last answer is not to be believed any more."""
    for name, text in files.items():
        (bench.folder / "bin" / f"{name}.txt").write_text(text)
    (bench.work / "gpus" / "nvidia-smi.json").unlink(missing_ok=True)


def test_each_job_has_a_gpu_of_its_own(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    nvidia_smi(bench.folder, monkeypatch, WORKING)
    shows(bench, cards=CARDS)
    gpu_host(bench, "auto")
    show = "print(os.environ['CUDA_VISIBLE_DEVICES'])\n"
    show += f"while not os.path.exists({str(bench.folder / 'go')!r}): time.sleep(0.05)"
    bench.submit(bench.plan(*(bench.code(f"step.b{beam}-a1", show, gpu=True) for beam in range(3))))

    def running() -> list[dict[str, object]]:
        return [job for job in bench.report().values() if job["state"] == "running"]

    wait_for(lambda: len(running()) == 2, "two jobs on two GPUs")
    assert sorted(str(job["gpu"]) for job in running()) == ["GPU-aaaa", "GPU-bbbb"]
    shows(bench, processes="GPU-bbbb, 4711\n")

    def with_the_process() -> dict[str, Any] | None:
        """The third job asks, too, and may have kept what was shown before."""
        probe = bench.host.ask([]).probe
        return probe if any(card["processes"] for card in probe["gpus"]) else None

    probe = wait_for(with_the_process, "the process to be shown")
    assert probe is not None
    assert [(c["uuid"], c["index"], c["utilisation"], c["processes"], c["use"]) for c in probe["gpus"]] == [
        ("GPU-aaaa", 0, 7.0, 0, "ours"),
        ("GPU-bbbb", 1, None, 1, "ours"),
    ]
    shows(bench, processes="")
    busy = {gpu["uuid"]: gpu["busy_job"] for gpu in probe["queue"]["groups"][0]["gpus"]}
    assert set(busy) == {"GPU-aaaa", "GPU-bbbb"}
    assert all(str(key).startswith(RUN) for key in busy.values())
    time.sleep(0.5)
    assert len(running()) == 2  # three slots, but the third job has no GPU
    (bench.folder / "go").touch()
    logs = set()
    for beam in range(3):
        assert bench.exit(f"step.b{beam}-a1")["kind"] == "ok"
        logs.add((bench.job(f"step.b{beam}-a1") / "log.txt").read_text())
    assert logs == {"GPU-aaaa\n", "GPU-bbbb\n"}


@ORPHANS
def test_an_orphan_keeps_its_gpu(bench: Bench) -> None:
    gpu_host(bench, ("GPU-cccc",))
    bench.submit(bench.plan(bench.gated("one-a1", gpu=True), bench.gated("two-a1", gpu=True)))
    wait_for(bench.order, "the first job to begin")
    first = bench.order()[0]
    bench.kill_wrapper(first)
    bench.open_gate()
    second = {"one-a1": "two-a1", "two-a1": "one-a1"}[first]
    bench.exit(second)
    assert bench.most_at_once() == 1


def test_no_gpu_is_said_at_once(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    nvidia_smi(bench.folder, monkeypatch, "")
    gpu_host(bench, "auto")
    bench.submit(bench.plan(bench.traced("one-a1", gpu=True), bench.traced("two-a1")))
    assert bench.exit("one-a1")["kind"] == "gpu"
    assert bench.begun("one-a1") == 0
    assert bench.exit("two-a1")["kind"] == "ok"


def test_a_group_without_gpus_runs_gpu_steps_on_the_cpu(bench: Bench) -> None:
    bench.submit(bench.plan(bench.code("one-a1", "print(os.environ.get('CUDA_VISIBLE_DEVICES'))", gpu=True)))
    assert bench.exit("one-a1")["kind"] == "ok"
    assert (bench.job("one-a1") / "log.txt").read_text() == "None\n"


@pytest.mark.skipif(sys.platform == "win32", reason="Slurm is not on Windows")
@pytest.mark.parametrize(
    ("given", "uuid"),
    [
        ("0", "GPU-aaaa"),  # the only one that Slurm lets the job see, or the first of the bus
        ("1", "GPU-bbbb"),
        ("GPU-bbbb", "GPU-bbbb"),
        ("0,1", "0,1"),  # a site that asks for two knows what it does: they are not locked
        ("7", "7"),
    ],
)
def test_a_gpu_that_slurm_gave(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str, uuid: str) -> None:
    from agent.gpus import take_given
    from agent.settings import GpuRules
    from agent.work import Work

    nvidia_smi(tmp_path, monkeypatch, WORKING)
    (tmp_path / "bin" / "cards.txt").write_text(CARDS)
    taken = take_given(Work(str(tmp_path / "work")), given, GpuRules())
    assert taken is not None
    assert taken[0] == uuid
    if taken[1] is not None:
        # Somebody has it already, whatever Slurm believes: an orphan. Then the job waits.
        assert take_given(Work(str(tmp_path / "work")), given, GpuRules()) is None
        taken[1].release()
    else:
        assert not uuid.startswith("GPU")


@pytest.mark.skipif(sys.platform == "win32", reason="Slurm is not on Windows")
def test_a_login_that_chose_a_gpu_decides_nothing(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    gpu_host(bench, ("GPU-cccc",))
    bench.submit(bench.plan(bench.code("one-a1", "print(os.environ.get('CUDA_VISIBLE_DEVICES'))", gpu=True)))
    assert bench.exit("one-a1")["gpu"] == "GPU-cccc"
    assert (bench.job("one-a1") / "log.txt").read_text() == "GPU-cccc\n"


def test_a_hanging_driver_holds_nobody_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from agent import gpus

    nvidia_smi(tmp_path, monkeypatch, "time.sleep(20)")
    monkeypatch.setattr(gpus, "TIME_LIMIT_S", 0.3)
    started = time.monotonic()
    with pytest.raises(gpus.GpuProblem):
        gpus.GpuQuery().cards()
    assert time.monotonic() - started < 5


def test_a_failing_driver_is_told(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    nvidia_smi(bench.folder, monkeypatch, "sys.exit(9)")
    probe = bench.host.ask([]).probe
    assert (probe["gpus"], probe["gpu_problem"]) == ([], "nvidia-smi failed with code 9")


# --- cards that a job must not get ------------------------------------------------------------------------

RULES = GpuRules(busy_memory_mb=1000.0, quarantine_after=2, quarantine_s=100.0)
CARD = {"uuid": "GPU-1", "processes": 0, "memory_used_mb": 10.0}


@pytest.mark.parametrize(
    ("card", "record", "ours", "state", "remark"),
    [
        ({}, {}, False, FREE, "nothing is known against it"),
        ({"processes": 1}, {}, False, FOREIGN, "somebody else computes"),
        ({"processes": 1}, {}, True, OURS, "the process is our job's"),
        ({"memory_used_mb": 1001.0}, {}, False, FOREIGN, "in a container no processes are shown, but memory is"),
        ({"memory_used_mb": 1000.0}, {}, False, FREE, "a desktop"),
        ({"memory_used_mb": None, "processes": None}, {}, False, FREE, "MIG tells neither"),
        ({}, {"until": 150.0, "failures": ["a", "b"]}, False, QUARANTINED, "jobs failed"),
        ({}, {"until": 150.0}, True, OURS, "it runs: the quarantine began with another job"),
        ({}, {"until": 99.0}, False, FREE, "the quarantine is over"),
        ({}, {"until": 1e9}, False, FREE, "a clock that was set back"),
    ],
)
def test_who_has_a_card(card: dict[str, Any], record: dict[str, Any], ours: bool, state: str, remark: str) -> None:
    assert use_of({**CARD, **card}, record, RULES, ours, 100.0).state == state, remark


def ending(kind: str = "failed", code: int = 1) -> dict[str, Any]:
    return {"kind": kind, "code": code, "message": "it died"}


@pytest.mark.parametrize(
    ("endings", "quarantined", "remark"),
    [
        ([("r1", ending())], False, "one failure says little"),
        ([("r1", ending()), ("r1", ending())], False, "the same run again"),
        ([("r1", ending()), ("r2", ending("timeout", 124))], True, "two runs in a row"),
        ([("r1", ending()), ("r2", ending("ok", 0)), ("r3", ending())], False, "one between went well"),
        ([("r1", ending()), ("r2", ending("cancelled")), ("r3", ending())], True, "a cancel says nothing"),
        ([("r1", ending()), ("r2", ending("bad_input"))], False, "not the card's fault"),
        ([("r1", ending()), ("r2", ending(code=75))], False, "it waits for a licence"),
        ([("r1", ending()), ("r2", ending(code=143))], False, "it was told to end"),
        ([("r1", ending()), ("r2", ending("missing_output", 0))], True, "an engine that dies silently"),
    ],
)
def test_when_a_card_is_left_out(endings: list[Any], quarantined: bool, remark: str) -> None:
    record: dict[str, Any] = {}
    for run, end in endings:
        record = after_job(record, run, end, RULES, 100.0)
    assert (use_of(CARD, record, RULES, False, 150.0).state == QUARANTINED) is quarantined, remark
    assert use_of(CARD, record, RULES, False, 201.0).state == FREE, "it gets another chance"
    if quarantined:
        record = after_job(record, "r9", ending(), RULES, 201.0)
        assert use_of(CARD, record, RULES, False, 202.0).state == QUARANTINED, "one more failure is enough"


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(["ok", "failed", "cancelled"])), max_size=20))
def test_no_quarantine_without_enough_different_runs_since_the_last_good_job(story: list[tuple[str, str]]) -> None:
    record: dict[str, Any] = {}
    for moment, (run, kind) in enumerate(story):
        record = after_job(record, run, ending(kind), RULES, float(moment))
        since = [r for r, k in story[: moment + 1][::-1]]
        kinds = [k for _r, k in story[: moment + 1][::-1]]
        last = kinds.index("ok") if "ok" in kinds else len(kinds)
        different = {r for r, k in zip(since[:last], kinds[:last], strict=True) if k == "failed"}
        assert set(record["failures"]) == different
        assert (record["until"] > 0) == (len(different) >= 2)


def test_a_card_in_use_by_somebody_else_is_left_alone(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    nvidia_smi(bench.folder, monkeypatch, WORKING)
    shows(bench, cards=CARDS, processes="GPU-aaaa, 4711\n")
    gpu_host(bench, "auto")
    bench.submit(bench.plan(bench.code("one-a1", "pass", gpu=True), bench.code("two-a1", "pass", gpu=True)))
    assert {bench.exit("one-a1")["gpu"], bench.exit("two-a1")["gpu"]} == {"GPU-bbbb"}
    (card, _other) = bench.host.ask([]).probe["gpus"]
    assert (card["use"], card["why"]) == ("foreign", "1 process of somebody else")


def test_a_job_waits_for_a_card_that_somebody_else_uses(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    nvidia_smi(bench.folder, monkeypatch, WORKING)
    shows(bench, cards="GPU-aaaa, Fake One, 8000, 7000, 99, 70, 0\n")
    gpu_host(bench, ("GPU-aaaa",))
    bench.submit(bench.plan(bench.traced("one-a1", gpu=True)))
    time.sleep(1.0)
    assert bench.begun("one-a1") == 0
    shows(bench, cards=CARDS)
    assert bench.exit("one-a1")["gpu"] == "GPU-aaaa"


def test_a_card_on_which_jobs_keep_failing_is_left_out_until_it_is_lifted(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    nvidia_smi(bench.folder, monkeypatch, WORKING)
    shows(bench, cards=CARDS)
    gpu_host(bench, ("GPU-bbbb",))
    bench.host.extra = {**bench.host.extra, "gpu_rules": {"quarantine_after": 2, "quarantine_s": 3600}}
    other = "0123456789ac"
    for run in (RUN, other):
        bench.submit(bench.plan(bench.code("bad-a1", "sys.exit(5)", gpu=True, run=run), run=run))
        assert bench.exit("bad-a1", run)["code"] == 5
    third = "0123456789ad"
    bench.submit(bench.plan(bench.code("good-a1", "pass", gpu=True, run=third), run=third))

    def card() -> dict[str, Any]:
        return dict(next(one for one in bench.host.ask([]).probe["gpus"] if one["uuid"] == "GPU-bbbb"))

    wait_for(lambda: card()["use"] == "quarantined", "the quarantine")
    assert "jobs of 2 runs in a row failed on it" in card()["why"]
    assert card()["until"] > time.time() + 3000
    time.sleep(0.7)
    assert bench.report(third)[f"{third}.good-a1"]["state"] in ("queued", "waiting")
    assert bench.ask({"verb": "lift", "gpu": "GPU-bbbb"})[0]["lifted"] is True
    assert bench.ask({"verb": "lift", "gpu": "GPU-bbbb"})[0]["lifted"] is False
    assert bench.exit("good-a1", third)["kind"] == "ok"
    assert bench.ask({"verb": "lift", "gpu": "../x"})[0]["code"] == "bad_request"


def test_mig_instances_take_the_place_of_their_card(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    nvidia_smi(bench.folder, monkeypatch, WORKING)
    listing = """\
GPU 0: Fake One (UUID: GPU-aaaa)
  MIG 3g.40gb     Device  0: (UUID: MIG-1111-22)
  MIG 3g.40gb     Device  1: (UUID: MIG-3333-44)
GPU 1: Fake Two (UUID: GPU-bbbb)
"""
    cards = "GPU-aaaa, Fake One, 81000, 900, [N/A], 33, 0\nGPU-bbbb, Fake Two, 81000, 0, 0, 30, 1\n"
    shows(bench, cards=cards, list=listing, processes="GPU-aaaa, 12\n")
    gpu_host(bench, "auto", slots=1)
    told = bench.host.ask([]).probe["gpus"]
    assert [(c["uuid"], c["name"], c["processes"]) for c in told] == [
        ("MIG-1111-22", "Fake One MIG 3g.40gb", None),
        ("MIG-3333-44", "Fake One MIG 3g.40gb", None),
        ("GPU-bbbb", "Fake Two", 0),
    ]
    bench.submit(bench.plan(bench.code("one-a1", "pass", gpu=True)))
    assert bench.exit("one-a1")["gpu"] == "MIG-1111-22"


def test_garbage_is_no_card(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    nvidia_smi(bench.folder, monkeypatch, WORKING)
    shows(bench, cards="Unable to determine the device handle\n\0\xe4,,,,,,\nGPU-x, a, nan, inf, [N/A], [Unknown Error]\n")
    (card,) = bench.host.ask([]).probe["gpus"]
    assert {card[name] for name in ("memory_total_mb", "memory_used_mb", "utilisation", "temperature", "index")} == {None}


def test_a_driver_that_hung_is_not_asked_at_once_again(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    nvidia_smi(bench.folder, monkeypatch, f"open({str(bench.folder / 'asked')!r}, 'a').write('x')\ntime.sleep(30)")
    first = bench.host.ask([]).probe
    assert (first["gpus"], first["gpu_problem"]) == ([], "nvidia-smi did not answer for 8 s")
    asked = (bench.folder / "asked").read_text()
    started = time.monotonic()
    assert "asked again in a minute" in bench.host.ask([]).probe["gpu_problem"]
    assert time.monotonic() - started < 5
    assert (bench.folder / "asked").read_text() == asked
