"""Verdicts as tables: levels, what counts more, what is never a pass."""

from __future__ import annotations

import math

import pytest
from steplib.verdict import (
    CONDITIONAL,
    FAIL,
    NOT_COMPARABLE,
    PASS,
    WORDS,
    Levels,
    Verdict,
    of_case,
    of_gamma,
    of_uncertainty,
    worst,
)

import mqi.verdict as control_pc

LEVELS = Levels()


@pytest.mark.parametrize(
    ("percent", "points", "outside", "word", "says"),
    [
        (100.0, 1000, 0, PASS, "100.0 %"),
        (95.0, 1000, 0, PASS, "95.0 %"),
        (94.999, 1000, 0, CONDITIONAL, "94.9 % is below 95 %"),
        (90.0, 1000, 0, CONDITIONAL, "90.0 % is below 95 %"),
        (89.999, 1000, 0, FAIL, "89.9 % is below 90 %"),
        (0.0, 1000, 0, FAIL, "0.0 %"),
        (math.nan, 0, 0, NOT_COMPARABLE, "no point"),
        (math.nan, 5, 0, NOT_COMPARABLE, "no point"),
        (100.0, 1000, 10, PASS, "100.0 %"),
        (100.0, 1000, 11, NOT_COMPARABLE, "1.1 % of the dose lies outside"),
        (50.0, 1000, 500, NOT_COMPARABLE, "50.0 % of the dose lies outside"),
    ],
)
def test_gamma(percent: float, points: int, outside: int, word: str, says: str) -> None:
    found = of_gamma(percent, points, outside, LEVELS, criteria="3 %/2 mm global")
    assert found.word == word
    assert says in found.reason


@pytest.mark.parametrize(
    ("percent", "word"),
    [
        ({"planned": 1.0, "delivered": 3.0}, PASS),
        ({"planned": 1.0, "delivered": 3.01}, CONDITIONAL),
        ({"planned": None, "delivered": 1.0}, CONDITIONAL),
        ({"planned": math.nan, "delivered": 1.0}, CONDITIONAL),
        ({"planned": math.inf, "delivered": 1.0}, CONDITIONAL),
    ],
)
def test_uncertainty_is_never_better_than_conditional(percent: dict[str, float | None], word: str) -> None:
    assert of_uncertainty(percent, LEVELS).word == word


@pytest.mark.parametrize("one", WORDS)
@pytest.mark.parametrize("other", WORDS)
def test_the_worst_word_wins_in_any_order(one: str, other: str) -> None:
    expected = WORDS[max(WORDS.index(one), WORDS.index(other))]
    for pair in ([one, other], [other, one]):
        assert worst([Verdict(word, word) for word in pair]).word == expected
        assert of_case(list(enumerate(Verdict(word, "") for word in pair)), None).word == expected


def test_the_reason_names_all_that_are_as_bad() -> None:
    found = of_case([(2, Verdict(FAIL, "a")), (3, Verdict(PASS, "b")), (4, Verdict(FAIL, "c"))], None)
    assert found == Verdict(FAIL, "beam 2: a; beam 4: c")


def test_nothing_to_judge_is_no_pass() -> None:
    assert worst([]).word == of_case([], None).word == of_case([], Verdict(PASS, "x")).word == NOT_COMPARABLE


@pytest.mark.parametrize(
    ("beam", "planning", "case"),
    [
        (PASS, PASS, PASS),
        (PASS, CONDITIONAL, CONDITIONAL),
        (PASS, NOT_COMPARABLE, CONDITIONAL),
        (PASS, FAIL, FAIL),
        (CONDITIONAL, NOT_COMPARABLE, CONDITIONAL),
        (NOT_COMPARABLE, PASS, NOT_COMPARABLE),
        (FAIL, PASS, FAIL),
    ],
)
def test_the_planning_dose_makes_no_case_better(beam: str, planning: str, case: str) -> None:
    assert of_case([(2, Verdict(beam, "b"))], Verdict(planning, "p")).word == case


def test_both_sides_know_the_same_words() -> None:
    assert control_pc.WORDS == WORDS
