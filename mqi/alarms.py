"""What is wrong beyond single cases: a step that does not succeed, a folder out of reach, a silent host. Pure.

A scheduler that stopped calling mqi cannot report itself, so every step stores its last attempt and its
last success apart, and whoever looks (`mqi status`, `status --check`) compares them with the clock.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any
from zoneinfo import ZoneInfo

from mqi.host_state import (
    CONFIGURATION,
    FULL,
    HELD,
    LOGIN,
    LOST,
    REFUSES,
    RESTING,
    HostState,
    host_state,
    probe_of,
)
from mqi.render import clock, span
from mqi.rows import HostRow

# A scheduler may miss a beat; three in a row are an outage.
INTERVALS = 3
# Dose and delivery times are compared with the control PC's; a minute is far beyond what NTP leaves.
MAX_CLOCK_SKEW_S = 60.0
# A host that fails what it was asked to do this often in a row is not having a bad moment.
STRIKES = 3
# So long after it happened a notice still explains something.
NOTICED_S = 86400.0
PIPELINE = ("scan", "submit", "sync", "fetch")


def alarms(
    steps: Mapping[str, tuple[float | None, float | None, str]],
    hosts: Sequence[HostRow],
    *,
    rooms: Collection[str],
    host_names: Collection[str],
    interval_s: float,
    now: float,
    min_free: Mapping[str, int] | None = None,
    resources: Sequence[Mapping[str, Any]] = (),
    database_is_older: bool = False,
) -> list[str]:
    """One sentence per alarm.

    `steps`: name -> (last attempt, last success, last error); `watch <room>` stands for a watch folder.
    `min_free`: host -> bytes that its work disk must have free. `resources`: rows of `gpu_resources`.
    `database_is_older`: a database that was used before is back, and hosts may hold runs that it forgot.
    Rooms and hosts that the configuration no longer has raise no alarm.
    """
    limit_s = INTERVALS * interval_s
    lines = [_step(name, steps[name], limit_s, now) for name in PIPELINE if name in steps]
    lines += [_room(room, steps[f"watch {room}"], now) for room in rooms if f"watch {room}" in steps]
    for row in hosts:
        if row.name in host_names:
            state = host_state(row, (min_free or {}).get(row.name, 0), now)
            lines += [_silence(row, state, limit_s, now), _left_alone(row, state), _queue(row), _clock(row)]
    lines += [_quarantine(row) for row in resources if row["host"] in host_names]
    lines.append(_untold([row for row in hosts if row.name in host_names], database_is_older))
    return [line for line in lines if line]


def _step(name: str, facts: tuple[float | None, float | None, str], limit_s: float, now: float) -> str:
    attempt, success, error = facts
    if success is not None and now - success <= limit_s:
        return ""
    since = "never succeeded" if success is None else f"last succeeded {span(now - success)} ago"
    if attempt is None or now - attempt > limit_s:
        when = "" if attempt is None else f", last tried {span(now - attempt)} ago"
        return f"{name} {since}{when}: is the scheduler running? (mqi schedule show)"
    return f"{name} {since}: {error or 'it was ended early'}"


def _room(room: str, facts: tuple[float | None, float | None, str], now: float) -> str:
    _attempt, success, error = facts
    if not error:
        return ""
    since = "" if success is None else f" (last seen {span(now - success)} ago)"
    return f"room {room}: {error}{since}"


def _silence(row: HostRow, state: HostState, limit_s: float, now: float) -> str:
    if not row.failures or state.word in (HELD, LOST):
        return ""
    if row.trouble in (REFUSES, LOGIN, CONFIGURATION):
        return f"host {row.name} cannot be used: {row.last_error}"  # nothing that passes by itself
    heard = row.last_answer_at
    if heard is not None and now - heard <= limit_s:
        return ""
    since = "has never answered" if heard is None else f"has not answered for {span(now - heard)}"
    return f"host {row.name} {since}: {row.last_error}"


def _left_alone(row: HostRow, state: HostState) -> str:
    if state.word == FULL:
        return f"host {row.name} has {state.why}: nothing is sent there until there is room"
    if state.word == RESTING and row.strikes >= STRIKES:
        return f"host {row.name} answers, but {state.why}"
    return ""


def _quarantine(row: Mapping[str, Any]) -> str:
    if row["status"] != "quarantined":
        return ""
    gpu, host = row["gpu"], row["host"]
    return f"the GPU {gpu} of host {host} is {row['note']} (to use it again: mqi host release {host} --gpu {gpu})"


def _untold(rows: Sequence[HostRow], database_is_older: bool) -> str:
    """Silent hosts that may hold runs which this database does not know."""
    # One that refuses us is there, and has said why.
    names = [
        row.name for row in rows if row.inventoried_at is None and row.failures and row.trouble != REFUSES
    ]
    if not names:
        return ""
    older = (
        "the database is older than the one used last (a restored backup?), and " if database_is_older else ""
    )
    return (
        f"{older}host {', '.join(names)} has not told which runs it holds: nothing new is submitted until then "
        f"(if it is gone for good: mqi host lost {names[0]})"
    )


def _queue(row: HostRow) -> str:
    queue = probe_of(row).get("queue") or {}
    if row.failures or not queue.get("message"):
        return ""
    silent = "" if queue.get("ok", True) else " does not answer"
    return f"the queue of host {row.name}{silent}: {queue['message']}"


def _clock(row: HostRow) -> str:
    if abs(row.clock_skew_s) <= MAX_CLOCK_SKEW_S:
        return ""
    return f"the clock of host {row.name} differs from this computer's by {row.clock_skew_s:+.0f} s"


def notices(
    hosts: Sequence[HostRow],
    database_older_since: float | None,
    now: float,
    zone: ZoneInfo,
    *,
    moved: tuple[str, float] | None = None,
) -> list[str]:
    """What explains today's events and needs nobody: a host that was restarted, a database that was put back.

    `moved`: the computer that used this database before this one does, and since when that is so.
    """
    lines = [
        f"host {row.name} was restarted (seen at {clock(row.restarted_at, now, zone)}): jobs that this ended are "
        "started again as new attempts"
        for row in hosts
        if row.restarted_at is not None and now - row.restarted_at < NOTICED_S
    ]
    if database_older_since is not None and now - database_older_since < NOTICED_S:
        lines.append(
            f"a database older than the one used last was put back (seen at {clock(database_older_since, now, zone)}): "
            "the hosts are asked which runs they hold, and nothing is computed twice"
        )
    if moved is not None and now - moved[1] < NOTICED_S:
        lines.append(
            f"this installation was used on the computer {moved[0]} before (seen at {clock(moved[1], now, zone)}): "
            "if mqi still runs there, stop it (mqi schedule remove), for each would undo what operators do on the other"
        )
    return lines
