"""What to submit where, when to ask again, what a host's facts mean."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mqi.case import State
from mqi.policy import HostView, backoff_s, choose_submissions, resource_rows

NOW = 1000.0


@given(st.integers(0, 10_000), st.floats(0.1, 100), st.floats(100, 10_000))
def test_backoff_grows_to_its_maximum_and_never_shrinks(failures: int, first: float, most: float) -> None:
    assert first <= backoff_s(failures, first, most) <= most
    assert backoff_s(failures, first, most) <= backoff_s(failures + 1, first, most)


def choose(cases: list[Any], *hosts: HostView) -> list[tuple[int, str]]:
    return [(place.case.case_id, place.host) for place in choose_submissions(cases, hosts, NOW)]


def test_urgent_first_then_the_longest_ready(a_case: Any) -> None:
    cases = [
        a_case(case_id=1, status=State.NEW, ready_at=3.0),
        a_case(case_id=2, status=State.NEW, ready_at=1.0),
        a_case(case_id=3, status=State.NEW, ready_at=9.0, priority=5),
    ]
    assert choose(cases, HostView("a", 2)) == [(3, "a"), (2, "a"), (1, "")]


def test_the_host_with_most_room(a_case: Any) -> None:
    cases = [a_case(case_id=n, status=State.NEW, ready_at=float(n)) for n in range(1, 5)]
    assert choose(cases, HostView("a", 1), HostView("b", 3)) == [(1, "b"), (2, "b"), (3, "a"), (4, "b")]


@pytest.mark.parametrize(
    ("row", "hosts", "words"),
    [
        ({"held": True}, [HostView("a", 1)], "held"),
        ({"next_try_at": NOW + 1, "reason": "the disk is full"}, [HostView("a", 1)], "the disk is full"),
        ({}, [HostView("a", 0)], "as many cases"),
        ({}, [HostView("a", 1, "silent")], "host a: silent"),
        ({}, [], "no host"),
        ({"host": "gone"}, [HostView("a", 1)], "not in the configuration"),
        ({"host": "b"}, [HostView("a", 1), HostView("b", 0)], "host b has as many"),
    ],
)
def test_why_a_case_is_not_sent(row: dict[str, Any], hosts: list[HostView], words: str, a_case: Any) -> None:
    (place,) = choose_submissions([a_case(status=State.NEW, **row)], hosts, NOW)
    assert place.host == ""
    assert words in place.reason


def probe(**queue: Any) -> dict[str, Any]:
    group = {
        "name": "gpu",
        "slots": 2,
        "running": 1,
        "queued": 3,
        "gpus": [{"uuid": "GPU-1", "busy_job": "0123456789ab.x-a1"}, {"uuid": "GPU-2", "busy_job": None}],
    }
    cards = [
        {
            "uuid": "GPU-2",
            "name": "RTX",
            "memory_used_mb": 10,
            "memory_total_mb": 100,
            "utilisation": 5,
            "temperature": 40,
            "processes": 0,
        }
    ]
    return {
        "queue": {
            "ok": True,
            "groups": [group, {"name": "cpu", "slots": 2, "running": 2, "queued": 0, "gpus": []}],
            **queue,
        },
        "gpus": cards,
    }


def test_one_row_per_group_and_gpu() -> None:
    rows = resource_rows(probe(), lambda key: 7, NOW)
    assert [(r["pueue_group"], r["gpu"], r["status"], r["assigned_case_id"]) for r in rows] == [
        ("gpu", "GPU-1", "busy", 7),
        ("gpu", "GPU-2", "available", None),
        ("cpu", "cpu", "busy", None),
    ]


def test_a_queue_that_does_not_answer_makes_its_gpus_unknown() -> None:
    assert {row["status"] for row in resource_rows(probe(ok=False), lambda key: None, NOW)} == {"unknown"}


def test_a_gpu_in_use_by_somebody_else_is_busy() -> None:
    facts = probe()
    facts["gpus"][0]["processes"] = 1
    assert resource_rows(facts, lambda key: None, NOW)[1]["status"] == "busy"


def test_a_probe_without_anything_gives_no_rows() -> None:
    assert resource_rows({}, lambda key: None, NOW) == []
