"""What a host tells about itself at the end of every reply."""

from __future__ import annotations

import os
import shutil
import sys
from typing import Any, Dict, List, Optional

from agent.feed import Fed
from agent.gpus import GpuProblem, GpuQuery
from agent.settings import Group, Settings
from agent.work import Work


def probe(work: Work, settings: Settings, fed: Fed, query: GpuQuery) -> Dict[str, Any]:
    """Disk (bytes), load, GPUs and queue, as far as they can be had; a part that cannot is None or empty."""
    free, total = _disk(work)
    try:
        cards = query.cards()
        gpu_problem = ""
    except GpuProblem as error:
        cards, gpu_problem = [], str(error)
    return {
        "disk_free": free,
        "disk_total": total,
        "load1": _load(),
        "cpus": os.cpu_count() or 1,
        "gpus": cards,
        "gpu_problem": gpu_problem,
        "queue": {
            "type": settings.queue_type,
            "ok": fed.listing is not None,
            "message": fed.problem,
            "groups": [_group(group, fed, cards) for group in settings.groups.values()],
        },
    }


def _disk(work: Work) -> "tuple[Optional[int], Optional[int]]":
    try:
        usage = shutil.disk_usage(str(work.root))
    except OSError:
        return None, None
    return usage.free, usage.total


def _load() -> Optional[float]:
    if sys.platform == "win32":
        return None  # it counts no such thing
    try:
        return round(os.getloadavg()[0], 2)
    except OSError:
        return None


def _group(group: Group, fed: Fed, cards: List[Dict[str, Any]]) -> Dict[str, Any]:
    claims = {
        key: facts.claim
        for key, (facts, standing) in fed.standings.items()
        if standing.state == "running" and facts.claim and facts.claim.get("group") == group.name
    }
    busy = {str(claim["gpu"]): key for key, claim in claims.items() if claim.get("gpu")}
    queued = [task for task in (fed.listing or {}).values() if task.group == group.name]
    return {
        "name": group.name,
        "slots": group.slots,
        "running": len(claims),
        "queued": sum(task.job_key not in claims and not task.running for task in queued),
        "gpus": [{"uuid": uuid, "busy_job": busy.get(uuid)} for uuid in _uuids(group, cards, list(busy))],
    }


def _uuids(group: Group, cards: List[Dict[str, Any]], busy: List[str]) -> List[str]:
    if group.gpus == "none":
        return []
    configured = [str(card["uuid"]) for card in cards] if isinstance(group.gpus, str) else group.gpus
    return configured + [uuid for uuid in busy if uuid not in configured]
