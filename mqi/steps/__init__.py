"""The steps: one story each. Every one may be run at any time, twice, or killed at any point."""

from __future__ import annotations


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
