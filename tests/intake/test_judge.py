"""judge: every reason, in its order, and what "quiet" means when clocks misbehave."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mqi.intake.judge import first_seen, judge
from mqi.intake.unit import FileStat, Unit, snapshot_digest
from mqi.settings import WatchFolder

NOW = 1_800_000_000.0
WATCH = WatchFolder(Path("/watch"), "G1", depth=2, quiet_s=60.0)
PLAN = FileStat("RP.1.dcm", 700, 5, 1)
LAYER = FileStat("20260101/02_1.ptn", 900, 5, 2)
UNIT = Unit(
    path="P001/1.2.3",
    folder=Path("/watch/P001/1.2.3"),
    files=(PLAN, LAYER),
    temporary=(),
    problem=None,
    marker_found=False,
    folders=((".", 1), ("20260101", 2)),
)
QUIET_SINCE = NOW - 60.0

# (remark, changes to the unit, changes to the watch folder, quiet since, reason or None for complete)
CASES = [
    ("quiet for exactly the quiet time", {}, {}, QUIET_SINCE, None),
    ("marker there", {"marker_found": True}, {"marker": "_CASE_READY"}, QUIET_SINCE, None),
    ("pattern in a folder below counts", {}, {"require": ("*.dcm", "*.PTN")}, QUIET_SINCE, None),
    ("no pattern required", {}, {"require": ()}, QUIET_SINCE, None),
    ("a problem comes first", {"problem": "'x' is a link.", "files": ()}, {}, QUIET_SINCE, "'x' is a link."),
    ("nothing there", {"files": ()}, {"marker": "M"}, QUIET_SINCE, "empty; waits for files"),
    (
        "only an unfinished file is not empty",
        {"files": (), "temporary": ("a.dcm.part",)},
        {},
        QUIET_SINCE,
        "still being written: 1 temporary name",
    ),
    (
        "temporary names come before the marker",
        {"temporary": ("a.part", "b.part")},
        {"marker": "M"},
        QUIET_SINCE,
        "still being written: 2 temporary names",
    ),
    ("above the case level", {"placeholder": True}, {}, QUIET_SINCE, "waits for a case folder inside it"),
    (
        "without a depth the pattern is what is awaited",
        {"placeholder": True, "files": (LAYER,)},
        {"depth": None},
        QUIET_SINCE,
        "waits for a file *.dcm",
    ),
    (
        "a placeholder is never complete, even if it would match",
        {"placeholder": True},
        {"depth": None},
        QUIET_SINCE,
        "waits for a case folder inside it",
    ),
    (
        "the marker comes before the pattern",
        {"files": (LAYER,)},
        {"marker": "_CASE_READY"},
        QUIET_SINCE,
        "waits for the marker _CASE_READY",
    ),
    ("pattern missing", {"files": (LAYER,)}, {}, QUIET_SINCE, "waits for a file *.dcm"),
    (
        "the first missing pattern",
        {},
        {"require": ("*.dcm", "PlanInfo.txt")},
        QUIET_SINCE,
        "waits for a file PlanInfo.txt",
    ),
    ("seen for the first time", {}, {}, None, "changed 0 s ago; complete when unchanged for 60 s more"),
    ("quiet for a while", {}, {}, NOW - 12.5, "changed 12 s ago; complete when unchanged for 48 s more"),
    ("a moment short", {}, {}, NOW - 59.999, "changed 59 s ago; complete when unchanged for 1 s more"),
    ("clock set back", {}, {}, NOW + 1e6, "changed 0 s ago; complete when unchanged for 60 s more"),
    (
        "no quiet time, but never just one look",
        {},
        {"quiet_s": 0.0},
        None,
        "changed 0 s ago; complete if still so at the next look",
    ),
    ("no quiet time, second look", {}, {"quiet_s": 0.0}, NOW, None),
    (
        "compared by folder times only",
        {"looked": "folders", "files": ()},
        {},
        QUIET_SINCE,
        "unchanged since it was recorded",
    ),
]


@pytest.mark.parametrize(("remark", "unit", "watch", "since", "reason"), CASES, ids=[row[0] for row in CASES])
def test_reasons(remark: str, unit: dict, watch: dict, since: float | None, reason: str | None) -> None:
    changed = UNIT._replace(**unit)
    judgement = judge(changed, WATCH._replace(**watch), snapshot_digest(changed.files), since, NOW)
    assert judgement.complete == (reason is None)
    assert judgement.reason == (reason or "")
    assert judgement.needs_operator == bool(changed.problem)


def test_only_time_makes_a_look_worth_repeating() -> None:
    digest = snapshot_digest(UNIT.files)
    assert judge(UNIT, WATCH, digest, NOW - 12.5, NOW).next_look_s == 47.5
    assert judge(UNIT, WATCH._replace(marker="M"), digest, NOW - 12.5, NOW).next_look_s is None
    assert judge(UNIT, WATCH, digest, QUIET_SINCE, NOW).next_look_s is None


def test_every_reason_that_waits_for_people_says_what_to_do() -> None:
    for change in ({"problem": "x"}, {"temporary": ("a.part",)}, {"placeholder": True}, {"files": (LAYER,)}):
        unit = UNIT._replace(**change)
        assert judge(unit, WATCH, snapshot_digest(unit.files), QUIET_SINCE, NOW).hint


def test_complete_is_said_of_the_files_that_were_quiet() -> None:
    """A snapshot that belongs to other files proves nothing about these."""
    other = snapshot_digest((PLAN,))
    judgement = judge(UNIT, WATCH, other, QUIET_SINCE, NOW)
    assert not judgement.complete
    assert judgement.reason.startswith("changed 0 s ago")
    assert judgement.next_look_s == 60.0


def test_first_seen() -> None:
    assert first_seen("a", "a", NOW - 5, NOW) == NOW - 5
    assert first_seen("a", "a", NOW, NOW) == NOW
    assert first_seen("a", "b", NOW - 5, NOW) is None, "another digest starts anew"
    assert first_seen("a", None, None, NOW) is None
    assert first_seen("a", "a", NOW + 0.1, NOW) is None, "the clock was set back: start anew"


looks = st.lists(
    st.tuples(
        st.floats(-1e5, 1e5),  # how the clock moves between two looks
        st.booleans(),  # whether the folder changed
    ),
    max_size=30,
)


@settings(deadline=None)
@given(looks)
def test_quiet_is_two_equal_looks_that_far_apart(steps: list[tuple[float, bool]]) -> None:
    """Against a model: complete exactly when this digest was seen quiet_s ago and the clock not set back."""
    now, version = NOW, 0
    stored: tuple[str | None, float | None] = (None, None)
    seen: list[float] = []  # the model: times of the looks since the last change or step back
    for move, changed in steps:
        now += move
        version += changed
        if changed or (seen and now < seen[0]):
            seen = []
        unit = UNIT._replace(files=(PLAN._replace(size=version),))
        digest = snapshot_digest(unit.files)
        since = first_seen(digest, stored[0], stored[1], now)
        judgement = judge(unit, WATCH, digest, since, now)
        assert judgement.complete == bool(seen and now - seen[0] >= WATCH.quiet_s)
        if not judgement.complete:
            assert judgement.next_look_s is not None and 0 <= judgement.next_look_s <= WATCH.quiet_s
        seen.append(now)
        stored = (digest, now if since is None else since)


stats = st.builds(
    FileStat, st.text(max_size=8), st.integers(0, 2**40), st.integers(-(2**62), 2**62), st.integers(0, 9)
)


@settings(deadline=None)
@given(st.lists(stats, max_size=6), st.randoms())
def test_snapshot_does_not_depend_on_order_or_file_ids(files: list[FileStat], random) -> None:
    shuffled = [file._replace(file_id=random.randrange(9)) for file in files]
    random.shuffle(shuffled)
    assert snapshot_digest(shuffled) == snapshot_digest(files)


@settings(deadline=None)
@given(st.lists(stats, max_size=4), st.lists(stats, max_size=4))
def test_snapshot_tells_different_files_apart(one: list[FileStat], other: list[FileStat]) -> None:
    def contents(files: list[FileStat]) -> list[tuple[str, int, int]]:
        return sorted((file.path, file.size, file.mtime_ns) for file in files)

    assert (snapshot_digest(one) == snapshot_digest(other)) == (contents(one) == contents(other))
