"""A whole installation in a temporary folder, driven as a user drives it: by running `mqi`."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from mqi.resources import packaged_config
from mqi.sample import write_sample
from tests import warm
from tests.agent.system import PATIENCE, all_processes, kill

ROOT = Path(__file__).resolve().parents[2]

CONFIG = """\
watch:
  - path: cases
    room: G1
    quiet: {quiet}
hosts:
  - name: here
    work_dir: work
    queue: {{type: local, groups: [{{name: cpu, slots: 2}}, {{name: gpu, slots: 2}}]}}
paths: {{database: mqi.db, results: results, logs: logs}}
timing: {{backoff_first: 1s, backoff_max: 2s}}
transfer: {{min_free: 1 MiB}}
workflows: {workflows}
"""

# Steps without physics: fast, and a ledger outside the run counts every execution.
QUICK = """\
steps:
  - name: prepare
    run: ["{python}", "-c", "import os, pathlib; open(r'LEDGER', 'a').write(os.environ['MQI_JOB_KEY'] + '\\\\n'); pathlib.Path('beams.json').write_text('[]')"]
    group: cpu
    outputs: ["beams.json"]
  - name: simulate
    run: ["{python}", "STEP", "{beam}"]
    for_each: beam
    needs: [prepare]
    group: gpu
    outputs: ["dose.txt"]
    transient_exit_codes: [75]
    max_attempts: 3
"""

# What one beam does is in a file that the test may change at any time: it is no part of the definition.
STEP = """\
import json, os, pathlib, sys, time
beam = sys.argv[1]
open(r'LEDGER', 'a').write(os.environ['MQI_JOB_KEY'] + '\\n')
behaviour = json.loads(pathlib.Path(r'BEHAVIOUR').read_text()).get(beam, {})
progress = pathlib.Path(os.environ['MQI_PROGRESS'])
print('simulating', beam, flush=True)
deadline = time.time() + behaviour.get('sleep', 0)
while time.time() < deadline:
    progress.write_text(json.dumps({'fraction': 0.5, 'message': 'half way'}))
    time.sleep(0.05)
if behaviour.get('exit'):
    pathlib.Path(os.environ['MQI_ERROR']).write_text(json.dumps({'message': behaviour['why']}))
    sys.exit(behaviour['exit'])
pathlib.Path('dose.txt').write_text('dose of beam ' + beam)
"""


@dataclass
class Installation:
    """A configuration, a watch folder, a host: everything below `root`."""

    root: Path
    environment: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.database = self.root / "mqi.db"

    @property
    def cases(self) -> Path:
        return self.root / "cases"

    @property
    def results(self) -> Path:
        return self.root / "results"

    def run(self, *arguments: str, code: int | None = 0) -> subprocess.CompletedProcess[str]:
        """Run mqi; `code` is the exit code that is expected (None: any)."""
        words = ["--config", str(self.root / "mqi.yaml"), *arguments]
        done = warm.run(words, environment={**os.environ, **self.environment})
        assert code is None or done.returncode == code, (
            f"{arguments}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        )
        assert "Traceback" not in done.stderr, done.stderr
        return done

    def status(self, *options: str) -> dict[str, Any]:
        return dict(json.loads(self.run("--json", "status", "--all", *options).stdout))

    def case(self, case_id: int = 1) -> dict[str, Any]:
        return next(case for case in self.status()["cases"] if case["case_id"] == case_id)

    def cycle_until(self, *states: str, case_id: int = 1, limit_s: float = 60.0) -> dict[str, Any]:
        """Run `mqi cycle` until the case is in one of these states."""
        deadline = time.monotonic() + limit_s * PATIENCE
        while time.monotonic() < deadline:
            self.run("cycle", code=None)
            if self.state_of(case_id) in states:
                return self.case(case_id)
            time.sleep(0.1)
        raise AssertionError(f"case {case_id} is {self.case(case_id)} after {limit_s} s")

    def state_of(self, case_id: int = 1) -> str:
        """The state as it is stored: a program start cheaper than `mqi status`."""
        with contextlib.closing(sqlite3.connect(self.database, timeout=10)) as connection:
            rows = connection.execute("SELECT status FROM cases WHERE case_id = ?", (case_id,)).fetchall()
        return str(rows[0][0]) if rows else ""

    def sample(self, name: str = "P1", seed: int = 1) -> Path:
        folder = self.cases / name
        write_sample(folder, seed=seed)
        return folder

    def ledger(self) -> list[str]:
        """The key of every job that was executed, once per execution."""
        path = self.root / "ledger"
        return path.read_text(encoding="utf-8").split() if path.is_file() else []

    def behave(self, **beams: Any) -> None:
        """What the simulation of each beam does from now on: b2={"exit": 3, "why": "…"}, b3={"sleep": 5}."""
        value = {name.removeprefix("b"): wish for name, wish in beams.items()}
        (self.root / "behaviour.json").write_text(json.dumps(value), encoding="utf-8")

    def log_text(self) -> str:
        return "".join(
            path.read_text(encoding="utf-8") for path in sorted((self.root / "logs").glob("*.log"))
        )

    def stop_everything(self) -> None:
        """Kill whatever still works in the work directory (runners, steps), by process id."""
        ours = (str(self.root), self.root.as_posix())
        for pid, argv in all_processes():
            if any(our in word for word in argv for our in ours):
                kill(pid)


def install(root: Path, *, quick: bool = True, quiet: str = "0s") -> Installation:
    """Write a configuration into `root`; `quick`: with the workflow without physics."""
    (root / "cases").mkdir(parents=True)
    workflows = "{}"
    if quick:
        ledger, behaviour, step = root / "ledger", root / "behaviour.json", root / "step.py"
        # With slashes on Windows too: a backslash begins an escape in YAML.
        text = STEP.replace("LEDGER", ledger.as_posix()).replace("BEHAVIOUR", behaviour.as_posix())
        step.write_text(text, encoding="utf-8")
        text = QUICK.replace("LEDGER", ledger.as_posix()).replace("STEP", step.as_posix())
        (root / "default_qa.yaml").write_text(text, encoding="utf-8")
        behaviour.write_text("{}", encoding="utf-8")
        workflows = "{default_qa: default_qa.yaml}"
    (root / "mqi.yaml").write_text(CONFIG.format(quiet=quiet, workflows=workflows), encoding="utf-8")
    return Installation(root)


def install_shipped(root: Path) -> Installation:
    """An installation with the shipped workflow and machine file, and so few protons that it takes seconds."""
    installation = install(root, quick=False)
    shipped = (packaged_config() / "workflows" / "default_qa.yaml").read_text(encoding="utf-8")
    assert "primaries: 400000\n" in shipped
    assert "grid_mm: 3\n" in shipped
    few = shipped.replace("primaries: 400000\n", "primaries: 4000\n").replace("grid_mm: 3\n", "grid_mm: 5\n")
    (root / "default_qa.yaml").write_text(few, encoding="utf-8")
    (root / "machines").mkdir()
    shutil.copyfile(packaged_config() / "machines" / "G1.yaml", root / "machines" / "G1.yaml")
    config = root / "mqi.yaml"
    text = config.read_text(encoding="utf-8").replace("workflows: {}", "workflows: {default_qa: default_qa.yaml}")
    engine = json.dumps({"MCSQUARE_FOLDER": os.environ.get("MCSQUARE_FOLDER", str(ROOT / ".cache" / f"mcsquare-{sys.platform}"))})
    config.write_text(text.replace("    work_dir: work\n", f"    work_dir: work\n    environment: {engine}\n"), encoding="utf-8")
    return installation


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Installation]:
    """An installation with the quick workflow."""
    installation = install(tmp_path / "site")
    yield installation
    installation.stop_everything()


@pytest.fixture
def real_site(tmp_path: Path) -> Iterator[Installation]:
    """An installation with the shipped workflow; skipped where its dose engine is absent."""
    folder = os.environ.get("MCSQUARE_FOLDER", str(ROOT / ".cache" / f"mcsquare-{sys.platform}"))
    if not (Path(folder) / "Materials").is_dir():
        assert os.environ.get("CI") != "true", "MCsquare is missing, and CI must have it"
        pytest.skip("MCsquare is not here: scripts/test.py gets it")
    installation = install_shipped(tmp_path / "site")
    yield installation
    installation.stop_everything()
