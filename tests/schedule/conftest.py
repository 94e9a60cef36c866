"""Orders and places to render, programs that stand in for schedulers, and an installation to run them on."""

from __future__ import annotations

import os
import shutil
import stat
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from mqi.schedule.order import Order
from mqi.schedule.place import Place
from tests import warm

WINDOWS_PLACE = Place(
    python="C:\\Program Files\\mqi\\.venv\\Scripts\\python.exe",
    config="C:\\ProgramData\\mqi\\mqi.yaml",
    folder="C:\\ProgramData\\mqi",
    folders=("C:\\ProgramData\\mqi\\data", "C:\\ProgramData\\mqi"),
    writes=("C:\\ProgramData\\mqi",),
    results="D:\\results",
    watch=("D:\\cases",),
    reads=("C:\\Program Files\\mqi",),
    notes="C:\\ProgramData\\mqi\\data\\mqi.db.locks",
    runs_jobs=False,
    uses_gpus=False,
    uses_network=True,
    limit_s=1800,
)
LINUX_PLACE = Place(
    python="/opt/mqi/bin/python",
    config="/etc/mqi/mqi.yaml",
    folder="/etc/mqi",
    folders=("/var/lib/mqi", "/var/log/mqi", "/etc/mqi"),
    writes=("/var/lib/mqi", "/var/log/mqi", "/etc/mqi"),
    results="/mnt/nas/results",
    watch=("/mnt/nas/cases",),
    reads=("/opt/mqi",),
    notes="/var/lib/mqi/mqi.db.locks",
    runs_jobs=False,
    uses_gpus=False,
    uses_network=True,
    limit_s=1800,
)


def make_order(**changes: Any) -> Order:
    """An order with everything at its usual value but `changes`."""
    return Order(**{"backend": "schtasks", "every_s": 60, "user": "HOSP\\svc-mqi", "logon": "password", **changes})


POSIX = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no cron, no systemd, none of their tools and names")


def needs(program: str) -> None:
    """Skip without this program; in CI its absence is an error."""
    if sys.platform == "win32":
        pytest.skip(f"{program} is not on Windows")
    if shutil.which(program) is None:
        if os.environ.get("CI") == "true":
            raise AssertionError(f"{program} is missing, and CI must have it")
        pytest.skip(f"{program} is not installed")


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[[str, str], None]:
    """Compare a text with a file in golden/; MQI_WRITE_GOLDEN=1 writes the file instead."""

    def check(name: str, text: str) -> None:
        path = Path(__file__).parent / "golden" / name
        if os.environ.get("MQI_WRITE_GOLDEN"):
            path.write_text(text, encoding="utf-8", newline="\n")
        assert path.read_text(encoding="utf-8") == text

    return check


@dataclass
class FakePrograms:
    """Programs of ours, first on the PATH. Each is the body of a Python script with `argv` and `state`."""

    folder: Path
    state: Path

    def add(self, name: str, body: str) -> None:
        """Put a program there. `state`: a folder that outlives its runs. Every call is a line of state/calls."""
        script = self.folder / name
        script.write_text(
            f"#!{sys.executable} -S\n"
            "import json, os, pathlib, sys\n"
            "argv = sys.argv[1:]\n"
            f"state = pathlib.Path({str(self.state)!r})\n"
            "with (state / 'calls').open('a', encoding='utf-8') as calls:\n"
            f"    calls.write(json.dumps([{name!r}, *argv]) + '\\n')\n"
            f"{body}\n",
            encoding="utf-8",
        )
        script.chmod(script.stat().st_mode | stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH)

    def calls(self) -> list[list[str]]:
        """Every call so far: name, arguments."""
        import json

        path = self.state / "calls"
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakePrograms:
    """An empty folder of programs, first on the PATH."""
    if sys.platform == "win32":
        pytest.skip("the programs that stand in are scripts with a #! line, which needs POSIX")
    folder, state = tmp_path / "programs", tmp_path / "programs-state"
    folder.mkdir()
    state.mkdir()
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    return FakePrograms(folder, state)


# The crontab of Debian, as far as it goes: -l, - and -u, exit codes and words included.
FAKE_CRONTAB = """
user = "me"
if argv[:1] == ["-u"]:
    user, argv = argv[1], argv[2:]
path = state / f"crontab.{user}"
if argv == ["-l"]:
    if not path.exists():
        sys.exit(f"no crontab for {user}")
    sys.stdout.buffer.write(path.read_bytes())
elif argv == ["-"]:
    path.write_bytes(sys.stdin.buffer.read())
else:
    sys.exit("crontab: usage error")
"""

CONFIG = """\
watch:
  - path: cases
    room: G1
hosts:
  - name: here
    work_dir: work
paths: {database: data/mqi.db, results: results, logs: logs}
"""


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    returncode: int
    stdout: str
    stderr: str


@dataclass
class Installed:
    """A configuration, and `mqi` run on it as a user runs it."""

    folder: Path

    @property
    def config(self) -> Path:
        return self.folder / "mqi.yaml"

    def mqi(self, *arguments: str) -> Done:
        """In this process, which is much faster; as `main` does, errors become words and exit codes."""
        from typer.testing import CliRunner

        from mqi.cli import app
        from mqi.errors import MqiError

        result = CliRunner().invoke(app, ["--config", str(self.config), *arguments], env={"COLUMNS": "200"})
        if isinstance(result.exception, MqiError):
            error = result.exception
            return Done(error.exit_code, result.stdout, f"{result.stderr}mqi: {error}\n  {error.hint}\n")
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return Done(result.exit_code, result.stdout, result.stderr)

    def run_mqi(self, *arguments: str) -> Done:
        """As a process of its own, as a user runs it."""
        words = ["--config", str(self.config), *arguments]
        done = warm.run(words, environment={**os.environ, "NO_COLOR": "1", "COLUMNS": "200"}, timeout=60)
        return Done(done.returncode, done.stdout, done.stderr)


@pytest.fixture
def installed(tmp_path: Path) -> Installed:
    """A configuration below a folder whose name asks for trouble."""
    # Windows knows no quotation mark in names, and its Task Scheduler no per cent sign.
    folder = tmp_path / ("mqi 한글 & '$HOME'" if sys.platform == "win32" else 'mqi "한글" & 100% \'$HOME\'')
    (folder / "cases").mkdir(parents=True)
    (folder / "mqi.yaml").write_text(CONFIG, encoding="utf-8")
    return Installed(folder)
