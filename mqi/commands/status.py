"""status: where every case stands, and what is known of the hosts."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from mqi.age import OLDER_SINCE
from mqi.alarms import NOTICED_S, alarms, notices
from mqi.case import State
from mqi.commands.invocation import Invocation, complete_case, find_case, invocation
from mqi.errors import NeedsOperator, UsageProblem
from mqi.job import JobState
from mqi.moved import moved_from
from mqi.render import (
    case_json,
    clock,
    facts,
    full_reason,
    history_table,
    iso,
    jobs_table,
    status_table,
    step_json,
)
from mqi.render_hosts import host_json, hosts_table, resource_json, resources_table
from mqi.rows import Case
from mqi.store import Store

# Completed and skipped cases matter for a day; everything else matters until it is settled.
_RECENT_S = 86400.0


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command()(status)


def status(
    context: typer.Context,
    case: Annotated[
        str | None,
        typer.Argument(metavar="[CASE]", help="Show one case in full.", autocompletion=complete_case),
    ] = None,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Draw it anew every 2 seconds.")] = False,
    all_cases: Annotated[bool, typer.Option("--all", "-a", help="Also the old and settled cases.")] = False,
    state: Annotated[
        list[str] | None, typer.Option("--state", "-s", help="Only cases in this state; may be repeated.")
    ] = None,
    since: Annotated[
        str | None, typer.Option("--since", help="Only cases whose state changed since, such as 2h, 3d.")
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Exit with 40 when a case needs an operator.")
    ] = False,
) -> None:
    """Show where every case stands, and what is known of the hosts."""
    invoked = invocation(context)
    states = _states(state)
    since_s = _since(since)
    with invoked.store() as store:
        while True:
            text, value = (
                _overview(invoked, store, all_cases, states, since_s)
                if case is None
                else _one(invoked, store, find_case(store, case))
            )
            if watch and not invoked.as_json:
                # Home, draw, clear the rest: no flicker.
                sys.stdout.write("\033[H\033[2J" + text + "\n")
                sys.stdout.flush()
                time.sleep(2.0)
                continue
            invoked.print(text, value)
            break
        if check:
            _check(invoked, store)


def _states(names: Sequence[str] | None) -> tuple[State, ...]:
    try:
        return tuple(State(name) for name in names or ())
    except ValueError as error:
        raise UsageProblem(
            f"{error}".replace(" is not a valid State", " is not a state"), "states: " + ", ".join(State)
        ) from None


def _since(text: str | None) -> float | None:
    if text is None:
        return None
    from mqi.units import parse_duration

    try:
        return parse_duration(text)
    except ValueError as error:
        raise UsageProblem(f"--since: {error}", "for example 90min, 2h, 3d") from None


def _overview(
    invoked: Invocation, store: Store, all_cases: bool, states: Sequence[State], since_s: float | None
) -> tuple[str, dict[str, Any]]:
    now, zone = store.now(), invoked.settings.timezone
    cases = _select(store, all_cases, states, since_s, now)
    resources, hosts = store.resources(), store.hosts()
    parts = [status_table(cases, now, zone)] if cases else [_nothing(invoked, store)]
    hidden = store.database.read("SELECT count(*) FROM cases")[0][0] - len(cases) if invoked.verbose else 0
    if hidden:
        parts.append(f"{hidden} more cases: mqi status --all")
    if resources:
        parts.append(resources_table(resources, now, zone))
    if hosts:
        parts.append(hosts_table(hosts, min_free_of(invoked), now, zone))
    warnings = _warnings(invoked, store, now)
    if warnings:
        parts.append("\n".join(f"! {line}" for line in warnings))
    said = notices(hosts, _older_since(store), now, zone, moved=moved_from(store))
    if said:
        parts.append("\n".join(said))
    value: dict[str, Any] = {"generated_at": iso(now, zone)}
    if invoked.as_json:
        jobs = store.jobs_of([case.case_id for case in cases])
        value |= {
            "cases": [case_json(case, jobs[case.case_id], now, zone) for case in cases],
            "gpu_resources": [resource_json(row, zone) for row in resources],
            "hosts": [host_json(row, min_free_of(invoked).get(row.name, 0), now, zone) for row in hosts],
            "steps": [step_json(name, known, zone) for name, known in store.steps().items()],
            "warnings": warnings,
            "notices": said,
        }
    return "\n\n".join(parts), value


def _select(
    store: Store, all_cases: bool, states: Sequence[State], since_s: float | None, now: float
) -> list[Case]:
    conditions: list[str] = []
    parameters: list[object] = []
    if states:
        conditions.append(f"status IN ({', '.join('?' * len(states))})")
        parameters += [str(state) for state in states]
    elif not all_cases and since_s is None:
        # Two index ranges: what is open, and what was settled within a day.
        conditions.append(
            "case_id IN (SELECT case_id FROM cases WHERE status NOT IN ('completed', 'skipped') UNION ALL "
            "SELECT case_id FROM cases WHERE status = 'completed' AND status_updated_at > ?)"
        )
        parameters.append(now - _RECENT_S)
    if since_s is not None:
        conditions.append("status_updated_at > ?")
        parameters.append(now - since_s)
    return store.select(
        " AND ".join(conditions) or "1", tuple(parameters), "priority DESC, first_seen_at, case_id"
    )


def _nothing(invoked: Invocation, store: Store) -> str:
    if store.database.read("SELECT 1 FROM cases LIMIT 1"):
        return "no case matters now (all of them: mqi status --all)"
    folders = ", ".join(str(watch.path) for watch in invoked.settings.watch)
    return f"no case was found yet; mqi scan looks into {folders}"


def _warnings(invoked: Invocation, store: Store, now: float) -> list[str]:
    """What is wrong beyond single cases."""
    settings = invoked.settings
    return alarms(
        store.steps(),
        store.hosts(),
        rooms=[watch.room for watch in settings.watch],
        host_names={host.name for host in settings.hosts},
        interval_s=settings.timing.interval_s,
        now=now,
        min_free=min_free_of(invoked),
        resources=store.resources(),
        database_is_older=now - (_older_since(store) or 0.0) < NOTICED_S,
    )


def _older_since(store: Store) -> float | None:
    """When a database that was used before was put back."""
    noted = store.meta(OLDER_SINCE)
    return float(noted) if noted else None


def min_free_of(invoked: Invocation) -> dict[str, int]:
    """Host -> bytes that its work disk must have free before more is sent."""
    return {host.name: host.min_free_bytes for host in invoked.settings.hosts}


def _one(invoked: Invocation, store: Store, case: Case) -> tuple[str, dict[str, Any]]:
    now, zone = store.now(), invoked.settings.timezone
    jobs = store.jobs(case.case_id)
    events = store.events(case.case_id)
    revisions = store.select(
        "room = ? AND path = ? AND fraction = ? AND case_id <> ?",
        (case.room, case.path, case.fraction, case.case_id),
    )
    others = ", ".join(f"{other.case_id} (revision {other.revision}, {other.status})" for other in revisions)
    beams = ", ".join(f"{number} {name}".strip() for number, name in case.beam_names.items())
    text = facts(
        [
            ("case", f"{case.case_id}  {case.name}"),
            ("room", case.room),
            (
                "state",
                f"{case.status} since {clock(case.status_updated_at, now, zone)}, {case.progress:.0f} %",
            ),
            ("reason", full_reason(case, now, zone)),
            ("hint", case.hint),
            ("verdict", case.verdict),
            ("revision", case.revision if case.revision > 1 or others else ""),
            ("other rows", others),
            ("folder", case.case_path),
            ("deliveries", ", ".join(case.delivery_names)),
            ("beams", beams),
            ("workflow", case.workflow),
            ("run", case.run_key),
            ("host", case.host),
            ("on the host", _remote_folder(invoked, case)),
            ("results", case.results_path),
            ("priority", case.priority or ""),
            ("first seen", clock(case.first_seen_at, now, zone)),
            ("submitted", "" if case.submitted_at is None else clock(case.submitted_at, now, zone)),
            ("started", "" if case.started_at is None else clock(case.started_at, now, zone)),
            ("ended", "" if case.completed_at is None else clock(case.completed_at, now, zone)),
        ]
    )
    parts = [text]
    if jobs:
        parts.append(jobs_table(jobs, now, zone))
    failed = [job for job in jobs if job.state in (JobState.FAILED, JobState.LOST)]
    if failed:
        parts.append(facts([(f"log of {job.title()}", job.log_path) for job in failed]))
    parts.append(history_table(events, now, zone))
    value = {
        "generated_at": iso(now, zone),
        "cases": [case_json(case, store.jobs(case.case_id, all_attempts=True), now, zone)],
        "history": [
            {
                "at": iso(e.at, zone),
                "event": e.event,
                "before": e.before,
                "after": e.after,
                "reason": e.reason,
                "actor": e.actor,
            }
            for e in events
        ],
    }
    return "\n\n".join(parts), value


def _remote_folder(invoked: Invocation, case: Case) -> str:
    host = invoked.settings.host(case.host)
    return (
        "" if host is None or not case.run_key or case.purged_at else f"{host.work_dir}/runs/{case.run_key}"
    )


def _check(invoked: Invocation, store: Store) -> None:
    waiting = store.select("status = 'failed' OR (needs_operator = 1 AND status <> 'skipped')")
    if waiting:
        names = ", ".join(str(case.case_id) for case in waiting[:10])
        raise NeedsOperator(
            f"{len(waiting)} cases need an operator: {names}{', …' if len(waiting) > 10 else ''}",
            f"why: mqi why {waiting[0].case_id}",
        )
    alarms = _warnings(invoked, store, store.now())
    if alarms:
        raise NeedsOperator(alarms[0], "all warnings: mqi status")
