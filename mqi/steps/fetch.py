"""fetch: download what finished, verify it, publish it by one rename, then complete the case."""

from __future__ import annotations

import logging

from mqi.case import State
from mqi.errors import HOST_ERRORS
from mqi.rows import Case
from mqi.site import Site
from mqi.steps import StepReport, about
from mqi.steps.purge import forget_old_hashes, purge_due

log = logging.getLogger("mqi.fetch")


def fetch(site: Site) -> StepReport:
    """Bring home the results of every `fetching` case, then tell the hosts what they need not keep."""
    report = StepReport("fetch")
    for host in site.settings.hosts:
        cases = _due(site, host.name)
        if cases and not site.resting(host.name):
            # Imported only now: most runs have nothing to fetch.
            from mqi.steps.bring_home import bring_home_from

            try:
                bring_home_from(site, host.name, cases, report)
            except HOST_ERRORS as error:
                site.met(error)
        _release(site, host.name, report)
    purge_due(site, report)
    forget_old_hashes(site)
    return report


def _due(site: Site, host: str) -> list[Case]:
    return [
        case for case in site.store.cases(State.FETCHING, host=host) if (case.next_try_at or 0) <= site.now()
    ]


def _release(site: Site, host: str, report: StepReport) -> None:
    """Tell the host which runs it need not keep; repeated until it has heard it.

    Those are the runs whose results are safely here, at once, and those that were cancelled, skipped or
    failed without results when nobody has retried them for as long as runs are kept.
    """
    abandoned_before = site.now() - site.settings.retention.host_runs_s
    cases = site.store.select(
        "host = ? AND released_at IS NULL AND purged_at IS NULL AND host_serial > 0 AND "
        "(status IN ('completed', 'failed') AND results_path <> '' AND completed_at IS NOT NULL OR "
        "status IN ('cancelled', 'skipped', 'failed') AND status_updated_at <= ?)",
        (host, abandoned_before),
    )
    if not cases or site.resting(host):
        return
    try:
        calls = [{"verb": "release", "run_key": case.run_key, "serial": case.plan_serial} for case in cases]
        answer = site.ask(host, calls)
    except HOST_ERRORS as error:
        site.met(error)
        return
    for case, reply in zip(cases, answer.replies, strict=True):
        if reply.get("ok") or reply.get("code") == "unknown_run":
            with about(case):
                site.store.update(case, released_at=site.now())
                report.add("released")
        else:
            log.warning("%s is not released yet: %s", case.run_key, reply.get("message"))
