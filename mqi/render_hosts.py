"""Hosts and their GPUs as tables for people and as JSON for programs. Pure, like render.py."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from zoneinfo import ZoneInfo

from mqi.host_state import ANSWERS, RESTING, SILENT, HostState, gib, host_state, probe_of
from mqi.render import REASON_WIDTH, clock, iso, one_line, span, table
from mqi.rows import HostRow

# Smaller differences of the clocks are left out of the table: they are within what a busy host takes to answer.
_CLOCK_SHOWN_S = 2.0


def resource_json(row: Mapping[str, Any], zone: ZoneInfo) -> dict[str, Any]:
    """One row of `gpu_resources`."""
    return {**row, "updated_at": iso(row["updated_at"], zone), "until": iso(row["until"], zone)}


def host_json(row: HostRow, min_free_bytes: int, now: float, zone: ZoneInfo) -> dict[str, Any]:
    """What is known of one host."""
    probe, state = probe_of(row), host_state(row, min_free_bytes, now)
    return {
        "name": row.name,
        "state": state.word,
        "usable": state.usable,
        "reason": state.why or None,
        "last_answer_at": iso(row.last_answer_at, zone),
        "last_attempt_at": iso(row.last_attempt_at, zone),
        "next_try_at": iso(row.next_try_at, zone),
        "no_cases_until": iso(row.no_cases_until, zone),
        "failures": row.failures,
        "last_error": row.last_error or None,
        "strikes": row.strikes,
        "lost_at": iso(row.lost_at, zone),
        "restarted_at": iso(row.restarted_at, zone),
        "clock_skew_s": round(row.clock_skew_s, 1),
        "disk_free": probe.get("disk_free"),
        "disk_total": probe.get("disk_total"),
        "memory_free": probe.get("memory_free"),
        "memory_total": probe.get("memory_total"),
        "load1": probe.get("load1"),
        "cpus": probe.get("cpus"),
        "gpus": probe.get("gpus"),
        "gpu_problem": probe.get("gpu_problem") or None,
        "queue": probe.get("queue"),
    }


def hosts_table(
    rows: Sequence[HostRow], min_free: Mapping[str, int], now: float, zone: ZoneInfo, *, wide: bool = False
) -> str:
    """The hosts: whether they are used, when they were last heard of, and why not.

    `min_free`: name -> bytes that must be free on its work disk.
    """
    lines = []
    for row in rows:
        probe = probe_of(row)
        state = host_state(row, min_free.get(row.name, 0), now)
        free, total = probe.get("disk_free"), probe.get("disk_total")
        load, cpus = probe.get("load1"), probe.get("cpus")
        lines.append(
            [
                row.name,
                f"silent ({row.failures} tries)" if state.word == SILENT else state.word,
                "never" if row.last_answer_at is None else span(now - row.last_answer_at) + " ago",
                "" if free is None else gib(free) + ("" if total is None else f" of {gib(total)}"),
                "" if probe.get("memory_free") is None else gib(probe["memory_free"]),
                "" if load is None else f"{load:.1f}" + (f" of {cpus}" if cpus else ""),
                f"{row.clock_skew_s:+.0f} s" if abs(row.clock_skew_s) >= _CLOCK_SHOWN_S else "",
                one_line(_remark(row, state, now, zone), 0 if wide else REASON_WIDTH),
            ]
        )
    return table(lines, ["host", "state", "heard", "disk free", "memory", "load", "clock", "remark"])


def _remark(row: HostRow, state: HostState, now: float, zone: ZoneInfo) -> str:
    parts = [state.sentence(now, zone)]
    probe = probe_of(row)
    queue = probe.get("queue") or {}
    if state.word in (ANSWERS, RESTING):
        if not queue.get("ok", True) or queue.get("message"):
            parts.append(str(queue.get("message")))
        parts.append(str(probe.get("gpu_problem") or ""))
    return "; ".join(part for part in parts if part)


def resources_table(
    rows: Sequence[Mapping[str, Any]], now: float, zone: ZoneInfo, *, wide: bool = False
) -> str:
    """GPUs and groups with the age of what is known about them."""
    lines = [
        [
            row["host"],
            row["pueue_group"],
            row["gpu"],
            row["status"],
            str(row["assigned_case_id"] or ""),
            f"{row['running']} of {row['slots']}",
            str(row["queued"]),
            _memory(row["memory_used_mb"], row["memory_total_mb"]),
            "" if row["utilisation"] is None else f"{row['utilisation']:.0f} %",
            "" if row["temperature"] is None else f"{row['temperature']:.0f} °C",
            span(now - row["updated_at"]) + " ago",
            one_line(_note(row, now, zone), 0 if wide else REASON_WIDTH),
        ]
        for row in rows
    ]
    headers = [
        "host",
        "group",
        "gpu",
        "status",
        "case",
        "running",
        "queued",
        "memory",
        "load",
        "temp",
        "known",
        "remark",
    ]
    if not any(line[-1] for line in lines):
        lines, headers = [line[:-1] for line in lines], headers[:-1]
    return table(lines, headers)


def _memory(used: float | None, total: float | None) -> str:
    if used is None:
        return ""
    return f"{used:.0f}/{'?' if total is None else f'{total:.0f}'} MB"


def _note(row: Mapping[str, Any], now: float, zone: ZoneInfo) -> str:
    until = "" if row["until"] is None else f", until {clock(row['until'], now, zone)}"
    return f"{row['note']}{until}" if row["note"] else ""
