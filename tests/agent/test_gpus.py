"""GPUs, with a fake nvidia-smi on the PATH."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pytest

from mqi.settings import Group, Queue
from tests.agent.bench import ORPHANS, PYTHON, RUN, Bench, wait_for


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


WORKING = """
if sys.argv[1].startswith("--query-gpu="):
    print("GPU-aaaa, Fake One, 8000, 100, 7, 40\\nGPU-bbbb, Fake Two, 8000, 100, [N/A], 41")
else:
    print("GPU-bbbb, 4711")
"""


def test_each_job_has_a_gpu_of_its_own(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    nvidia_smi(bench.folder, monkeypatch, WORKING)
    gpu_host(bench, "auto")
    show = "print(os.environ['CUDA_VISIBLE_DEVICES'])\n"
    show += f"while not os.path.exists({str(bench.folder / 'go')!r}): time.sleep(0.05)"
    bench.submit(bench.plan(*(bench.code(f"step.b{beam}-a1", show, gpu=True) for beam in range(3))))

    def running() -> list[dict[str, object]]:
        return [job for job in bench.report().values() if job["state"] == "running"]

    wait_for(lambda: len(running()) == 2, "two jobs on two GPUs")
    assert sorted(str(job["gpu"]) for job in running()) == ["GPU-aaaa", "GPU-bbbb"]
    probe = bench.host.ask([]).probe
    assert [(card["uuid"], card["utilisation"], card["processes"]) for card in probe["gpus"]] == [
        ("GPU-aaaa", 7.0, 0),
        ("GPU-bbbb", None, 1),
    ]
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
    from agent.work import Work

    nvidia_smi(tmp_path, monkeypatch, WORKING)
    taken = take_given(Work(str(tmp_path / "work")), given)
    assert taken is not None
    assert taken[0] == uuid
    if taken[1] is not None:
        # Somebody has it already, whatever Slurm believes: an orphan. Then the job waits.
        assert take_given(Work(str(tmp_path / "work")), given) is None
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
