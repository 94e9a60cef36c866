"""Durations and sizes, as people write them and back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mqi.units import parse_duration, parse_size, show_duration, show_size


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("30s", 30),
        ("5 min", 300),
        ("2h", 7200),
        ("14d", 14 * 86400),
        ("1h 30min", 5400),  # parts add up
        ("1h30min", 5400),  # without a space as well
        ("0.5 h", 1800),
        ("250ms", 0.25),
        ("2 weeks", 14 * 86400),
        ("1 day", 86400),
        ("0", 0),  # nothing needs no unit
        (" 10 s ", 10),
    ],
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "is not a duration"),
        ("30", "is not a duration"),  # seconds? minutes?
        ("5m", "`m` is not a unit"),  # minutes for some, months for others
        ("5 Min", "`Min` is not a unit"),
        ("-5s", "is not a duration"),
        ("1e3s", "`e` is not a unit"),
        ("5 s later", "is not a duration"),
        ("s", "is not a duration"),
        ("٣s", "is not a duration"),  # other digits
    ],
)
def test_what_is_no_duration(text: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        parse_duration(text)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("5 GiB", 5 * 2**30),
        ("500 MB", 500_000_000),
        ("1.5 KiB", 1536),
        ("10B", 10),
        ("0", 0),
    ],
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "5", "5 gib", "5 G", "-1 B", "GiB", "1 GiB 2 MiB"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(ValueError, match="is not a size"):
        parse_size(text)


@given(st.integers(min_value=0, max_value=10**12 - 1))
def test_a_shown_duration_reads_back(milliseconds: int) -> None:
    assert parse_duration(show_duration(milliseconds / 1000)) == pytest.approx(milliseconds / 1000)


@given(st.integers(min_value=0, max_value=10**12 - 1))
def test_a_shown_size_reads_back(size: int) -> None:
    assert parse_size(show_size(size)) == size


@given(st.text(max_size=40))
def test_no_text_crashes(text: str) -> None:
    for parse in (parse_duration, parse_size):
        try:
            parse(text)
        except ValueError as problem:
            assert str(problem)
