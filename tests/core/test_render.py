"""What people and programs read."""

from __future__ import annotations

import json
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from mqi.case import State
from mqi.explain import explain
from mqi.render import case_json, clock, facts, full_reason, iso, one_line, span, status_table

SEOUL = ZoneInfo("Asia/Seoul")
NOW = 1_800_000_000.0


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "0 s"),
        (-5, "0 s"),
        (99, "99 s"),
        (100, "1 min"),
        (3599, "59 min"),
        (3600, "1 h 00 min"),
        (200_000, "2 d 7 h"),
    ],
)
def test_span(seconds: float, words: str) -> None:
    assert span(seconds) == words


def test_times_carry_the_offset_of_the_configured_zone() -> None:
    assert iso(NOW, SEOUL) == "2027-01-15T17:00:00+09:00"
    assert iso(None, SEOUL) is None
    assert clock(NOW, NOW, SEOUL) == "17:00:00"
    assert clock(NOW - 86400, NOW, SEOUL) == "2027-01-14 17:00"


def test_a_hostile_name_stays_on_one_line() -> None:
    assert one_line("a\nb\x1b[31m\u202ec") == "a\\nb\\x1b[31m\\u202ec"
    assert one_line("x" * 50, 10) == "x" * 9 + "…"


def test_a_name_that_looks_like_a_number_is_shown_as_it_is(a_case: Any) -> None:
    table = status_table([a_case(path="0071"), a_case(path="1e5", revision=2)], NOW, SEOUL)
    assert "0071" in table
    assert "1e5 r2" in table


def test_fractions_of_a_study_are_told_apart_in_the_table(a_case: Any) -> None:
    path = "P0000001/1.2.826.0.1.3680043.8.498.77123456789012345678901234567890"
    fractions = [a_case(path=path, fraction=f"20260305175500{day:02d}") for day in (1, 2)]
    table = status_table(fractions, NOW, SEOUL)
    assert "P0000001/1.2.826.0.1.3… 2026030517550001 " in table
    assert "2026030517550002" in table
    assert path in status_table(fractions, NOW, SEOUL, wide=True)


def test_a_partial_fraction_says_so_whatever_happens_to_it(a_case: Any) -> None:
    case = a_case(status=State.RUNNING, reason="on here", partial="partial: 2 of 3 beams (beam 4 was not delivered)")
    assert full_reason(case, NOW, SEOUL) == "on here; partial: 2 of 3 beams (beam 4 was not delivered)"


def test_a_case_that_needs_an_operator_is_marked(a_case: Any) -> None:
    assert "failed!" in status_table([a_case(status=State.FAILED)], NOW, SEOUL)
    assert "waiting!" in status_table([a_case(needs_operator=True)], NOW, SEOUL)


def test_the_reason_says_when_things_go_on(a_case: Any) -> None:
    waiting = a_case(reason="not still", next_look_at=NOW + 30)
    assert full_reason(waiting, NOW, SEOUL) == "not still; complete if it is still unchanged at 17:00:30"
    silent = a_case(status=State.SUBMITTING, reason="silent", next_try_at=NOW + 60, held=True)
    assert full_reason(silent, NOW, SEOUL) == "silent; next try at 17:01:00; held"


KEYS = {
    "case_id", "name", "room", "case_path", "state", "reason", "current_step", "progress", "revision", "fraction",
    "run_key", "host", "pueue_group", "priority", "held", "first_seen_at", "submitted_at", "completed_at",
    "results_path", "verdict", "jobs",
}  # fmt: skip


def test_json_has_the_keys_that_other_tools_rely_on(a_case: Any) -> None:
    value = case_json(a_case(), [], NOW, SEOUL)
    assert set(value) >= KEYS
    json.dumps(value)


@pytest.mark.parametrize("state", list(State))
def test_why_answers_every_question_in_every_state(state: State, a_case: Any) -> None:
    said = explain(a_case(status=state), [], None, {}, interval_s=60.0, now=NOW, zone=SEOUL)
    assert said.state
    assert said.why
    assert said.since
    assert said.next
    assert said.help or state is State.FETCHING


def test_why_names_a_scheduler_that_does_not_run(a_case: Any) -> None:
    steps = {"scan": (NOW - 600, NOW - 600, "")}
    said = explain(a_case(), [], None, steps, interval_s=60.0, now=NOW, zone=SEOUL)
    assert "look at the scheduler" in said.next


def test_facts_leave_out_what_is_empty() -> None:
    assert facts([("a", 1), ("long name", ""), ("b", None), ("cc", "x\ny")]) == "a   1\ncc  x\\ny"
