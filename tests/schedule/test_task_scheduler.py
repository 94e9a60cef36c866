"""The XML of tasks: golden files, the schema, hostile paths, drift, and what PowerShell answers."""

from __future__ import annotations

import json
import re
import subprocess
import xml.etree.ElementTree as ET
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mqi.errors import ConfigurationProblem
from mqi.schedule import task_scheduler as tasks
from tests.schedule.conftest import WINDOWS_PLACE, make_order, needs

NS = "{http://schemas.microsoft.com/windows/2004/02/mit/task}"
SCHEMA = Path(__file__).with_name("task.xsd")
ORDERS = {
    "password": make_order(),
    "gmsa": make_order(user="HOSP\\mqi$", logon="gmsa"),
    "s4u-5min": make_order(logon="s4u", every_s=300),
    "interactive-daily": make_order(user="PC\\김물리", logon="interactive", every_s=86400),
}


@pytest.mark.parametrize("name", ORDERS)
def test_golden(name: str, golden: Callable[[str, str], None]) -> None:
    golden(f"{name}.xml.txt", tasks.task_xml(ORDERS[name], WINDOWS_PLACE, "cycle"))


def test_a_task_for_each_step(golden: Callable[[str, str], None]) -> None:
    golden("step-fetch.xml.txt", tasks.task_xml(make_order(steps=True), WINDOWS_PLACE, "fetch"))


def validate(text: str, folder: Path) -> subprocess.CompletedProcess[str]:
    needs("xmllint")
    path = folder / "task.xml"
    path.write_bytes(tasks.encode(text))
    return subprocess.run(
        ["xmllint", "--noout", "--schema", str(SCHEMA), str(path)], capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("name", ORDERS)
def test_valid_by_the_schema(name: str, tmp_path: Path) -> None:
    done = validate(tasks.task_xml(ORDERS[name], WINDOWS_PLACE, "cycle"), tmp_path)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("PT1M</Interval><Duration>", "PT30S</Interval><Duration>"),  # too often
        ("<Priority>6<", "<Priority>11<"),
        ("<Duration>P1D<", "<Duration><"),  # silently switches the repetition off (salt issue 69381)
        (">IgnoreNew<", ">Ignore<"),
        ("<LogonType>Password<", "<LogonType>Kerberos<"),
        ("<Command>C:", f"<Command>{'x' * 260}C:"),
        ("<Enabled>true</Enabled><StartBoundary>", "<StartBoundary>"),
    ],
)
def test_the_schema_would_notice(old: str, new: str, tmp_path: Path) -> None:
    text = tasks.task_xml(make_order(), WINDOWS_PLACE, "cycle")
    assert old in text
    changed = validate(text.replace(old, new), tmp_path)
    # Enabled may be absent; everything else here is wrong.
    assert (changed.returncode == 0) is ("StartBoundary" in new)


def test_the_bytes_are_what_the_declaration_says() -> None:
    text = tasks.task_xml(ORDERS["interactive-daily"], WINDOWS_PLACE, "cycle")
    data = tasks.encode(text)
    assert data[:2] == b"\xff\xfe"
    assert data.decode("utf-16") == text
    assert ET.fromstring(data).find(f".//{NS}UserId").text == "PC\\김물리"  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("logon", "python", "program"),
    [
        # A window that flashes up every minute is only in the way where a person sits.
        ("interactive", "C:\\mqi\\Scripts\\python.exe", "C:\\mqi\\Scripts\\pythonw.exe"),
        ("interactive", "C:\\mqi\\Scripts\\pythonw.exe", "C:\\mqi\\Scripts\\pythonw.exe"),
        ("password", "C:\\mqi\\Scripts\\pythonw.exe", "C:\\mqi\\Scripts\\python.exe"),
        ("gmsa", "C:\\python\\python.exe", "C:\\python\\python.exe"),
        ("s4u", "C:\\pythonw\\Python.EXE", "C:\\pythonw\\python.EXE"),
        ("interactive", "C:\\mqi\\mqi-runtime.exe", "C:\\mqi\\mqi-runtime.exe"),
    ],
)
def test_the_program(logon: str, python: str, program: str) -> None:
    assert tasks.program(make_order(logon=logon), replace(WINDOWS_PLACE, python=python)) == program


@pytest.mark.parametrize(
    "changes",
    [
        {"folder": "C:\\" + "x" * 258},
        {"python": "C:\\" + "x" * 300 + "\\python.exe"},
        {"config": "C:\\100%\\mqi.yaml"},  # would be the start of a variable
        {"folder": "C:\\$(Arg0)"},
        {"config": 'C:\\a"b.yaml'},
    ],
)
def test_paths_that_task_scheduler_cannot_take(changes: dict[str, str]) -> None:
    with pytest.raises(ConfigurationProblem) as caught:
        tasks.task_xml(make_order(), replace(WINDOWS_PLACE, **changes), "cycle")
    assert caught.value.hint


def windows_arguments(line: str) -> list[str]:
    """How a C program on Windows takes its command line apart (Microsoft: "Parsing C command-line arguments")."""
    words, word, quoted, started, index = [], "", False, False, 0
    while index < len(line):
        slashes = len(line[index:]) - len(line[index:].lstrip("\\"))
        if slashes and line[index + slashes : index + slashes + 1] == '"':
            word += "\\" * (slashes // 2)
            index += slashes
            started = True
            if slashes % 2:
                word += '"'
                index += 1
            continue
        if slashes:
            word, index, started = word + "\\" * slashes, index + slashes, True
            continue
        one = line[index]
        index += 1
        if one == '"':
            quoted, started = not quoted, True
        elif one in " \t" and not quoted:
            if started:
                words.append(word)
            word, started = "", False
        else:
            word, started = word + one, True
    return [*words, word] if started else words


# What a Windows path may hold, less what Task Scheduler itself replaces.
NAMES = st.text(
    st.characters(exclude_categories=("Cs", "Cc"), exclude_characters='"%<>:/\\|?*\ufffe\uffff'), min_size=1, max_size=30
)


@given(st.lists(NAMES, min_size=1, max_size=4), NAMES)
def test_hostile_paths_arrive_as_they_are(folders: list[str], user: str) -> None:
    folder = "C:\\" + "\\".join(folders)
    place = replace(WINDOWS_PLACE, folder=folder, config=f"{folder}\\mqi.yaml", python=f"{folder}\\python.exe")
    if "$(" in folder:
        return
    root = ET.fromstring(tasks.encode(tasks.task_xml(make_order(user=user), place, "cycle")))
    text = {element.tag.removeprefix(NS): element.text for element in root.iter()}
    assert text["Command"] == place.python
    assert text["WorkingDirectory"] == folder
    assert text["UserId"] == user
    assert windows_arguments(text["Arguments"] or "") == [
        "-X", "utf8", "-I", "-m", "mqi", "--config", place.config, "cycle",
    ]  # fmt: skip
    assert tasks.owner(tasks.task_xml(make_order(user=user), place, "cycle")) == place.config


# --- drift -----------------------------------------------------------------------------------------------

# As Windows gives a task back: SIDs, a date, elements in its own order, defaults left out, its own added.
EXPORTED = """<?xml version="1.0" encoding="UTF-16"?>
<Task version="1.2" xmlns="http://schemas.microsoft.com/windows/2004/02/mit/task">
  <RegistrationInfo>
    <Date>2026-11-20T09:00:00</Date>
    <Author>mqi</Author>
    <Description>managed by "mqi schedule install"</Description>
    <URI>\\mqi\\cycle</URI>
  </RegistrationInfo>
  <Principals>
    <Principal id="Author">
      <UserId>S-1-5-21-1-2-3-1001</UserId>
      <LogonType>Password</LogonType>
    </Principal>
  </Principals>
  <Settings>
    <DisallowStartIfOnBatteries>false</DisallowStartIfOnBatteries>
    <StopIfGoingOnBatteries>false</StopIfGoingOnBatteries>
    <ExecutionTimeLimit>PT30M</ExecutionTimeLimit>
    <MultipleInstancesPolicy>IgnoreNew</MultipleInstancesPolicy>
    <Priority>6</Priority>
    <RestartOnFailure>
      <Count>3</Count>
      <Interval>PT60S</Interval>
    </RestartOnFailure>
    <StartWhenAvailable>1</StartWhenAvailable>
    <IdleSettings>
      <StopOnIdleEnd>true</StopOnIdleEnd>
      <RestartOnIdle>false</RestartOnIdle>
    </IdleSettings>
    <UseUnifiedSchedulingEngine>true</UseUnifiedSchedulingEngine>
  </Settings>
  <Triggers>
    <CalendarTrigger>
      <StartBoundary>2026-01-01T00:00:00</StartBoundary>
      <Repetition>
        <Interval>PT1M</Interval>
        <Duration>P1D</Duration>
      </Repetition>
      <ScheduleByDay>
        <DaysInterval>1</DaysInterval>
      </ScheduleByDay>
    </CalendarTrigger>
  </Triggers>
  <Actions Context="Author">
    <Exec>
      <Command>C:\\Program Files\\mqi\\.venv\\Scripts\\python.exe</Command>
      <Arguments>-X utf8 -I -m mqi --config "C:\\ProgramData\\mqi\\mqi.yaml" cycle</Arguments>
      <WorkingDirectory>C:\\ProgramData\\mqi</WorkingDirectory>
    </Exec>
  </Actions>
</Task>
"""
EXPECTED = tasks.task_xml(make_order(), WINDOWS_PLACE, "cycle")


def test_a_task_as_windows_gives_it_back_is_as_expected() -> None:
    assert tasks.differences(EXPECTED, EXPORTED, "S-1-5-21-1-2-3-1001") == ()
    assert tasks.differences(EXPECTED, EXPORTED, None) == ()  # a SID that nobody can translate is no fault
    assert tasks.differences(EXPECTED, EXPECTED) == ()
    assert tasks.owner(EXPORTED) == WINDOWS_PLACE.config


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("<Interval>PT1M", "<Interval>PT5M", "Triggers/CalendarTrigger/Repetition/Interval is PT5M, expected PT1M"),
        ("<Priority>6</Priority>", "", "Settings/Priority is 7, expected 6"),
        ("PT30M", "PT72H", "Settings/ExecutionTimeLimit is PT72H, expected PT30M"),
        (">Password<", ">S4U<", "Principals/Principal/LogonType is S4U, expected Password"),
        ("<Settings>", "<Settings><Enabled>false</Enabled>", "Settings/Enabled is false, expected true"),
        ("<Settings>", "<Settings><WakeToRun>true</WakeToRun>", "Settings/WakeToRun is true, expected false"),
        ("S-1-5-21-1-2-3-1001", "S-1-5-21-1-2-3-9", "Principals/Principal/UserId is S-1-5-21-1-2-3-9, expected HOSP\\svc-mqi"),
        ("S-1-5-21-1-2-3-1001", "HOSP\\other", "Principals/Principal/UserId is HOSP\\other, expected HOSP\\svc-mqi"),
        ("python.exe", "python2.exe", "Actions/Exec/Command is C:\\Program Files\\mqi\\.venv\\Scripts\\python2.exe"),
        ("</Exec>", "</Exec><Exec><Command>evil.exe</Command></Exec>", "Actions/Exec[2]/Command is evil.exe, expected nothing there"),
        ("<Repetition>", "<EndBoundary>2026-02-01T00:00:00</EndBoundary><Repetition>", "EndBoundary is 2026-02-01T00:00:00"),
        ("<RunLevel>", "<RunLevel>", ""),
        ("</LogonType>", "</LogonType><RunLevel>HighestAvailable</RunLevel>", "RunLevel is HighestAvailable, expected LeastPrivilege"),
    ],
)
def test_drift_is_named(old: str, new: str, said: str) -> None:
    lines = tasks.differences(EXPECTED, EXPORTED.replace(old, new), "S-1-5-21-1-2-3-1001")
    assert len(lines) == bool(said)
    assert not said or said in lines[0]


@pytest.mark.parametrize(
    "text", ["", "ERROR: The system cannot find the file specified.", "<Task>", EXPORTED.replace("managed by", "made by")]
)
def test_what_is_not_ours(text: str) -> None:
    assert tasks.owner(text) is None


@pytest.mark.parametrize("account", ["svc-mqi", "hosp\\SVC-MQI", "HOSP\\svc-mqi"])
def test_one_account_has_several_names(account: str) -> None:
    assert tasks.differences(EXPECTED, EXPORTED.replace("S-1-5-21-1-2-3-1001", account), None) == ()


# --- PowerShell ------------------------------------------------------------------------------------------


def task(**changes: Any) -> dict[str, Any]:
    return {"name": "cycle", "state": 3, "xml": EXPORTED, "result": 0, "last": 1800000000, "next": 1800000060, **changes}


@pytest.mark.parametrize(
    ("tasks_part", "expected"),
    [
        ([], []),
        (None, []),
        ([task()], [("cycle", False, True, 0, 1800000000.0, 1800000060.0)]),
        (task(), [("cycle", False, True, 0, 1800000000.0, 1800000060.0)]),  # a list of one, unwrapped
        ({"value": [task()], "Count": 1}, [("cycle", False, True, 0, 1800000000.0, 1800000060.0)]),  # and wrapped
        ([task(state=4, result=267009)], [("cycle", True, True, 0x41301, 1800000000.0, 1800000060.0)]),
        ([task(state=1)], [("cycle", False, False, 0, 1800000000.0, 1800000060.0)]),
        # Never run: Windows shows a day in 1999.
        ([task(result=267011, last=943920000, next=None)], [("cycle", False, True, 0x41303, None, None)]),
        ([task(result=-2147024629)], [("cycle", False, True, 0x8007010B, 1800000000.0, 1800000060.0)]),
        ([task(name="somebody else's")], []),
        ([task(name="scan", xml=None)], [("scan", False, True, 0, 1800000000.0, 1800000060.0)]),
    ],
)
def test_answers(tasks_part: Any, expected: list[tuple[Any, ...]]) -> None:
    states, sid = tasks.parse_query(json.dumps({"tasks": tasks_part, "sid": "S-1-5-21-1"}))
    assert [(s.command, s.running, s.enabled, s.result, s.last_run, s.next_run) for s in states] == expected
    assert sid == "S-1-5-21-1"


@pytest.mark.parametrize("text", ["", "null", "[]", "{", "ConvertTo-Json : not recognised"])
def test_what_is_no_answer(text: str) -> None:
    with pytest.raises(ValueError):
        tasks.parse_query(text)


@given(st.text(st.characters(exclude_categories=("Cs",))))
def test_a_literal_of_powershell_ends_where_it_should(text: str) -> None:
    quoted = tasks.powershell_quoted(text)
    # PowerShell takes five characters for single quotes; two of them in a row are one.
    assert quoted[0] == quoted[-1] == "'"
    inner = quoted[1:-1]
    assert not re.search(r"(?<!['‘’‚‛])(['‘’‚‛]{2})*['‘’‚‛](?!['‘’‚‛])", inner)
    assert re.sub("(['‘’‚‛])\\1", r"\1", inner) == text


def test_the_scripts_hold_no_double_quotes() -> None:
    # They are put between double quotes for the console, and through CreateProcess's rules otherwise.
    order = make_order(user="HOSP\\mqi$", logon="gmsa")
    for script in (tasks.query_script("HOSP\\o'neill"), tasks.register(order, "cycle", "C:\\it's here\\a.xml")[-1]):
        assert '"' not in script
        for opening, closing in ("()", "{}", "[]"):
            assert script.count(opening) == script.count(closing)
    assert "'HOSP\\o''neill'" in tasks.query_script("HOSP\\o'neill")


@pytest.mark.parametrize(
    ("logon", "user", "argv"),
    [
        ("password", "HOSP\\svc", ["schtasks", "/Create", "/TN", "\\mqi\\cycle", "/XML", "a.xml", "/RU", "HOSP\\svc", "/RP", "*", "/F"]),
        ("interactive", "PC\\kim", ["schtasks", "/Create", "/TN", "\\mqi\\cycle", "/XML", "a.xml", "/F"]),
    ],
)
def test_how_a_task_is_registered(logon: str, user: str, argv: list[str]) -> None:
    assert list(tasks.register(make_order(logon=logon, user=user), "cycle", "a.xml")) == argv


@pytest.mark.parametrize("logon", ["gmsa", "s4u"])
def test_without_a_password_the_account_comes_from_the_xml(logon: str) -> None:
    argv = tasks.register(make_order(logon=logon, user="HOSP\\mqi$"), "scan", "a b.xml")
    assert argv[0] == "powershell"
    assert "Register-ScheduledTask -TaskPath '\\mqi\\' -TaskName 'scan' -Force" in argv[-1]
    assert "-LiteralPath 'a b.xml' -Raw -Encoding Unicode" in argv[-1]
    assert "-User" not in argv[-1]
    assert "-Password" not in argv[-1]
