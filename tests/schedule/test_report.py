"""What `show` says, and what stands where."""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from mqi.schedule.items import (
    AS_EXPECTED,
    DIFFERS,
    FOREIGN,
    LEFT_OVER,
    MISSING,
    OTHERS,
    Held,
    Item,
    Outcome,
    Standing,
    compare,
)
from mqi.schedule.order import Order
from mqi.schedule.report import Shown, as_json, as_text, beats

SEOUL = ZoneInfo("Asia/Seoul")
NOW = 1_800_000_000.0
ITEM = Item("cycle", "mqi-cycle.timer", "text", "mqi-cycle.timer", b"text")


def held(text: str = "text", owner: str | None = "/a.yaml", name: str = ITEM.name) -> Held:
    return Held("cycle", name, text, owner)


@pytest.mark.parametrize(
    ("there", "states"),
    [
        ([], [MISSING]),
        ([held()], [AS_EXPECTED]),
        ([held("other")], [DIFFERS]),
        ([held(owner=None)], [FOREIGN]),
        ([held(owner="/b.yaml")], [OTHERS]),
        # From an earlier order; of others only what is in the way matters.
        ([held(), held(name="mqi-scan.timer")], [AS_EXPECTED, LEFT_OVER]),
        ([held(), held(name="mqi-scan.timer", owner="/b.yaml")], [AS_EXPECTED]),
        ([held(), held(name="mqi-scan.timer", owner=None)], [AS_EXPECTED]),
    ],
)
def test_standings(there: list[Held], states: list[str]) -> None:
    def differences(item: Item, found: Held) -> tuple[str, ...]:
        return () if item.text == found.text else ("it differs",)

    standings = compare([ITEM], there, "/a.yaml", differences)
    assert [one.state for one in standings] == states


GOOD = Shown(
    order=Order("systemd", 60, "mqi"),
    given=True,
    program="/opt/mqi/bin/python",
    config="/etc/mqi/mqi.yaml",
    standings=(Standing("cycle", "mqi-cycle.service", AS_EXPECTED), Standing("cycle", "mqi-cycle.timer", AS_EXPECTED)),
    outcomes=(Outcome("cycle", last_at=NOW - 20, next_at=NOW + 40, code=0, meaning="0: done, or nothing to do"),),
    beats=beats(dict.fromkeys(("scan", "submit", "sync", "fetch"), (NOW - 20, NOW - 20, "")), 60, NOW),
)


def test_all_is_well() -> None:
    text = as_text(GOOD, NOW, SEOUL)
    assert text == (
        "scheduler  systemd\n"
        "runs       cycle, every 1 min\n"
        "as         mqi\n"
        "with       /opt/mqi/bin/python  /etc/mqi/mqi.yaml\n"
        "\n"
        "  mqi-cycle.service: as expected\n"
        "  mqi-cycle.timer: as expected\n"
        "\n"
        "  cycle: last run 16:59:40, 0: done, or nothing to do, next 17:00:40\n"
        "\n"
        "  scan: last succeeded 20 s ago\n"
        "  submit: last succeeded 20 s ago\n"
        "  sync: last succeeded 20 s ago\n"
        "  fetch: last succeeded 20 s ago"
    )
    value = as_json(GOOD, NOW, SEOUL)
    assert value["as_expected"] is True
    assert value["installed"] is True
    assert value["runs"][0]["last_at"] == "2027-01-15T16:59:40+09:00"
    assert value["heartbeat"][0] == {
        "name": "scan",
        "last_attempt_at": "2027-01-15T16:59:40+09:00",
        "last_success_at": "2027-01-15T16:59:40+09:00",
        "last_error": None,
        "late": False,
    }


@pytest.mark.parametrize(
    ("changes", "line", "fine"),
    [
        ({"standings": ()}, "nothing runs mqi by itself: say mqi schedule install", False),
        ({"standings": (Standing("cycle", "x", MISSING),)}, "! x: not installed", False),
        ({"standings": (Standing("cycle", "x", DIFFERS, ("a is b",)),)}, "    a is b", False),
        ({"standings": (Standing("cycle", "x", DIFFERS),)}, "to make it as expected: mqi schedule install", False),
        ({"outcomes": (Outcome("cycle", running=True),)}, "  cycle: runs now", True),
        ({"outcomes": (Outcome("cycle"),)}, "  cycle: no run is known", True),
        ({"outcomes": (Outcome("cycle", code=75, meaning="75: temporary"),)}, "  cycle: no run is known, 75: temporary", True),
        ({"outcomes": (Outcome("cycle", code=78, meaning="78: x"),)}, "! cycle: no run is known, 78: x", True),
        ({"outcomes": (Outcome("cycle", code=78, meaning="78: x"),)}, "    mqi config check says what is wrong", True),
        ({"outcomes": (Outcome("cycle", trouble=("switched off",)),)}, "    switched off", False),
        ({"outcomes": (Outcome("cycle", trouble=("off",)),)}, "what would mend it stands beside the ! below", False),
        ({"problems": ("systemctl cannot be run",)}, "! systemctl cannot be run", True),
        ({"given": False}, "(no `mqi schedule install` was said for this configuration; this is what it would do)", True),
        ({"order": replace(GOOD.order, user="HOSP\\svc", logon="gmsa")}, "as         HOSP\\svc (gmsa)", True),  # type: ignore[type-var]
        ({"order": None, "standings": ()}, "nothing runs mqi by itself: say mqi schedule install", False),
    ],
)
def test_what_is_not_well_stands_out(changes: dict[str, Any], line: str, fine: bool) -> None:
    shown = replace(GOOD, **changes)
    assert line in as_text(shown, NOW, SEOUL).splitlines() or any(
        one.startswith(line) for one in as_text(shown, NOW, SEOUL).splitlines()
    )
    assert shown.as_expected is fine
    assert as_json(shown, NOW, SEOUL)["as_expected"] is fine


@pytest.mark.parametrize(
    ("facts", "line"),
    [
        ((None, None, ""), "! scan: never succeeded, never tried"),
        ((NOW - 10, None, "disk full"), "! scan: never succeeded, last tried 10 s ago: disk full"),
        ((NOW - 10, NOW - 400, "silent"), "! scan: last succeeded 6 min ago, last tried 10 s ago: silent"),
        ((NOW - 10, NOW - 100, ""), "  scan: last succeeded 1 min ago, last tried 10 s ago"),
        ((NOW - 400, NOW - 400, ""), "! scan: last succeeded 6 min ago"),  # the scheduler is off
        ((NOW - 180, NOW - 180, ""), "  scan: last succeeded 3 min ago"),
        ((NOW - 10, None, "a\nb\x1b[31m"), "! scan: never succeeded, last tried 10 s ago: a\\nb\\x1b[31m"),
    ],
)
def test_signs_of_life(facts: tuple[float | None, float | None, str], line: str) -> None:
    shown = replace(GOOD, beats=beats({"scan": facts}, 60, NOW))
    assert line in as_text(shown, NOW, SEOUL).splitlines()
