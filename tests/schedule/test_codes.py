"""What numbers mean, to people who have seen no table."""

from __future__ import annotations

import re

import pytest

from mqi import cli, errors
from mqi.schedule import codes


def exit_codes() -> set[int]:
    """Every exit code of the exception tree."""
    found: set[int] = set()
    pending = [errors.MqiError]
    while pending:
        kind = pending.pop()
        found.add(kind.exit_code)
        pending += kind.__subclasses__()
    return found


def test_every_code_of_mqi_has_a_meaning() -> None:
    assert exit_codes() <= codes.MEANINGS.keys()


def test_the_help_knows_the_same_codes() -> None:
    epilog = cli.app.info.epilog
    assert isinstance(epilog, str)
    for code, meaning in codes.MEANINGS.items():
        if code > 128:
            assert str(code) in epilog
        else:
            assert f"{code} {re.split('[,:]', meaning)[0]}" in epilog


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (0, "0: done"),
        (75, "75: temporary"),
        (78, "78: configuration"),
        (0x41301, "0x41301: running now"),
        (0x41303, "0x41303: has not run yet"),
        (0x41306, "0x41306: ended by a person"),
        (0x8004131F, "0x8004131F: it is running already"),
        (0x8007010B, "0x8007010B: the working directory"),
        (0x8007052E, "0x8007052E: the user name or the password"),
        (0x80070569, "Log on as a batch job"),
        (0xC000013A, "stopped by Ctrl-C"),
        (0xDEADBEEF, "0xDEADBEEF: look this code up"),
        (3, "0x3: look this code up"),
    ],
)
def test_task_scheduler(code: int, words: str) -> None:
    assert words in codes.of_windows(code)


@pytest.mark.parametrize(
    ("result", "ended_by", "status", "words"),
    [
        ("success", "exited", 0, "0: done, or nothing to do"),
        ("success", "exited", 75, "75: temporary"),
        ("exit-code", "exited", 78, "78: configuration"),
        ("exit-code", "exited", 203, "203: the program cannot be run"),
        ("exit-code", "exited", 200, "200: the folder of the configuration"),
        ("exit-code", "exited", 217, "user namespaces are not allowed"),
        ("exit-code", "exited", 226, "226: a path of the unit"),
        ("exit-code", "exited", 99, "99: not an exit code of mqi"),
        ("timeout", "exited", 143, "143: stopped by SIGTERM; it took too long"),
        ("timeout", "killed", 9, "it took too long and was ended (signal 9)"),
        ("signal", "killed", 9, "it was killed (signal 9)"),
        ("core-dump", "killed", 11, "it crashed (signal 11)"),
        ("oom-kill", "killed", 9, "want of memory (signal 9)"),
        ("success", "", 0, ""),
        ("resources", "", 0, "systemd had not the means to start it"),
    ],
)
def test_systemd(result: str, ended_by: str, status: int, words: str) -> None:
    said = codes.of_systemd(result, ended_by, status)
    assert words in said
    assert bool(words) == bool(said)


@pytest.mark.parametrize(
    ("code", "words"),
    [(0, "0: done"), (75, "75: temporary"), (127, "the program cannot be run"), (137, "it was killed (signal 9)"), (143, "143: stopped by SIGTERM")],
)
def test_shells(code: int, words: str) -> None:
    assert words in codes.of_shell(code)
