"""What must hold when everything is over, whatever was killed on the way. Each finding is a sentence."""

from __future__ import annotations

import fcntl
import json
import os
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.crash.lab import Lab

STEPS = {"prepare": "beams.json", "simulate.b2": "dose.txt", "simulate.b3": "dose.txt"}
LEFT_OVER = re.compile(r"~$|\.part$|^\.part|^\.purged\.|\.tmp$")


def wrong_with(lab: Lab, *, next_attempts: frozenset[str] | None = frozenset()) -> list[str]:
    """Everything that is not as it should be. `next_attempts`: the jobs that may have had a second attempt
    (None: any, since a job itself was killed)."""
    return [
        *_case(lab), *_executions(lab), *_attempts(lab, next_attempts), *_results(lab), *_left_over(lab), *_locks(lab)
    ]  # fmt: skip


def _case(lab: Lab) -> Iterator[str]:
    cases = lab.rows("SELECT case_id, status, reason, released_at FROM cases")
    if len(cases) != 1:
        yield f"{len(cases)} cases instead of one"
    for case_id, status, reason, released in cases:
        if status != "completed":
            yield f"case {case_id} is {status}: {reason}"
        elif released is None:
            yield "the host was not told that the results are safe"
    if lab.rows("PRAGMA integrity_check") != [("ok",)]:
        yield "the database is damaged"
    begun = lab.rows("SELECT count(*) FROM events WHERE event = 'begin'")
    if begun != [(1,)]:
        yield f"the history has {begun[0][0]} begins"


def _executions(lab: Lab) -> Iterator[str]:
    ledger = lab.ledger()
    for key, count in sorted(Counter(key for word, key in ledger if word == "begin").items()):
        if count > 1:
            yield f"{key} was executed {count} times"
    for position, (word, key) in enumerate(ledger):
        job, _, attempt = key.rpartition("-a")
        later = f"{job}-a{int(attempt) + 1}"
        if word == "end" and ("begin", later) in ledger[:position]:
            yield f"{later} began while {key} still ran"


def _attempts(lab: Lab, next_attempts: frozenset[str] | None) -> Iterator[str]:
    ledger = lab.ledger()
    found = sorted((lab.work / "runs").glob("*/jobs/*"))
    for job in STEPS:
        attempts = [folder for folder in found if folder.name.partition(".")[2].startswith(f"{job}-a")]
        names = [folder.name.partition(".")[2] for folder in attempts]
        exits = {name: _read(folder / "exit.json") for name, folder in zip(names, attempts, strict=True)}
        good = [name for name, exit_ in exits.items() if (exit_ or {}).get("kind") == "ok"]
        if len(good) != 1 or good != names[-1:]:
            yield f"of {names} of {job} succeeded {good}"
        for name in good:
            if ledger.count(("begin", name)) != 1 or ledger.count(("end", name)) != 1:
                yield f"{name} has succeeded and was executed {ledger.count(('begin', name))} times"
        if len(names) > 1 and next_attempts is not None and job not in next_attempts:
            yield f"{job} had {len(names)} attempts for no reason"
        for name, folder in zip(names[:-1], attempts, strict=False):
            if (folder / "claim").exists() and exits[name] is None and not _lost(folder):
                yield f"{name} has a claim, no exit, and does not count as lost"


def _lost(folder: Path) -> bool:
    return bool((_read(folder / "missing.json") or {}).get("lost"))


def _results(lab: Lab) -> Iterator[str]:
    folder = lab.results / "G1" / "P1"
    runs = [path for path in folder.iterdir() if path.is_dir()] if folder.is_dir() else []
    latest = _read(folder / "latest.json") or {}
    if len(runs) != 1 or latest.get("run") != runs[0].name or latest.get("complete") is not True:
        yield f"results {[path.name for path in runs]}, latest {latest.get('run')}"
        return
    provenance = _read(runs[0] / "provenance.json") or {}
    if provenance.get("complete") is not True or len(provenance.get("outputs", ())) != len(STEPS):
        yield "provenance.json does not tell of all outputs"
    for job, name in STEPS.items():
        step, _, beam = job.partition(".b")
        path = runs[0] / step / (f"beam_{beam}" if beam else "") / name
        if not path.is_file() or path.read_text(encoding="utf-8") != f"result of {beam}\n":
            yield f"the results have no right {path.relative_to(runs[0])}"


def _left_over(lab: Lab) -> Iterator[str]:
    for root, folders, files in os.walk(lab.root):
        if Path(root) == lab.root:
            folders.remove("cases")
        for name in [*folders, *files]:
            path = Path(root, name)
            if (LEFT_OVER.search(name) and not _of_a_dead_attempt(path)) or (
                path.parent == lab.work / "store" / "part"
            ):
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
                yield f"held: {path.relative_to(lab.root)}"


def _read(path: Path) -> dict[str, Any] | None:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None
