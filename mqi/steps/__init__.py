"""The steps: one story each. Every one may be run at any time, twice, or killed at any point."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(slots=True)
class StepReport:
    """What a step did, for the screen: counts by word, and lines worth reading."""

    step: str
    counts: dict[str, int] = field(default_factory=dict)
    lines: list[str] = field(default_factory=list)

    def add(self, what: str, line: str = "") -> None:
        """Count one `what`, and keep its line."""
        self.counts[what] = self.counts.get(what, 0) + 1
        if line:
            self.lines.append(line)
