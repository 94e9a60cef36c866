"""What must hold when everything is over, whatever was stopped on the way. Each finding is a sentence."""

from __future__ import annotations

import fcntl
import json
import os
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.crash.lab import Lab

OUTPUTS = {"prepare": "beams.json", "simulate.b2": "dose.txt", "simulate.b3": "dose.txt"}
LEFT_OVER = re.compile(r"~$|\.part$|^\.part|^\.purged\.|\.tmp$")


@dataclass(frozen=True)
class Expected:
    """`next_attempts`: the jobs that have a second attempt (None: any may, since a job was killed itself).
    `revisions`: how many the case may have. `history_lost`: with its database."""

    next_attempts: frozenset[str] | None = frozenset()
    revisions: int = 1
    history_lost: bool = False


def wrong_with(lab: Lab, expected: Expected) -> list[str]:
    """Everything that is not as it should be."""
    return [
        *_cases(lab, expected), *_executions(lab), *_runs(lab, expected), *_results(lab), *_left_over(lab), *_locks(lab)
    ]  # fmt: skip


def _cases(lab: Lab, expected: Expected) -> Iterator[str]:
    cases = lab.rows(
        "SELECT case_id, status, reason, released_at, plan_serial, host_serial, "
        "(SELECT count(*) FROM events WHERE events.case_id = cases.case_id AND event = 'begin') FROM cases"
    )
    if not 1 <= len(cases) <= expected.revisions:
        yield f"{len(cases)} cases"
    for case_id, status, reason, released, plan_serial, host_serial, begun in cases:
        if status != "completed":
            yield f"case {case_id} is {status}: {reason}"
        elif released is None:
            yield f"case {case_id}: the host was not told that the results are safe"
        if plan_serial != host_serial:
            yield f"case {case_id}: plan {plan_serial} here, {host_serial} on the host"
        if begun != 1 and not expected.history_lost:
            yield f"case {case_id} was begun {begun} times"
    if lab.rows("PRAGMA integrity_check") != [("ok",)]:
        yield "the database is damaged"


def _executions(lab: Lab) -> Iterator[str]:
    ledger = lab.ledger()
    for key, count in sorted(Counter(key for word, key in ledger if word == "begin").items()):
        if count > 1:
            yield f"{_nameless(key)} was executed {count} times"
    for position, (word, key) in enumerate(ledger):
        job, _, attempt = key.rpartition("-a")
        later = f"{job}-a{int(attempt) + 1}"
        if word == "end" and ("begin", later) in ledger[:position]:
            yield f"{_nameless(later)} began while the attempt before still ran"


def _runs(lab: Lab, expected: Expected) -> Iterator[str]:
    """Every run that the host has is some case's, and each of its jobs succeeded once."""
    serials = dict(lab.rows("SELECT run_key, host_serial FROM cases WHERE run_key IS NOT NULL"))
    runs = {path.name: path for path in (lab.work / "runs").glob("*") if not path.name.startswith(".")}
    if set(runs) != set(serials):
        yield f"the host has {len(set(runs) - set(serials))} runs of no case, and lacks {len(set(serials) - set(runs))}"
    for key, run in runs.items():
        stored = (_read(run / "plan.json") or {}).get("plan", {})
        if stored.get("serial") != serials.get(key):
            yield f"the host has plan {stored.get('serial')} in place of {serials.get(key)}"
        if not (run / "released.json").exists():
            yield "the host does not know that it need not keep a run"
        for job in OUTPUTS:
            yield from _job(lab, run, job, expected)


def _job(lab: Lab, run: Path, job: str, expected: Expected) -> Iterator[str]:
    ledger = lab.ledger()
    attempts = sorted(run.glob(f"jobs/*.{job}-a*"))
    exits = [_read(folder / "exit.json") for folder in attempts]
    good = [(exit_ or {}).get("kind") == "ok" for exit_ in exits]
    if good.count(True) != 1 or not good[-1]:
        yield f"{job}: {good.count(True)} of {len(attempts)} attempts succeeded"
    for folder, is_good, exit_ in zip(attempts, good, exits, strict=True):
        times = ledger.count(("begin", folder.name)), ledger.count(("end", folder.name))
        if is_good and times != (1, 1):
            yield f"{_nameless(folder.name)} has succeeded, began {times[0]} and ended {times[1]} times"
        if exit_ is None and (folder / "claim").exists() and not _lost(folder):
            yield f"{_nameless(folder.name)} has a claim, no exit, and does not count as lost"
    if len(attempts) > 1 and expected.next_attempts is not None and job not in expected.next_attempts:
        yield f"{job} had {len(attempts)} attempts for no reason"


def _lost(folder: Path) -> bool:
    return bool((_read(folder / "missing.json") or {}).get("lost"))


def _results(lab: Lab) -> Iterator[str]:
    folder = lab.results / "G1" / "P1"
    cases = lab.rows("SELECT results_path, run_key FROM cases ORDER BY revision")
    found = sorted(path for path in folder.glob("*") if path.is_dir())
    if found != sorted(Path(path or ".") for path, _key in cases):
        yield f"the results are {[_nameless(path.name) for path in found]}"
        return
    latest = _read(folder / "latest.json") or {}
    if latest.get("run") != Path(cases[-1][0]).name or latest.get("complete") is not True:
        yield "latest.json does not name the newest results"
    for path, run_key in cases:
        provenance = _read(Path(path) / "provenance.json") or {}
        if provenance.get("run_key") != run_key or provenance.get("complete") is not True:
            yield "provenance.json does not tell of this run"
        for job, name in OUTPUTS.items():
            step, _, beam = job.partition(".b")
            output = Path(path, step, f"beam_{beam}" if beam else "", name)
            if not output.is_file() or output.read_text(encoding="utf-8") != f"result of {beam}\n":
                yield f"the results have no right {name} of {job}"


def _left_over(lab: Lab) -> Iterator[str]:
    for root, folders, files in os.walk(lab.root):
        if Path(root) == lab.root:
            folders.remove("cases")
        for name in [*folders, *files]:
            path = Path(root, name)
            is_left = LEFT_OVER.search(name) and not _of_a_dead_attempt(path)
            if is_left or path.parent == lab.work / "store" / "part":
                yield f"left over: {_nameless(path.relative_to(lab.root).as_posix())}"
        folders[:] = [name for name in folders if not LEFT_OVER.search(name)]


def _of_a_dead_attempt(path: Path) -> bool:
    """What a job that was killed had written so far stays for whoever looks for the cause, as it is."""
    exit_ = _read(path.parent / "exit.json")
    return path.name == "out.part" and (_lost(path.parent) if exit_ is None else exit_["kind"] != "ok")


def _nameless(path: str) -> str:
    return re.sub(r"[0-9a-f]{8,}", "X", path)


def _locks(lab: Lab) -> Iterator[str]:
    if lab.processes():
        yield f"{len(lab.processes())} processes still work"
    for path in [*lab.root.rglob("*.lock"), *lab.work.glob("runs/*/jobs/*/lock")]:
        with path.open("rb") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield f"held: {_nameless(path.relative_to(lab.root).as_posix())}"


def _read(path: Path) -> dict[str, Any] | None:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None
