"""cycle: scan, submit, sync, fetch in one process and over one connection per host."""

from __future__ import annotations

import logging
from collections.abc import Callable

from mqi.errors import MqiError, is_of_a_case
from mqi.lock import StepHeld, step_lock
from mqi.site import Site
from mqi.steps import StepReport
from mqi.steps.fetch import fetch
from mqi.steps.scan import scan
from mqi.steps.submit import submit
from mqi.steps.sync import sync

log = logging.getLogger("mqi.cycle")

STEPS: dict[str, Callable[[Site], StepReport]] = {
    "scan": scan,
    "submit": submit,
    "sync": sync,
    "fetch": fetch,
}


def run_step(site: Site, name: str) -> StepReport:
    """One step under its lock. A lock that is held is a line of the report, and no error."""
    timing = site.settings.timing
    try:
        with step_lock(site.settings.paths.locks, name, timing.lock_stall_s) as lock:
            site.alive = lock.progress
            met = len(site.errors)
            try:
                report = STEPS[name](site)
            except MqiError as error:
                site.store.step_attempted(name, str(error))
                raise
            failed = [error for error in site.errors[met:] if not is_of_a_case(error)]
            site.store.step_attempted(name, str(failed[0]) if failed else None)
    except StepHeld as held:
        log.info("%s", held)
        return StepReport(name, {"held": 1}, [str(held)])
    finally:
        site.alive = lambda: None
    if report.counts:
        log.info("%s: %s", name, ", ".join(f"{count} {what}" for what, count in report.counts.items()))
    return report


def cycle(site: Site) -> list[StepReport]:
    """Every step once. What stops one step does not stop the next."""
    reports = []
    for name in STEPS:
        try:
            reports.append(run_step(site, name))
        except MqiError as error:
            site.met(error)
            reports.append(StepReport(name, {}, [f"{error}"]))
    return reports
