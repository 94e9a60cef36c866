"""What the host tells about its runs: the verbs `report` and `inventory`. They change nothing."""

from __future__ import annotations

from typing import Any, Dict, List, Optional

from agent import names
from agent.feed import is_good
from agent.files import read_json_object
from agent.plans import StoredPlan, load
from agent.problems import Refused
from agent.settings import Settings
from agent.survey import OVER, Facts, Listing, Standing, describe, examine, judge
from agent.work import RunPaths, Work


def report(work: Work, settings: Settings, listing: Listing, run_keys: List[str]) -> Dict[str, Any]:
    """Run key -> how its jobs stand; None for a run that this host does not know."""
    return {key: _report_run(work.run(key), settings, listing) for key in run_keys}


def _report_run(run: RunPaths, settings: Settings, listing: Listing) -> Optional[Dict[str, Any]]:
    stored, receipt = load(run), read_json_object(run.receipt)
    if stored is None:
        if receipt is None:
            return None
        known: Dict[str, Any] = {"digest": receipt["digest"], "serial": receipt["serial"], "jobs": {}}
        return dict(known, released=True, receipt=receipt)
    groups = {job["job_key"]: job["group"] for job in stored.jobs}
    jobs = {}
    # Jobs of earlier plans too: a new database adopts what they left.
    for key in sorted(set(groups) | set(run.job_keys())):
        paths = run.job(key)
        facts = examine(paths, listing, settings.boot_id())
        jobs[key] = describe(paths, facts, standing_of(facts, stored), groups.get(key, ""))
    return {
        "digest": stored.plan["digest"],
        "serial": stored.serial,
        "released": run.released.exists(),
        "receipt": receipt,
        "jobs": jobs,
    }


def standing_of(facts: Facts, stored: StoredPlan) -> Standing:
    return judge(facts, stored.plan["held"])


def inventory(work: Work, settings: Settings, listing: Listing) -> List[Dict[str, Any]]:
    """Every run that this host has or had: active, ended (no job can move), released, receipt (purged)."""
    runs = []
    seen = set()
    for key in work.run_keys():
        run = work.run(key)
        stored = load(run)
        if stored is not None:
            seen.add(key)
            state = "released" if run.released.exists() else "active"
            if state == "active" and not can_move(run, stored, settings, listing):
                state = "ended"
            runs.append(_line(key, stored.plan, state))
    for key in work.receipt_keys():
        receipt = read_json_object(work.run(key).receipt)
        if key not in seen and receipt is not None:
            runs.append(_line(key, receipt, "receipt"))
    return runs


def _line(key: str, known: Dict[str, Any], state: str) -> Dict[str, Any]:
    return {"run_key": key, "digest": known["digest"], "serial": known["serial"], "state": state}


def can_move(run: RunPaths, stored: StoredPlan, settings: Settings, listing: Listing) -> bool:
    """Whether a job of the run runs, or may still start."""
    states: Dict[str, str] = {}
    needs: Dict[str, List[str]] = {}
    for job in stored.jobs:
        facts = examine(run.job(job["job_key"]), listing, settings.boot_id())
        states[job["job_key"]] = standing_of(facts, stored).state
        needs[job["job_key"]] = job["needs"]
    for key in stored.dropped:
        facts = examine(run.job(key), listing, settings.boot_id())
        if standing_of(facts, stored).state == "running":
            return True

    def hopeless(key: str) -> bool:
        if key not in states or states[key] in OVER:
            return not is_good(run, key)
        return any(hopeless(need) for need in needs[key])

    return any(state not in OVER and not hopeless(key) for key, state in states.items())


def checked_run_keys(raw: Any) -> List[str]:
    if not isinstance(raw, list):
        raise Refused("bad_request", "a list of run keys was expected")
    return [names.run_key(key) for key in raw]
