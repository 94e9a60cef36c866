"""`mqi schedule show` as a person and as a program reads it. Pure: time and time zone arrive as arguments."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any
from zoneinfo import ZoneInfo

from mqi.render import clock, facts, iso, one_line, span, step_json
from mqi.schedule.codes import FINE, HINTS
from mqi.schedule.items import AS_EXPECTED, LEFT_OVER, MISSING, Outcome, Standing
from mqi.schedule.order import STEPS, Order
from mqi.units import show_duration

# A step that has not succeeded for so many intervals is late: the scheduler is off, or every run fails.
_LATE = 3


@dataclass(frozen=True, slots=True)
class Beat:
    """When a step was last tried and last succeeded, from the database; Unix seconds."""

    step: str
    attempt: float | None
    success: float | None
    error: str
    late: bool


def beats(
    steps: Mapping[str, tuple[float | None, float | None, str]], every_s: int, now: float
) -> list[Beat]:
    """The sign of life of each step. An old attempt and an old success are two different faults."""
    found = []
    for name in STEPS:
        attempt, success, error = steps.get(name, (None, None, ""))
        late = success is None or now - success > _LATE * every_s
        found.append(Beat(name, attempt, success, error, late))
    return found


@dataclass(frozen=True, slots=True)
class Shown:
    """All that `show` found out. `order` None: none was given, and none can be guessed.

    `given`: by `mqi schedule install`. `problems`: what could not be asked or read.
    """

    order: Order | None
    given: bool
    program: str
    config: str
    standings: Sequence[Standing]
    outcomes: Sequence[Outcome]
    beats: Sequence[Beat]
    problems: Sequence[str] = ()

    @property
    def installed(self) -> bool:
        return any(one.state not in (MISSING, LEFT_OVER) for one in self.standings)

    @property
    def as_expected(self) -> bool:
        return (
            bool(self.standings)
            and all(one.state == AS_EXPECTED for one in self.standings)
            and not any(one.trouble for one in self.outcomes)
        )


def as_text(shown: Shown, now: float, zone: ZoneInfo) -> str:
    """For the screen."""
    parts = [_what(shown)]
    lines = []
    for one in shown.standings:
        lines.append(f"{'  ' if one.state == AS_EXPECTED else '! '}{one.name}: {one.state}")
        lines += [f"    {one_line(detail)}" for detail in one.details]
    if not shown.as_expected:
        lines.append(_advice(shown))
    parts.append("\n".join(lines))
    runs = [line for outcome in shown.outcomes for line in _run(outcome, now, zone)]
    runs += [f"! {one_line(problem)}" for problem in shown.problems]
    if runs:
        parts.append("\n".join(runs))
    parts.append("\n".join(_beat(beat, now) for beat in shown.beats))
    return "\n\n".join(part for part in parts if part)


def _what(shown: Shown) -> str:
    order = shown.order
    if order is None:
        return ""
    what = facts(
        [
            ("scheduler", order.backend),
            ("runs", f"{' '.join(order.commands)}, every {show_duration(order.every_s)}"),
            ("as", f"{order.user} ({order.logon})" if order.logon else order.user),
            ("with", f"{shown.program}  {shown.config}"),
        ]
    )
    if shown.given:
        return what
    return f"{what}\n(no `mqi schedule install` was said for this configuration; this is what it would do)"


def _advice(shown: Shown) -> str:
    if not shown.installed:
        return "nothing runs mqi by itself: say mqi schedule install"
    if all(one.state == AS_EXPECTED for one in shown.standings):
        return "what would mend it stands beside the ! below"
    return "to make it as expected: mqi schedule install, with the options that you want"


def _run(outcome: Outcome, now: float, zone: ZoneInfo) -> list[str]:
    words = []
    if outcome.running:
        words.append("runs now")
    if outcome.last_at is not None:
        words.append(f"last run {clock(outcome.last_at, now, zone)}")
    elif not outcome.running:
        words.append("no run is known")
    if outcome.meaning:
        words.append(outcome.meaning)
    if outcome.next_at is not None:
        words.append(f"next {clock(outcome.next_at, now, zone)}")
    bad = outcome.trouble or (outcome.code is not None and outcome.code not in FINE)
    mark = "! " if bad else "  "
    lines = [f"{mark}{outcome.command}: {', '.join(words)}"]
    hint = HINTS.get(outcome.code) if outcome.code is not None else None
    lines += [f"    {line}" for line in (*outcome.trouble, *outcome.remarks, *([hint] if hint else []))]
    return lines


def _beat(beat: Beat, now: float) -> str:
    mark = "! " if beat.late else "  "
    success = "never succeeded" if beat.success is None else f"last succeeded {span(now - beat.success)} ago"
    if beat.attempt is None:
        tried = "never tried"
    elif beat.attempt == beat.success:
        return f"{mark}{beat.step}: {success}"
    else:
        tried = f"last tried {span(now - beat.attempt)} ago{f': {one_line(beat.error, 80)}' if beat.error else ''}"
    return f"{mark}{beat.step}: {success}, {tried}"


def as_json(shown: Shown, now: float, zone: ZoneInfo) -> dict[str, Any]:
    """For programs."""
    return {
        "generated_at": iso(now, zone),
        "order": None
        if shown.order is None
        else {**asdict(shown.order), "commands": list(shown.order.commands), "given": shown.given},
        "program": shown.program,
        "config": shown.config,
        "installed": shown.installed,
        "as_expected": shown.as_expected,
        "items": [asdict(one) for one in shown.standings],
        "runs": [
            {
                **asdict(one),
                "last_at": iso(one.last_at, zone),
                "next_at": iso(one.next_at, zone),
            }
            for one in shown.outcomes
        ],
        "problems": list(shown.problems),
        "heartbeat": [
            {**step_json(one.step, (one.attempt, one.success, one.error), zone), "late": one.late}
            for one in shown.beats
        ],
    }
