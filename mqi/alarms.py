"""What is wrong beyond single cases: a step that does not succeed, a folder out of reach, a silent host. Pure.

A scheduler that stopped calling mqi cannot report itself, so every step stores its last attempt and its
last success apart, and whoever looks (`mqi status`, `status --check`) compares them with the clock.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence

from mqi.render import span
from mqi.rows import HostRow

# A scheduler may miss a beat; three in a row are an outage.
INTERVALS = 3
# Dose and delivery times are compared with the control PC's; a minute is far beyond what NTP leaves.
MAX_CLOCK_SKEW_S = 60.0
PIPELINE = ("scan", "submit", "sync", "fetch")


def alarms(
    steps: Mapping[str, tuple[float | None, float | None, str]],
    hosts: Sequence[HostRow],
    *,
    rooms: Collection[str],
    host_names: Collection[str],
    interval_s: float,
    now: float,
) -> list[str]:
    """One sentence per alarm.

    `steps`: name -> (last attempt, last success, last error); `watch <room>` stands for a watch folder.
    Rooms and hosts that the configuration no longer has raise no alarm.
    """
    limit_s = INTERVALS * interval_s
    lines = [_step(name, steps[name], limit_s, now) for name in PIPELINE if name in steps]
    lines += [_room(room, steps[f"watch {room}"], now) for room in rooms if f"watch {room}" in steps]
    for row in hosts:
        if row.name in host_names:
            lines += [_silence(row, limit_s, now), _queue(row), _clock(row)]
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


def _silence(row: HostRow, limit_s: float, now: float) -> str:
    if not row.failures:
        return ""
    heard = row.last_answer_at
    if heard is not None and now - heard <= limit_s:
        return ""
    since = "has never answered" if heard is None else f"has not answered for {span(now - heard)}"
    return f"host {row.name} {since}: {row.last_error}"


def _queue(row: HostRow) -> str:
    queue = json.loads(row.probe).get("queue") or {}
    if row.failures or not queue.get("message"):
        return ""
    silent = "" if queue.get("ok", True) else " does not answer"
    return f"the queue of host {row.name}{silent}: {queue['message']}"


def _clock(row: HostRow) -> str:
    if abs(row.clock_skew_s) <= MAX_CLOCK_SKEW_S:
        return ""
    return f"the clock of host {row.name} differs from this computer's by {row.clock_skew_s:+.0f} s"
