"""Reports as tables for people and as JSON for programs. Pure: time and time zone arrive as arguments."""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Sequence
from typing import Any
from zoneinfo import ZoneInfo

from mqi.case import State
from mqi.job import Job
from mqi.rows import Case, EventRow

REASON_WIDTH = 60


def iso(moment: float | None, zone: ZoneInfo) -> str | None:
    """ISO 8601 with offset, to the second; None stays None."""
    if moment is None:
        return None
    return datetime.datetime.fromtimestamp(moment, zone).isoformat(timespec="seconds")


def clock(moment: float | None, now: float, zone: ZoneInfo) -> str:
    """A moment as people write it: the time today, the date and time otherwise."""
    if moment is None:
        return "-"
    then = datetime.datetime.fromtimestamp(moment, zone)
    today = datetime.datetime.fromtimestamp(now, zone).date()
    return f"{then:%H:%M:%S}" if then.date() == today else f"{then:%Y-%m-%d %H:%M}"


def span(seconds: float) -> str:
    """A duration in one or two units: `42 s`, `12 min`, `3 h 05 min`, `2 d 4 h`."""
    seconds = max(0.0, seconds)
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = int(seconds // 60)
    if minutes < 60:
        return f"{minutes} min"
    if minutes < 48 * 60:
        return f"{minutes // 60} h {minutes % 60:02d} min"
    return f"{minutes // 1440} d {minutes % 1440 // 60} h"


def one_line(text: str, width: int = 0) -> str:
    """Text as one line of a table: control characters escaped, cut with an ellipsis when `width` is given."""
    plain = "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)
    return plain if not width or len(plain) <= width else plain[: width - 1] + "…"


def short_name(case: Case, width: int) -> str:
    """The case's name in at most `width` characters. Of a fraction the end stays: it tells it from the others
    of its study, whose names are long and all alike."""
    if not case.fraction or len(case.name) <= width:
        return one_line(case.name, width)
    return one_line(case.path, max(8, width - len(case.fraction) - 1)) + f" {case.fraction}"


def full_reason(case: Case, now: float, zone: ZoneInfo) -> str:
    """The reason with what else is worth knowing: the next look, a changed folder, a hold, a verdict."""
    parts = [case.reason]
    if case.status is State.WAITING and case.next_look_at is not None and not case.judged:
        parts.append(f"complete if it is still unchanged at {clock(case.next_look_at, now, zone)}")
    if case.next_try_at is not None and case.next_try_at > now:
        parts.append(f"next try at {clock(case.next_try_at, now, zone)}")
    if case.partial and case.partial not in case.reason:
        parts.append(case.partial)
    if case.folder_note and case.folder_note != case.reason:
        parts.append(case.folder_note)
    if case.held and case.status not in (State.COMPLETED, State.SKIPPED) and "held" not in case.reason:
        parts.append("held")
    return "; ".join(part for part in parts if part)


# --- JSON ----------------------------------------------------------------------------------------------


def case_json(case: Case, jobs: Iterable[Job], now: float, zone: ZoneInfo) -> dict[str, Any]:
    """One case as `mqi status --json` prints it."""
    return {
        "case_id": case.case_id,
        "name": case.name,
        "room": case.room,
        "case_path": case.case_path,
        "state": str(case.status),
        "reason": full_reason(case, now, zone),
        "hint": case.hint,
        "needs_operator": case.wants_operator,
        "current_step": case.current_step,
        "progress": case.progress,
        "revision": case.revision,
        "fraction": case.fraction or None,
        "deliveries": list(case.delivery_names),
        "partial": case.partial or None,
        "run_key": case.run_key,
        "host": case.host or None,
        "pueue_group": case.pueue_group or None,
        "priority": case.priority,
        "held": case.held,
        "since": iso(case.status_updated_at, zone),
        "first_seen_at": iso(case.first_seen_at, zone),
        "submitted_at": iso(case.submitted_at, zone),
        "started_at": iso(case.started_at, zone),
        "completed_at": iso(case.completed_at, zone),
        "results_path": case.results_path or None,
        "verdict": case.verdict or None,
        "jobs": [job_json(job, zone) for job in jobs],
    }


def job_json(job: Job, zone: ZoneInfo) -> dict[str, Any]:
    """One job as `mqi status --json` prints it."""
    return {
        "job_key": job.job_key,
        "step": job.step,
        "beam": job.beam,
        "attempt": job.attempt,
        "state": str(job.state),
        "exit_code": job.exit_code,
        "reason": job.reason,
        "progress": round(100 * job.progress, 1),
        "message": job.message,
        "group": job.group or None,
        "gpu": job.gpu or None,
        "queue_id": job.queue_id or None,
        "log": job.log_path or None,
        "started_at": iso(job.started_at, zone),
        "ended_at": iso(job.ended_at, zone),
    }


def step_json(name: str, facts: tuple[float | None, float | None, str], zone: ZoneInfo) -> dict[str, Any]:
    """Last attempt and last success of one step."""
    attempt, success, error = facts
    return {
        "name": name,
        "last_attempt_at": iso(attempt, zone),
        "last_success_at": iso(success, zone),
        "last_error": error or None,
    }


# --- tables --------------------------------------------------------------------------------------------


def table(rows: Sequence[Sequence[object]], headers: Sequence[str]) -> str:
    from tabulate import tabulate

    # Without this, a case called 007 or 1e5 would be shown as a number.
    return str(tabulate(rows, headers=headers, tablefmt="simple", disable_numparse=True))


def status_table(cases: Sequence[Case], now: float, zone: ZoneInfo, *, wide: bool = False) -> str:
    """The table of `mqi status`. The verdict has a column when one of the cases has one."""
    judged = any(case.verdict for case in cases)
    rows = [
        [
            str(case.case_id),
            (one_line(case.name) if wide else short_name(case, 40))
            + (f" r{case.revision}" if case.revision > 1 else ""),
            case.room,
            str(case.status) + ("!" if case.wants_operator else ""),
            case.current_step,
            f"{case.progress:.0f} %",
            case.pueue_group,
            clock(case.status_updated_at, now, zone),
            *([case.verdict] if judged else []),
            one_line(full_reason(case, now, zone), 0 if wide else REASON_WIDTH),
        ]
        for case in cases
    ]
    headers = ["id", "name", "room", "state", "step", "progress", "group", "since", "reason"]
    if judged:
        headers.insert(-1, "verdict")
    return table(rows, headers)


def jobs_table(jobs: Sequence[Job], now: float, zone: ZoneInfo) -> str:
    """The jobs of one case."""
    rows = [
        [
            job.step,
            "" if job.beam is None else str(job.beam),
            str(job.attempt),
            str(job.state),
            f"{100 * job.progress:.0f} %",
            "" if job.exit_code is None else str(job.exit_code),
            job.group,
            job.gpu,
            clock(job.started_at, now, zone),
            "-" if job.started_at is None else span((job.ended_at or now) - job.started_at),
            one_line(job.reason or (job.message if job.ended_at is None else ""), REASON_WIDTH),
        ]
        for job in jobs
    ]
    headers = [
        "step",
        "beam",
        "attempt",
        "state",
        "done",
        "exit",
        "group",
        "gpu",
        "started",
        "took",
        "remark",
    ]
    return table(rows, headers)


def history_table(events: Sequence[EventRow], now: float, zone: ZoneInfo) -> str:
    """The history of one case."""
    rows = [
        [
            clock(event.at, now, zone),
            event.event,
            event.after if event.before != event.after else "",
            one_line(event.reason, REASON_WIDTH),
            event.actor,
        ]
        for event in events
    ]
    return table(rows, ["when", "what", "now", "reason", "who"])


def facts(pairs: Iterable[tuple[str, object]]) -> str:
    """Names and values in two columns; empty values are left out."""
    shown = [(name, one_line(str(value))) for name, value in pairs if value not in (None, "")]
    width = max((len(name) for name, _value in shown), default=0)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in shown)
