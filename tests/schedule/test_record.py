"""The order that is kept beside the configuration."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mqi.errors import ConfigurationProblem
from mqi.schedule.order import BACKENDS, LOGONS, Order
from mqi.schedule.record import read_order, record_path, write_order

ORDERS = st.builds(
    Order,
    backend=st.sampled_from(BACKENDS),
    every_s=st.integers(1, 86400),
    user=st.text(st.characters(exclude_categories=("Cs",)), max_size=20),
    logon=st.sampled_from(("", *LOGONS)),
    steps=st.booleans(),
    on_failure=st.text(st.characters(exclude_categories=("Cs",)), max_size=20),
)


@settings(deadline=None)  # it writes a file, and what else the machine does meanwhile is not its fault
@given(order=ORDERS)
def test_an_order_comes_back_as_it_was(tmp_path_factory: pytest.TempPathFactory, order: Order) -> None:
    path = tmp_path_factory.mktemp("record") / "mqi.schedule.json"
    write_order(path, order)
    assert read_order(path) == order


def test_none_was_given(tmp_path: Path) -> None:
    assert read_order(tmp_path / "mqi.schedule.json") is None


def test_each_configuration_has_its_own(tmp_path: Path) -> None:
    assert record_path(tmp_path / "mqi.yaml") == tmp_path / "mqi.schedule.json"
    assert record_path(tmp_path / "test.yaml") == tmp_path / "test.schedule.json"


GOOD = {"format": 1, **asdict(Order("cron", 60))}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        "{}",
        json.dumps({**GOOD, "format": 2}),
        json.dumps({**GOOD, "every_s": "60"}),
        json.dumps({**GOOD, "steps": 1}),
        json.dumps({**GOOD, "backend": "at"}),
        json.dumps({**GOOD, "logon": "x"}),
        json.dumps({**GOOD, "user": None}),
        json.dumps({name: value for name, value in GOOD.items() if name != "user"}),
    ],
)
def test_what_is_no_order(text: str, tmp_path: Path) -> None:
    path = tmp_path / "mqi.schedule.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigurationProblem, match="is not what") as caught:
        read_order(path)
    assert "delete it" in caught.value.hint
