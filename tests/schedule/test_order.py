"""What options mean together."""

from __future__ import annotations

from typing import Any

import pytest

from mqi.errors import ConfigurationProblem, UsageProblem
from mqi.schedule.order import Computer, Order, check_printable, complete_order, notes, parse_every

WINDOWS = Computer(True, False, "PC\\physicist", ("schtasks",))
ROOT = Computer(False, True, "root", ("systemd", "cron"))
USER = Computer(False, False, "kim", ("systemd", "systemd-user", "cron"))
OLD = Computer(False, False, "kim", ("cron",))
EMPTY = Computer(False, False, "kim", ())


def order(computer: Computer, **options: Any) -> Order:
    return complete_order(
        computer,
        **{
            "backend": "auto", "every": None, "interval_s": 60.0, "user": "", "logon": None, "steps": False,
            "on_failure": "", **options,
        },
    )  # fmt: skip


@pytest.mark.parametrize(
    ("computer", "options", "expected"),
    [
        # Windows: the account of whoever installs, until another is named.
        (WINDOWS, {}, Order("schtasks", 60, "PC\\physicist", "password")),
        (WINDOWS, {"user": "HOSP\\mqi$"}, Order("schtasks", 60, "HOSP\\mqi$", "gmsa")),
        (WINDOWS, {"user": "HOSP\\svc", "logon": "s4u"}, Order("schtasks", 60, "HOSP\\svc", "s4u")),
        (WINDOWS, {"logon": "interactive", "steps": True}, Order("schtasks", 60, "PC\\physicist", "interactive", True)),
        (WINDOWS, {"every": "1d"}, Order("schtasks", 86400, "PC\\physicist", "password")),
        # Linux: the best that is there.
        (ROOT, {"user": "mqi"}, Order("systemd", 60, "mqi")),
        (USER, {}, Order("systemd-user", 60)),
        (OLD, {"every": "5 min"}, Order("cron", 300)),
        (USER, {"backend": "systemd", "user": "kim"}, Order("systemd", 60, "kim")),  # their own account, by name
        (ROOT, {"backend": "cron", "user": "mqi"}, Order("cron", 60, "mqi")),
        (ROOT, {"backend": "cron", "user": ""}, Order("cron", 60)),
        (USER, {"backend": "cron", "user": "kim"}, Order("cron", 60)),  # one's own crontab needs no -u
        (USER, {"backend": "systemd-user", "user": "kim", "every": "90s"}, Order("systemd-user", 90)),
        (ROOT, {"user": "mqi", "on_failure": "mail@%n.service"}, Order("systemd", 60, "mqi", on_failure="mail@%n.service")),
    ],
)
def test_orders(computer: Computer, options: dict[str, Any], expected: Order) -> None:
    assert order(computer, **options) == expected


@pytest.mark.parametrize(
    ("computer", "options", "words"),
    [
        (EMPTY, {}, "no scheduler"),
        (USER, {"backend": "at"}, "not a scheduler"),
        (ROOT, {}, "needs an account"),
        (ROOT, {"user": "root"}, "needs no rights of an administrator"),
        (WINDOWS, {"user": "NT AUTHORITY\\SYSTEM"}, "needs no rights of an administrator"),
        (WINDOWS, {"logon": "kerberos"}, "not a way to log on"),
        (WINDOWS, {"user": "HOSP\\svc", "logon": "gmsa"}, "ends with $"),
        (WINDOWS, {"user": "HOSP\\mqi$", "logon": "password"}, "managed service account"),
        (USER, {"logon": "s4u"}, "belongs to Windows"),
        (USER, {"backend": "systemd-user", "user": "lee"}, "installed by that user"),
        (ROOT, {"user": "a b"}, "cannot be the name of an account"),
        (ROOT, {"user": "mqi\nUser=root"}, "cannot be printed"),
        (WINDOWS, {"user": "a\x1bb"}, "cannot be printed"),
        (WINDOWS, {"every": "30s"}, "every 1 min to 1d"),
        (WINDOWS, {"every": "90s"}, "whole minutes"),
        (WINDOWS, {"every": "2d"}, "every 1 min to 1d"),
        (WINDOWS, {"every": "soon"}, "not a duration"),
        (WINDOWS, {"interval_s": 30.0}, "`timing: interval:` in the configuration says 30s"),
        (USER, {"every": "5s"}, "every 10s to 1d"),
        (USER, {"every": "1500ms"}, "every 10s to 1d"),
        (USER, {"every": "10500ms"}, "can run mqi every"),
        (OLD, {"every": "7m"}, "cannot repeat evenly"),
        (OLD, {"every": "30s"}, "every 1 min to 1d"),
        (OLD, {"on_failure": "a.service"}, "unit of systemd"),
        (USER, {"on_failure": "a b"}, "is not a unit"),
        (USER, {"on_failure": "a.service\nUser=root"}, "is not a unit"),
    ],
)
def test_what_does_not_go_together(computer: Computer, options: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageProblem, match=words.replace("$", "\\$").replace("(", "\\(")) as caught:
        order(computer, **options)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("1m", 60), ("5 m", 300), ("1h 30m", 5400), ("10min", 600), ("2 minutes", 120), ("90s", 90), ("500ms", 0.5)],
)
def test_here_a_bare_m_means_minutes(text: str, seconds: float) -> None:
    assert parse_every(text) == seconds


def test_notes_say_what_would_surprise() -> None:
    far = order(WINDOWS, logon="s4u", every="5m")
    lines = notes(far, WINDOWS, 60.0, ["C:\\a", "\\\\nas\\cases"])
    assert any("set it to 5 min" in line for line in lines)
    assert any("no network share: \\\\nas\\cases" in line for line in lines)
    assert any("Log on as a batch job" in line for line in lines)
    assert any("logged on" in line for line in notes(order(WINDOWS, logon="interactive"), WINDOWS, 60.0, []))
    assert any("runs as root" in line for line in notes(order(ROOT, backend="cron"), ROOT, 60.0, []))
    assert any("linger" in line for line in notes(order(USER), USER, 60.0, []))
    assert notes(order(ROOT, user="mqi"), ROOT, 60.0, ["/a"]) == []


@pytest.mark.parametrize("path", ["/a\nb", "/a\tb", "C:\\a\x7f", "/a\udcff"])
def test_no_scheduler_can_be_told_a_control_character(path: str) -> None:
    with pytest.raises(ConfigurationProblem, match="control character"):
        check_printable("/fine 한글", path)
