r"""Windows Task Scheduler: the XML of one task (MS-TSCH section 2.5), and what a task differs in. Pure.

Every choice in the XML has its reason in the facts (windows-and-schedulers, section 2). Tasks are
`\mqi\cycle`, or `\mqi\scan` and so on.
"""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from xml.sax.saxutils import escape

from mqi.errors import ConfigurationProblem
from mqi.schedule.order import COMMANDS, Order
from mqi.schedule.place import Place, arguments

FOLDER = "\\mqi\\"
MARK = 'managed by "mqi schedule install"'
# Task Scheduler's own limit for programs and working directories.
_LONGEST_PATH = 260
_LOGON_TYPES = {
    # A managed account's password is the domain's business: nobody gives one.
    "gmsa": "Password",
    "password": "Password",
    "s4u": "S4U",
    "interactive": "InteractiveToken",
}
_NAMESPACE = "http://schemas.microsoft.com/windows/2004/02/mit/task"
# What an element means when it is absent (MS-TSCH section 2.5).
_DEFAULTS = {
    "Triggers/CalendarTrigger/Enabled": "true",
    "Triggers/CalendarTrigger/Repetition/StopAtDurationEnd": "false",
    "Triggers/CalendarTrigger/ScheduleByDay/DaysInterval": "1",
    "Principals/Principal/RunLevel": "LeastPrivilege",
    "Settings/AllowStartOnDemand": "true",
    "Settings/MultipleInstancesPolicy": "IgnoreNew",
    "Settings/DisallowStartIfOnBatteries": "true",
    "Settings/StopIfGoingOnBatteries": "true",
    "Settings/AllowHardTerminate": "true",
    "Settings/StartWhenAvailable": "false",
    "Settings/RunOnlyIfNetworkAvailable": "false",
    "Settings/WakeToRun": "false",
    "Settings/Enabled": "true",
    "Settings/Hidden": "false",
    "Settings/ExecutionTimeLimit": "PT72H",
    "Settings/Priority": "7",
    "Settings/RunOnlyIfIdle": "false",
}
# What Task Scheduler adds by itself, and what decides nothing.
_IGNORED = re.compile(
    "RegistrationInfo/|Settings/(IdleSettings|UseUnifiedSchedulingEngine|DisallowStartOnRemoteAppSession)"
)
_USER = "Principals/Principal/UserId"


def task_name(command: str) -> str:
    """The full name of the task that runs `command`."""
    return f"{FOLDER}{command}"


def file_name(command: str) -> str:
    """The name of the file with that task's XML."""
    return f"mqi-{command}.xml"


def program(order: Order, place: Place) -> str:
    """The interpreter: without a window where a person would see it flash up every minute.

    Not `conhost --headless`, which always returns 0 (microsoft/terminal issue 17178).
    """
    stem = place.python
    match = re.fullmatch(r"(?is)(.*?)pythonw?(\.exe)?", stem)
    if match is None:
        return stem
    return f"{match[1]}python{'w' if order.logon == 'interactive' else ''}{match[2] or ''}"


def task_xml(order: Order, place: Place, command: str) -> str:
    """The task that runs `command`. Raises ConfigurationProblem for paths that it cannot hold."""
    executable = program(order, place)
    for text in (executable, place.folder):
        if len(text) > _LONGEST_PATH:
            raise ConfigurationProblem(
                f"Task Scheduler takes paths of at most {_LONGEST_PATH} characters, and this has {len(text)}: {text}",
                "move mqi or its configuration to a shorter path",
            )
    for text in (executable, place.folder, place.config):
        if re.search(r'["%]|\$\(', text):
            raise ConfigurationProblem(
                f'Task Scheduler would not take this path as it is, because of its ", % or $( : {text}',
                "rename that folder",
            )
    line = " ".join(f'"{part}"' if part == place.config else part for part in arguments(place, command))
    repetition = (
        f"""
    <Repetition><Interval>{_minutes(order.every_s)}</Interval><Duration>P1D</Duration>
      <StopAtDurationEnd>false</StopAtDurationEnd></Repetition>"""
        if order.every_s < 86400
        else ""
    )
    return f"""<?xml version="1.0" encoding="UTF-16"?>
<Task version="1.2" xmlns="{_NAMESPACE}">
  <RegistrationInfo><URI>{escape(task_name(command))}</URI><Author>mqi</Author>
    <Description>{escape(MARK)}</Description></RegistrationInfo>
  <Triggers><CalendarTrigger>
    <Enabled>true</Enabled><StartBoundary>2026-01-01T00:00:00</StartBoundary>{repetition}
    <ScheduleByDay><DaysInterval>1</DaysInterval></ScheduleByDay>
  </CalendarTrigger></Triggers>
  <Principals><Principal id="Author"><UserId>{escape(order.user)}</UserId>
    <LogonType>{_LOGON_TYPES[order.logon]}</LogonType><RunLevel>LeastPrivilege</RunLevel></Principal></Principals>
  <Settings>
    <AllowStartOnDemand>true</AllowStartOnDemand>
    <RestartOnFailure><Interval>PT1M</Interval><Count>3</Count></RestartOnFailure>
    <MultipleInstancesPolicy>IgnoreNew</MultipleInstancesPolicy>
    <DisallowStartIfOnBatteries>false</DisallowStartIfOnBatteries>
    <StopIfGoingOnBatteries>false</StopIfGoingOnBatteries>
    <AllowHardTerminate>true</AllowHardTerminate>
    <StartWhenAvailable>true</StartWhenAvailable>
    <RunOnlyIfNetworkAvailable>false</RunOnlyIfNetworkAvailable>
    <WakeToRun>false</WakeToRun><Enabled>true</Enabled><Hidden>false</Hidden>
    <ExecutionTimeLimit>{_minutes(place.limit_s)}</ExecutionTimeLimit>
    <Priority>6</Priority><RunOnlyIfIdle>false</RunOnlyIfIdle>
  </Settings>
  <Actions Context="Author"><Exec>
    <Command>{escape(executable)}</Command>
    <Arguments>{escape(line)}</Arguments>
    <WorkingDirectory>{escape(place.folder)}</WorkingDirectory>
  </Exec></Actions>
</Task>
"""


def encode(text: str) -> bytes:
    """As the declaration says. UTF-8 under this declaration is "unable to switch the encoding" to Windows."""
    return b"\xff\xfe" + text.encode("utf-16-le")


def _minutes(seconds: int) -> str:
    return f"PT{seconds // 60}M"


# --- what is there ---------------------------------------------------------------------------------------


def owner(text: str) -> str | None:
    """The configuration that a task of ours runs with; None for a task that is not ours."""
    facts = _flat(text)
    if facts.get("RegistrationInfo/Description") != MARK:
        return None
    found = re.search(r'--config "([^"]*)"', facts.get("Actions/Exec/Arguments", ""))
    return found[1] if found else ""


def differences(expected: str, found: str, sid: str | None = None) -> tuple[str, ...]:
    """What decides something and is not as expected, one sentence each; `sid`: of the expected account."""
    want, have = _flat(expected), _flat(found)
    lines = []
    for name in sorted(want.keys() | have.keys()):
        if _IGNORED.match(name):
            continue
        left = want.get(name, _DEFAULTS.get(name))
        right = have.get(name, _DEFAULTS.get(name))
        if name == _USER and _same_account(left or "", right or "", sid):
            continue
        if _plain(left) != _plain(right):
            lines.append(f"{name} is {right or 'absent'}, expected {left or 'nothing there'}")
    return tuple(lines)


def _flat(text: str) -> dict[str, str]:
    """Path below Task -> text, of every element without children; {} for what is no XML."""
    try:
        # The text is decoded already, whatever its first line says.
        root = ET.fromstring(re.sub(r"^\ufeff?\s*<\?xml[^>]*\?>", "", text))
    except ET.ParseError:
        return {}
    found: dict[str, str] = {}

    def walk(element: ET.Element, path: str) -> None:
        names = [child.tag.rpartition("}")[2] for child in element]
        if not names and path:
            found[path] = (element.text or "").strip()
        for place, (child, name) in enumerate(zip(element, names, strict=True)):
            earlier = names[:place].count(name)
            inner = f"{name}[{earlier + 1}]" if earlier else name
            walk(child, f"{path}/{inner}" if path else inner)

    walk(root, "")
    return found


def _plain(value: str | None) -> object:
    """A value so that two ways to write it are equal: 1 and true, PT60S and PT1M."""
    if value is None:
        return None
    match = re.fullmatch(r"P(?:(\d+)D)?(?:T(?:(\d+)H)?(?:(\d+)M)?(?:(\d+)S)?)?", value)
    if match and len(value) > 1:
        days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
        return ((days * 24 + hours) * 60 + minutes) * 60 + seconds
    return {"1": "true", "0": "false"}.get(value, value)


def _same_account(want: str, have: str, sid: str | None) -> bool:
    """Task Scheduler stores the account as its SID, and shows some without their domain."""
    want, have = want.casefold(), have.casefold()
    if have.startswith("s-1-") and not want.startswith("s-1-"):
        return sid is None or have == sid.casefold()
    if "\\" in want and "\\" in have:
        return want == have
    return want.rpartition("\\")[2] == have.rpartition("\\")[2]


@dataclass(frozen=True, slots=True)
class TaskState:
    """A task as Windows describes it. Times are Unix seconds; `result` the raw 32 bits of the last one."""

    command: str
    xml: str
    running: bool = False
    enabled: bool = True
    result: int | None = None
    last_run: float | None = None
    next_run: float | None = None


def parse_query(text: str) -> tuple[list[TaskState], str | None]:
    """The tasks of our names, and the SID of the account, from the JSON of `query_script`.

    Raises ValueError for anything else.
    """
    value = json.loads(text)
    if not isinstance(value, dict):
        raise ValueError("no JSON object")
    tasks = value.get("tasks") or []
    if isinstance(tasks, dict):
        # Windows PowerShell 5.1 sometimes wraps a list like this, and unwraps a list of one.
        tasks = tasks.get("value", [tasks])
    states = [_state(task) for task in tasks if task.get("name") in COMMANDS]
    sid = value.get("sid")
    return states, sid if isinstance(sid, str) and sid else None


def _state(task: Mapping[str, Any]) -> TaskState:
    result = task.get("result")
    code = None if result is None else int(result) & 0xFFFFFFFF
    # 0x41303: has not run yet; Windows then shows a day in 1999.
    ran = code not in (None, 0x41303)
    return TaskState(
        command=str(task["name"]),
        xml=str(task.get("xml") or ""),
        running=task.get("state") == 4,
        enabled=task.get("state") != 1,
        result=code,
        last_run=float(task["last"]) if ran and task.get("last") is not None else None,
        next_run=float(task["next"]) if task.get("next") is not None else None,
    )


# --- what Windows is told --------------------------------------------------------------------------------


def powershell_quoted(text: str) -> str:
    """A literal of PowerShell, for which four more characters are single quotes."""
    return "'" + re.sub("(['‘’‚‛])", r"\1\1", text) + "'"


def query_script(user: str) -> str:
    """PowerShell that prints our tasks as JSON: no text of it depends on the language of Windows."""
    return (
        "$ErrorActionPreference = 'Stop'; "
        "try { [Console]::OutputEncoding = New-Object System.Text.UTF8Encoding $false } catch { }; "
        "function Unix($t) { if ($t) { [int64]($t.ToUniversalTime() - [datetime]'1970-01-01').TotalSeconds } }; "
        f"$tasks = @(Get-ScheduledTask -TaskPath {powershell_quoted(FOLDER)} -ErrorAction SilentlyContinue | "
        "ForEach-Object { $i = $_ | Get-ScheduledTaskInfo; "
        "@{ name = $_.TaskName; state = [int]$_.State; "
        "xml = [string](Export-ScheduledTask -TaskPath $_.TaskPath -TaskName $_.TaskName); "
        "result = $i.LastTaskResult; last = (Unix $i.LastRunTime); next = (Unix $i.NextRunTime) } }); "
        f"$sid = $null; try {{ $sid = (New-Object System.Security.Principal.NTAccount {powershell_quoted(user)})"
        ".Translate([System.Security.Principal.SecurityIdentifier]).Value } catch { }; "
        "@{ tasks = $tasks; sid = $sid } | ConvertTo-Json -Depth 4 -Compress"
    )


def powershell(script: str) -> tuple[str, ...]:
    """The program that runs `script`. Not -EncodedCommand, which hospitals' virus scanners stop."""
    return ("powershell", "-NoProfile", "-NonInteractive", "-Command", script)


def register(order: Order, command: str, file: str) -> tuple[str, ...]:
    """The program that registers the task in `file`. The one for passwords asks for it on the console."""
    name = task_name(command)
    if order.logon == "password":
        # `*` asks; a password in the arguments could be seen by everybody on the computer.
        return ("schtasks", "/Create", "/TN", name, "/XML", file, "/RU", order.user, "/RP", "*", "/F")
    if order.logon == "interactive":
        return ("schtasks", "/Create", "/TN", name, "/XML", file, "/F")
    # With -User, Windows would want a password too; without, it takes the account from the XML.
    return powershell(
        f"$ErrorActionPreference = 'Stop'; Register-ScheduledTask -TaskPath {powershell_quoted(FOLDER)} "
        f"-TaskName {powershell_quoted(command)} -Force "
        f"-Xml (Get-Content -LiteralPath {powershell_quoted(file)} -Raw -Encoding Unicode) | Out-Null"
    )


def unregister(command: str) -> tuple[str, ...]:
    """The program that deletes a task."""
    return ("schtasks", "/Delete", "/TN", task_name(command), "/F")


def definition(command: str) -> tuple[str, ...]:
    """The program that prints a task's XML where PowerShell may not be used."""
    return ("schtasks", "/Query", "/TN", task_name(command), "/XML")
