"""systemd: a service and a timer for each command, and what they differ in. Pure.

The hardening is the set of the facts (windows-and-schedulers, section 3), less what a local host's jobs
cannot live with: they are children of the run, outlive it, and use the machine's devices.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

from mqi.errors import ConfigurationProblem
from mqi.schedule.order import SYSTEMD, Order
from mqi.schedule.place import Place, arguments

MARK = re.compile(r'# managed by "mqi schedule install" for "(.*)"')
_HOMES = ("/home", "/root", "/run/user")
# 75: temporary, tried again by itself. 143: `systemctl stop`, which mqi answers with an orderly end.
_SUCCESS = "75 143"


def unit_names(command: str) -> tuple[str, str]:
    """The service that runs `command`, and its timer."""
    return f"mqi-{command}.service", f"mqi-{command}.timer"


def service(order: Order, place: Place, command: str) -> str:
    """The service that runs `command` once. Raises ConfigurationProblem for paths that it cannot hold."""
    lines = [
        f'# managed by "mqi schedule install" for "{place.config}"',
        "[Unit]",
        f"Description=mqi {command}",
        # A run takes less than a second, and systemd would refuse the sixth within ten.
        "StartLimitIntervalSec=0",
    ]
    if order.backend == SYSTEMD:
        # A disk that is not mounted yet would look like a new installation without a database.
        lines.append(f"RequiresMountsFor={_list(place.writes)}")
    if order.on_failure:
        lines.append(f"OnFailure={order.on_failure}")
    lines += [
        "",
        "[Service]",
        "Type=oneshot",
        f"ExecStart={_command(place, command)}",
        f"WorkingDirectory={_raw(place.folder)}",
    ]
    if order.backend == SYSTEMD:
        lines.append(f"User={order.user}")
    lines += [
        f"TimeoutStartSec={place.limit_s // 60}min",
        "# 75: temporary, tried again by itself. 143: stopped by systemctl.",
        f"SuccessExitStatus={_SUCCESS}",
        *_kill_mode(place),
        "",
        *_hardening(order, place),
    ]
    return "\n".join(lines) + "\n"


def _kill_mode(place: Place) -> list[str]:
    if place.runs_jobs:
        return ["# The runners of the local queue live on when a run ends.", "KillMode=process"]
    return ["KillMode=mixed"]


def timer(order: Order, place: Place, command: str) -> str:
    """The timer of `command`. A timer never starts a service that still runs, so there is no lock."""
    distance = _span(order.every_s)
    return f"""# managed by "mqi schedule install" for "{place.config}"
[Unit]
Description=mqi {command}, {distance} after the last run has ended

[Timer]
OnBootSec=1min
OnUnitInactiveSec={distance}
AccuracySec={5 if order.every_s >= 60 else 1}s
RandomizedDelaySec={5 if order.every_s >= 60 else 0}s

[Install]
WantedBy=timers.target
"""


def _hardening(order: Order, place: Place) -> list[str]:
    jobs = place.runs_jobs
    if order.backend != SYSTEMD and jobs:
        # Without privileges, everything else needs a user namespace (PrivateUsers) for each run.
        return [
            "# The rest of the usual hardening would hide the jobs of earlier runs from this one: it puts every",
            "# run of a user's unit into a user namespace of its own.",
            *_filters(place),
        ]
    lines = ["ProtectSystem=strict"]
    # The results may lie on a share that is away: the other steps go on, and mqi says what is wrong.
    lines.append(f"ReadWritePaths={_list([*place.writes, f'-{place.results}'])}")
    read_only = [path for path in place.watch if path not in (*place.writes, place.results)]
    lines += [f"ReadOnlyPaths={_list(f'-{path}' for path in read_only)}"] if read_only else []
    lines.append(f"ProtectHome={_protect_home(place)}")
    if jobs:
        lines += [
            "# Jobs of the local host outlive the run. At its end systemd would empty a private /tmp and remove",
            "# shared memory under their hands; and the next run could not see them from another user namespace.",
            "ReadWritePaths=/tmp /var/tmp",
            "PrivateTmp=no",
            "RemoveIPC=no",
            "PrivateUsers=no",
            "# The agent reads the boot id and the load, and jobs read cpuinfo and meminfo.",
            "ProcSubset=all",
        ]
    else:
        lines += ["PrivateTmp=yes", "RemoveIPC=yes", "PrivateUsers=yes", "ProcSubset=pid"]
    if place.uses_gpus:
        # Before systemd 253 ProtectClock lets a unit open no device but the clock (systemd issue 18142); the
        # clock is kept by the filters all the same.
        lines += ["# Jobs of the local host use its GPUs.", "PrivateDevices=no", "ProtectClock=no"]
    else:
        lines += ["PrivateDevices=yes", "ProtectClock=yes"]
    lines += [
        "ProtectKernelTunables=yes",
        "ProtectKernelModules=yes",
        "ProtectKernelLogs=yes",
        "ProtectControlGroups=yes",
        "ProtectHostname=yes",
        "ProtectProc=invisible",
        "CapabilityBoundingSet=",
        "AmbientCapabilities=",
        *_filters(place),
    ]
    if place.uses_network:
        lines.append(
            "# Hosts are reached by network: add IPAddressDeny=any and IPAddressAllow= in a drop-in."
        )
    else:
        lines += ["IPAddressDeny=any", "IPAddressAllow=localhost"]
    return lines


def _filters(place: Place) -> list[str]:
    """What needs no privileges."""
    return [
        "NoNewPrivileges=yes",
        "RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX",
        "RestrictNamespaces=yes",
        "RestrictRealtime=yes",
        "RestrictSUIDSGID=yes",
        "LockPersonality=yes",
        "# Machine code that is made while running: GPU programs, and some Python packages.",
        "MemoryDenyWriteExecute=no",
        "SystemCallArchitectures=native",
        "SystemCallFilter=@system-service",
        f"SystemCallFilter=~@privileged{'' if place.runs_jobs else ' @resources'}",
        "# A refused call is an error that a program can meet, not its end.",
        "SystemCallErrorNumber=EPERM",
        "UMask=0077",
    ]


def _protect_home(place: Place) -> str:
    """`yes` hides homes altogether; where mqi itself lies in one, they are visible and not writable."""
    inside = any(_is_below(path, home) for path in place.paths for home in _HOMES)
    return "read-only" if inside else "yes"


def _is_below(path: str, folder: str) -> bool:
    return PurePosixPath(path).is_relative_to(folder)


def _span(seconds: int) -> str:
    return f"{seconds // 60}min" if seconds % 60 == 0 else f"{seconds}s"


# --- how systemd reads text ------------------------------------------------------------------------------


def _quoted(text: str) -> str:
    """One word of a list or a command line: `%` starts a specifier, and quotes keep spaces."""
    text = text.replace("%", "%%")
    if re.fullmatch(r"[A-Za-z0-9_@%+=:,./-]+", text):
        return text
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _list(words: Iterable[str]) -> str:
    return " ".join(_quoted(word) for word in words)


def _command(place: Place, command: str) -> str:
    """ExecStart: in the arguments, though not in the program, `$` starts a variable."""
    if re.search(r"""["'\\]""", place.python):
        raise ConfigurationProblem(
            f"systemd runs no program whose path has quotes or a backslash in it: {place.python}",
            "install mqi in another folder",
        )
    rest = (part.replace("$", "$$") for part in arguments(place, command))
    return f"{_quoted(place.python)} {_list(rest)}"


def _raw(text: str) -> str:
    """The working directory is read to the end of the line, without quotes."""
    if text != text.strip() or text.endswith("\\"):
        raise ConfigurationProblem(
            f"systemd cannot be told this folder, because of its first or last character: {text!r}",
            "rename that folder",
        )
    return text.replace("%", "%%")


# --- what is there ---------------------------------------------------------------------------------------


def owner(text: str) -> str | None:
    """The configuration that a unit of ours belongs to; None for a unit that is not ours."""
    match = MARK.match(text)
    return match[1] if match else None


def differences(expected: str, found: str) -> tuple[str, ...]:
    """What a unit says otherwise than expected, one sentence per key; comments do not count."""
    want, have = _settings(expected), _settings(found)
    lines = []
    for name in dict.fromkeys([*want, *have]):
        left, right = want.get(name), have.get(name)
        if left != right:
            lines.append(f"{name} is {_shown(right)}, expected {_shown(left)}")
    return tuple(lines)


def _settings(text: str) -> dict[str, list[str]]:
    """`[Section] Key` -> its values, in order."""
    section = ""
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        line = line.strip()
        if line.startswith("["):
            section = line
        elif line and line[0] not in "#;":
            key, _, value = line.partition("=")
            found.setdefault(f"{section} {key.strip()}", []).append(value.strip())
    return found


def _shown(values: list[str] | None) -> str:
    return "absent" if values is None else " and ".join(value or "empty" for value in values)


@dataclass(frozen=True, slots=True)
class UnitState:
    """A service and its timer as systemd describes them. Times are seconds of the monotonic clock."""

    running: bool
    # The timer is switched on now, and will be after a restart of the computer.
    active: bool
    enabled: bool
    result: str
    # How the process ended: "exited", "killed", or "" when none has since the computer started.
    ended_by: str
    status: int
    started_at: float | None
    ended_at: float | None
    next_at: float | None
    drop_ins: tuple[str, ...]
    needs_reload: bool


PROPERTIES = (
    "Id", "LoadState", "ActiveState", "UnitFileState", "Result", "ExecMainCode", "ExecMainStatus",
    "ExecMainStartTimestampMonotonic", "ExecMainExitTimestampMonotonic", "NextElapseUSecMonotonic",
    "DropInPaths", "NeedDaemonReload",
)  # fmt: skip
# Of waitid(2). 2 and 3 are a signal's end, without and with a core dump.
_ENDED_BY = {1: "exited", 2: "killed", 3: "killed"}


def parse_show(text: str) -> dict[str, dict[str, str]]:
    """Unit -> property -> value, from `systemctl show`, whose blocks are parted by empty lines."""
    units: dict[str, dict[str, str]] = {}
    for block in re.split(r"\n\s*\n", text.strip()):
        properties = dict(line.split("=", 1) for line in block.splitlines() if "=" in line)
        if "Id" in properties:
            units[properties["Id"]] = properties
    return units


def unit_state(units: Mapping[str, Mapping[str, str]], command: str) -> UnitState | None:
    """What `parse_show` found about `command`; None when systemd knows neither its service nor its timer."""
    service_name, timer_name = unit_names(command)
    run, clock = units.get(service_name, {}), units.get(timer_name, {})
    if "loaded" not in (run.get("LoadState"), clock.get("LoadState")):
        return None
    return UnitState(
        running=run.get("ActiveState") in ("activating", "active"),
        active=clock.get("ActiveState") == "active",
        enabled=clock.get("UnitFileState") == "enabled",
        result=run.get("Result", ""),
        ended_by=_ENDED_BY.get(_number(run.get("ExecMainCode")) or 0, ""),
        status=_number(run.get("ExecMainStatus")) or 0,
        started_at=_moment(run.get("ExecMainStartTimestampMonotonic")),
        ended_at=_moment(run.get("ExecMainExitTimestampMonotonic")),
        next_at=parse_span(clock.get("NextElapseUSecMonotonic", "")),
        drop_ins=tuple(f"{run.get('DropInPaths', '')} {clock.get('DropInPaths', '')}".split()),
        needs_reload="yes" in (run.get("NeedDaemonReload"), clock.get("NeedDaemonReload")),
    )


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and re.fullmatch(r"-?[0-9]+", text) else None


def _moment(text: str | None) -> float | None:
    microseconds = _number(text)
    return microseconds / 1e6 if microseconds else None


_SPANS = {
    "y": 365.25 * 86400, "month": 30.4375 * 86400, "w": 604800, "d": 86400, "h": 3600, "min": 60, "s": 1,
    "ms": 1e-3, "us": 1e-6,
}  # fmt: skip


def parse_span(text: str) -> float | None:
    """Seconds of what systemd prints for a time span, such as `1w 2d 3min 4.5s`; None for none."""
    parts = re.findall(r"([0-9]+(?:\.[0-9]+)?)\s*([a-z]+)", text)
    if not parts or any(unit not in _SPANS for _number_, unit in parts):
        return None
    return sum(float(number) * _SPANS[unit] for number, unit in parts)
