"""`mqi why`: what a case waits for, since when, what mqi does next and when, what would help. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from zoneinfo import ZoneInfo

from mqi.case import State
from mqi.job import Job, JobState
from mqi.render import clock, full_reason, span
from mqi.rows import Case, HostRow


@dataclass(frozen=True)
class Explanation:
    """The answer to "why is this case not further?", one sentence per question."""

    state: str
    why: str
    since: str
    next: str
    help: tuple[str, ...]


def explain(
    case: Case,
    jobs: Sequence[Job],
    host: HostRow | None,
    steps: Mapping[str, tuple[float | None, float | None, str]],
    *,
    interval_s: float,
    now: float,
    zone: ZoneInfo,
) -> Explanation:
    """Explain one case. `interval_s`: how often the scheduler runs `mqi cycle`."""
    return Explanation(
        state=_state(case, jobs),
        why=full_reason(case, now, zone) or "nothing holds it back",
        since=f"{clock(case.status_updated_at, now, zone)} ({span(now - case.status_updated_at)} ago)",
        next=_next(case, host, steps, interval_s, now, zone),
        help=tuple(_help(case)),
    )


def _state(case: Case, jobs: Sequence[Job]) -> str:
    running = [job.title() for job in jobs if job.state is JobState.RUNNING]
    if case.status is State.RUNNING and running:
        return f"running ({', '.join(running)}), {case.progress:.0f} % done"
    return str(case.status)


_NEXT_STEP = {
    State.WAITING: ("scan", "looks at its folder again"),
    State.NEW: ("submit", "sends it to a host as soon as one has a place"),
    State.SUBMITTING: ("submit", "goes on handing it over; nothing is sent twice"),
    State.QUEUED: ("sync", "asks the host whether it has started"),
    State.RUNNING: ("sync", "asks the host how far it is"),
    State.FETCHING: ("fetch", "brings its results home"),
}


def _next(
    case: Case,
    host: HostRow | None,
    steps: Mapping[str, tuple[float | None, float | None, str]],
    interval_s: float,
    now: float,
    zone: ZoneInfo,
) -> str:
    if case.status not in _NEXT_STEP:
        return "nothing by itself" + (
            "; a changed folder becomes a new revision" if case.status is not State.FAILED else ""
        )
    if case.held and case.status is State.NEW:
        return "nothing while it is held"
    step, does = _NEXT_STEP[case.status]
    last = (steps.get(step) or (None, None, ""))[0]
    if last is None:
        when = "at the next `mqi cycle`"
    elif now - last > 3 * interval_s:
        when = f"when `mqi cycle` runs: its last {step} was {span(now - last)} ago, so look at the scheduler"
    else:
        when = f"about {clock(max(last + interval_s, now), now, zone)}"
    later = [
        moment
        for moment in (
            case.next_look_at if case.status is State.WAITING and not case.judged else None,
            case.next_try_at,
        )
        if moment
    ]
    if host is not None and host.next_try_at and case.status is not State.WAITING:
        later.append(host.next_try_at)
    if later and max(later) > now:
        when += f", not before {clock(max(later), now, zone)}"
    return f"mqi {step} {does}, {when}"


def _help(case: Case) -> list[str]:
    number = case.case_id
    lines = [case.hint] if case.hint else []
    offers = {
        State.WAITING: [f"mqi skip {number}"],
        State.NEW: [
            f"mqi release {number}" if case.held else f"mqi hold {number}",
            f"mqi priority {number} 10",
        ],
        State.SUBMITTING: [f"mqi cancel {number}"],
        State.QUEUED: [f"mqi priority {number} 10", f"mqi cancel {number}"],
        State.RUNNING: [f"mqi logs {number} -f", f"mqi cancel {number}"],
        State.FETCHING: [],
        State.FAILED: [f"mqi logs {number}", f"mqi retry {number}", f"mqi skip {number}"],
        State.COMPLETED: ([f"mqi report {number}"] if case.verdict else [])
        + [f'mqi retry {number} --from STEP --reason "…"'],
        State.CANCELLED: [f"mqi retry {number}", f"mqi skip {number}"],
        State.SKIPPED: [f"mqi retry {number}"],
    }
    return lines + [command for command in offers[case.status] if not any(command in line for line in lines)]
