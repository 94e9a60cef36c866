"""A host in one word and one sentence, and how that looks in the tables."""

from __future__ import annotations

import json
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from mqi.alarms import NOTICED_S, alarms, notices
from mqi.errors import (
    AuthenticationProblem,
    ConfigurationProblem,
    DiskProblem,
    HostRefused,
    HostUnreachable,
    MqiError,
)
from mqi.host_state import host_state, trouble_of
from mqi.policy import resource_rows
from mqi.render_hosts import host_json, hosts_table, resource_json, resources_table
from mqi.rows import HostRow

NOW = 1_000_000.0
ZONE = ZoneInfo("Asia/Seoul")
GIB = 2**30


def host(**changes: Any) -> HostRow:
    facts: dict[str, Any] = {
        "name": "gpu1", "work_id": "w", "seq": 1, "inventoried_at": 1.0, "last_attempt_at": NOW - 30,
        "last_answer_at": NOW - 30, "failures": 0, "next_try_at": None, "last_error": "",
        "probe": json.dumps({"disk_free": 50 * GIB, "disk_total": 100 * GIB}), "clock_skew_s": 0.0,
    }  # fmt: skip
    return HostRow(**{**facts, **changes})


SILENT = {"failures": 3, "trouble": "silent", "last_error": "no answer", "next_try_at": NOW + 60}
STRUCK = {"strikes": 2, "strike_reason": "its uploads break off", "no_cases_until": NOW + 60}


@pytest.mark.parametrize(
    ("row", "word", "usable", "sentence"),
    [
        (None, "unknown", True, "it was never asked"),
        (host(last_answer_at=None), "unknown", True, "it was never asked"),
        (host(), "answers", True, ""),
        (host(**SILENT), "silent", False, "no answer (3 times in a row); next try at"),
        (host(failures=1, trouble="login", last_error="no key"), "login", False, "no key"),
        (host(**STRUCK), "resting", False, "its uploads break off (2 times in a row); no new cases; next try at"),
        (host(**{**STRUCK, "no_cases_until": NOW - 1}), "answers", True, ""),
        (host(probe=json.dumps({"disk_free": GIB})), "full", False, "only 1.0 GiB free on its work disk (limit: 5.0 GiB)"),
        (host(held=True, **SILENT), "held", False, "mqi host release gpu1"),
        (host(lost_at=NOW - 600), "lost", False, "declared lost 10 min ago"),
        (host(lost_at=NOW - 600, **SILENT), "lost", False, "declared lost 10 min ago: no answer"),
    ],
)
def test_how_a_host_stands(row: HostRow | None, word: str, usable: bool, sentence: str) -> None:
    state = host_state(row, 5 * GIB, NOW)
    assert (state.word, state.usable) == (word, usable)
    assert sentence in state.sentence(NOW, ZONE)
    assert bool(sentence) == bool(state.sentence(NOW, ZONE))


@pytest.mark.parametrize(
    ("error", "word"),
    [
        (HostUnreachable("x"), "silent"),
        (HostRefused("x", "protocol"), "refuses"),
        (AuthenticationProblem("x"), "login"),
        (ConfigurationProblem("x"), "configuration"),
        (DiskProblem("x"), "trouble"),
    ],
)
def test_what_kind_of_trouble(error: MqiError, word: str) -> None:
    assert trouble_of(error) == word


def say(*hosts: HostRow, **more: Any) -> list[str]:
    names = {row.name for row in hosts}
    return alarms({}, hosts, rooms=[], host_names=names, interval_s=60.0, now=NOW, min_free={"gpu1": 5 * GIB}, **more)


@pytest.mark.parametrize(
    ("row", "more", "words"),
    [
        (host(failures=1, trouble="refuses", last_error="no"), {}, "host gpu1 cannot be used: no"),
        (host(failures=9, trouble="silent", held=True, last_answer_at=None), {}, ""),
        (host(probe=json.dumps({"disk_free": GIB})), {}, "nothing is sent there until there is room"),
        (host(**STRUCK), {}, ""),
        (host(**{**STRUCK, "strikes": 3}), {}, "host gpu1 answers, but its uploads break off (3 times in a row)"),
        (host(inventoried_at=None, **SILENT), {}, "has not told which runs it holds: nothing new is submitted"),
        (host(inventoried_at=None, **SILENT), {"database_is_older": True}, "the database is older than the one used last"),
        (host(inventoried_at=None), {"database_is_older": True}, ""),
    ],
)
def test_what_a_person_should_look_at(row: HostRow, more: dict[str, Any], words: str) -> None:
    said = " | ".join(say(row, **more))
    assert words in said
    assert bool(words) == bool(said)


def test_a_restart_and_a_restored_database_are_explained_for_a_day() -> None:
    (restart,) = notices([host(restarted_at=NOW - 60), host(restarted_at=NOW - NOTICED_S - 1)], None, NOW, ZONE)
    assert "host gpu1 was restarted" in restart
    (restored,) = notices([host()], NOW - 60, NOW, ZONE)
    assert "nothing is computed twice" in restored
    (moved,) = notices([host()], None, NOW, ZONE, moved=("qa-pc1", NOW - 60))
    assert "was used on the computer qa-pc1 before" in moved
    assert notices([host()], NOW - NOTICED_S - 1, NOW, ZONE, moved=("qa-pc1", NOW - NOTICED_S - 1)) == []


CARDS = [
    {"uuid": "GPU-1", "use": "quarantined", "why": "it failed", "until": NOW + 3700, "memory_used_mb": 1, "memory_total_mb": 9,
     "utilisation": None, "temperature": 40.0},
    {"uuid": "GPU-2", "use": "foreign", "why": "1 process of somebody else", "memory_used_mb": 5, "memory_total_mb": None},
    {"uuid": "GPU-3", "use": "ours", "why": ""},
]  # fmt: skip


def rows_for(*uuids: str, **probe: Any) -> list[dict[str, Any]]:
    gpus = [{"uuid": uuid, "busy_job": "k" if uuid == "GPU-3" else None} for uuid in uuids]
    group = {"name": "gpu", "slots": 1, "takes_gpus": True, "gpus": gpus}
    told = {"gpus": CARDS, "queue": {"ok": True, "groups": [group]}, **probe}
    return [{"host": "gpu1", **row} for row in resource_rows(told, lambda key: 7, NOW, 100.0)]


def test_gpus_that_a_job_must_not_get_are_told_with_the_reason() -> None:
    rows = rows_for("GPU-1", "GPU-2", "GPU-3", "GPU-4")
    assert [(row["gpu"], row["status"], row["note"]) for row in rows] == [
        ("GPU-1", "quarantined", "left out, since it failed"),
        ("GPU-2", "busy", "1 process of somebody else"),
        ("GPU-3", "busy", ""),
        ("GPU-4", "unknown", "nvidia-smi does not show it"),
    ]
    assert rows[0]["until"] == NOW + 3600, "by our clock"
    text = resources_table(rows, NOW + 5, ZONE, wide=True)
    assert "left out, since it failed, until" in text
    assert "5/? MB" in text
    assert "5 s ago" in text
    json.dumps([resource_json(row, ZONE) for row in rows])
    assert "(to use it again: mqi host release gpu1 --gpu GPU-1)" in say(host(), resources=rows)[0]


def test_gpus_that_cannot_be_told_are_not_shown_as_available() -> None:
    (row,) = rows_for(gpus=[], gpu_problem="nvidia-smi hangs")
    assert (row["gpu"], row["status"], row["note"]) == ("gpu", "unknown", "nvidia-smi hangs")


def test_the_table_of_hosts() -> None:
    rows = [host(), host(name="gpu2", **SILENT), host(name="gpu3", clock_skew_s=-70.0)]
    text = hosts_table(rows, {}, NOW, ZONE, wide=True)
    assert "50.0 GiB of 100.0 GiB" in text
    assert "silent (3 tries)" in text
    assert "next try at" in text
    assert "-70 s" in text
    told = host_json(rows[1], 0, NOW, ZONE)
    assert (told["state"], told["usable"], told["failures"]) == ("silent", False, 3)
