"""The progress bar: a line for a person, nothing for a scheduler."""

from __future__ import annotations

import io

from mqi.commands import progress
from mqi.commands.progress import ProgressBar, line


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_the_line() -> None:
    assert line("to gpu1", 0, 2**20).startswith("to gpu1 [" + 30 * "." + "]   0%")
    assert "100%" in line("x", 5, 5)
    assert "[###############..............." in line("x", 2**20, 2**21)
    assert "1.0 of 2.0 MiB" in line("x", 2**20, 2**21)
    assert "100%" in line("nothing to move", 0, 0)


def test_a_scheduler_sees_nothing() -> None:
    stream = io.StringIO()
    bar = ProgressBar(stream)
    bar.show("x", 1, 2)
    bar.close()
    assert stream.getvalue() == ""
    ProgressBar(None).show("x", 1, 2)


def test_a_person_sees_a_long_transfer_and_a_clean_line_afterwards() -> None:
    stream = Terminal()
    bar = ProgressBar(stream)
    bar.show("x", 1, 2)
    assert stream.getvalue() == "", "a short transfer needs no bar"
    bar._started -= 2 * progress._APPEARS_AFTER_S
    bar.show("x", 1, 2)
    bar.show("x", 2, 2)
    assert stream.getvalue().count("\r") == 1, "not more often than a person can read"
    bar.close()
    assert stream.getvalue().endswith("\r\033[K")
