"""An operator declares a host lost: what it was to compute is computed again, elsewhere, under new job keys.

The order is the argument. First we take another name at that host, durably: its old work directory obeys us
no more, so nothing that it still has or gets late can start there by our doing. Only then the cases are let
go. Killed in between, the command is repeated, and finds less to do.
"""

from __future__ import annotations

import logging
from typing import Any

from mqi.case import ON_HOST, Event, State
from mqi.errors import UsageProblem
from mqi.installation import note_lost
from mqi.job import ENDED, JobState
from mqi.rows import Case
from mqi.site import Site
from mqi.steps.operate import follow_retry

log = logging.getLogger("mqi.host")


def cases_at(site: Site, host: str) -> list[Case]:
    """The cases that are bound to this host and are not settled."""
    return site.store.cases(*ON_HOST, host=host)


def declare_lost(site: Site, host: str) -> list[Case]:
    """Let the cases of this host go to others; those that were let go, as they stand now.

    The caller has asked the operator, and has made sure that the host does not answer.
    """
    if site.store.host(host) is None and not cases_at(site, host):
        raise UsageProblem(f"nothing is known of a host {host!r}", "the hosts: mqi host list")
    note_lost(site.settings.paths.installation, host)
    with site.store.together():
        let_go = [_let_go(site, case) for case in cases_at(site, host)]
        site.store.host_was_lost(host)
        site.store.put_inventory(host, [])
        site.store.put_resources(host, [])
        site.store.put_host(
            host,
            lost_at=site.now(),
            # An empty work directory is all that may come back, and it is asked like a new one.
            work_id="",
            inventoried_at=site.now(),
            probe="{}",
            strikes=0,
            no_cases_until=None,
        )
    log.warning("host %s was declared lost; %d cases were let go", host, len(let_go))
    return let_go


def _let_go(site: Site, case: Case) -> Case:
    """Nothing that the host has computed of this case can be had, or built upon, any more."""
    why = f"host {case.host} was declared lost"
    site.store.put_jobs(
        job._replace(state=JobState.LOST, reason=why)
        for job in site.store.jobs(case.case_id, all_attempts=True)
        if job.state not in ENDED
    )
    gone: dict[str, Any] = {"host": "", "purged_at": site.now(), "pueue_group": ""}
    if case.cancel_requested_at is not None and case.status is not State.FETCHING:
        ended = site.store.record(
            case, Event.CONFIRM_CANCEL, f"cancelled; {why}", cancel_requested_at=None, **gone
        )
        follow_retry(site, ended)
        return site.store.case(case.case_id)
    return site.store.record(
        case, Event.HOST_LOST, f"{why}; it is computed again on another host", progress=0.0, **gone
    )
