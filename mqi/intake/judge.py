"""Is this unit a complete case, and if not, why not yet? Pure: the clock arrives as an argument."""

from __future__ import annotations

import math
from typing import NamedTuple

from mqi.intake.unit import Unit, name_pattern, snapshot_digest
from mqi.settings import WatchFolder

__all__ = ["Judgement", "first_seen", "judge", "snapshot_digest"]


class Judgement(NamedTuple):
    """`reason` says in plain words why the unit is not complete yet; it is empty once it is.

    `next_look_s` seconds from now another look may say something else by itself; None when that takes
    a change in the folder.
    """

    complete: bool
    reason: str
    needs_operator: bool = False
    next_look_s: float | None = None
    hint: str = ""


def first_seen(snapshot: str, known: str | None, known_since: float | None, now: float) -> float | None:
    """Since when the unit has looked like `snapshot` (unix seconds), given what the last look recorded.

    None means since now: record `now` with the snapshot. A clock that was set back since the last look
    makes the record a time to come; then counting starts again, so the folder waits for the quiet time
    once more, and not until the clock has caught up.
    """
    if known != snapshot or known_since is None or known_since > now:
        return None
    return known_since


def judge(
    unit: Unit, watch: WatchFolder, snapshot: str, snapshot_since: float | None, now: float
) -> Judgement:
    """Whether the unit is complete.

    `snapshot` is the digest of the unit's files as they are now, and `snapshot_since` the time (unix
    seconds) at which that digest was first seen; None when that is now. See `first_seen`.
    """
    if unit.problem:
        hint = "The next scan looks again; nothing else is needed."
        return Judgement(False, unit.problem, needs_operator=True, hint=hint)
    if unit.looked == "folders":
        return Judgement(False, "unchanged since it was recorded")
    return (
        _nothing_there(unit)
        or _still_written(unit)
        or _not_a_case(unit, watch)
        or _missing(unit, watch)
        or _quiet(unit, watch, snapshot, snapshot_since, now)
    )


def _nothing_there(unit: Unit) -> Judgement | None:
    if unit.files or unit.temporary:
        return None
    return Judgement(False, "empty; waits for files")


def _still_written(unit: Unit) -> Judgement | None:
    if not unit.temporary:
        return None
    return Judgement(
        False,
        f"still being written: {count(len(unit.temporary), 'temporary name')}",
        hint="If no copy is under way any more, delete what it left behind (names such as *.part or *.tmp).",
    )


def _not_a_case(unit: Unit, watch: WatchFolder) -> Judgement | None:
    if not unit.placeholder or watch.depth is None:  # without a depth, _missing says what is awaited
        return None
    levels = count(watch.depth, "level")
    return Judgement(
        False,
        "waits for a case folder inside it",
        hint=f"Case folders of this room lie {levels} below the watch folder (watch: depth).",
    )


def _missing(unit: Unit, watch: WatchFolder) -> Judgement | None:
    if watch.marker is not None and not unit.marker_found:
        return Judgement(
            False,
            f"waits for the marker {watch.marker}",
            hint="The sending system puts it there when everything has been copied (watch: marker).",
        )
    for pattern in watch.require:
        if not any(_matches(file.path, pattern) for file in unit.files):
            return Judgement(
                False,
                f"waits for a file {pattern}",
                hint="At least one file must match each required pattern (watch: require).",
            )
    if unit.placeholder:
        return Judgement(False, "waits for a case folder inside it")
    return None


def _matches(path: str, pattern: str) -> bool:
    return name_pattern((pattern,)).match(path.rpartition("/")[2]) is not None


def _quiet(
    unit: Unit, watch: WatchFolder, snapshot: str, snapshot_since: float | None, now: float
) -> Judgement:
    unchanged_s = 0.0 if snapshot_since is None else max(0.0, now - snapshot_since)
    remaining_s = watch.quiet_s - unchanged_s
    if snapshot_since is not None and remaining_s <= 0:
        # "Complete" is a promise about exactly these files: the digest that was quiet must be theirs.
        if snapshot == snapshot_digest(unit.files):
            return Judgement(True, "")
        unchanged_s, remaining_s = 0.0, watch.quiet_s
    remaining_s = max(remaining_s, 0.0)
    still = (
        f"when unchanged for {math.ceil(remaining_s)} s more"
        if remaining_s
        else "if still so at the next look"
    )
    return Judgement(
        False, f"changed {math.floor(unchanged_s)} s ago; complete {still}", next_look_s=remaining_s
    )


def count(number: int, noun: str) -> str:
    """`1 level`, `2 levels`."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
