"""How a job stands: read from its files, its lock and the queue's list, then judged by one pure function."""

from __future__ import annotations

from typing import Any, Dict, NamedTuple, Optional

from agent.files import read_foreign_json, read_json_object, remove, write_json
from agent.locks import is_locked
from agent.processes import is_alive
from agent.queues import Task
from agent.settings import Settings
from agent.work import JobPaths

# The states of a job of which nothing more comes by itself.
OVER = ("ended", "cancelled", "lost")
# Listings of the queue: job key -> task; None when the queue did not answer.
Listing = Optional[Dict[str, Task]]


class Facts(NamedTuple):
    """What can be seen of a job at one moment."""

    exit: Optional[Dict[str, Any]]
    tombstone: bool
    claim: Optional[Dict[str, Any]]
    locked: bool  # some process of the job lives
    wrapper: bool  # the process that will write the exit file lives
    listed: bool  # the queue answered
    task: Optional[Task]
    missing: Optional[Dict[str, Any]]  # since when, and how often, it was nowhere to be seen
    boot_id: str


class Standing(NamedTuple):
    """The verdict. `nowhere`: claimed, without exit, process or task: another such listing to count."""

    state: str
    orphan: bool = False
    unknown: bool = False
    nowhere: bool = False


def examine(job: JobPaths, listing: Listing, boot_id: str) -> Facts:
    """Reads what there is of a job. The listing must be older than this look: a task that ended in
    between has left its exit file. Raises ValueError when one of our own files is broken."""
    listed = listing is not None
    task = (listing or {}).get(job.key)
    exit_ = read_json_object(job.exit)
    if exit_ is not None:
        return Facts(exit_, False, None, False, False, listed, task, None, boot_id)
    claim = read_json_object(job.claim_info)
    locked = claim is not None and is_locked(job.lock)
    if claim is not None and not locked:
        # It may have ended between our look for the exit file and our look at the lock.
        exit_ = read_json_object(job.exit)
    wrapper = locked and claim is not None and (is_alive(claim.get("wrapper")) or _holds_by_living(claim))
    missing = read_json_object(job.missing) if claim is not None else None
    return Facts(exit_, job.tombstone.exists(), claim, locked, wrapper, listed, task, missing, boot_id)


def _holds_by_living(claim: Dict[str, Any]) -> bool:
    """Where processes have no start time (Windows) no command outlives its wrapper: a held lock is its."""
    wrapper = claim.get("wrapper")
    return isinstance(wrapper, dict) and not wrapper.get("start")


def judge(facts: Facts, held: bool) -> Standing:
    """The state of a job. The exit file is believed over everything, the lock over the queue."""
    if facts.exit is not None:
        return Standing("ended")
    if facts.claim is None:
        if facts.tombstone:
            return Standing("cancelled")
        if facts.task is not None:
            return Standing("queued")
        return Standing("held" if held else "waiting", unknown=not facts.listed)
    if facts.locked:
        forgotten = facts.listed and facts.task is None
        return Standing("running", orphan=forgotten or not facts.wrapper, unknown=not facts.listed)
    # Lost stays lost, also when a later plan leaves the job out: the history is not rewritten.
    if (facts.missing or {}).get("lost"):
        return Standing("lost")
    if facts.tombstone:
        return Standing("cancelled")
    claimed_in = facts.claim.get("boot_id")
    if claimed_in and facts.boot_id and claimed_in != facts.boot_id:
        return Standing("lost", nowhere=True)
    if not facts.listed:
        return Standing("missing", unknown=True)
    return Standing("missing", nowhere=facts.task is None)


def note_absence(
    job: JobPaths, facts: Facts, standing: Standing, settings: Settings, now: float
) -> Standing:
    """Counts one listing that does not show the job; it is lost after enough of them over enough time
    of this host's clock. Forgets the count as soon as the job is seen."""
    if not standing.nowhere:
        if facts.missing is not None and standing.state == "running":
            remove(job.missing)
        return standing
    if standing.state == "lost":
        write_json(job.missing, {"lost": True, "why": "the host was restarted", "at": now})
        return standing
    seen = count_absence(facts.missing, settings, now)
    write_json(job.missing, seen)
    return Standing("lost" if seen["lost"] else "missing")


def note_fate(job: JobPaths, fate: str) -> None:
    """Keeps what the queue says of a job that was just found lost."""
    if fate:
        write_json(job.missing, dict(read_json_object(job.missing) or {}, fate=fate))


def is_lost(job: JobPaths) -> bool:
    """Whether the job has been found lost; a broken file says nothing."""
    try:
        return bool((read_json_object(job.missing) or {}).get("lost"))
    except ValueError:
        return False


def count_absence(missing: Optional[Dict[str, Any]], settings: Settings, now: float) -> Dict[str, Any]:
    """The record after one more listing without the job, at host time `now`. A clock that was set back
    starts the count anew."""
    first, count = now, 0
    if missing is not None and missing["first"] <= missing["last"] <= now:
        first, count = missing["first"], missing["count"]
    count += 1
    lost = count >= settings.lost_listings and now - first >= settings.lost_after_s
    return {"first": first, "last": now, "count": count, "lost": lost}


def describe(job: JobPaths, facts: Facts, standing: Standing, group: str) -> Dict[str, Any]:
    """The job as `report` tells it."""
    claim = facts.claim or {}
    return {
        "state": standing.state,
        "exit": facts.exit,
        "progress": _progress(job) if standing.state in ("running", "missing") else None,
        "started_at": claim.get("started_at") or (facts.exit or {}).get("started_at"),
        "gpu": claim.get("gpu") or (facts.exit or {}).get("gpu"),
        "group": claim.get("group") or group,
        "queue_id": facts.task.queue_id if facts.task else None,
        "orphan": standing.orphan,
        "unknown": standing.unknown,
        **({"fate": facts.missing["fate"]} if facts.missing and facts.missing.get("fate") else {}),
    }


def _progress(job: JobPaths) -> Optional[Dict[str, Any]]:
    raw = read_foreign_json(job.progress)
    if not isinstance(raw, dict):
        return None
    fraction, message = raw.get("fraction"), raw.get("message")
    if isinstance(fraction, bool) or not isinstance(fraction, (int, float)) or not 0 <= fraction <= 1:
        fraction = 0.0
    return {"fraction": float(fraction), "message": message[:200] if isinstance(message, str) else ""}
