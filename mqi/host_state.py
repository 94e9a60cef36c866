"""What is known of a host, in one word and one sentence: is it used, and if not, why and until when. Pure."""

from __future__ import annotations

import json
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

from mqi.errors import AuthenticationProblem, ConfigurationProblem, HostRefused, HostUnreachable, MqiError
from mqi.render import clock, span
from mqi.rows import HostRow

ANSWERS, SILENT, REFUSES, LOGIN, CONFIGURATION, TROUBLE, LOST, HELD, RESTING, FULL, UNKNOWN = (
    "answers", "silent", "refuses", "login", "configuration", "trouble", "lost", "held", "resting", "full",
    "unknown",
)  # fmt: skip


def trouble_of(error: MqiError) -> str:
    """The word for a failure to ask a host."""
    kinds: dict[type[MqiError], str] = {
        HostUnreachable: SILENT,
        HostRefused: REFUSES,
        AuthenticationProblem: LOGIN,
        ConfigurationProblem: CONFIGURATION,
    }
    return next((word for kind, word in kinds.items() if isinstance(error, kind)), TROUBLE)


class HostState(NamedTuple):
    """`word`: one of those above; `why`: the sentence, or ''. `until`: Unix seconds at which mqi looks
    again by itself. `usable`: new cases may be sent there."""

    word: str
    why: str = ""
    until: float | None = None

    @property
    def usable(self) -> bool:
        return self.word in (ANSWERS, UNKNOWN)

    def sentence(self, now: float, zone: ZoneInfo) -> str:
        """The reason with the time of the next try."""
        if self.until is None or self.until <= now:
            return self.why
        return f"{self.why}; next try at {clock(self.until, now, zone)}"


def host_state(row: HostRow | None, min_free_bytes: int, now: float) -> HostState:
    """How a host stands. `min_free_bytes`: the least free space on its work disk that new cases need."""
    if row is None:
        return HostState(UNKNOWN, "it was never asked")
    if row.held:
        return HostState(HELD, f"held by an operator; mqi host release {row.name}")
    if row.lost_at is not None:
        words = f"declared lost {span(now - row.lost_at)} ago"
        return HostState(LOST, f"{words}: {row.last_error}" if row.last_error else words, row.next_try_at)
    if row.failures:
        tries = "" if row.failures == 1 else f" ({row.failures} times in a row)"
        return HostState(row.trouble or TROUBLE, f"{row.last_error}{tries}", row.next_try_at)
    if row.last_answer_at is None:
        return HostState(UNKNOWN, "it was never asked")
    if row.strikes and (row.no_cases_until or 0.0) > now:
        times = "" if row.strikes == 1 else f" ({row.strikes} times in a row)"
        return HostState(RESTING, f"{row.strike_reason}{times}; no new cases", row.no_cases_until)
    free = probe_of(row).get("disk_free")
    if isinstance(free, int | float) and free < min_free_bytes:
        return HostState(FULL, f"only {gib(free)} free on its work disk (limit: {gib(min_free_bytes)})")
    return HostState(ANSWERS)


def probe_of(row: HostRow) -> dict[str, Any]:
    """What the host told about itself with its last answer."""
    return dict(json.loads(row.probe))


def gib(size: float) -> str:
    """Bytes as people read them on a disk: `3.2 GiB`."""
    return f"{size / 2**30:.1f} GiB"
