"""sync: ask each host once about everything in flight, record what happened, carry wishes there.

A wish (hold, priority, cancel, a next attempt) is a plan with a higher serial than the host confirmed."""

from __future__ import annotations

from mqi.case import State
from mqi.errors import HOST_ERRORS
from mqi.rows import Case
from mqi.site import Site
from mqi.steps import StepReport, about


def sync(site: Site) -> StepReport:
    """Bring this side's knowledge of every host up to date."""
    report = StepReport("sync")
    for host in site.settings.hosts:
        cases = _in_flight(site, host.name)
        if site.resting(host.name) or not (cases or _probe_due(site, host.name)):
            continue
        # Imported only now: most runs have nothing to ask, and loading this takes longer than finding out.
        from mqi.steps.observe import ask_about

        try:
            ask_about(site, host.name, cases, report)
            # A next attempt decided just now starts in this very run, not an interval later.
            again = [case for case in _in_flight(site, host.name) if case.plan_serial > case.host_serial]
            if again:
                ask_about(site, host.name, again, report)
        except HOST_ERRORS as error:
            site.met(error)
    _say_lost_hosts(site)
    return report


def _in_flight(site: Site, host: str) -> list[Case]:
    cases = site.store.cases(State.QUEUED, State.RUNNING, host=host)
    cancelled = [
        c for c in site.store.cases(State.SUBMITTING, host=host) if c.cancel_requested_at is not None
    ]
    return cases + cancelled


def _probe_due(site: Site, host: str) -> bool:
    row = site.store.host(host)
    return row is None or (row.last_answer_at or 0.0) + site.settings.timing.probe_s <= site.now()


def _say_lost_hosts(site: Site) -> None:
    """Cases on a host that the configuration no longer has go no further; say so once."""
    names = {host.name for host in site.settings.hosts}
    open_cases = site.store.cases(State.SUBMITTING, State.QUEUED, State.RUNNING, State.FETCHING)
    for case in open_cases:
        if case.host not in names and not case.needs_operator:
            with about(case):
                site.store.update(
                    case,
                    reason=f"its host {case.host} is not in the configuration any more",
                    hint=f"put {case.host} back below `hosts:`; if it is gone for good: mqi host lost {case.host}",
                    needs_operator=1,
                )
