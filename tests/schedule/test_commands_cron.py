"""`mqi schedule` on cron, as a user runs it. The program `crontab` is ours: see test_real_cron for the real one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from tests.schedule.conftest import FAKE_CRONTAB, POSIX, FakePrograms, Installed

pytestmark = POSIX

MINE = b'# mine\nMAILTO=""\n0 3 * * * echo "50\\%" \xff\n'


@pytest.fixture
def crontab(programs: FakePrograms) -> Path:
    """A crontab that has lines of somebody else already."""
    programs.add("crontab", FAKE_CRONTAB)
    path = programs.state / "crontab.me"
    path.write_bytes(MINE)
    return path


def test_install_show_remove(installed: Installed, crontab: Path) -> None:
    done = installed.run_mqi("schedule", "install", "--backend", "cron")
    assert done.returncode == 0, done.stderr
    assert "installed the line of cycle" in done.stdout
    lines = crontab.read_bytes().removeprefix(MINE).decode("utf-8").splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("* * * * * cd ")
    assert sys.executable in lines[0]

    again = installed.run_mqi("schedule", "install", "--backend", "cron")
    assert again.returncode == 0
    assert crontab.read_bytes().count(b"mqi schedule cycle") == 1

    shown = installed.run_mqi("schedule", "show")
    assert shown.returncode == 0, shown.stderr
    assert "  the line of cycle: as expected" in shown.stdout
    assert "no run is known" in shown.stdout
    # Looking must not make a database: root's would keep the account of the schedule out.
    assert not (installed.folder / "data" / "mqi.db").exists()

    removed = installed.run_mqi("schedule", "remove")
    assert "removed the line of cycle (cron)" in removed.stdout
    assert crontab.read_bytes() == MINE
    assert not (installed.folder / "mqi.schedule.json").exists()
    assert "nothing was scheduled" in installed.run_mqi("schedule", "remove").stdout


def test_the_line_runs_mqi_and_show_knows_how_it_went(installed: Installed, crontab: Path) -> None:
    installed.mqi("schedule", "install", "--backend", "cron", "--steps")
    line = next(line for line in crontab.read_text("utf-8", "replace").splitlines() if "schedule scan" in line)
    command = line.split(" ", 5)[5].replace("\\%", "%")  # as cron gives it to the shell
    subprocess.run(["/bin/sh", "-c", command], check=True, cwd="/", env={"PATH": "/usr/bin:/bin"})
    shown = json.loads(installed.mqi("--json", "schedule", "show").stdout)
    runs = {run["command"]: run for run in shown["runs"]}
    assert runs["scan"]["code"] == 0
    assert runs["scan"]["meaning"] == "0: done, or nothing to do"
    assert runs["scan"]["last_at"]
    assert runs["submit"]["code"] is None
    beats = {beat["name"]: beat for beat in shown["heartbeat"]}
    assert beats["scan"]["late"] is False
    assert beats["submit"]["late"] is True


def test_another_order_replaces_the_first(installed: Installed, crontab: Path) -> None:
    installed.mqi("schedule", "install", "--backend", "cron", "--steps", "--every", "5m")
    assert crontab.read_bytes().count(b"*/5 * * * *") == 4
    done = installed.mqi("schedule", "install", "--backend", "cron")
    assert done.returncode == 0
    assert crontab.read_bytes().count(b"mqi schedule") == 1
    assert crontab.read_bytes().startswith(MINE)


def test_two_configurations_share_a_crontab(installed: Installed, crontab: Path) -> None:
    other = Installed(installed.folder.with_name("other"))
    (other.folder / "cases").mkdir(parents=True)
    other.config.write_bytes(installed.config.read_bytes())
    installed.mqi("schedule", "install", "--backend", "cron")
    before = crontab.read_bytes()
    assert other.mqi("schedule", "install", "--backend", "cron").returncode == 0
    assert "as expected" in other.mqi("schedule", "show").stdout
    other.mqi("schedule", "remove", "--force")
    assert crontab.read_bytes() == before


def test_drift(installed: Installed, crontab: Path) -> None:
    installed.mqi("schedule", "install", "--backend", "cron")
    line = crontab.read_bytes().removeprefix(MINE)
    for changed, said in (
        (line.replace(b"* * * * *", b"0 * * * *"), "    the times are 0 * * * *, expected * * * * *"),
        (b"#" + line, "    the line is commented out"),
        (line + line.replace(b"* * * * *", b"5 * * * *"), "! the line of cycle, copy 1: left over"),
        (b"", "! the line of cycle: not installed"),
    ):
        crontab.write_bytes(MINE + changed)
        shown = installed.mqi("schedule", "show")
        assert said in shown.stdout.splitlines()
        assert json.loads(installed.mqi("--json", "schedule", "show").stdout)["as_expected"] is False
    crontab.write_bytes(MINE + line + line.replace(b"* * * * *", b"5 * * * *"))
    installed.mqi("schedule", "install", "--backend", "cron")
    assert crontab.read_bytes() == MINE + line


@pytest.mark.parametrize("how", ["--dry-run", "--output"])
def test_files_for_an_administrator(how: str, installed: Installed, crontab: Path, tmp_path: Path) -> None:
    folder = tmp_path / "for the administrator"
    arguments = ["--dry-run"] if how == "--dry-run" else ["--output", str(folder)]
    done = installed.mqi("schedule", "install", "--backend", "cron", "--steps", *arguments)
    assert done.returncode == 0, done.stderr
    assert crontab.read_bytes() == MINE
    assert (installed.folder / "mqi.schedule.json").exists() is (how == "--output")
    if how == "--dry-run":
        assert "--- mqi.crontab" in done.stdout
        return
    assert len((folder / "mqi.crontab").read_text(encoding="utf-8").splitlines()) == 4
    command = next(line for line in done.stdout.splitlines() if "crontab -l" in line)
    for _twice in range(2):
        subprocess.run(["/bin/sh", "-c", command], check=True)
    assert crontab.read_bytes() == MINE + (folder / "mqi.crontab").read_bytes()
    assert json.loads(installed.mqi("--json", "schedule", "show").stdout)["as_expected"] is True


def test_a_crontab_that_cannot_be_read_is_not_written(installed: Installed, programs: FakePrograms) -> None:
    programs.add("crontab", "sys.exit('You (me) are not allowed to use this program (crontab)')")
    done = installed.mqi("schedule", "install", "--backend", "cron")
    assert done.returncode == 78
    assert "not allowed to use this program" in done.stderr
    assert not [call for call in programs.calls() if call[-1] == "-"]


def test_a_crontab_that_cannot_be_written(installed: Installed, programs: FakePrograms) -> None:
    programs.add("crontab", "sys.exit('\"-\":1: bad minute' if argv == ['-'] else 'no crontab for me')")
    done = installed.mqi("schedule", "install", "--backend", "cron")
    assert done.returncode == 78
    assert "bad minute" in done.stderr
    assert "the old crontab is as it was" in done.stderr
    assert not (installed.folder / "mqi.schedule.json").exists()


def test_a_crontab_that_is_not_what_was_written(installed: Installed, programs: FakePrograms) -> None:
    programs.add("crontab", "sys.exit(0 if argv == ['-'] else 'no crontab for me')")
    done = installed.mqi("schedule", "install", "--backend", "cron")
    assert done.returncode == 78
    assert "is not what was just written" in done.stderr


def test_show_says_what_it_cannot_ask(installed: Installed, programs: FakePrograms, crontab: Path) -> None:
    installed.mqi("schedule", "install", "--backend", "cron")
    programs.add("crontab", "sys.exit('cannot open the spool')")
    done = installed.mqi("schedule", "show")
    assert done.returncode == 0
    assert "! crontab -l failed: cannot open the spool" in done.stdout


def test_a_damaged_record(installed: Installed, crontab: Path) -> None:
    (installed.folder / "mqi.schedule.json").write_text("{", encoding="utf-8")
    done = installed.mqi("schedule", "show")
    assert done.returncode == 78
    assert "delete it" in done.stderr


def test_a_broken_configuration_can_be_taken_off(installed: Installed, crontab: Path) -> None:
    installed.mqi("schedule", "install", "--backend", "cron")
    installed.config.write_text("watch: [", encoding="utf-8")
    assert installed.mqi("schedule", "install", "--backend", "cron").returncode == 78
    dry = installed.mqi("schedule", "remove", "--dry-run")
    assert "would remove the line of cycle (cron)" in dry.stdout
    assert crontab.read_bytes() != MINE
    assert installed.mqi("schedule", "remove").returncode == 0
    assert crontab.read_bytes() == MINE


def test_another_account(installed: Installed, programs: FakePrograms, crontab: Path) -> None:
    done = installed.mqi("schedule", "install", "--backend", "cron", "--user", "nobody")
    # Its folder for the exit code is made for that account: only root can.
    assert done.returncode == (0 if os.geteuid() == 0 else 2)
    if done.returncode == 0:
        assert ["crontab", "-u", "nobody", "-"] in programs.calls()
        own = installed.mqi("schedule", "install", "--backend", "cron")
        assert own.returncode == 2
        assert "runs this configuration already, for nobody" in own.stderr
        assert "removed the line of cycle" in installed.mqi("schedule", "remove").stdout
    assert crontab.read_bytes() == MINE


def test_a_python_that_cannot_run_mqi_by_itself(installed: Installed, crontab: Path) -> None:
    # Found through PYTHONPATH, which -I rightly ignores.
    packages = [sysconfig.get_paths()["purelib"], str(Path(__file__).resolve().parents[2])]
    base = getattr(sys, "_base_executable", sys.executable)
    if base == sys.executable:
        pytest.skip("this Python is no virtual environment")
    done = subprocess.run(
        [base, "-m", "mqi", "--config", str(installed.config), "schedule", "install", "--backend", "cron"],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(packages)},
        check=False,
    )
    assert done.returncode == 78, done.stderr
    assert "does not start" in done.stderr
    assert "-m pip install mqi" in done.stderr
    assert crontab.read_bytes() == MINE


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--every", "7m"], "nearest: 5 min or 6 min"),
        (["--logon", "gmsa"], "belongs to Windows"),
        (["--backend", "at"], "schedulers: auto, schtasks, systemd, systemd-user, cron"),
        (["--backend", "schtasks"], "does not run on this computer"),
    ],
)
def test_wrong_use(arguments: list[str], words: str, installed: Installed, crontab: Path) -> None:
    done = installed.mqi("schedule", "install", "--backend", "cron", *arguments)
    assert done.returncode == 2
    assert words in done.stderr
    assert crontab.read_bytes() == MINE
