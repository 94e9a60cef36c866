"""Time for a week: it moves only when somebody moves it, and it can end a process when its moment comes."""

from __future__ import annotations

START = 1_780_000_000.0  # in May 2026


class Killed(BaseException):
    """The process was killed here. Not an Exception: no code of a killed process goes on."""


class Clock:
    """Called for the time in Unix seconds. Every look costs a little time, so that no two are the same."""

    def __init__(self) -> None:
        self.time = START
        self._looks_to_live: int | None = None

    def __call__(self) -> float:
        """The time. Raises Killed when this was the last look of a process that is to be killed."""
        if self._looks_to_live is not None:
            self._looks_to_live -= 1
            if self._looks_to_live < 0:
                raise Killed
        self.time += 0.001
        return self.time

    def move(self, seconds: float) -> None:
        """Let time pass."""
        self.time += seconds

    def kill_after(self, looks: int) -> None:
        """The process that looks at the clock now is killed at the look after so many."""
        self._looks_to_live = looks

    def let_live(self) -> bool:
        """No killing any more; whether somebody was killed."""
        killed = self._looks_to_live is not None and self._looks_to_live < 0
        self._looks_to_live = None
        return killed
