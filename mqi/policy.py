"""What to submit where, when to ask again, what a host's facts mean. All of it pure."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from mqi.rows import Case
from mqi.settings import Group


def backoff_s(failures: int, first_s: float, max_s: float) -> float:
    """Seconds until the next try after `failures` failures in a row: doubled each time, up to a maximum."""
    return min(max_s, first_s * 2.0 ** min(max(failures, 1) - 1, 30))


class GroupView(NamedTuple):
    """A group of a host's queue as the choice of submissions sees it.

    `slots`: jobs that may run at once now; `load`: jobs of cases on their way there or there that have not
    ended; `limit`: no further case is sent when its jobs would exceed it; `obstacle`: why no job of this
    group can start now, or ''.
    """

    slots: int
    load: int = 0
    limit: int | None = None
    obstacle: str = ""

    def full_for(self, jobs: int) -> bool:
        """Whether `jobs` more are too many. An empty group takes any case: it would fit nowhere else."""
        return self.limit is not None and self.load > 0 and self.load + jobs > self.limit


class HostView(NamedTuple):
    """A host as the choice of submissions sees it. `obstacle`: why nothing may be sent there now, or ''."""

    name: str
    free: int  # cases that may still be sent there
    obstacle: str = ""
    groups: Mapping[str, GroupView] = {}


class Placement(NamedTuple):
    """Where a case goes now (`host`), or why it does not go (`reason`)."""

    case: Case
    host: str = ""
    reason: str = ""


def choose_submissions(
    cases: Iterable[Case],
    hosts: Sequence[HostView],
    now: float,
    *,
    jobs_of: Callable[[Case], Mapping[str, int]] = lambda case: {},
    keeps_inputs: Callable[[Case], Collection[str]] = lambda case: (),
) -> list[Placement]:
    """Which cases to submit where: urgent first, then the longest ready.

    `jobs_of`: group -> jobs that a case brings; `keeps_inputs`: hosts that have inputs of its folder. Among
    the hosts that have room for it, a case goes where it starts at once; of these, where its inputs are; of
    these, where there is least to do for each slot, and then to the one with most room.

    A case that was on a host before (a retry) stays with it. Every case that is not chosen gets the
    reason, for `mqi why`.
    """
    views = {host.name: host for host in hosts}
    placements = []
    for case in sorted(cases, key=lambda case: (-case.priority, case.ready_at or 0.0, case.case_id)):
        if case.held:
            placements.append(Placement(case, reason="held by an operator"))
            continue
        if case.next_try_at is not None and case.next_try_at > now:
            placements.append(Placement(case, reason=case.reason or "waits for its next try"))
            continue
        candidates = [case.host] if case.host else list(views)
        jobs = jobs_of(case)
        usable = [views[name] for name in candidates if name in views and not _obstacle(views[name], jobs)]
        if not usable:
            placements.append(Placement(case, reason=_why_nowhere(candidates, views, jobs)))
            continue
        near = keeps_inputs(case) if len(usable) > 1 else ()
        best = min(usable, key=lambda host: _preference(host, jobs, near))
        views[best.name] = _with_case(best, jobs)
        placements.append(Placement(case, host=best.name))
    return placements


def _preference(
    host: HostView, jobs: Mapping[str, int], near: Collection[str]
) -> tuple[bool, bool, float, int]:
    """Smaller is better; equals go by the order of the configuration."""
    groups = [(host.groups[name], count) for name, count in jobs.items() if name in host.groups]
    waits = any(group.load >= group.slots for group, _count in groups)
    pressure = max(((group.load + count) / max(group.slots, 1) for group, count in groups), default=0.0)
    return waits, host.name not in near, pressure, -host.free


def _with_case(host: HostView, jobs: Mapping[str, int]) -> HostView:
    groups = {
        name: group._replace(load=group.load + jobs.get(name, 0)) for name, group in host.groups.items()
    }
    return host._replace(free=host.free - 1, groups=groups)


def _obstacle(host: HostView, jobs: Mapping[str, int]) -> str:
    """Why a case with these jobs cannot go to this host now, or ''."""
    if host.obstacle:
        return host.obstacle
    if host.free <= 0:
        return "has as many cases as it may have at once"
    for name, count in jobs.items():
        group = host.groups.get(name)
        if group is not None and group.obstacle:
            return group.obstacle
        if group is not None and group.full_for(count):
            return f"has as many jobs of the group {name} as it may have at once"
    return ""


def _why_nowhere(candidates: Sequence[str], views: Mapping[str, HostView], jobs: Mapping[str, int]) -> str:
    reasons = []
    for name in candidates:
        if name not in views:
            reasons.append(f"host {name} is not in the configuration any more")
        else:
            why = _obstacle(views[name], jobs)
            reasons.append(f"host {name} {why}" if why.startswith("has ") else f"host {name}: {why}")
    return "; ".join(reasons) or "no host is configured"


def group_views(
    groups: Iterable[Group], probe: Mapping[str, Any], load: Mapping[str, int]
) -> dict[str, GroupView]:
    """The groups of a host with what its last answer (`probe`) says about their GPUs.

    `load`: group -> jobs of our cases there that have not ended.
    """
    told = {str(one.get("name")): one for one in (probe.get("queue") or {}).get("groups") or ()}
    views = {}
    for group in groups:
        slots, obstacle = group.slots, ""
        # Where Slurm runs the jobs, the computer that answers need not have the GPUs.
        if group.gpus != "none" and group.name in told and (probe["queue"].get("type") != "slurm"):
            good, bad = _usable_gpus(told[group.name], probe)
            slots = min(slots, good)
            obstacle = "" if good else f"no GPU for the group {group.name}: {bad}"
        views[group.name] = GroupView(slots, load.get(group.name, 0), group.max_jobs, obstacle)
    return views


def _usable_gpus(group: Mapping[str, Any], probe: Mapping[str, Any]) -> tuple[int, str]:
    """(GPUs of the group that a job may get, now or after one of ours; why not the others)."""
    if probe.get("gpu_problem"):
        return 0, str(probe["gpu_problem"])
    cards = {str(card.get("uuid")): card for card in probe.get("gpus") or ()}
    good, bad = 0, []
    for gpu in group.get("gpus") or ():
        uuid = str(gpu.get("uuid"))
        why = "" if gpu.get("busy_job") else _why_not(uuid, cards)
        good += not why
        bad += [f"{uuid}: {why}"] if why else []
    return good, "; ".join(bad) or "nvidia-smi shows none"


def _why_not(uuid: str, cards: Mapping[str, Mapping[str, Any]]) -> str:
    """Why no job may start on this card, or ''."""
    if cards and uuid not in cards and not uuid.startswith("MIG-"):
        return "nvidia-smi does not show it"
    card = cards.get(uuid, {})
    if card.get("use") == "quarantined":
        return f"left out, since {card.get('why')}"
    return str(card.get("why") or "in use by somebody else") if card.get("use") == "foreign" else ""


def resource_rows(
    probe: Mapping[str, Any], case_of: Callable[[str], int | None], now: float, clock_skew_s: float = 0.0
) -> list[dict[str, object]]:
    """Rows of `gpu_resources` for what a host told about its queue's groups and its GPUs.

    One row per group and GPU; a group without GPUs has the one row `cpu`, one whose GPUs cannot be told the
    one row `gpu`. A queue that did not answer makes all of them `unknown`. `clock_skew_s`: how far the
    host's clock is ahead of ours.
    """
    queue = probe.get("queue") or {}
    cards = {str(card.get("uuid")): card for card in probe.get("gpus") or ()}
    rows: list[dict[str, object]] = []
    for group in queue.get("groups") or ():
        takes_gpus = bool(group.get("takes_gpus", group.get("gpus")))
        for gpu in group.get("gpus") or [{"uuid": "gpu" if takes_gpus else "cpu"}]:
            uuid = str(gpu.get("uuid"))
            card = cards.get(uuid, {})
            job_key = str(gpu.get("busy_job") or "")
            running = int(group.get("running") or 0)
            slots = int(group.get("slots") or 0)
            busy = bool(job_key) if takes_gpus else running >= slots > 0
            status, note = _resource_status(uuid, busy, takes_gpus, probe, cards)
            until = card.get("until") if status == "quarantined" else None
            rows.append(
                {
                    "pueue_group": str(group.get("name")),
                    "gpu": uuid,
                    "status": status,
                    "note": note,
                    "until": None if until is None else float(until) - clock_skew_s,
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


def _resource_status(
    uuid: str,
    busy: bool,
    takes_gpus: bool,
    probe: Mapping[str, Any],
    cards: Mapping[str, Mapping[str, Any]],
) -> tuple[str, str]:
    """(a word of `gpu_resources.status`, why no job may start there or '')."""
    queue = probe.get("queue") or {}
    if not queue.get("ok", True):
        return "unknown", str(queue.get("message") or "the queue does not answer")
    if busy:
        return "busy", ""
    if takes_gpus and uuid == "gpu":
        return "unknown", str(probe.get("gpu_problem") or "nvidia-smi shows no GPU")
    why = _why_not(uuid, cards) if takes_gpus else ""
    if cards.get(uuid, {}).get("use") == "quarantined":
        return "quarantined", why
    if why and uuid not in cards:
        return "unknown", why
    # Somebody else's process on the card makes it as busy as our own would.
    foreign = why or cards.get(uuid, {}).get("processes")
    return ("busy", why or "in use by somebody else") if foreign else ("available", "")
