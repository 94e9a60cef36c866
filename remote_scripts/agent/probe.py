"""What a host tells about itself at the end of every reply."""

from __future__ import annotations

import os
import shutil
import sys
import time
from typing import Any, Dict, List, Optional, Tuple

from agent.feed import Fed
from agent.gpu_care import record_of, use_of
from agent.gpus import GpuProblem, GpuQuery
from agent.locks import is_locked
from agent.settings import GpuRules, Group, Settings
from agent.work import Work


def probe(work: Work, settings: Settings, fed: Fed, query: GpuQuery) -> Dict[str, Any]:
    """Disk and memory (bytes), load, GPUs and queue, as far as they can be had; a part that cannot is None
    or empty."""
    free, total = _disk(work)
    memory_free, memory_total = _memory()
    try:
        cards = [_with_use(work, card, query.at, settings.gpu_rules) for card in query.cards()]
        gpu_problem = ""
    except GpuProblem as error:
        cards, gpu_problem = [], str(error)
    return {
        "disk_free": free,
        "disk_total": total,
        "memory_free": memory_free,
        "memory_total": memory_total,
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


def _with_use(work: Work, card: Dict[str, Any], at: float, rules: GpuRules) -> Dict[str, Any]:
    """The card with who has it (see gpu_care): `use`, and why a job must not get it now, `why` and `until`."""
    uuid = str(card["uuid"])
    record = record_of(work, uuid)
    # A job of ours that has left the card since nvidia-smi looked is not somebody else's.
    told = {} if float(record.get("at") or 0.0) >= at else card
    use = use_of(told, record, rules, is_locked(work.gpu_lock(uuid)), time.time())
    return dict(card, use=use.state, why=use.why, until=use.until)


def _memory() -> Tuple[Optional[int], Optional[int]]:
    """(bytes that programs could still get, bytes in all); Linux tells, other systems do not."""
    table = {}
    try:
        with open("/proc/meminfo", encoding="ascii") as stream:
            for line in stream:
                name, _, rest = line.partition(":")
                table[name] = int(rest.split()[0]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    return table.get("MemAvailable"), table.get("MemTotal")


def _disk(work: Work) -> Tuple[Optional[int], Optional[int]]:
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
        "takes_gpus": group.gpus != "none",
        "running": len(claims),
        "queued": sum(task.job_key not in claims and not task.running for task in queued),
        "gpus": [{"uuid": uuid, "busy_job": busy.get(uuid)} for uuid in _uuids(group, cards, list(busy))],
    }


def _uuids(group: Group, cards: List[Dict[str, Any]], busy: List[str]) -> List[str]:
    if group.gpus == "none":
        return []
    configured = [str(card["uuid"]) for card in cards] if isinstance(group.gpus, str) else group.gpus
    return configured + [uuid for uuid in busy if uuid not in configured]
