"""What Pueue says: the JSON of `pueue status` and `pueue group`, of 3.x and 4.x.

The versions are told apart by the shape of each task's `status` (Pueue's pueue-lib, `state.rs` and `task.rs`):

    3.x  "Queued"                              {"Done": "Success"}   {"Done": {"Failed": 3}}
    4.x  {"Queued": {"enqueued_at": …}}        {"Done": {"result": "Success", …}}
"""

from __future__ import annotations

import json
from typing import Any, Dict, List, NamedTuple, Tuple

_WAITING = ("Queued", "Stashed", "Locked")
_STARTED = ("Running", "Paused")


class PueueTask(NamedTuple):
    """A task. `state`: waiting, stashed, running, paused or ended; `result` of an ended one, such as
    "Success" or "Failed 3"."""

    id: int
    label: str
    group: str
    path: str
    priority: int
    state: str
    result: str


class PueueGroup(NamedTuple):
    """A group: `parallel` tasks at once (0: any number)."""

    paused: bool
    parallel: int


class NotPueue(ValueError):
    """The words are not those of a Pueue that is known here."""


def parse_status(text: str) -> Tuple[List[PueueTask], Dict[str, PueueGroup]]:
    """Tasks in the order of their ids, and groups. Raises NotPueue."""
    state = _object(text)
    try:
        tasks = [_task(raw) for raw in state["tasks"].values()]
        return sorted(tasks, key=lambda task: task.id), _groups(state["groups"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise NotPueue("%s: %s" % (type(error).__name__, error)) from error


def parse_groups(text: str) -> Dict[str, PueueGroup]:
    """The answer to `pueue group --json`. Raises NotPueue."""
    try:
        return _groups(_object(text))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise NotPueue("%s: %s" % (type(error).__name__, error)) from error


def parse_added(text: str) -> int:
    """The id that `pueue add --print-task-id` printed: its last line, since 3.x may print a warning first.
    Raises NotPueue."""
    lines = text.split()
    if not lines or not lines[-1].isascii() or not lines[-1].isdigit():
        raise NotPueue("no id")
    return int(lines[-1])


def _object(text: str) -> Dict[str, Any]:
    # A client of 3.x may say on stdout, before its JSON, that the daemon has another version.
    start = text.find("{")
    try:
        value = json.loads(text[start:]) if start >= 0 else None
    except (ValueError, RecursionError) as error:
        raise NotPueue(str(error)) from error
    if not isinstance(value, dict):
        raise NotPueue("no object")
    return value


def _groups(raw: Dict[str, Any]) -> Dict[str, PueueGroup]:
    # "Reset" (4.x) lasts for a moment and starts nothing.
    return {
        str(name): PueueGroup(group["status"] != "Running", int(group["parallel_tasks"]))
        for name, group in raw.items()
    }


def _task(raw: Dict[str, Any]) -> PueueTask:
    state, result = _state(raw["status"])
    return PueueTask(
        id=int(raw["id"]),
        label=str(raw["label"] or ""),
        group=str(raw["group"]),
        path=str(raw["path"]),
        # 3.0 and 3.1 have none.
        priority=int(raw.get("priority") or 0),
        state=state,
        result=result,
    )


def _state(status: Any) -> Tuple[str, str]:
    word, details = (status, None) if isinstance(status, str) else _only(status)
    if word in _WAITING:
        return "stashed" if word == "Stashed" else "waiting", ""
    if word in _STARTED:
        return word.lower(), ""
    if word == "Done":
        return "ended", _result(details)
    raise NotPueue("a task is %r" % (word,))


def _result(details: Any) -> str:
    # 4.x wraps it: {"result": …, "end": …, …}.
    raw = details["result"] if isinstance(details, dict) and "result" in details else details
    if isinstance(raw, str):
        return raw
    return "%s %s" % _only(raw)


def _only(table: Any) -> Tuple[Any, Any]:
    """Rust's enums with a value are tables of one entry."""
    ((word, value),) = table.items()
    return word, value
