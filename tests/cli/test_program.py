"""The program itself: help, completion, signals, locks, the wheel."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import venv
import zipfile
from collections import Counter
from pathlib import Path

import pytest
from filelock import FileLock

from tests.cli.conftest import Installation, install

ROOT = Path(__file__).resolve().parents[2]
COMMANDS = (
    "scan", "submit", "sync", "fetch", "cycle", "status", "retry", "cancel", "hold", "release", "priority", "skip",
    "why", "logs", "init", "config", "purge",
)  # fmt: skip


def program(*arguments: str, **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "mqi", *arguments], capture_output=True, text=True, encoding="utf-8", check=False, **options,  # type: ignore[call-overload]
    )  # fmt: skip


def test_every_command_is_in_the_help_and_in_the_readme() -> None:
    helped = program("--help").stdout
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for command in COMMANDS:
        assert re.search(rf"^.*\b{command}\b", helped, re.MULTILINE), command
        assert command in readme
    for code in ("40", "75", "76", "77", "78"):
        assert code in helped


def test_version() -> None:
    from mqi import __version__

    assert program("--version").stdout.strip() == f"mqi {__version__}"


def test_completion_knows_the_case_names(site: Installation) -> None:
    site.sample("Kim-001", seed=1)
    site.sample("Lee-002", seed=2)
    site.run("scan")
    config = str(site.root / "mqi.yaml")
    environment = {
        **os.environ,
        "_MQI_COMPLETE": "complete_bash",
        "COMP_WORDS": "mqi why Ki",
        "COMP_CWORD": "2",
        "MQI_CONFIG_PATH": config,
    }
    mqi = Path(sys.executable).with_name("mqi.exe" if os.name == "nt" else "mqi")
    done = subprocess.run([str(mqi)], env=environment, capture_output=True, text=True, check=False)
    assert "Kim-001" in done.stdout
    assert "Lee-002" not in done.stdout


def test_json_is_json_for_every_command_that_reports(site: Installation) -> None:
    site.sample()
    for arguments in (
        ("scan",),
        ("cycle",),
        ("status",),
        ("status", "1"),
        ("why", "1"),
        ("hold", "1"),
        ("purge", "--dry-run"),
    ):
        json.loads(site.run("--json", *arguments).stdout)


def test_init_asks_nobody_when_nobody_is_there(tmp_path: Path) -> None:
    done = program("init", cwd=tmp_path, stdin=subprocess.DEVNULL)
    assert done.returncode == 2
    assert not list(tmp_path.iterdir())


def test_init_writes_a_configuration_that_works(tmp_path: Path) -> None:
    (tmp_path / "cases").mkdir()
    arguments = (
        "init",
        "--yes",
        "--cases",
        "cases",
        "--room",
        "G2",
        "--depth",
        "2",
        "--marker",
        "_CASE_READY",
    )
    assert program(*arguments, cwd=tmp_path).returncode == 0
    again = program(*arguments, cwd=tmp_path)
    assert again.returncode == 2
    assert "left as it is" in again.stderr
    checked = program("config", "check", cwd=tmp_path)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert str(tmp_path / "cases") in checked.stdout


def test_config_check_names_a_missing_folder(site: Installation) -> None:
    site.cases.rmdir()
    done = site.run("config", "check", code=75)
    assert "G1" in done.stdout + done.stderr


# --- locks ---------------------------------------------------------------------------------------------


def test_a_step_that_is_running_elsewhere_is_skipped_and_a_hanging_one_is_an_error(
    site: Installation,
) -> None:
    site.run("scan")
    (locks,) = site.root.glob("*.locks")
    lock = FileLock(locks / "scan.lock")
    with lock:
        done = site.run("scan")
        assert "already running" in done.stdout
        holder = json.loads((locks / "scan.holder.json").read_text(encoding="utf-8"))
        holder["progress_at"] = time.time() - 7200
        (locks / "scan.holder.json").write_text(json.dumps(holder), encoding="utf-8")
        hung = site.run("scan", code=76)
        assert "no progress for 120 minutes" in hung.stderr
        assert "no progress" in site.run("cycle", code=76).stderr
    site.run("scan")


# --- signals -------------------------------------------------------------------------------------------


@pytest.mark.skipif(os.name == "nt", reason="signals are sent otherwise on Windows")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_cycle_cleanly_and_nothing_is_lost(
    site: Installation, number: signal.Signals
) -> None:
    site.sample()
    site.run("scan")
    for delay_s in (0.15, 0.3, 0.45, 0.6):
        process = subprocess.Popen(
            [sys.executable, "-m", "mqi", "--config", str(site.root / "mqi.yaml"), "cycle"],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        time.sleep(delay_s)
        process.send_signal(number)
        _out, error = process.communicate(timeout=30)
        # A signal that comes while Python itself still starts is Python's business.
        assert process.returncode in (0, -number, 128 + number) or "KeyboardInterrupt" in error, error
        assert "a bug in mqi" not in error
    site.cycle_until("completed")
    assert max(Counter(site.ledger()).values()) == 1


@pytest.mark.skipif(os.name == "nt", reason="process groups are otherwise on Windows")
def test_ctrl_c_in_a_terminal_does_not_end_the_jobs(site: Installation) -> None:
    """A terminal sends Ctrl-C to the whole foreground group; the queue's runner must not be in it."""
    site.behave(b2={"sleep": 3}, b3={"sleep": 3})
    site.sample()
    site.run("scan")
    for _round in range(30):
        process = subprocess.Popen(
            [sys.executable, "-m", "mqi", "--config", str(site.root / "mqi.yaml"), "cycle"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        process.wait(timeout=30)
        try:
            os.killpg(process.pid, signal.SIGINT)
        except ProcessLookupError:
            pass  # nobody is left in the command's group: just what is wanted
        if site.case()["state"] == "completed":
            break
        time.sleep(0.2)
    site.cycle_until("completed")
    assert max(Counter(site.ledger()).values()) == 1
    assert all(job["attempt"] == 1 for job in site.case()["jobs"])


# --- the wheel -----------------------------------------------------------------------------------------


def test_a_wheel_in_an_empty_environment_works(tmp_path: Path) -> None:
    # The versions that the tests are run with; relative, for pip splits it at spaces.
    pinned = "scripts/constraints.txt"
    pip = {**os.environ, "PIP_CONSTRAINT": pinned, "PIP_BUILD_CONSTRAINT": pinned, "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    built = subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(tmp_path), str(ROOT)],
        capture_output=True, text=True, check=False, cwd=ROOT, env=pip,
    )  # fmt: skip
    assert built.returncode == 0, built.stderr
    (wheel,) = tmp_path.glob("mqi-*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    for name in (
        "_remote_scripts/agent/__main__.py",
        "_remote_scripts/interpreter.py",
        "_config/workflows/default_qa.yaml",
        "_config/machines/G1.yaml",
        "_remote_scripts/get_mcsquare.py",
        "_config/mqi.schema.json",
        "schema.sql",
        "py.typed",
    ):
        assert f"mqi/{name}" in names
    assert not [name for name in names if "__pycache__" in name or "/data/" in name]
    environment = tmp_path / "venv"
    # Our own pip installs into it, and what is never imported is not compiled: a third of the time.
    venv.create(environment, with_pip=False)
    python = environment / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    installed = subprocess.run(
        [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-compile", str(wheel)],
        capture_output=True, text=True, check=False, cwd=ROOT, env=pip,
    )  # fmt: skip
    assert installed.returncode == 0, installed.stderr
    site = install(tmp_path / "site")
    try:
        site.sample()
        mqi = [str(python), "-I", "-m", "mqi", "--config", str(site.root / "mqi.yaml")]
        for _round in range(60):
            done = subprocess.run([*mqi, "cycle"], capture_output=True, text=True, check=False, cwd=tmp_path)
            assert done.returncode in (0, 75), done.stdout + done.stderr
            if site.case()["state"] == "completed":
                break
            time.sleep(0.2)
        assert site.case()["state"] == "completed"
        assert len(site.ledger()) == 3
    finally:
        site.stop_everything()
