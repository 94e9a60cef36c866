"""Which new cases begin now, and on which host. The decision is `policy.choose_submissions`."""

from __future__ import annotations

import logging
import shutil
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mqi.case import ON_HOST, State
from mqi.errors import HOST_ERRORS, ConfigurationProblem, HostRefused, MqiError
from mqi.host_state import FULL, REFUSES, gib, host_state, probe_of
from mqi.policy import HostView, choose_submissions, group_views
from mqi.rows import Case, HostRow
from mqi.settings import HostSettings
from mqi.site import Site
from mqi.steps import StepReport, about
from mqi.steps.begin import begin, workflow_of

log = logging.getLogger("mqi.submit")

# A case stays where it begins: what a host told longer ago than this many intervals is asked again first.
_FRESH_INTERVALS = 2


def place_new_cases(site: Site, report: StepReport) -> None:
    """Ask the hosts what has to be known first, then begin what fits."""
    cases = site.store.cases(State.NEW)
    if any(not case.held and (case.next_try_at or 0.0) <= site.now() for case in cases):
        _ask_first(site)
        _begin_what_fits(site, cases, report)


def _ask_first(site: Site) -> None:
    """A new database asks every host for every run it knows, before it submits anything. A host that was
    silent, or that was not heard of lately, is asked for a sign of life before a case is bound to it."""
    for host in site.settings.hosts:
        if site.resting(host.name):
            continue
        row = site.store.host(host.name)
        try:
            if row is None or row.inventoried_at is None:
                _inventory(site, host.name)
            elif row.failures or _is_stale(site, row) or _has_no_room(host, row, site.now()):
                site.ask(host.name, [])
                if not _inventoried(site, host.name):  # its work directory is a new one
                    _inventory(site, host.name)
        except HOST_ERRORS as error:
            site.met(error)


def _is_stale(site: Site, row: HostRow) -> bool:
    return site.now() - (row.last_answer_at or 0.0) > _FRESH_INTERVALS * site.settings.timing.interval_s


def _has_no_room(host: HostSettings, row: HostRow, now: float) -> bool:
    """Whether its last answer forbids new cases: a full disk, GPUs in use. Only another answer can allow them."""
    groups = group_views(host.queue.groups, probe_of(row), {}).values()
    return host_state(row, host.min_free_bytes, now).word == FULL or any(group.obstacle for group in groups)


def _inventory(site: Site, host: str) -> None:
    answer = site.ask(host, [{"verb": "inventory"}])
    with site.store.together():
        site.store.put_inventory(host, reply_of(answer.replies[0])["runs"])
        site.store.put_host(host, inventoried_at=site.now())


def _inventoried(site: Site, host: str) -> bool:
    row = site.store.host(host)
    return row is not None and row.inventoried_at is not None


def _begin_what_fits(site: Site, cases: list[Case], report: StepReport) -> None:
    unasked = [host.name for host in site.settings.hosts if not _inventoried(site, host.name)]
    placements = choose_submissions(
        cases,
        _host_views(site),
        site.now(),
        jobs_of=lambda case: _jobs_of(site, case),
        keeps_inputs=lambda case: site.store.hosts_with_inputs(case.room, case.path),
    )
    for placement in placements:
        case = placement.case
        site.alive()
        with about(case):
            try:
                if unasked and case.run_key is None:
                    # The silent host may hold this very run: submitting it elsewhere would double it.
                    reason = f"host {', '.join(unasked)} has not yet told which runs it holds"
                    _say_why(site, case, reason, _hint_about(site, unasked[0]))
                elif not placement.host:
                    _say_why(site, case, placement.reason)
                else:
                    site.host(placement.host).get_ready()  # hashing its files may take long
                    begin(site, case, placement.host, report)
                    site.trial(placement.host)
            except MqiError as error:
                site.met(error)
                site.store.update(case, reason=str(error), hint=error.hint, **site.later(case))


def _hint_about(site: Site, host: str) -> str:
    row = site.store.host(host)
    if row is not None and row.trouble == REFUSES:
        return f"what it says: mqi host list; or take {host} out of the configuration"
    return f"if it is gone for good: mqi host lost {host}"


def _say_why(site: Site, case: Case, reason: str, hint: str = "") -> None:
    if (case.reason, case.hint) != (reason, hint):
        site.store.update(case, reason=reason, hint=hint)


def _jobs_of(site: Site, case: Case) -> Mapping[str, int]:
    """Group -> jobs that the case brings, by its workflow."""
    try:
        workflow = workflow_of(site, case)
    except ConfigurationProblem:
        return {}  # `begin` says it, for this case alone
    jobs: Counter[str] = Counter()
    for step in workflow.steps:
        jobs[step.group] += len(case.beam_numbers) if step.for_each == "beam" else 1
    return jobs


def _host_views(site: Site) -> list[HostView]:
    open_jobs = site.store.open_jobs()
    return [_host_view(site, host, open_jobs.get(host.name, {})) for host in site.settings.hosts]


def _host_view(site: Site, host: HostSettings, open_jobs: Mapping[str, int]) -> HostView:
    row = site.store.host(host.name)
    state = host_state(row, host.min_free_bytes, site.now())
    probe = probe_of(row) if row else {}
    free = max(0, host.max_cases - len(site.store.cases(*ON_HOST[:3], host=host.name)))
    if row is not None and row.strikes:
        free = min(free, 1)  # the next case is the test
    return HostView(
        host.name,
        free,
        no_room(site, host.name, 0) if state.usable else state.sentence(site.now(), site.settings.timezone),
        group_views(host.queue.groups, probe, open_jobs),
    )


def no_room(site: Site, host: str, size: int) -> str:
    """Why `size` more bytes must not be sent to this host: its disk, or the one here on which the results
    will have to lie; '' when there is room on both."""
    settings, row = site.host_settings(host), site.store.host(host)
    free = probe_of(row).get("disk_free") if row else None
    if isinstance(free, int | float) and free - size < settings.min_free_bytes:
        limit = gib(settings.min_free_bytes)
        return f"only {gib(free)} free on the work disk of host {host} (limit: {limit}, to send: {gib(size)})"
    least, results = site.settings.transfer.min_free_bytes, site.settings.paths.results
    free = _free_at(results)
    if free is not None and free < least:
        return f"only {gib(free)} free on the results disk here (limit: {gib(least)})"
    return ""


def _free_at(folder: Path) -> int | None:
    """Free bytes on the disk of a folder that need not exist yet; None when nobody can tell."""
    for place in (folder, *folder.parents):
        try:
            return shutil.disk_usage(place).free
        except FileNotFoundError:
            continue
        except OSError:
            return None
    return None


def reply_of(raw: dict[str, Any]) -> dict[str, Any]:
    """One reply of the agent, or HostRefused."""
    if raw.get("ok"):
        return raw
    raise HostRefused(
        str(raw.get("message") or "refused"), str(raw.get("code") or ""), str(raw.get("hint") or "")
    )
