"""Which cards a job must not get: those that somebody else uses, and those on which jobs keep failing.

    gpus/<uuid>.lock    held by whatever job of ours has the card
    gpus/<uuid>.json    {"at", "failures": [run keys], "why", "until"}: what the last jobs on the card came to

A job that fails says little about its card; jobs of several runs in a row, with none between that went well,
say a lot. The card is then left out for a time; the next job on it is the test, and one more failure leaves
it out again.
"""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional

from agent import names
from agent.files import read_foreign_json, remove, write_json
from agent.settings import GpuRules
from agent.work import Work

FREE, OURS, FOREIGN, QUARANTINED = "free", "ours", "foreign", "quarantined"
# What a bad card brings about. A wrong input, a cancel or a step that waits for a licence (75, the
# sendmail code of temporary failures) does not come from the card, nor does being told to end.
_CARD_KINDS = ("failed", "timeout", "missing_output")
_NOT_THE_CARD = (75, 128 + signal.SIGINT, 128 + signal.SIGTERM)


class Use(NamedTuple):
    """Who has a card now, and why a job must not get it. `until`: host time at which that ends, if known."""

    state: str
    why: str = ""
    until: Optional[float] = None


def use_of(card: Dict[str, Any], record: Dict[str, Any], rules: GpuRules, ours: bool, now: float) -> Use:
    """Whether a job may start on `card` (as `gpus` tells it). `ours`: a job of ours holds its lock. Pure.

    While a job of ours has the card, nothing is said of others: what computes there is that job.
    """
    if ours:
        return Use(OURS)
    until = float(record.get("until") or 0.0)
    # A clock that was set back must not make a quarantine last for years.
    if now < until <= now + rules.quarantine_s:
        count = len(record.get("failures") or ())
        why = "jobs of %d runs in a row failed on it, the last one: %s" % (count, record.get("why") or "-")
        return Use(QUARANTINED, why, until)
    processes, used = card.get("processes"), card.get("memory_used_mb")
    if processes:
        return Use(FOREIGN, "%d process%s of somebody else" % (processes, "" if processes == 1 else "es"))
    if used is not None and used > rules.busy_memory_mb:
        return Use(FOREIGN, "somebody else uses %d MB of its memory" % used)
    return Use(FREE)


def after_job(
    record: Dict[str, Any], run_key: str, exit_: Dict[str, Any], rules: GpuRules, now: float
) -> Dict[str, Any]:
    """The card's record after a job with this exit file. Several failed jobs of one run count once. Pure."""
    failures: List[str] = [str(key) for key in record.get("failures") or () if key != run_key]
    until, why = float(record.get("until") or 0.0), str(record.get("why") or "")
    if exit_["kind"] == "ok":
        return {"at": now, "failures": [], "why": "", "until": 0.0}
    if exit_["kind"] not in _CARD_KINDS or exit_["code"] in _NOT_THE_CARD:
        return {"at": now, "failures": list(record.get("failures") or ()), "why": why, "until": until}
    failures = [*failures[-99:], run_key]
    if 0 < rules.quarantine_after <= len(failures):
        until = now + rules.quarantine_s
    return {"at": now, "failures": failures, "why": str(exit_["message"])[:200], "until": until}


def record_of(work: Work, uuid: str) -> Dict[str, Any]:
    """The card's record; empty when there is none, or when it is broken: a guess about a card is not worth
    a standstill."""
    raw = read_foreign_json(_record_file(work, uuid))
    if not isinstance(raw, dict) or not isinstance(raw.get("failures", []), list):
        return {}
    numbers = (raw.get("until", 0.0), raw.get("at", 0.0))
    return raw if all(isinstance(one, (int, float)) for one in numbers) else {}


def note_job(
    work: Work, uuid: str, run_key: str, exit_: Dict[str, Any], rules: GpuRules, now: float
) -> None:
    """Keeps what became of a job on this card. Call while its lock is held. Never raises: the job is over,
    and what is lost here is one count."""
    try:
        write_json(_record_file(work, uuid), after_job(record_of(work, uuid), run_key, exit_, rules, now))
    except OSError:
        pass


def lift(work: Work, uuid: str) -> bool:
    """Ends a quarantine and forgets the failures; whether there was anything to forget."""
    record = record_of(work, uuid)
    remove(_record_file(work, uuid))
    return bool(record.get("failures") or record.get("until"))


def _record_file(work: Work, uuid: str) -> Path:
    return work.gpus / (names.gpu(uuid) + ".json")
