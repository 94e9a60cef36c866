"""The steps: one story each. Every one may be run at any time, twice, or killed at any point."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from mqi.logs import correlation
from mqi.rows import Case
from mqi.store import StaleCase

log = logging.getLogger("mqi.steps")


@contextmanager
def about(case: Case) -> Iterator[None]:
    """Work on one case of several. One that somebody else changed meanwhile is left to the next run, which reads it
    again; also when that shows only as something else is being said of it. The others go on."""
    with correlation(case.label):
        try:
            yield
        except StaleCase as stale:
            log.info("%s; the next run reads it again", stale)


class StepReport:
    """What a step did, for the screen: counts by word, and lines worth reading."""

    def __init__(
        self, step: str, counts: dict[str, int] | None = None, lines: list[str] | None = None
    ) -> None:
        self.step = step
        self.counts = counts or {}
        self.lines = lines or []

    def add(self, what: str, line: str = "") -> None:
        """Count one `what`, and keep its line."""
        self.counts[what] = self.counts.get(what, 0) + 1
        if line:
            self.lines.append(line)
