"""Units of ours under a real systemd: what they may do, what they may not, and that jobs outlive them."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.schedule.conftest import POSIX
from tests.schedule.private_systemd import CannotBoot, PrivateSystemd, private_systemd

ROOT = Path(__file__).resolve().parents[2]
# Longer than several runs: it survives them, and tells what the hardening left it.
STEP = """\
import json, os, pathlib, time
def can_write(path):
    try:
        pathlib.Path(path).write_text("x")
    except OSError as error:
        return type(error).__name__ + str(error.errno)
    return "yes"
status = pathlib.Path("/proc/self/status").read_text()
found = {name: status.split(name + ":")[1].split()[0] for name in ("NoNewPrivs", "Seccomp", "CapBnd")}
found |= {"etc": can_write("/etc/x"), "cases": can_write(CASES), "tmp": can_write("/tmp/mqi-x")}
time.sleep(6)
found["tmp_later"] = can_write("/tmp/mqi-y")
pathlib.Path("found.json").write_text(json.dumps(found))
"""
WORKFLOW = """\
steps:
  - name: look
    run: ["{python}", "STEP"]
    group: cpu
    outputs: ["found.json"]
"""
CONFIG = """\
watch: [{path: 'CASES', room: G1, quiet: 0s, workflow: quick}]
hosts:
  - name: here
    min_free: 1 MiB
    queue: {groups: [{name: cpu}, {name: gpu}]}
transfer: {min_free: 1 MiB}
workflows: {quick: quick.yaml}
"""

# Boots a systemd of its own, which takes namespaces, half a minute and more.
pytestmark = [pytest.mark.slow, POSIX]


@pytest.fixture(scope="module")
def computer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrivateSystemd]:
    space = tmp_path_factory.mktemp("systemd") / "space"
    space.mkdir()
    try:
        with private_systemd(space, ROOT, Path(sys.executable), Path(os.path.realpath(sys.executable))) as there:
            there.run("useradd", "--create-home", "mqisvc")
            yield there
    except CannotBoot as reason:
        if os.environ.get("CI") == "true":
            raise
        pytest.skip(str(reason))


class Site:
    """An installation there, of one account, in a folder with a name that asks for trouble."""

    def __init__(self, there: PrivateSystemd, folder: str, user: str) -> None:
        self.there, self.folder, self.user = there, folder, user
        there.run("mkdir", "-p", f"{folder}/cases")
        cases = f"{folder}/cases".replace("'", "''")
        there.write(f"{folder}/mqi.yaml", CONFIG.replace("CASES", cases))
        there.write(f"{folder}/quick.yaml", WORKFLOW.replace("STEP", "/srv/step.py"))
        there.write("/srv/step.py", STEP.replace("(CASES)", f"({folder + '/cases/x'!r})"))
        there.run("chown", "-R", "mqisvc:", folder)

    def mqi(self, *arguments: str, check: bool = True) -> str:
        done = self.there.run(
            sys.executable, "-m", "mqi", "--config", f"{self.folder}/mqi.yaml", *arguments, user=self.user, check=check
        )
        return done.stdout

    def systemctl(self, *arguments: str, check: bool = True) -> str:
        mode = [] if self.user == "root" else ["--user"]
        return self.there.run("systemctl", *mode, *arguments, user=self.user, check=check).stdout

    def shown(self) -> dict[str, object]:
        value = json.loads(self.mqi("--json", "schedule", "show"))
        assert isinstance(value, dict)
        return value

    def add_case(self) -> None:
        code = f"from pathlib import Path; from mqi.sample import write_sample; write_sample(Path({self.folder!r}) / 'cases' / 'P1', 1)"
        self.there.run(sys.executable, "-c", code, user="mqisvc")

    def run_until_completed(self) -> int:
        """Start the service again and again, as its timer does; how often that was."""
        for times in range(1, 40):
            self.systemctl("start", "mqi-cycle.service")
            cases = json.loads(self.mqi("--json", "status", "--all"))["cases"]
            if cases and cases[0]["state"] == "completed":
                return times
            assert not cases or cases[0]["state"] != "failed", self.mqi("logs", "1")
            time.sleep(0.5)
        raise AssertionError(self.mqi("status", "1"))

    def found(self) -> dict[str, str]:
        out = self.there.run("find", f"{self.folder}/data/results", "-name", "found.json").stdout.splitlines()
        value = json.loads(self.there.run("cat", out[0]).stdout)
        assert isinstance(value, dict)
        return value


def test_units_of_the_system(computer: PrivateSystemd) -> None:
    site = Site(computer, "/srv/mqi \"한글\" & 100% 'x' $HOME", "root")
    site.mqi("schedule", "install", "--backend", "systemd", "--user", "mqisvc")
    site.add_case()
    # Every run finds the job of an earlier one alive, through two worlds that systemd made for them.
    assert site.run_until_completed() > 2
    jobs = json.loads(site.mqi("--json", "status", "1"))["cases"][0]["jobs"]
    assert [job["attempt"] for job in jobs] == [1]
    found = site.found()
    assert (found["NoNewPrivs"], found["Seccomp"], int(found["CapBnd"], 16)) == ("1", "2", 0)
    assert found["etc"] == "OSError30"  # read-only
    assert found["cases"] == "OSError30"
    assert (found["tmp"], found["tmp_later"]) == ("yes", "yes")

    shown = site.shown()
    assert shown["as_expected"] is True, shown
    (run,) = shown["runs"]  # type: ignore[misc]
    assert (run["code"], run["meaning"]) == (0, "0: done, or nothing to do")  # type: ignore[index]
    assert abs(time.time() - computer_time(run["last_at"])) < 60  # type: ignore[index]
    assert not any(beat["late"] for beat in shown["heartbeat"])  # type: ignore[attr-defined]
    site.mqi("schedule", "remove")


def computer_time(text: str) -> float:
    import datetime

    return datetime.datetime.fromisoformat(text).timestamp()


def test_what_show_says_of_a_failed_run_and_of_drift(computer: PrivateSystemd) -> None:
    site = Site(computer, "/srv/drift", "root")
    site.mqi("schedule", "install", "--backend", "systemd", "--user", "mqisvc", "--steps", "--every", "90s")
    # The timers start everything once, now; their next turn is after this test's.
    for name in ("scan", "submit", "sync", "fetch"):
        properties = ("-p", "ActiveState,ExecMainExitTimestampMonotonic", "--value")
        while {"activating", "0"} & set(site.systemctl("show", f"mqi-{name}.service", *properties).split()):
            time.sleep(0.2)
    computer.run("mv", "/srv/drift/quick.yaml", "/srv/drift/x.yaml")
    assert "failed" in computer.run("systemctl", "start", "mqi-scan.service", check=False).stderr
    computer.run("mv", "/srv/drift/x.yaml", "/srv/drift/quick.yaml")
    computer.run("sed", "-i", "s/OnUnitInactiveSec=90s/OnUnitInactiveSec=1h/", "/etc/systemd/system/mqi-fetch.timer")
    computer.run("mkdir", "-p", "/etc/systemd/system/mqi-submit.service.d")
    computer.write("/etc/systemd/system/mqi-submit.service.d/nice.conf", "[Service]\nNice=5\n")
    site.systemctl("disable", "--now", "mqi-sync.timer")  # makes systemd read the drop-in, too
    computer.run("sed", "-i", "s/AccuracySec=5s/AccuracySec=1s/", "/etc/systemd/system/mqi-fetch.timer")
    lines = site.mqi("schedule", "show").splitlines()
    for line in (
        "! mqi-fetch.timer: differs",
        "    [Timer] OnUnitInactiveSec is 1h, expected 90s",
        "    mqi-sync.timer is not started: systemctl start mqi-sync.timer",
        "    mqi-sync.timer would not start with the computer: systemctl enable mqi-sync.timer",
        "    systemd has not read the files anew: systemctl daemon-reload",
        "    changed by /etc/systemd/system/mqi-submit.service.d/nice.conf",
    ):
        assert line in lines
    scan = next(line for line in lines if line.startswith("! scan: last run"))
    assert "78: configuration or database" in scan
    computer.run("rm", "-r", "/etc/systemd/system/mqi-submit.service.d")
    # To what it should be, by saying it again.
    site.mqi("schedule", "install", "--backend", "systemd", "--user", "mqisvc", "--steps", "--every", "90s")
    assert site.shown()["as_expected"] is True
    site.mqi("schedule", "remove")
    # A run that is under way goes on to its end.
    left = computer.run("systemctl", "list-units", "--all", "--plain", "--no-legend", "mqi-*.timer").stdout
    assert left.strip() == ""
    assert computer.run("sh", "-c", "ls /etc/systemd/system/mqi-*", check=False).stdout == ""


@pytest.mark.parametrize(
    ("key", "path", "said"),
    [
        ("ExecStart", "/srv/no-such-program", "203: the program cannot be run"),
        ("WorkingDirectory", "/srv/no-such-folder", "200: the folder of the configuration"),
    ],
)
def test_what_systemd_itself_says(key: str, path: str, said: str, computer: PrivateSystemd) -> None:
    site = Site(computer, "/srv/codes", "root")
    site.mqi("schedule", "install", "--backend", "systemd", "--user", "mqisvc")
    # Else the timer may start it between our steps.
    site.systemctl("stop", "mqi-cycle.timer")
    while computer.run("systemctl", "is-active", "mqi-cycle.service", check=False).stdout.strip() == "activating":
        time.sleep(0.2)
    computer.run("sed", "-i", f"s#^{key}=.*#{key}={path}#", "/etc/systemd/system/mqi-cycle.service")
    computer.run("systemctl", "daemon-reload")
    computer.run("systemctl", "start", "mqi-cycle.service", check=False)
    (run,) = site.shown()["runs"]  # type: ignore[misc]
    assert run["meaning"].startswith(said)  # type: ignore[index]
    assert "what it said: journalctl -u mqi-cycle.service" in run["remarks"]  # type: ignore[index]
    site.mqi("schedule", "remove")


def test_units_of_a_user(computer: PrivateSystemd) -> None:
    computer.run("loginctl", "enable-linger", "mqisvc")
    for _ in range(50):
        if computer.run("systemctl", "--user", "is-system-running", user="mqisvc", check=False).stdout.strip() == "running":
            break
        time.sleep(0.2)
    site = Site(computer, "/home/mqisvc/mqi 한글", "mqisvc")
    site.mqi("schedule", "install")
    site.add_case()
    assert site.run_until_completed() > 2
    found = site.found()
    assert (found["NoNewPrivs"], found["Seccomp"]) == ("1", "2")
    assert found["etc"] == "PermissionError13"
    assert site.shown()["as_expected"] is True
    site.mqi("schedule", "remove")
    assert site.systemctl("list-units", "--all", "--plain", "--no-legend", "mqi-*").strip() == ""


@pytest.mark.parametrize("user", ["root", "mqisvc"])
def test_the_whole_hardening_lets_a_run_do_its_work(user: str, computer: PrivateSystemd) -> None:
    """The set for a control PC, whose hosts are elsewhere: nothing runs here but the steps themselves."""
    site = Site(computer, f"/srv/full {user}", user)
    code = f"""
import dataclasses, os, sys
from pathlib import Path
from mqi.config import load_settings
from mqi.schedule import systemd
from mqi.schedule.computer import libraries
from mqi.schedule.order import Order
from mqi.schedule.place import place_of
place = place_of(load_settings(Path({site.folder!r}) / "mqi.yaml", os.environ), sys.executable, libraries())
place = dataclasses.replace(place, runs_jobs=False)
order = Order("systemd", 60, "mqisvc") if {user!r} == "root" else Order("systemd-user", 60)
sys.stdout.write(systemd.service(order, place, "scan"))
"""
    text = computer.run(sys.executable, "-c", code).stdout
    folder = "/etc/systemd/system" if user == "root" else "/home/mqisvc/.config/systemd/user"
    computer.run("mkdir", "-p", folder, f"{site.folder}/data/results", f"{site.folder}/data/logs", f"{site.folder}/data/work")
    computer.run("chown", "-R", "mqisvc:", site.folder, "/home/mqisvc")
    computer.write(f"{folder}/full.service", text)
    assert "PrivateUsers=yes" in text
    site.add_case()
    site.systemctl("daemon-reload")
    site.systemctl("start", "full.service")
    assert "Result=success\nExecMainStatus=0" in site.systemctl("show", "full.service", "-p", "Result,ExecMainStatus")
    cases = json.loads(site.mqi("--json", "status", "--all"))["cases"] if user != "root" else [1]
    assert len(cases) == 1
