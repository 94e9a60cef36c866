"""The end of a run's stay: `release` (the control PC has everything) and `purge` (its files may go).

A receipt stays for ever: digest, exits and digests of outputs. It answers late requests and new databases.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any, Dict, List

from agent.files import fsync_folder, read_json_object, remove, remove_tree, unique, write_json
from agent.plans import StoredPlan, load
from agent.problems import Refused
from agent.report import can_move
from agent.settings import Settings
from agent.store import collect
from agent.survey import Listing
from agent.work import RunPaths, Work

# A refusal is remembered for so long: no request is late by more.
REFUSALS_KEPT_S = 7 * 86400.0


def release(work: Work, settings: Settings, listing: Listing, run_key: str, serial: int) -> Dict[str, Any]:
    """Marks a run as fetched: it is not fed any more and may be purged. Repeatable.

    `serial`: of the newest plan whose results were fetched. Raises Refused when a job of the run runs or may
    still start, when the run is not known, and when it has a newer plan: a release that arrives late must not
    give the results of a retry to the next purge.
    """
    run = work.run(run_key)
    stored = load(run)
    if stored is None:
        if run.receipt.exists():
            return {"released": True}
        raise Refused("unknown_run", "this host does not know the run %s" % run_key)
    if stored.serial > serial:
        raise Refused("newer_plan", "this run has a newer plan than the one that is released")
    if not run.released.exists():
        if can_move(run, stored, settings, listing):
            raise Refused("not_ended", "a job of this run runs or may still start")
        write_json(run.released, {"at": time.time(), "serial": stored.serial})
    _sweep_run(run)
    write_receipt(work, run, stored)
    return {"released": True}


def sweep(work: Work) -> None:
    """Removes what writers left that were killed before their rename. Everything in these folders is
    written under the agent's lock, so whoever holds it knows that no writer lives."""
    folders = [work.root, work.pins, work.refusals, work.receipts]
    folders += list((work.queue / "local").glob("*/tasks"))
    for folder in folders:
        _remove_temporaries(folder)


def _sweep_run(run: RunPaths) -> None:
    """The same for a run of which nothing runs; what its steps wrote below out/ is not ours to judge."""
    folders = [run.folder, run.input_dir]
    for key in run.job_keys():
        job = run.job(key)
        folders.append(job.folder)
        folders += [Path(root) for root, _, _ in os.walk(str(job.files))]
    for folder in folders:
        _remove_temporaries(folder)


def _remove_temporaries(folder: Path) -> None:
    try:
        names = [name for name in os.listdir(str(folder)) if name.endswith("~")]
    except (FileNotFoundError, NotADirectoryError):
        return
    for name in names:
        path = folder / name
        if path.is_dir() and not path.is_symlink():
            remove_tree(path)
        else:
            remove(path)


def write_receipt(work: Work, run: RunPaths, stored: StoredPlan) -> None:
    """What is known of the run for ever. Exits of earlier stays on this host are kept."""
    jobs = dict((read_json_object(run.receipt) or {}).get("jobs", {}))
    for key in run.job_keys():
        exit_ = read_json_object(run.job(key).exit)
        if exit_ is not None or run.job(key).claim.exists():
            jobs[key] = exit_
    receipt = {
        "run_key": run.key,
        "digest": stored.plan["digest"],
        "serial": stored.serial,
        "jobs": jobs,
        "outputs": {key: exit_["outputs"] for key, exit_ in jobs.items() if exit_ and exit_["outputs"]},
    }
    if (read_json_object(run.receipt) or {}) != receipt:
        work.receipts.mkdir(parents=True, exist_ok=True)
        write_json(run.receipt, receipt)


def purge(
    work: Work, settings: Settings, listing: Listing, run_keys: List[str], *, dry_run: bool
) -> Dict[str, Any]:
    """Removes released runs with nothing running, then what the store holds for nobody. Repeatable; call
    under the agent's lock."""
    purged: List[str] = []
    refused: List[List[str]] = []
    freed = 0
    for key in run_keys:
        run = work.run(key)
        stored = load(run)
        reason = "" if stored is None else _why_not(run, stored, settings, listing)
        if reason:
            refused.append([key, reason])
            continue
        size = _own_bytes(run.folder)
        if stored is not None and not dry_run:
            write_receipt(work, run, stored)
        if not dry_run:
            try:
                _hide_run(work, run)
            except OSError as error:
                # Windows, while a person or a virus scanner has one of its files open. The next purge tries again.
                refused.append([key, "it cannot be removed now (%s)" % error.strerror])
                continue
        freed += size
        purged.append(key)
    if not dry_run:
        refused += _remove_hidden(work)
        freed += collect(work, time.time())
        _forget_refusals(work, time.time())
    return {"purged": purged, "bytes": freed, "refused": refused}


def _forget_refusals(work: Work, now: float) -> None:
    """What nobody can be late for any more."""
    for path in sorted(work.refusals.glob("*.json")):
        if now - path.stat().st_mtime > REFUSALS_KEPT_S:
            remove(path)


def _why_not(run: RunPaths, stored: StoredPlan, settings: Settings, listing: Listing) -> str:
    if not run.released.exists():
        return "it is not released: its results may not have been fetched"
    if can_move(run, stored, settings, listing):
        return "a job of it still runs"
    return ""


def _hide_run(work: Work, run: RunPaths) -> None:
    """Gone under its name in one moment: a purge that is killed leaves no half of a run. Raises OSError."""
    remove(run.pin)
    remove(run.refusal)
    if run.folder.exists():
        os.rename(str(run.folder), str(work.runs / (".purged.%s.%s" % (run.key, unique()))))
        fsync_folder(work.runs)


def _remove_hidden(work: Work) -> List[List[str]]:
    """Removes what `_hide_run` has hidden, now or before a purge was killed; (run key, why) of what stays."""
    kept = []
    for entry in sorted(work.runs.iterdir()) if work.runs.is_dir() else ():
        if entry.name.startswith(".purged."):
            try:
                remove_tree(entry)
            except OSError as error:
                key = entry.name.split(".")[2]
                kept.append([key, "some of its files cannot be removed now (%s)" % error.strerror])
    return kept


def _own_bytes(folder: Path) -> int:
    """Bytes that go with the folder: not those that the store or another run holds too."""
    total = 0
    for root, _, names in os.walk(str(folder)):
        for name in names:
            state = os.lstat(os.path.join(root, name))
            if state.st_nlink == 1:
                total += state.st_size
    return total


def checked_flag(value: Any, what: str) -> bool:
    if not isinstance(value, bool):
        raise Refused("bad_request", "%s is neither true nor false" % what)
    return value
