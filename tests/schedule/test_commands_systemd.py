"""`mqi schedule` on systemd, as a user runs it, with a systemctl of ours. test_real_systemd has the real one."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from mqi.errors import UsageProblem
from mqi.schedule.order import Order
from mqi.schedule.programs import NotAllowed, SchedulerProblem
from mqi.schedule.with_systemd import Systemd
from tests.schedule.conftest import LINUX_PLACE, POSIX, FakePrograms, Installed
from tests.schedule.test_systemd_units import SHOW

pytestmark = POSIX

FAKE_SYSTEMCTL = """
if argv[0] == "--user":
    argv = argv[1:]
if argv[0] == "show":
    sys.stdout.write((state / "show").read_text(encoding="utf-8"))
if (state / "refuse").exists() and argv[0] == (state / "refuse").read_text():
    sys.exit("Failed to connect to bus: No medium found")
"""


@pytest.fixture
def units(programs: FakePrograms, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a user's units, on a computer where systemd runs for that user."""
    programs.add("systemctl", FAKE_SYSTEMCTL)
    (programs.state / "show").write_text("", encoding="utf-8")
    (tmp_path / "run" / "systemd").mkdir(parents=True)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "run"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home"))
    return tmp_path / "home" / "systemd" / "user"


INSTALL = ("schedule", "install", "--backend", "systemd-user")


def test_install_show_remove(installed: Installed, programs: FakePrograms, units: Path) -> None:
    done = installed.run_mqi(*INSTALL)
    assert done.returncode == 0, done.stderr
    assert "installed mqi-cycle.service\ninstalled mqi-cycle.timer" in done.stdout
    assert "loginctl enable-linger" in done.stdout
    assert sorted(path.name for path in units.iterdir()) == ["mqi-cycle.service", "mqi-cycle.timer"]
    assert (units / "mqi-cycle.timer").stat().st_mode & 0o777 == 0o644
    assert [call[1:] for call in programs.calls() if call[0] == "systemctl"] == [
        ["--user", "daemon-reload"],
        ["--user", "enable", "mqi-cycle.timer"],
        ["--user", "restart", "mqi-cycle.timer"],
    ]
    # systemd refuses a run whose writable folders are missing.
    assert all((installed.folder / name).is_dir() for name in ("data", "logs", "work", "results"))

    (programs.state / "show").write_text(SHOW, encoding="utf-8")
    shown = json.loads(installed.run_mqi("--json", "schedule", "show").stdout)
    assert shown["as_expected"] is True
    run = shown["runs"][0]
    assert (run["code"], run["meaning"]) == (75, "75: temporary: it is tried again by itself")
    assert any("changed by /etc/systemd/system/mqi-cycle.service.d/x.conf" in remark for remark in run["remarks"])

    removed = installed.run_mqi("schedule", "remove", "--backend", "systemd-user")
    assert removed.returncode == 0, removed.stderr
    assert list(units.iterdir()) == []
    calls = [call[2:] for call in programs.calls() if call[0] == "systemctl"]
    assert ["disable", "--now", "mqi-cycle.timer"] in calls
    assert ["reset-failed", "mqi-cycle.service", "mqi-cycle.timer"] in calls


def test_steps_and_back(installed: Installed, programs: FakePrograms, units: Path) -> None:
    installed.mqi(*INSTALL, "--steps", "--every", "90s")
    assert len(list(units.iterdir())) == 8
    assert "OnUnitInactiveSec=90s" in (units / "mqi-scan.timer").read_text(encoding="utf-8")
    assert installed.mqi(*INSTALL).returncode == 0
    assert sorted(path.name for path in units.iterdir()) == ["mqi-cycle.service", "mqi-cycle.timer"]
    disabled = [call[4:] for call in programs.calls() if "disable" in call]
    assert disabled == [[f"mqi-{name}.timer" for name in ("scan", "submit", "sync", "fetch")]]


def test_drift_and_trouble(installed: Installed, programs: FakePrograms, units: Path) -> None:
    installed.mqi(*INSTALL)
    timer = units / "mqi-cycle.timer"
    timer.write_text(timer.read_text(encoding="utf-8").replace("=1min", "=1h", 1), encoding="utf-8")
    text = SHOW.replace("UnitFileState=enabled", "UnitFileState=disabled").replace("=active", "=inactive")
    (programs.state / "show").write_text(
        text.replace("ExecMainStatus=75", "ExecMainStatus=203").replace("NeedDaemonReload=no", "NeedDaemonReload=yes"),
        encoding="utf-8",
    )
    lines = installed.mqi("schedule", "show").stdout.splitlines()
    for line in (
        "! mqi-cycle.timer: differs",
        "    [Timer] OnBootSec is 1h, expected 1min",
        "    mqi-cycle.timer is not started: systemctl --user start mqi-cycle.timer",
        "    mqi-cycle.timer would not start with the computer: systemctl --user enable mqi-cycle.timer",
        "    systemd has not read the files anew: systemctl --user daemon-reload",
        "    what it said: journalctl --user -u mqi-cycle.service",
    ):
        assert line in lines
    assert any("203: the program cannot be run" in line for line in lines)


def test_a_unit_of_somebody_else_is_left_alone(installed: Installed, units: Path) -> None:
    units.mkdir(parents=True)
    mine = units / "mqi-cycle.service"
    mine.write_text("[Service]\nExecStart=/usr/bin/mqi cycle\n", encoding="utf-8")
    done = installed.mqi(*INSTALL, "--force")
    assert done.returncode == 2
    assert "has a mqi-cycle.service already, which was not made by mqi" in done.stderr
    installed.mqi("schedule", "remove", "--backend", "systemd-user", "--force")
    assert mine.exists()


def test_another_configuration_is_replaced_by_force_only(installed: Installed, units: Path) -> None:
    other = Installed(installed.folder.with_name("other"))
    (other.folder / "cases").mkdir(parents=True)
    other.config.write_bytes(installed.config.read_bytes())
    installed.mqi(*INSTALL)
    refused = other.mqi(*INSTALL)
    assert refused.returncode == 2
    assert f"for the configuration {installed.config}" in refused.stderr
    assert "nothing was scheduled" in other.mqi("schedule", "remove", "--backend", "systemd-user").stdout
    assert other.mqi(*INSTALL, "--force").returncode == 0
    shown = installed.mqi("schedule", "show").stdout
    assert "! mqi-cycle.service: belongs to another configuration" in shown
    assert other.mqi("schedule", "remove", "--backend", "systemd-user").returncode == 0
    assert list(units.iterdir()) == []


def test_two_schedulers_for_one_configuration(installed: Installed, programs: FakePrograms, units: Path) -> None:
    from tests.schedule.conftest import FAKE_CRONTAB

    programs.add("crontab", FAKE_CRONTAB)
    assert installed.mqi("schedule", "install", "--backend", "cron").returncode == 0
    done = installed.mqi(*INSTALL)
    assert done.returncode == 2
    assert "cron runs this configuration already" in done.stderr
    assert installed.mqi("schedule", "remove").returncode == 0
    assert installed.mqi(*INSTALL).returncode == 0


@pytest.mark.parametrize("refused", ["daemon-reload", "enable", "restart"])
def test_a_systemd_that_does_not_answer(refused: str, installed: Installed, programs: FakePrograms, units: Path) -> None:
    (programs.state / "refuse").write_text(refused, encoding="utf-8")
    done = installed.mqi(*INSTALL)
    assert done.returncode == 78
    assert f"systemctl --user {refused}" in done.stderr
    assert "Failed to connect to bus" in done.stderr
    assert "log in as that user" in done.stderr


def test_show_without_an_answer(installed: Installed, programs: FakePrograms, units: Path) -> None:
    installed.mqi(*INSTALL)
    (programs.state / "refuse").write_text("show", encoding="utf-8")
    done = installed.mqi("schedule", "show")
    assert done.returncode == 0
    assert "! systemctl show failed: Failed to connect to bus" in done.stdout
    assert "  mqi-cycle.service: as expected" in done.stdout


def test_files_for_an_administrator(installed: Installed, units: Path, tmp_path: Path) -> None:
    done = installed.mqi("schedule", "install", "--backend", "systemd", "--user", "nobody", "--output", str(tmp_path / "out"))
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["mqi-cycle.service", "mqi-cycle.timer"]
    for words in ("sudo install -d -o nobody -m 0750", "sudo systemctl daemon-reload", "sudo systemctl enable --now mqi-cycle.timer"):
        assert words in done.stdout
    dry = json.loads(installed.mqi("--json", *INSTALL, "--dry-run").stdout)
    assert [file["name"] for file in dry["files"]] == ["mqi-cycle.service", "mqi-cycle.timer"]
    assert not units.exists()


def test_a_computer_without_systemd(installed: Installed, units: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    done = installed.mqi(*INSTALL)
    assert done.returncode == 2
    assert "systemd-user does not run on this computer" in done.stderr


# --- units of the system ---------------------------------------------------------------------------------


def test_an_account_that_is_not_there(tmp_path: Path) -> None:
    scheduler = Systemd(system=True, folder=tmp_path)
    order = Order("systemd", 60, "no-such-account")
    with pytest.raises(UsageProblem, match="no account"):
        scheduler.install(order, LINUX_PLACE, scheduler.expected(order, LINUX_PLACE))
    assert list(tmp_path.iterdir()) == []


def test_only_root_installs_units_of_the_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    scheduler = Systemd(system=True, folder=tmp_path)
    order = Order("systemd", 60, "root")
    with pytest.raises(NotAllowed, match="installed by root") as caught:
        scheduler.install(order, LINUX_PLACE, scheduler.expected(order, LINUX_PLACE))
    assert "--output" in caught.value.hint
    (tmp_path / "mqi-cycle.timer").write_text('# managed by "mqi schedule install" for "/a"\n', encoding="utf-8")
    with pytest.raises(NotAllowed, match="removed by root"):
        scheduler.remove(scheduler.held())
    assert (tmp_path / "mqi-cycle.timer").exists()


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="needs root: another account's rights are looked at")
def test_an_account_that_may_not_do_what_a_run_does(tmp_path: Path, programs: FakePrograms) -> None:
    programs.add("systemctl", "sys.exit(0)")
    from dataclasses import replace

    order = Order("systemd", 60, "nobody")
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    place = replace(LINUX_PLACE, python=str(closed / "python"))
    scheduler = Systemd(system=True, folder=tmp_path / "units")
    with pytest.raises(UsageProblem, match=f"nobody may not run {closed}/python"):
        scheduler.install(order, place, scheduler.expected(order, place))
    assert not (tmp_path / "units").exists()


def test_a_user_manager_that_is_gone(tmp_path: Path, programs: FakePrograms) -> None:
    programs.add("systemctl", "sys.exit('Failed to connect to bus')")
    scheduler = Systemd(system=False, folder=tmp_path)
    with pytest.raises(SchedulerProblem, match="Failed to connect"):
        scheduler.outcomes(Order("systemd-user", 60), LINUX_PLACE)
