"""list_units on real folders: which folders are units, with which files, and what spoils a unit."""

from __future__ import annotations

import os
import re
import shutil
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from mqi.errors import DiskProblem
from mqi.intake import contents, listing
from mqi.intake.files import kind_of
from mqi.intake.judge import judge
from mqi.intake.listing import Unit, WatchListing, list_unit, list_units
from mqi.intake.unit import shown, snapshot_digest
from mqi.settings import WatchFolder

POSIX = pytest.mark.skipif(sys.platform == "win32", reason="such names and files exist on POSIX only")
NOW = 1_800_000_000.0


def put(root: Path, *paths: str) -> None:
    """Files with their path as contents; a path that ends in / is a folder."""
    for path in paths:
        target = root / path
        if path.endswith("/"):
            target.mkdir(parents=True, exist_ok=True)
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(path, encoding="utf-8", errors="surrogateescape")


def seen(found: WatchListing) -> dict[str, list[str]]:
    assert found.problem is None
    return {unit.path: [file.path for file in unit.files] for unit in found.units}


def only(found: WatchListing) -> Unit:
    assert found.problem is None
    (unit,) = found.units
    return unit


def watch_at(path: Path, **changes: object) -> WatchFolder:
    return WatchFolder(path, "G1")._replace(**changes)  # type: ignore[arg-type]


# (remark, depth, what is there, units and their files; a leading ~ marks a placeholder)
TREES: list[tuple[str, int | None, list[str], dict[str, list[str]]]] = [
    ("nothing there", 1, [], {}),
    ("one level", 1, ["P1/RP.dcm", "P1/sub/a.ptn"], {"P1": ["RP.dcm", "sub/a.ptn"]}),
    ("loose files beside are no units", 1, ["RP.dcm", "P1/RP.dcm"], {"P1": ["RP.dcm"]}),
    ("an empty folder is shown", 1, ["P1/"], {"P1": []}),
    ("two levels", 2, ["P1/S1/RP.dcm", "P1/S2/RP.dcm"], {"P1/S1": ["RP.dcm"], "P1/S2": ["RP.dcm"]}),
    ("two levels, loose file beside the study", 2, ["P1/x.txt", "P1/S1/RP.dcm"], {"P1/S1": ["RP.dcm"]}),
    ("two levels, no study yet", 2, ["P1/"], {"~P1": []}),
    ("two levels, files instead of a study", 2, ["P1/RP.dcm"], {"~P1": ["RP.dcm"]}),
    ("three levels, every length", 3, ["A/", "B/S/", "C/S/T/a"], {"~A": [], "~B/S": [], "C/S/T": ["a"]}),
    ("an unfinished folder is not there yet", 1, ["P1.part/RP.dcm", "P2/RP.dcm"], {"P2": ["RP.dcm"]}),
    ("an unfinished study leaves its patient", 2, ["P1/S1.extracting/RP.dcm"], {"~P1": []}),
    ("topmost folder with a plan", None, ["P1/S1/RP.DCM", "P1/S1/d/a.ptn"], {"P1/S1": ["RP.DCM", "d/a.ptn"]}),
    ("topmost, though more lie below", None, ["P1/RP.dcm", "P1/S/RP.dcm"], {"P1": ["RP.dcm", "S/RP.dcm"]}),
    ("any nesting", None, ["A/RP.dcm", "B/C/D/RP.dcm"], {"A": ["RP.dcm"], "B/C/D": ["RP.dcm"]}),
    ("nothing that matches: the first level", None, ["P1/S1/a.ptn", "P2/"], {"~P1": ["S1/a.ptn"], "~P2": []}),
    ("an unfinished plan does not make a unit", None, ["P1/S1/RP.dcm.part"], {"~P1": []}),
    ("a folder named like a plan is none", None, ["P1/S1.dcm/a.ptn"], {"~P1": ["S1.dcm/a.ptn"]}),
]  # fmt: skip


@pytest.mark.parametrize(("remark", "depth", "tree", "units"), TREES, ids=[row[0] for row in TREES])
def test_which_folders_are_units(
    tmp_path: Path, remark: str, depth: int | None, tree: list[str], units: dict[str, list[str]]
) -> None:
    put(tmp_path, *tree)
    watch = watch_at(tmp_path, depth=depth)
    found = list_units(watch)
    assert {f"~{u.path}" if u.placeholder else u.path for u in found.units} == set(units)
    assert seen(found) == {path.lstrip("~"): files for path, files in units.items()}
    for unit in found.units:
        assert unit.looked == "full"
        assert unit.folder == tmp_path / unit.path
        assert list_unit(watch, unit.path) == unit


def test_size_time_and_identity_are_those_of_the_file(tmp_path: Path) -> None:
    put(tmp_path, "P1/sub/RP.dcm")
    file = tmp_path / "P1" / "sub" / "RP.dcm"
    os.utime(file, ns=(1_000, 1_700_000_000_123_456_700))
    (stat,) = only(list_units(watch_at(tmp_path))).files
    assert (stat.path, stat.size, stat.mtime_ns) == ("sub/RP.dcm", 13, 1_700_000_000_123_456_700)
    assert stat.file_id == file.stat().st_ino


def test_ignored_names_are_reported_but_desktop_litter_is_not(tmp_path: Path) -> None:
    put(
        tmp_path,
        "P1/RP.dcm",
        "P1/a.ptn.PART",
        "P1/d.extracting/x",
        "P1/s/b.tmp",
        "P1/Thumbs.db",
        "P1/s/.DS_Store",
    )
    put(tmp_path, "P1/RP.dcm~", "P1/study.backup.3/x.dcm")
    unit = only(list_units(watch_at(tmp_path)))
    assert unit.temporary == ("a.ptn.PART", "d.extracting", "s/b.tmp")
    assert [file.path for file in unit.files] == ["RP.dcm"]
    # What `ignore` does not match is a file like any other.
    unit = only(list_units(watch_at(tmp_path, ignore=("*.part",))))
    assert unit.temporary == ("a.ptn.PART",)
    assert {"Thumbs.db", "d.extracting/x"} < {file.path for file in unit.files}


MARKERS = [
    ("in the unit", 2, "P1/S1/_CASE_READY", True, []),
    ("in the folder above", 2, "P1/_CASE_READY", True, []),
    ("in other letters", 2, "P1/_case_ready", True, []),
    ("directly in the watch folder it would mark everything", 2, "_CASE_READY", False, []),
    ("below the unit it is a file like any other", 2, "P1/S1/d/_CASE_READY", False, ["d/_CASE_READY"]),
    ("above a unit found by its files", None, "P1/_CASE_READY", True, []),
]


@pytest.mark.parametrize(
    ("remark", "depth", "marker", "found", "files"), MARKERS, ids=[row[0] for row in MARKERS]
)
def test_marker(
    tmp_path: Path, remark: str, depth: int | None, marker: str, found: bool, files: list[str]
) -> None:
    put(tmp_path, "P1/S1/RP.dcm", marker)
    watch = watch_at(tmp_path, depth=depth, marker="_CASE_READY")
    unit = only(list_units(watch))
    assert unit.path == "P1/S1"
    assert unit.marker_found is found
    assert [file.path for file in unit.files] == ["RP.dcm", *files]
    assert list_unit(watch, unit.path) == unit


def test_a_marker_counts_even_if_ignored_and_only_as_a_file(tmp_path: Path) -> None:
    put(tmp_path, "P1/RP.dcm", "P1/ready.tmp", "P2/ready.tmp/x.dcm")
    one, other = list_units(watch_at(tmp_path, marker="ready.tmp")).units
    assert one.marker_found
    assert one.temporary == ()
    assert not other.marker_found


# --- hostile names and entries ---------------------------------------------------------------------------

HOSTILE = [
    "P 1", "'quoted' \"twice\"", "$(rm -rf ~);&|`x`", "--help", "김환자 金 Ünïcödé", "x" * 200,
    "[P1]*?", "%s{0}\\n", "..hidden", "#1", "~user",
]  # fmt: skip
HOSTILE_ON_WINDOWS = ["new\nline\ttab", "a.", "b ", "aux", "nul.xml", "a:b", "a\\b", "\x1b[31m"]


@POSIX
def test_hostile_names_are_just_names(tmp_path: Path) -> None:
    names = HOSTILE + HOSTILE_ON_WINDOWS
    for name in names:
        put(tmp_path, f"{name}/{name}.dcm", f"{name}/{name}/{name}")
    found = list_units(watch_at(tmp_path))
    assert seen(found) == {name: sorted([f"{name}.dcm", f"{name}/{name}"]) for name in names}
    assert all(unit.problem is None for unit in found.units)
    for unit in found.units:
        assert list_unit(watch_at(tmp_path), unit.path) == unit
        snapshot_digest(unit.files)


@POSIX
def test_links_are_never_followed(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    put(outside, "secret.dcm")
    root = tmp_path / "watch"
    put(root, "file/RP.dcm", "folder/RP.dcm", "loop/RP.dcm", "gone/RP.dcm", "fine/RP.dcm")
    (root / "file" / "link.dcm").symlink_to(outside / "secret.dcm")
    (root / "folder" / "sub").symlink_to(outside)
    (root / "loop" / "again").symlink_to(root / "loop")
    (root / "gone" / "nowhere").symlink_to(root / "not there")
    (root / "whole").symlink_to(outside)
    units = {unit.path: unit for unit in list_units(watch_at(root)).units}
    assert units.pop("fine").problem is None
    assert len(units) == 5
    for unit in units.values():
        assert unit.problem is not None
        assert "is a link" in unit.problem and "remove the link" in unit.problem
        assert [file.path for file in unit.files] in (["RP.dcm"], [])
        judgement = judge(unit, watch_at(root), snapshot_digest(unit.files), 0.0, NOW)
        assert judgement.needs_operator and not judgement.complete
    assert "'link.dcm'" in str(units["file"].problem)


@POSIX
@pytest.mark.parametrize("depth", [2, None])
def test_a_link_above_the_units_is_shown_on_its_own(tmp_path: Path, depth: int | None) -> None:
    put(tmp_path, "P1/S1/RP.dcm", "elsewhere.txt")
    (tmp_path / "P1" / "S2").symlink_to(tmp_path / "P1" / "S1")
    (tmp_path / "P2").symlink_to(tmp_path / "P1")
    units = {unit.path: unit.problem for unit in list_units(watch_at(tmp_path, depth=depth)).units}
    assert set(units) == {"P1/S1", "P1/S2", "P2"}
    assert units["P1/S1"] is None
    assert units["P1/S2"] and units["P2"]


@POSIX
def test_a_link_in_an_ignored_name_is_only_a_temporary_name(tmp_path: Path) -> None:
    put(tmp_path, "P1/RP.dcm")
    (tmp_path / "P1" / "x.part").symlink_to("/")
    unit = only(list_units(watch_at(tmp_path)))
    assert (unit.problem, unit.temporary) == (None, ("x.part",))


@POSIX
def test_special_files_are_named_and_nothing_waits_for_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path, "pipe/RP.dcm", "socket/RP.dcm")
    os.mkfifo(tmp_path / "pipe" / "fifo.dcm")
    monkeypatch.chdir(tmp_path / "socket")  # a socket's path may have 100 characters only
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("s.dcm")
        units = list_units(watch_at(tmp_path)).units
    for unit, name in zip(units, ("'fifo.dcm'", "'s.dcm'"), strict=True):
        assert unit.problem is not None and name in unit.problem and "remove it" in unit.problem
        assert [file.path for file in unit.files] == ["RP.dcm"]


@POSIX
def test_names_that_are_not_utf8(tmp_path: Path) -> None:
    raw = os.fsencode(tmp_path)
    for folder in (b"P\xff", b"P\xfe", b"good"):
        Path(os.fsdecode(raw + b"/" + folder)).mkdir()
    Path(os.fsdecode(raw + b"/good/\xe9.dcm")).write_bytes(b"x")
    put(tmp_path, "good/RP.dcm")
    units = list_units(watch_at(tmp_path)).units
    assert len({unit.path for unit in units}) == 3
    assert [unit.path.partition("~")[0] for unit in units] == [r"P\udcfe", r"P\udcff", "good"]
    for unit in units:
        unit.path.encode("utf-8")
        assert unit.problem is not None and "not valid text" in unit.problem
        unit.problem.encode("utf-8")
    (good,) = [unit for unit in units if unit.path == "good"]
    assert [file.path for file in good.files] == ["RP.dcm"]
    assert [unit.path for unit in units] == sorted(unit.path for unit in list_units(watch_at(tmp_path)).units)


@POSIX
def test_an_unreadable_folder_spoils_its_unit_only(tmp_path: Path) -> None:
    """Root reads everything, except what the system itself cannot: a path longer than it takes."""
    put(tmp_path, "fine/RP.dcm", "deep/RP.dcm")
    name = "n" * 250
    here = os.open(tmp_path / "deep", os.O_RDONLY)
    for _ in range(20):
        os.mkdir(name, dir_fd=here)
        below = os.open(name, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)
    deep, fine = list_units(watch_at(tmp_path)).units
    assert fine.problem is None
    assert deep.problem is not None and "cannot be" in deep.problem
    assert len(deep.problem) < 400
    (deep_again,) = [u for u in list_units(watch_at(tmp_path, depth=None)).units if u.path == "deep"]
    assert deep_again.problem == deep.problem
    shutil.rmtree(tmp_path / "deep", ignore_errors=True)


@pytest.fixture
def as_nobody(tmp_path: Path) -> Iterator[Path]:
    """A folder, and an account for which permissions count: root reads everything."""
    if os.geteuid() != 0:
        yield tmp_path
        return
    with tempfile.TemporaryDirectory() as name:  # pytest's own are closed to others
        Path(name).chmod(0o755)
        yield Path(name)
        os.seteuid(0)


@POSIX
@pytest.mark.parametrize("depth", [1, 2, None])
@pytest.mark.parametrize("closed", ["P1", "P1/S1", "P1/S1/d"])
@pytest.mark.parametrize("mode", [0o000, 0o600])
def test_a_folder_without_permission(as_nobody: Path, depth: int | None, closed: str, mode: int) -> None:
    put(as_nobody, "P1/S1/RP.dcm", "P1/S1/d/a.ptn", "P2/S1/RP.dcm")
    if os.geteuid() == 0:
        for folder in [as_nobody / "P1", *as_nobody.glob("P1/**/")]:
            os.chown(folder, 65534, 65534)
    (as_nobody / closed).chmod(mode)
    try:
        if os.geteuid() == 0:
            os.seteuid(65534)
        units = {unit.path: unit for unit in list_units(watch_at(as_nobody, depth=depth)).units}
    finally:
        if os.getuid() == 0:
            os.seteuid(0)
        (as_nobody / closed).chmod(0o700)
    assert len(units) == 2
    spoiled, fine = units.values()
    assert spoiled.path.startswith("P1") and fine.path.startswith("P2")
    assert spoiled.problem is not None and "Permission denied" in spoiled.problem
    assert fine.problem is None


@POSIX
def test_several_problems_are_counted(tmp_path: Path) -> None:
    put(tmp_path, "P1/RP.dcm")
    for number in range(3):
        (tmp_path / "P1" / f"link{number}").symlink_to(tmp_path)
    problem = only(list_units(watch_at(tmp_path))).problem
    assert problem is not None and problem.startswith("'link0' is a link") and problem.endswith("And 2 more.")


def test_shown_names_stay_on_one_line_and_can_be_encoded() -> None:
    assert shown("RP.김.dcm") == "'RP.김.dcm'"
    assert shown("a\nb\x1b[31m\udcff") == r"'a\nb\x1b[31m\udcff'"
    assert len(shown("x" * 300)) < 110
    assert re.fullmatch(r"'x+…x+end'", shown("x" * 300 + "end"))


# --- the watch folder itself -----------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["missing", "file"])
def test_unreachable_watch_folder(tmp_path: Path, what: str) -> None:
    put(tmp_path, "file")
    watch = watch_at(tmp_path / what)
    found = list_units(watch)
    assert found.units == ()
    assert found.problem is not None and str(tmp_path) in found.problem
    with pytest.raises(DiskProblem):
        list_unit(watch, "P1")


def test_a_watch_folder_that_goes_away_while_it_is_listed(tmp_path: Path) -> None:
    """A share that drops out while we look must not make its cases look vanished."""
    root = tmp_path / "watch"
    put(root, "P1/RP.dcm", "P2/RP.dcm")
    (tmp_path / "mount point").mkdir()

    class Dropping(dict[str, tuple[tuple[str, int], ...]]):
        def get(self, path, default=None):
            if path == "P2":
                root.rename(tmp_path / "away")
                if back:
                    (tmp_path / "mount point").rename(root)
            return default

    for back in (False, True):  # what is left is nothing, then the empty folder below a mount
        found = list_units(watch_at(root), Dropping())
        assert found.units == ()
        assert found.problem is not None and str(root) in found.problem
        if not back:
            (tmp_path / "away").rename(root)


@POSIX
def test_a_watch_folder_may_be_reached_through_a_link(tmp_path: Path) -> None:
    put(tmp_path, "real/P1/RP.dcm")
    (tmp_path / "watch").symlink_to(tmp_path / "real")
    assert seen(list_units(watch_at(tmp_path / "watch"))) == {"P1": ["RP.dcm"]}


def test_missing_units(tmp_path: Path) -> None:
    put(tmp_path, "P1/S1/RP.dcm", "file", "x.part/S1/RP.dcm")
    watch = watch_at(tmp_path, depth=2)
    for path in (
        "P2",
        "P1/S2",
        "P1/S1/RP.dcm",
        "file",
        "..",
        ".",
        "",
        "/",
        "P1//S1",
        "P1/../P1",
        "x.part/S1",
    ):
        assert list_unit(watch, path) is None, path


# --- settled units ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("depth", [2, None])
def test_settled_units_are_compared_by_folder_times(tmp_path: Path, depth: int | None) -> None:
    put(tmp_path, "P1/S1/RP.dcm", "P1/S1/d/a.ptn", "P2/S1/RP.dcm")
    watch = watch_at(tmp_path, depth=depth)
    settled = {unit.path: unit.folders for unit in list_units(watch).units}
    assert dict(settled["P1/S1"]).keys() == {".", "d"}

    found = list_units(watch, settled)
    assert [(unit.path, unit.looked, unit.files) for unit in found.units] == [
        ("P1/S1", "folders", ()),
        ("P2/S1", "folders", ()),
    ]
    assert {unit.path: unit.folders for unit in found.units} == settled

    put(tmp_path, "P1/S1/d/b.ptn")  # far below, another delivery
    found = list_units(watch, settled)
    assert [unit.looked for unit in found.units] == ["full", "folders"]
    assert [file.path for file in found.units[0].files] == ["RP.dcm", "d/a.ptn", "d/b.ptn"]


CHANGES = {
    "a file comes": lambda unit: put(unit, "new.dcm"),
    "a file goes": lambda unit: (unit / "RP.dcm").unlink(),
    "a file is renamed": lambda unit: (unit / "RP.dcm").rename(unit / "RQ.dcm"),
    "a file is replaced": lambda unit: (put(unit, "x.part"), (unit / "x.part").replace(unit / "RP.dcm")),
    "a folder comes": lambda unit: put(unit, "d/e/"),
    "a folder goes": lambda unit: shutil.rmtree(unit / "d"),
    "a folder is replaced by a link": lambda unit: (
        shutil.move(unit / "d", unit.parent.parent / "moved"),
        (unit / "d").symlink_to(unit.parent.parent / "moved"),
    ),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_every_change_of_names_ends_the_settled_comparison(tmp_path: Path, change) -> None:
    put(tmp_path, "w/P1/RP.dcm", "w/P1/d/a.ptn")
    watch = watch_at(tmp_path / "w")
    settled = {"P1": only(list_units(watch)).folders}
    change(tmp_path / "w" / "P1")
    assert only(list_units(watch, settled)).looked == "full"


def test_a_settled_placeholder_gives_way_to_the_unit_below(tmp_path: Path) -> None:
    put(tmp_path, "P1/")
    watch = watch_at(tmp_path, depth=2)
    settled = {"P1": only(list_units(watch)).folders}
    assert only(list_units(watch, settled)).placeholder
    put(tmp_path, "P1/S1/RP.dcm")
    assert seen(list_units(watch, settled)) == {"P1/S1": ["RP.dcm"]}


def test_stamps_recorded_as_lists_and_empty_ones(tmp_path: Path) -> None:
    put(tmp_path, "P1/RP.dcm")
    unit = only(list_units(watch_at(tmp_path)))
    assert only(list_units(watch_at(tmp_path), {"P1": ()})).looked == "full"
    assert only(list_units(watch_at(tmp_path), {"P1": tuple(unit.folders)})).looked == "folders"


# --- limits and time -------------------------------------------------------------------------------------


@pytest.mark.parametrize("depth", [1, 2, None])
def test_too_many_entries_are_a_problem(
    tmp_path: Path, depth: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contents, "MAX_ENTRIES", 50)
    monkeypatch.setattr(listing, "MAX_ENTRIES", 50)
    put(tmp_path, *(f"P1/S1/{number}.ptn" for number in range(60)), "P2/S1/RP.dcm")
    units = {unit.path: unit.problem for unit in list_units(watch_at(tmp_path, depth=depth)).units}
    assert sum(bool(problem) for problem in units.values()) == 1
    (problem,) = [problem for problem in units.values() if problem]
    assert "more than 50 entries" in problem


@pytest.mark.parametrize("depth", [1, None])
def test_too_many_levels_are_a_problem(tmp_path: Path, depth: int | None) -> None:
    put(tmp_path, "P1/" + "d/" * (listing.MAX_LEVELS + 2) + "a.ptn", "P2/RP.dcm")
    deep, fine = list_units(watch_at(tmp_path, depth=depth)).units
    assert deep.problem is not None and "levels deep" in deep.problem
    assert fine.problem is None


@POSIX  # Windows lets nobody remove a folder while another process lists it
def test_a_folder_that_keeps_changing_while_it_is_listed(tmp_path: Path) -> None:
    put(tmp_path, *(f"P{number}/RP.dcm" for number in range(30)))
    stop = threading.Event()

    def churn() -> None:
        while not stop.is_set():
            for number in range(30):
                put(tmp_path / f"P{number}", "d/a.ptn", "d/e/b.ptn")
                shutil.rmtree(tmp_path / f"P{number}" / "d")

    thread = threading.Thread(target=churn)
    thread.start()
    try:
        for depth in (1, 2, None):
            for _ in range(30):
                found = list_units(watch_at(tmp_path, depth=depth))
                assert found.problem is None
                assert all(unit.problem is None for unit in found.units)
                if depth != 2:
                    assert len(found.units) == 30
    finally:
        stop.set()
        thread.join()


@POSIX  # the bound is for Linux: Wine is slower than anything else
def test_ten_thousand_settled_folders_take_less_than_a_second(tmp_path: Path) -> None:
    for number in range(10_000):
        folder = tmp_path / f"P{number // 100:03d}" / f"S{number:05d}"
        folder.mkdir(parents=True)
        if number < 100:
            (folder / "RP.dcm").touch()
    watch = watch_at(tmp_path, depth=2)
    settled = {unit.path: unit.folders for unit in list_units(watch).units}
    assert len(settled) == 10_000
    fastest = 9.9
    for _ in range(3):  # the machine may be busy with other tests
        start = time.process_time()
        found = list_units(watch, settled)
        fastest = min(fastest, time.process_time() - start)
        assert {unit.looked for unit in found.units} == {"folders"}
    assert fastest < 1.0


# --- Windows, as far as it can be told elsewhere ---------------------------------------------------------

REPARSE = 0x400
KINDS = [
    ("a plain file", 0o100644, 0, 0, "file"),
    ("a plain folder", 0o040755, 0x10, 0, "folder"),
    ("a symlink", 0o120777, REPARSE, 0xA000000C, "link"),
    ("a junction has the mode of a folder", 0o040755, REPARSE | 0x10, 0xA0000003, "link"),
    ("a cloud placeholder", 0o100644, REPARSE, 0x9000001A, "link"),
    ("an unknown reparse point", 0o100644, REPARSE, 0, "link"),
    ("a file on a deduplicated volume", 0o100644, REPARSE, 0x80000013, "file"),
    ("a compressed system file", 0o100644, REPARSE, 0x80000017, "file"),
    ("a pipe", 0o010644, 0, 0, "special"),
    ("a device", 0o060644, 0, 0, "special"),
]


@pytest.mark.parametrize(
    ("remark", "mode", "attributes", "tag", "kind"), KINDS, ids=[row[0] for row in KINDS]
)
def test_kinds_of_entries(remark: str, mode: int, attributes: int, tag: int, kind: str) -> None:
    status = SimpleNamespace(st_mode=mode, st_file_attributes=attributes, st_reparse_tag=tag)
    assert kind_of(status) == kind


@pytest.mark.parametrize(
    ("path", "exact"),
    [
        ("D:\\cases\\P1\\a.", "\\\\?\\D:\\cases\\P1\\a."),
        ("D:\\cases\\P1/sub\\nul.xml", "\\\\?\\D:\\cases\\P1\\sub\\nul.xml"),
        ("\\\\nas\\cases\\P1\\b ", "\\\\?\\UNC\\nas\\cases\\P1\\b "),
        ("\\\\?\\D:\\cases\\a.", "\\\\?\\D:\\cases\\a."),
    ],
)
def test_windows_paths_that_mean_exactly_this_name(path: str, exact: str) -> None:
    assert contents._exactly(path) == exact


@pytest.mark.skipif(sys.platform != "win32", reason="only Windows alters such names")
@pytest.mark.parametrize("name", ["plan.", "spot ", "aux", "nul.xml", "com1.dcm"])
def test_a_name_that_windows_alters_is_not_passed_over(name: str, tmp_path: Path) -> None:
    put(tmp_path, "P1/RP.dcm", "P2/RP.dcm")
    Path(f"\\\\?\\{tmp_path}\\P1\\{name}").write_bytes(b"x")
    units = {unit.path: unit for unit in list_units(watch_at(tmp_path)).units}
    assert "has a name that Windows programs cannot open" in str(units["P1"].problem)
    assert units["P2"].problem is None


@pytest.mark.skipif(sys.platform != "win32", reason="only Windows alters such names")
@pytest.mark.parametrize("depth", [1, 2, None])
def test_a_case_folder_that_windows_alters_is_not_passed_over(depth: int | None, tmp_path: Path) -> None:
    Path(f"\\\\?\\{tmp_path}\\P1.").mkdir()
    (unit,) = list_units(watch_at(tmp_path, depth=depth)).units
    assert unit.path == "P1."
    assert "has a name that Windows programs cannot open" in str(unit.problem)
