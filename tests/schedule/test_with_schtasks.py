"""Task Scheduler behind programs of ours: Windows itself is not here, and Wine's schtasks takes anything."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from mqi.config import load_settings
from mqi.errors import UsageProblem
from mqi.schedule.items import AS_EXPECTED, MISSING, compare
from mqi.schedule.order import Computer
from mqi.schedule.programs import SchedulerProblem
from mqi.schedule.show import show
from mqi.schedule.with_schtasks import TaskScheduler
from tests.schedule.conftest import WINDOWS_PLACE, FakePrograms, Installed, make_order

# Keeps each task's XML as bytes in state/tasks. Words are Korean in Windows' code page, as on the sites.
FAKE_SCHTASKS = r"""
tasks = state / "tasks"
tasks.mkdir(exist_ok=True)
if (state / "refuse").exists():
    sys.stderr.buffer.write("오류: 액세스가 거부되었습니다.".encode("cp949"))
    sys.exit(1)
name = argv[argv.index("/TN") + 1].rpartition("\\")[2]
path = tasks / name
if argv[0] == "/Create":
    data = pathlib.Path(argv[argv.index("/XML") + 1]).read_bytes()
    assert data[:2] == b"\xff\xfe", "(1,40) unable to switch the encoding"
    path.write_bytes(data)
elif not path.exists():
    sys.stderr.buffer.write("오류: 지정된 파일을 찾을 수 없습니다.".encode("cp949"))
    sys.exit(1)
elif argv[0] == "/Query":
    sys.stdout.buffer.write(path.read_bytes())
elif argv[0] == "/Delete":
    path.unlink()
"""
FAKE_POWERSHELL = r"""
import re
tasks = state / "tasks"
tasks.mkdir(exist_ok=True)
script = argv[-1]
assert argv[:3] == ["-NoProfile", "-NonInteractive", "-Command"], argv
if (state / "refuse").exists():
    sys.exit("Register-ScheduledTask : 액세스가 거부되었습니다.")
found = re.search(r"-TaskName '(\w+)' .*-LiteralPath '(.*?)' -Raw", script)
if found:
    (tasks / found[1]).write_bytes(pathlib.Path(found[2]).read_bytes())
else:
    info = json.loads((state / "info").read_text(encoding="utf-8")) if (state / "info").exists() else {}
    answer = [
        {"name": path.name, "state": 3, "xml": path.read_bytes().decode("utf-16"), "result": 267011, "last": None,
         "next": 1800000060, **info}
        for path in sorted(tasks.iterdir())
    ]
    sys.stdout.write(json.dumps({"tasks": answer, "sid": "S-1-5-21-9"}, ensure_ascii=False))
"""


@pytest.fixture
def windows(programs: FakePrograms) -> FakePrograms:
    programs.add("schtasks", FAKE_SCHTASKS)
    programs.add("powershell", FAKE_POWERSHELL)
    return programs


def states(scheduler: TaskScheduler, **order: object) -> list[str]:
    items = scheduler.expected(make_order(**order), WINDOWS_PLACE)
    return [one.state for one in compare(items, scheduler.held(), WINDOWS_PLACE.config, scheduler.differences)]


@pytest.mark.parametrize(
    ("logon", "user", "program"),
    [("gmsa", "HOSP\\mqi$", "powershell"), ("s4u", "HOSP\\svc", "powershell"), ("interactive", "PC\\김물리", "schtasks")],
)
def test_install_look_remove(logon: str, user: str, program: str, windows: FakePrograms) -> None:
    scheduler = TaskScheduler(user)
    order = make_order(logon=logon, user=user, steps=True)
    assert states(scheduler, logon=logon, user=user, steps=True) == [MISSING] * 4
    scheduler.install(order, WINDOWS_PLACE, scheduler.expected(order, WINDOWS_PLACE))
    assert states(scheduler, logon=logon, user=user, steps=True) == [AS_EXPECTED] * 4
    assert [call[0] for call in windows.calls() if "mqi-scan.xml" in str(call)] == [program]
    # The file was for Windows alone.
    assert not any(Path(word).exists() for call in windows.calls() for word in call if word.endswith(".xml"))
    outcomes = scheduler.outcomes(order, WINDOWS_PLACE)
    assert [one.meaning for one in outcomes] == ["0x41303: has not run yet"] * 4
    scheduler.remove(scheduler.held())
    assert states(scheduler, logon=logon, user=user, steps=True) == [MISSING] * 4


def test_the_last_run(windows: FakePrograms) -> None:
    import json

    order = make_order(logon="gmsa", user="HOSP\\mqi$")
    TaskScheduler(order.user).install(order, WINDOWS_PLACE, TaskScheduler(order.user).expected(order, WINDOWS_PLACE))
    for info, meaning, running, trouble in (
        ({"result": 75, "last": 1800000000}, "75: temporary", False, ()),
        ({"result": 267009, "last": 1800000000, "state": 4}, "0x41301: running now", True, ()),
        ({"result": 2147942402, "last": 1800000000}, "0x80070002: a file was not found", False, ()),
        ({"result": 2147943711, "last": 1800000000}, "0x8007051F", False, ()),
        ({"state": 1}, "0x41303: has not run yet", False, ("the task is switched off",)),
    ):
        (windows.state / "info").write_text(json.dumps(info), encoding="utf-8")
        (outcome,) = TaskScheduler(order.user).outcomes(order, WINDOWS_PLACE)
        assert outcome.meaning.startswith(meaning)
        assert (outcome.running, outcome.trouble) == (running, trouble)
        assert outcome.next_at == 1800000060.0


def test_the_account_is_compared_by_its_sid(windows: FakePrograms) -> None:
    order = make_order(logon="gmsa", user="HOSP\\mqi$")
    scheduler = TaskScheduler(order.user)
    scheduler.install(order, WINDOWS_PLACE, scheduler.expected(order, WINDOWS_PLACE))
    path = windows.state / "tasks" / "cycle"
    text = path.read_bytes().decode("utf-16")
    for sid, differs in (("S-1-5-21-9", False), ("S-1-5-21-8", True)):
        path.write_bytes(text.replace("HOSP\\mqi$", sid).encode("utf-16"))
        fresh = TaskScheduler(order.user)
        (held,) = fresh.held()
        assert bool(fresh.differences(fresh.expected(order, WINDOWS_PLACE)[0], held)) is differs


@pytest.mark.parametrize("logon", ["gmsa", "interactive"])
def test_refused(logon: str, windows: FakePrograms) -> None:
    order = make_order(logon=logon, user="HOSP\\mqi$" if logon == "gmsa" else "PC\\kim")
    scheduler = TaskScheduler(order.user)
    items = scheduler.expected(order, WINDOWS_PLACE)
    (windows.state / "refuse").touch()
    with pytest.raises(SchedulerProblem, match=r"did not take the task \\mqi\\cycle: ") as caught:
        scheduler.install(order, WINDOWS_PLACE, items)
    assert "as administrator" in caught.value.hint
    assert caught.value.exit_code == 78


def test_a_task_that_cannot_be_deleted(windows: FakePrograms) -> None:
    order = make_order(logon="interactive", user="PC\\kim")
    scheduler = TaskScheduler(order.user)
    scheduler.install(order, WINDOWS_PLACE, scheduler.expected(order, WINDOWS_PLACE))
    held = scheduler.held()
    (windows.state / "refuse").touch()
    with pytest.raises(SchedulerProblem, match="did not delete"):
        scheduler.remove(held)


@pytest.mark.parametrize(
    "powershell", [None, "sys.exit(1)", "print('This language mode is not supported')", "print('[]')", "print('{\"tasks\": [{\"name\": \"cycle\"')"]
)
def test_without_powershell_the_tasks_are_seen_all_the_same(powershell: str | None, programs: FakePrograms) -> None:
    programs.add("schtasks", FAKE_SCHTASKS)
    programs.add("powershell", powershell or "raise SystemExit(127)")
    order = make_order(logon="interactive", user="PC\\kim")
    scheduler = TaskScheduler(order.user)
    scheduler.install(order, WINDOWS_PLACE, scheduler.expected(order, WINDOWS_PLACE))
    assert states(scheduler, logon="interactive", user="PC\\kim") == [AS_EXPECTED]
    (outcome,) = scheduler.outcomes(order, WINDOWS_PLACE)
    assert outcome.meaning == ""
    assert "PowerShell cannot be used here" in outcome.remarks[0]


def test_a_password_is_asked_for_on_the_console(windows: FakePrograms, monkeypatch: pytest.MonkeyPatch) -> None:
    order = make_order()
    scheduler = TaskScheduler(order.user)
    items = scheduler.expected(order, WINDOWS_PLACE)
    with pytest.raises(UsageProblem, match="nobody to ask for the password"):
        scheduler.install(order, WINDOWS_PLACE, items)

    class Console:
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(sys, "stdin", Console())
    scheduler.install(order, WINDOWS_PLACE, items)
    create = next(call for call in windows.calls() if "/Create" in call)
    assert create[-5:] == ["/RU", "HOSP\\svc-mqi", "/RP", "*", "/F"]
    assert states(scheduler) == [AS_EXPECTED]
    (windows.state / "refuse").touch()
    with pytest.raises(SchedulerProblem):
        scheduler.install(order, WINDOWS_PLACE, items)


def test_what_an_administrator_is_told() -> None:
    order = make_order(steps=True)
    scheduler = TaskScheduler(order.user)
    lines = scheduler.by_hand(order, WINDOWS_PLACE, scheduler.expected(order, WINDOWS_PLACE), "C:\\for you & me")
    assert lines[0].startswith("rem ")
    assert lines[1] == (
        'schtasks /Create /TN \\mqi\\scan /XML "C:\\for you & me\\mqi-scan.xml" /RU HOSP\\svc-mqi /RP * /F'
    )
    assert len(lines) == 5
    managed = make_order(logon="gmsa", user="HOSP\\mqi$")
    (_rem, line) = scheduler.by_hand(managed, WINDOWS_PLACE, scheduler.expected(managed, WINDOWS_PLACE), "")
    assert line.startswith('powershell -NoProfile -NonInteractive -Command "$ErrorActionPreference')
    assert "'mqi-cycle.xml'" in line


@pytest.mark.parametrize("administrator", [True, False])
def test_show_for_somebody_who_may_not_see_the_tasks(administrator: bool, windows: FakePrograms, installed: Installed) -> None:
    computer = Computer(True, administrator, "PC\\kim", ("schtasks",))
    settings = load_settings(installed.config, os.environ)
    shown = show(computer, settings, WINDOWS_PLACE, {}, 1_800_000_000.0)
    assert [one.state for one in shown.standings] == [MISSING]
    assert bool(shown.problems) is not administrator
    assert shown.order is not None
    assert (shown.order.user, shown.order.logon) == ("PC\\kim", "password")
