"""purge: what was fetched and released leaves the host after the configured time."""

from __future__ import annotations

from collections.abc import Sequence

from mqi.errors import HOST_ERRORS, HostRefused
from mqi.rows import Case
from mqi.site import Site
from mqi.steps import StepReport, about

# One request names at most this many runs: removing them takes the host time, under its lock.
_RUNS_PER_REQUEST = 50
_PRUNE_EVERY_S = 86400.0
_HASHES_KEPT_S = 30 * 86400.0


def due_cases(site: Site) -> list[Case]:
    """Released runs whose time on the host is over."""
    before = site.now() - site.settings.retention.host_runs_s
    # `+status`: SQLite would go through the index by status, which grows with every case that has ended.
    return site.store.select(
        "purged_at IS NULL AND released_at IS NOT NULL AND (released_at <= ? OR status IN ('cancelled', 'skipped')) "
        "AND +status IN ('completed', 'failed', 'cancelled', 'skipped')",
        (before,),
        "released_at",
    )


def purge_due(site: Site, report: StepReport, *, dry_run: bool = False) -> int:
    """Purge what is due; the bytes that the hosts freed, or would free in a dry run."""
    freed = 0
    cases = due_cases(site)
    for host in site.settings.hosts:
        own = [case for case in cases if case.host == host.name]
        if own and not site.resting(host.name):
            freed += _purge_on(site, host.name, own[:_RUNS_PER_REQUEST], report, dry_run)
    return freed


def _purge_on(site: Site, host: str, cases: Sequence[Case], report: StepReport, dry_run: bool) -> int:
    keys = [case.run_key for case in cases]
    try:
        reply = site.ask(host, [{"verb": "purge", "run_keys": keys, "dry_run": dry_run}]).replies[0]
    except HOST_ERRORS as error:
        site.met(error)
        return 0
    if not reply.get("ok"):
        site.met(HostRefused(f"host {host} did not purge: {reply.get('message')}", str(reply.get("code"))))
        return 0
    purged = set(reply.get("purged") or ())
    for case in cases:
        if case.run_key in purged:
            report.add(
                "would purge" if dry_run else "purged", f"case {case.case_id}: run {case.run_key} on {host}"
            )
            if not dry_run:
                _note_purged(site, case)
    for key, reason in reply.get("refused") or ():
        report.add("kept", f"run {key} on {host}: {reason}")
    return int(reply.get("bytes") or 0)


def forget_old_hashes(site: Site) -> None:
    """Once a day: drop what the hash cache has not needed for a month."""
    _attempt, last, _error = site.store.steps().get("prune", (None, None, ""))
    if last is None or site.now() - last > _PRUNE_EVERY_S:
        site.store.prune_hashes(site.now() - _HASHES_KEPT_S)
        site.store.step_attempted("prune", None)


def _note_purged(site: Site, case: Case) -> None:
    with about(case), site.store.together():
        site.store.note(case, "purge", f"its run was removed from {case.host}", purged_at=site.now())
        site.store.drop_manifest(case.case_id)
