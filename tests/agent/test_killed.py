"""The agent killed before every single effect of a request, a runner and a run: nothing runs twice, nothing
gets stuck, and there is no clean-up to do but to ask again.

Every day a sample of the points; all of them under `--slow` (`pytest -m slow`).
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from mqi.host import framing
from tests.agent.bench import RUN, Bench, wait_for

KILLED_AT = Path(__file__).with_name("killed_at.py")
EVERY_DAY = 19  # every so many-th point
KILLED = 15 if sys.platform == "win32" else -9  # the exit code that tells it
MOST = 400  # points; a program that has more is stuck

Prepare = Callable[[Bench], None]


class Crash:
    """One kind of process to kill: a work directory to start from, its words, and what it reads."""

    def __init__(self, make_bench: Callable[..., Bench], words: list[str], *, planned: bool) -> None:
        self._make = make_bench
        self.words = words
        self.planned = planned
        self.template = make_bench("template", slots=1)
        self.digest = self.template.put(b"the plan")
        if planned:
            with self.template.no_runner():
                assert self.template.submit(self.plan(self.template)) == "accepted"

    def plan(self, bench: Bench, attempt: int = 1, serial: int = 1) -> dict[str, Any]:
        job = bench.traced(f"one-a{attempt}", files=[{"name": "m.csv", "sha256": self.digest, "size": 8}])
        return bench.plan(
            job,
            bench.traced(f"two-a{attempt}", f"one-a{attempt}"),
            inputs=[{"n": "000001", "path": "P/plan.dcm", "size": 8, "sha256": self.digest}],
            serial=serial,
        )

    def at(self, point: int) -> bool:
        """Kills at `point` and checks what follows; False when the program has no such point."""
        bench = self._make(f"point{point}", slots=1)
        shutil.copytree(self.template.work, bench.work)
        if self.planned:
            self._repath(bench)
        folder = bench.work / "scripts" / bench.host.deploy() / "agent"
        argv = [sys.executable, "-I", "-S", str(KILLED_AT), str(point), str(folder), *self.words]
        done = subprocess.run(
            [*argv, "--work", str(bench.work), *(["--slot"] if self.words[0] == "run" else [])],
            input=self._request(bench) if self.words == ["request"] else b"",
            stdout=subprocess.PIPE,
            timeout=60,
            check=False,
        )
        self._recovers(bench)
        bench.stop()
        return done.returncode == KILLED

    def _repath(self, bench: Bench) -> None:
        """The jobs of the copy shall leave their traces beside the copy."""
        path = bench.work / "runs" / RUN / "plan.json"
        text = path.read_text().replace(self.template.folder.as_posix(), bench.folder.as_posix())
        path.write_text(text)

    def _request(self, bench: Bench) -> bytes:
        class Bytes:
            data = b""

            def write(self, data: bytes) -> None:
                self.data += data

        stream: Any = Bytes()
        calls = [{"verb": "plan", "plan": self.plan(bench)}]
        request = {
            "protocol": 1,
            "nonce": "0" * 32,
            "installation": "installation-1",
            "now": 0,
            "settings": bench.host._request_settings(),
            "calls": calls,
        }
        framing.write_frame(stream, "J", framing.encode(request))
        framing.write_frame(stream, "E")
        return bytes(stream.data)

    def _recovers(self, bench: Bench) -> None:
        assert bench.submit(self.plan(bench)) in ("accepted", "same")

        def over() -> str:
            states = bench.states()
            return states["one-a1"] if states["one-a1"] == "lost" or set(states.values()) == {"ended"} else ""

        state = wait_for(over, "the run to end or a job to be lost", 40.0)
        if state == "lost":
            # What the control PC does then: a new attempt, a new plan.
            assert bench.submit(self.plan(bench, attempt=2, serial=2)) == "accepted"
            assert bench.exit("two-a2")["kind"] == "ok"
            assert bench.begun("one-a2") == bench.begun("two-a2") == 1
            assert bench.begun("one-a1") <= 1
            assert bench.begun("two-a1") == 0
        else:
            for name in ("one-a1", "two-a1"):
                assert bench.exit(name)["kind"] == "ok"
                assert bench.begun(name) == 1


def kill_everywhere(crash: Crash, step: int, first: int = 1) -> None:
    with ThreadPoolExecutor(2) as pool:
        for start in range(first, MOST, 2 * step):
            if not all(pool.map(crash.at, (start, start + step))):
                return
    raise AssertionError("no end of effects")


class Replan(Crash):
    """A request with a newer plan for a run that was released."""

    def __init__(self, make_bench: Callable[..., Bench]) -> None:
        super().__init__(make_bench, ["request"], planned=False)
        assert self.template.submit(super().plan(self.template)) == "accepted"
        assert self.template.exit("two-a1")["kind"] == "ok"
        assert self.template.ask({"verb": "release", "run_key": RUN, "serial": 9})[0]["ok"]
        self.serials: set[int] = set()

    def plan(self, bench: Bench, attempt: int = 2, serial: int = 2) -> dict[str, Any]:
        return super().plan(bench, attempt, serial)

    def _recovers(self, bench: Bench) -> None:
        # A control PC that hears that the host has its plan sends it no more: the feed has to see to it.
        run = bench.work / "runs" / RUN
        serial = json.loads((run / "plan.json").read_text())["plan"]["serial"]
        assert serial == 1 or not (run / "released.json").exists()
        self.serials.add(serial)


def test_killed_at_every_point_of_a_newer_plan_for_a_released_run(make_bench: Callable[..., Bench]) -> None:
    crash = Replan(make_bench)
    kill_everywhere(crash, 1, first=25)  # nothing of the plan is written before
    assert crash.serials == {1, 2}


PROGRAMS = [
    pytest.param(["request"], False, id="request"),
    pytest.param(["runner", "cpu"], True, id="runner"),
    pytest.param(["run", f"{RUN}.one-a1"], True, id="run"),
]


@pytest.mark.parametrize(("words", "planned"), PROGRAMS)
def test_killed_at_some_points(make_bench: Callable[..., Bench], words: list[str], planned: bool) -> None:
    kill_everywhere(Crash(make_bench, words, planned=planned), EVERY_DAY)


@pytest.mark.slow
@pytest.mark.parametrize(("words", "planned"), PROGRAMS)
def test_killed_at_every_point(make_bench: Callable[..., Bench], words: list[str], planned: bool) -> None:
    kill_everywhere(Crash(make_bench, words, planned=planned), 1)
