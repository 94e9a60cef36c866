"""The dead-man check: what is said when nobody calls mqi, or when it gets nowhere."""

from __future__ import annotations

import json
from typing import Any

import pytest

from mqi.alarms import alarms
from mqi.rows import HostRow

NOW = 100_000.0
OK = (NOW - 30, NOW - 30, "")


def host(**changes: Any) -> HostRow:
    facts: dict[str, Any] = {
        "name": "gpu1", "work_id": "w", "seq": 1, "inventoried_at": 1.0, "last_attempt_at": NOW - 30,
        "last_answer_at": NOW - 30, "failures": 0, "next_try_at": None, "last_error": "", "probe": "{}", "clock_skew_s": 0.0,
    }  # fmt: skip
    return HostRow(**{**facts, **changes})


def say(steps: dict[str, Any] | None = None, *hosts: HostRow) -> list[str]:
    return alarms(steps or {}, hosts, rooms=["G1"], host_names={"gpu1"}, interval_s=60.0, now=NOW)


@pytest.mark.parametrize(
    ("facts", "words", "remark"),
    [
        (OK, None, "all is well"),
        ((NOW - 179, NOW - 179, ""), None, "three intervals are not over"),
        ((NOW - 181, NOW - 181, ""), "is the scheduler running", "nobody has called it since"),
        ((NOW - 10, NOW - 7200, "the disk is full"), "last succeeded 2 h 00 min ago: the disk is full", "it fails"),
        ((NOW - 10, None, "no host answers"), "never succeeded: no host answers", "it never worked"),
        ((NOW - 10, NOW - 7200, ""), "it was ended early", "killed each time before its end"),
    ],
)
def test_a_step(facts: tuple[float | None, float | None, str], words: str | None, remark: str) -> None:
    said = say({"sync": facts})
    assert (said == []) if words is None else (words in said[0]), remark


def test_a_watch_folder_out_of_reach_is_said_at_once_and_an_old_room_is_not() -> None:
    steps = {"watch G1": (NOW - 10, NOW - 600, "The share is gone."), "watch OLD": (NOW - 1e6, None, "gone")}
    assert say(steps) == ["room G1: The share is gone. (last seen 10 min ago)"]


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({}, None),
        ({"failures": 1, "last_error": "no route"}, None),
        ({"failures": 9, "last_answer_at": NOW - 3600, "last_error": "no route"}, "not answered for 1 h 00 min: no route"),
        ({"failures": 2, "last_answer_at": None, "last_error": "no route"}, "never answered: no route"),
        ({"probe": json.dumps({"queue": {"ok": False, "message": "pueued is down"}})}, "pueued is down"),
        ({"clock_skew_s": -3600.0}, "-3600 s"),
        ({"name": "removed", "failures": 9, "last_answer_at": 0.0}, None),
    ],
)
def test_a_host(row: dict[str, Any], words: str | None) -> None:
    said = say({}, host(**row))
    assert (said == []) if words is None else (words in said[0])
