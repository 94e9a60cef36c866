"""What Pueue 3.x and 4.x say, read by one reader."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from agent.queues.pueue import told_apart
from agent.queues.pueue_daemon import pid_file
from agent.queues.pueue_words import NotPueue, PueueGroup, PueueTask, parse_added, parse_groups, parse_status
from hypothesis import given, settings
from hypothesis import strategies as st

AT = "2026-11-28T06:30:24.364720488Z"


def said(status: Any, **changes: Any) -> str:
    task = {
        "id": 7, "created_at": AT, "original_command": "true", "command": "true", "path": "/w", "envs": {},
        "group": "mqi-cpu", "dependencies": [], "priority": 3, "label": "key", "status": status, **changes,
    }  # fmt: skip
    groups = {"default": {"status": "Running", "parallel_tasks": 1}, "mqi-cpu": {"status": "Paused", "parallel_tasks": 2}}
    return json.dumps({"tasks": {"7": task}, "groups": groups})


TIMES = {"enqueued_at": AT, "start": AT}
STATES: list[tuple[Any, str, str]] = [
    # 3.x
    ("Locked", "waiting", ""),
    ("Queued", "waiting", ""),
    ("Running", "running", ""),
    ("Paused", "paused", ""),
    ({"Done": "Success"}, "ended", "Success"),
    ({"Done": {"Failed": 3}}, "ended", "Failed 3"),
    ({"Done": {"FailedToSpawn": "no such folder"}}, "ended", "FailedToSpawn no such folder"),
    ({"Done": "Killed"}, "ended", "Killed"),
    # both
    ({"Stashed": {"enqueue_at": None}}, "stashed", ""),
    # 4.x
    ({"Locked": {"previous_status": {"Queued": {"enqueued_at": AT}}}}, "waiting", ""),
    ({"Queued": {"enqueued_at": AT}}, "waiting", ""),
    ({"Running": TIMES}, "running", ""),
    ({"Paused": TIMES}, "paused", ""),
    ({"Done": {**TIMES, "end": AT, "result": "Success"}}, "ended", "Success"),
    ({"Done": {**TIMES, "end": AT, "result": {"Failed": 137}}}, "ended", "Failed 137"),
    ({"Done": {**TIMES, "end": AT, "result": "DependencyFailed"}}, "ended", "DependencyFailed"),
]


@pytest.mark.parametrize(("status", "state", "result"), STATES)
def test_states(status: Any, state: str, result: str) -> None:
    tasks, groups = parse_status(said(status))
    assert tasks == [PueueTask(7, "key", "mqi-cpu", "/w", 3, state, result)]
    assert groups == {"default": PueueGroup(False, 1), "mqi-cpu": PueueGroup(True, 2)}


def test_a_warning_before_the_json_and_fields_of_old_versions() -> None:
    warning = "Different daemon version detected '3.3.0'. Consider restarting the daemon.\n"
    tasks, _ = parse_status(warning + said("Queued", label=None))
    assert (tasks[0].label, tasks[0].priority) == ("", 3)
    raw = json.loads(said("Queued"))
    del raw["tasks"]["7"]["priority"]
    assert parse_status(json.dumps(raw))[0][0].priority == 0
    assert parse_groups('{"a": {"status": "Reset", "parallel_tasks": 0}}') == {"a": PueueGroup(True, 0)}


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", '{"tasks": [], "groups": {}}', said("Sleeping"), said({}), said(None), said(7)]
)
def test_other_words_are_not_understood(text: str) -> None:
    with pytest.raises(NotPueue):
        parse_status(text)


@settings(max_examples=50, deadline=None)
@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), lambda part: st.lists(part) | st.dictionaries(st.sampled_from(["tasks", "groups", "status", "Done", "id"]), part)))
def test_any_json_is_understood_or_refused(value: Any) -> None:
    for parse in (parse_status, parse_groups):
        try:
            parse(json.dumps(value))
        except NotPueue:
            pass


@settings(max_examples=30, deadline=None)
@given(st.text())
def test_any_text_is_refused(text: str) -> None:
    try:
        parse_status(text)
    except NotPueue:
        pass


@pytest.mark.parametrize(("text", "task_id"), [("7\n", 7), ("Different daemon version …\n12\n", 12)])
def test_ids(text: str, task_id: int) -> None:
    assert parse_added(text) == task_id


@pytest.mark.parametrize("text", ["", "\n", "New task added (id 7).", "-3", "٣"])
def test_no_ids(text: str) -> None:
    with pytest.raises(NotPueue):
        parse_added(text)


def test_copies_are_told_apart() -> None:
    def task(task_id: int, label: str, state: str) -> PueueTask:
        return PueueTask(task_id, label, "g", "/w", 0, state, "")

    states = [(3, "a", "waiting"), (5, "a", "running"), (6, "b", "waiting"), (4, "b", "waiting"), (8, "c", "running"), (9, "c", "paused")]
    kept, surplus = told_apart([task(*one) for one in states])
    assert sorted(one.id for one in kept) == [4, 5, 8]
    assert sorted(surplus) == [3, 6]  # what has started is nobody's to remove


@pytest.mark.parametrize(
    ("text", "environment", "place"),
    [
        ("shared:\n  pid_path: /p/x.pid\n  runtime_directory: /r\n", {}, "/p/x.pid"),
        ("shared:\n  pid_path: null\n  runtime_directory: '/r'\n", {"XDG_RUNTIME_DIR": "/x"}, "/r/pueue.pid"),
        ("shared:\n  runtime_directory: ~/run\n", {}, "/h/run/pueue.pid"),
        ("shared: {}\n", {"XDG_RUNTIME_DIR": "/x"}, "/x/pueue.pid"),
        ("shared:\n  pueue_directory: /d\n", {}, "/d/pueue.pid"),
        ("", {}, "/h/.local/share/pueue/pueue.pid"),
        ("", {"XDG_DATA_HOME": "/data"}, "/data/pueue/pueue.pid"),
    ],
)
def test_where_the_daemon_leaves_its_id(tmp_path: Path, text: str, environment: dict[str, str], place: str) -> None:
    config = tmp_path / "pueue.yml"
    config.write_text(text)
    assert pid_file(str(config), {"HOME": "/h", **environment}).as_posix() == place
