"""What to submit where, when to ask again, what a host's facts mean. All of it pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mqi.rows import Case


def backoff_s(failures: int, first_s: float, max_s: float) -> float:
    """Seconds until the next try after `failures` failures in a row: doubled each time, up to a maximum."""
    return min(max_s, first_s * 2.0 ** min(max(failures, 1) - 1, 30))


@dataclass(frozen=True)
class HostView:
    """A host as the choice of submissions sees it. `obstacle`: why nothing may be sent there now, or ''."""

    name: str
    free: int  # cases that may still be sent there
    obstacle: str = ""


@dataclass(frozen=True)
class Placement:
    """Where a case goes now (`host`), or why it does not go (`reason`)."""

    case: Case
    host: str = ""
    reason: str = ""


def choose_submissions(cases: Iterable[Case], hosts: Sequence[HostView], now: float) -> list[Placement]:
    """Which cases to submit where: urgent first, then the longest ready, to the host with most room.

    A case that was on a host before (a retry) stays with it. Every case that is not chosen gets the
    reason, for `mqi why`.
    """
    free = {host.name: host.free for host in hosts}
    obstacles = {host.name: host.obstacle for host in hosts}
    placements = []
    for case in sorted(cases, key=lambda case: (-case.priority, case.ready_at or 0.0, case.case_id)):
        if case.held:
            placements.append(Placement(case, reason="held by an operator"))
            continue
        if case.next_try_at is not None and case.next_try_at > now:
            placements.append(Placement(case, reason=case.reason or "waits for its next try"))
            continue
        candidates = [case.host] if case.host else list(free)
        usable = [name for name in candidates if name in free and not obstacles[name] and free[name] > 0]
        if usable:
            best = max(usable, key=lambda name: free[name])
            free[best] -= 1
            placements.append(Placement(case, host=best))
        else:
            placements.append(Placement(case, reason=_why_nowhere(candidates, free, obstacles)))
    return placements


def _why_nowhere(candidates: Sequence[str], free: Mapping[str, int], obstacles: Mapping[str, str]) -> str:
    reasons = []
    for name in candidates:
        if name not in free:
            reasons.append(f"host {name} is not in the configuration any more")
        elif obstacles[name]:
            reasons.append(f"host {name}: {obstacles[name]}")
        else:
            reasons.append(f"host {name} has as many cases as it may have at once")
    return "; ".join(reasons) or "no host is configured"


def resource_rows(
    probe: Mapping[str, Any], case_of: Callable[[str], int | None], now: float
) -> list[dict[str, object]]:
    """Rows of `gpu_resources` for what a host told about its queue's groups and its GPUs.

    One row per group and GPU; a group without GPUs has the one row `cpu`. A queue that did not answer
    makes all of them `unknown`.
    """
    queue = probe.get("queue") or {}
    cards = {str(card.get("uuid")): card for card in probe.get("gpus") or ()}
    rows: list[dict[str, object]] = []
    for group in queue.get("groups") or ():
        gpus = group.get("gpus") or [{"uuid": "cpu"}]
        for gpu in gpus:
            uuid = str(gpu.get("uuid"))
            card = cards.get(uuid, {})
            job_key = str(gpu.get("busy_job") or "")
            running = int(group.get("running") or 0)
            slots = int(group.get("slots") or 0)
            busy = bool(job_key) if uuid != "cpu" else running >= slots > 0
            rows.append(
                {
                    "pueue_group": str(group.get("name")),
                    "gpu": uuid,
                    "status": _resource_status(bool(queue.get("ok", True)), busy, card),
                    "assigned_case_id": case_of(job_key) if job_key else None,
                    "assigned_job_key": job_key,
                    "name": str(card.get("name") or ""),
                    "memory_used_mb": card.get("memory_used_mb"),
                    "memory_total_mb": card.get("memory_total_mb"),
                    "utilisation": card.get("utilisation"),
                    "temperature": card.get("temperature"),
                    "running": running,
                    "slots": slots,
                    "queued": int(group.get("queued") or 0),
                    "updated_at": now,
                }
            )
    return rows


def _resource_status(queue_ok: bool, busy: bool, card: Mapping[str, Any]) -> str:
    if not queue_ok:
        return "unknown"
    # Somebody else's process on the card makes it as busy as our own would.
    return "busy" if busy or card.get("processes") else "available"
