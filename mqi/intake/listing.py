"""Lists a watch folder: which units are there, with which files. Reads names, sizes, times; never contents.

What is listed lies on somebody else's disk and changes while we look: entries that vanish are passed over,
links are never followed, and trouble in one folder is that unit's `problem` and nobody else's.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from mqi.errors import DiskProblem
from mqi.intake.contents import MAX_ENTRIES, Contents, Rules, contents_of, names_in, sorted_out
from mqi.intake.files import file_stat, kind_of, reason_of
from mqi.intake.unit import FileStat, Unit, WatchListing, shown, storable
from mqi.settings import WatchFolder

__all__ = ["FileStat", "Unit", "WatchListing", "list_unit", "list_units"]

# Folders below one another in one unit; beyond it, as beyond MAX_ENTRIES, the unit is no case.
MAX_LEVELS = 40

_NOTHING_SETTLED: Mapping[str, tuple[tuple[str, int], ...]] = {}
_NOTHING_KNOWN: Mapping[str, Mapping[str, int]] = {}


class _Place(NamedTuple):
    """A folder that was seen: `path` posix below the watch folder, `folder` as the system wants it."""

    path: str
    folder: str
    mtime_ns: int
    marker: bool  # found in a folder above

    def child(self, name: str, mtime_ns: int, marker: bool) -> _Place:
        path = f"{self.path}/{name}" if self.path else name
        return _Place(path, f"{self.folder}{os.sep}{name}", mtime_ns, marker)


def list_units(
    watch: WatchFolder,
    settled: Mapping[str, tuple[tuple[str, int], ...]] = _NOTHING_SETTLED,
    known: Mapping[str, Mapping[str, int]] = _NOTHING_KNOWN,
) -> WatchListing:
    """Every unit below `watch.path`, by path.

    `settled` maps the paths of units that need no close look to the `folders` recorded for them: such a
    unit is compared by the times of its folders only (`looked` is "folders") and listed in full as soon as
    one differs. A file that is rewritten in place changes no folder's time; that is found by calling
    without `settled` from time to time. `known` does the same for single deliveries of a unit (layout shi):
    those whose folders have the times recorded there are named in `unopened`, and their files left out.

    With depth n the units are the folders n levels below, with depth None the topmost folders that
    directly hold a file matching `require`. Folders seen on the way that hold no unit are listed as
    placeholders. A name that `ignore` matches is "not there yet" and no unit. Raises nothing: an
    unreachable watch folder is the listing's `problem`.
    """
    rules = Rules.of(watch, settled, known)
    root = _root(watch)
    try:
        before = watch.path.stat()
        names = names_in(root.folder, None)
        units = list(_below(root, sorted_out(root.folder, names, rules), 1, rules))
        after = watch.path.stat()
    except OSError as error:
        return WatchListing((), _unreachable(watch, error))
    if (before.st_dev, before.st_ino) != (after.st_dev, after.st_ino):
        # What was missing below may only have been out of reach.
        return WatchListing((), f"The watch folder {watch.path} went out of reach while it was listed.")
    return WatchListing(tuple(sorted(units, key=lambda unit: unit.path)))


def list_unit(
    watch: WatchFolder, path: str, known: Mapping[str, Mapping[str, int]] = _NOTHING_KNOWN
) -> Unit | None:
    """The unit at `path` (posix, below the watch folder), listed in full; None when it is not there.

    The same as list_units finds for that path. Raises DiskProblem when the watch folder is out of reach.
    """
    rules = Rules.of(watch, _NOTHING_SETTLED, known)
    place = _root(watch)
    try:
        names = names_in(place.folder, None)
    except OSError as error:
        raise DiskProblem(_unreachable(watch, error), "Connect it again; mqi goes on by itself.") from error
    contents: Contents | None = sorted_out(place.folder, names, rules)
    level = 0
    for part in path.split("/"):
        stamp = None if contents is None else dict(contents.folders).get(part)
        if contents is None or stamp is None:
            return None
        marker = place.marker or bool(place.path and contents.markers)
        place = place.child(part, stamp, marker)
        contents = contents_of(place.folder, rules)
        level += 1
    if contents is None:
        return None
    placeholder = not rules.is_unit(contents) if rules.depth is None else level < rules.depth
    return _full_unit(place, rules, {"": contents}, placeholder)


def _root(watch: WatchFolder) -> _Place:
    return _Place("", str(watch.path), 0, False)


def _unreachable(watch: WatchFolder, error: OSError) -> str:
    if isinstance(error, FileNotFoundError):
        return f"The watch folder {watch.path} does not exist; is its disk or share connected?"
    if isinstance(error, NotADirectoryError):
        return f"The watch folder {watch.path} is not a folder."
    return f"The watch folder {watch.path} cannot be read: {reason_of(error)}."


def _below(place: _Place, contents: Contents, level: int, rules: Rules) -> Iterator[Unit]:
    """The units below a folder that is no unit itself. `level` counts from 1 directly in the watch folder."""
    yield from _wrong_units(place, contents)
    marker = place.marker or bool(place.path and contents.markers)
    for name, mtime_ns in contents.folders:
        child = place.child(name, mtime_ns, marker)
        if rules.depth is None:
            yield from _topmost(child, rules)
        elif level >= rules.depth:
            yield from _one(child, rules)
        else:
            yield from _branch(child, level, rules)


def _one(place: _Place, rules: Rules) -> Iterator[Unit]:
    unit = _settled_unit(place, rules) or _full_unit(place, rules, {})
    if unit:
        yield unit


def _branch(place: _Place, level: int, rules: Rules) -> Iterator[Unit]:
    """A folder above the level of the units: what is below it or, when nothing is, itself, a placeholder."""
    contents = contents_of(place.folder, rules)
    if contents is None:
        return
    if contents.folders or any(as_folder for _, _, as_folder in contents.wrong):
        yield from _below(place, contents, level + 1, rules)
        return
    unit = _settled_unit(place, rules, placeholder=True) or _full_unit(
        place, rules, {"": contents}, placeholder=True
    )
    if unit:
        yield unit


def _topmost(first: _Place, rules: Rules) -> Iterator[Unit]:
    """Depth None: the topmost folders at or below `first` that directly hold a required file."""
    seen: dict[str, Contents] = {}
    beside: list[Unit] = []  # what keeps us from knowing all: only shown when `first` itself is not
    found = 0
    entries = 0
    pending = [(first, "", 0)]
    while pending:
        place, inner, level = pending.pop()
        settled = _settled_unit(place, rules)
        if settled:
            found += 1
            yield settled
            continue
        contents = contents_of(place.folder, rules)
        if contents is None:
            continue
        seen[inner] = contents
        if rules.is_unit(contents):
            unit = _full_unit(place, rules, {"": contents})
            found += unit is not None
            if unit:
                yield unit
            continue
        entries += contents.entries
        beside.extend(_wrong_units(place, contents))
        if contents.unreadable:
            beside.append(_problem_unit(place.path, place.folder, _unreadable("", contents.unreadable)))
        if entries > MAX_ENTRIES or level >= MAX_LEVELS:
            beside.append(_problem_unit(place.path, place.folder, _too_much(entries)))
            if entries > MAX_ENTRIES:
                break
            continue
        marker = place.marker or bool(contents.markers)
        for name, mtime_ns in contents.folders:
            below = f"{inner}/{name}" if inner else name
            pending.append((place.child(name, mtime_ns, marker), below, level + 1))
    if found:
        yield from beside
    elif "" in seen:
        unit = _full_unit(first, rules, seen, placeholder=True)
        if unit:
            yield unit


def _settled_unit(place: _Place, rules: Rules, placeholder: bool = False) -> Unit | None:
    """The unit as it was settled, if the times of all its folders are still the same."""
    recorded = rules.settled.get(place.path)
    if not recorded or not _unchanged(place, recorded):
        return None
    return Unit(
        path=place.path,
        folder=Path(place.folder),
        files=(),
        temporary=(),
        problem=None,
        marker_found=False,
        folders=tuple((inner, mtime_ns) for inner, mtime_ns in recorded),
        looked="folders",
        placeholder=placeholder,
    )


def _unchanged(place: _Place, recorded: tuple[tuple[str, int], ...]) -> bool:
    for inner, mtime_ns in recorded:
        if inner == ".":  # looked at when the folder above was listed
            if place.mtime_ns != mtime_ns:
                return False
            continue
        try:
            status = os.lstat(f"{place.folder}{os.sep}{inner}")
        except (OSError, ValueError):
            return False
        if status.st_mtime_ns != mtime_ns or kind_of(status) != "folder":
            return False
    return True


def _full_unit(
    place: _Place, rules: Rules, seen: Mapping[str, Contents], placeholder: bool = False
) -> Unit | None:
    """Everything in and below a folder; None when it has vanished. `seen` has what was read already."""
    files: list[FileStat] = []
    temporary: list[str] = []
    folders: list[tuple[str, int]] = []
    problems: list[str] = []
    marker = place.marker
    unopened: set[str] = set()
    known = rules.known.get(place.path) or {}
    entries = 0
    # Each folder's time was taken before its contents are read: a change in between is seen next time.
    pending = [("", place.mtime_ns, 0)]
    while pending:
        inner, mtime_ns, level = pending.pop()
        folder = f"{place.folder}{os.sep}{inner}" if inner else place.folder
        contents = seen.get(inner) or contents_of(folder, rules)
        if contents is None:
            if not inner:
                return None
            continue
        below = f"{inner}/" if inner else ""
        folders.append((inner or ".", mtime_ns))
        marker = marker or bool(contents.markers and not inner)
        temporary.extend(below + name for name in contents.temporary)
        problems.extend(_sentence(below + name, what) for name, what, _ in contents.wrong)
        if contents.unreadable:
            problems.append(_unreadable(inner, contents.unreadable))
        # Further down a marker marks nothing, and its file is one like any other.
        found = contents.files + contents.markers if inner else contents.files
        for name, status in found:
            files.append(file_stat(below + name, status))
        entries += contents.entries
        if entries > MAX_ENTRIES or level >= MAX_LEVELS:
            problems.insert(0, _too_much(entries))
            break
        for name, stamp in contents.folders:
            if not inner and known.get(name) == stamp:
                unopened.add(name)
                folders.append((name, stamp))
            else:
                pending.append((below + name, stamp, level + 1))
    return Unit(
        path=place.path,
        folder=Path(place.folder),
        files=tuple(sorted(files, key=lambda file: file.path)),
        temporary=tuple(sorted(temporary)),
        problem=_summary(problems),
        marker_found=marker,
        folders=tuple(sorted(folders)),
        placeholder=placeholder,
        unopened=frozenset(unopened),
    )


def _wrong_units(place: _Place, contents: Contents) -> Iterator[Unit]:
    """Links and the like that stand where a case folder, or a folder above one, would be."""
    for name, what, as_folder in contents.wrong:
        if not as_folder:
            continue
        text = name
        if not storable(name):
            raw = os.fsencode(name) if os.name != "nt" else name.encode("utf-16-le", "surrogatepass")
            # Unlike any name that can be there, so that two such folders never become one unit.
            text = f"{shown(name)[1:-1]}~{hashlib.sha256(raw).hexdigest()[:8]}"
        path = f"{place.path}/{text}" if place.path else text
        yield _problem_unit(path, f"{place.folder}{os.sep}{name}", _sentence(name, what))


def _problem_unit(path: str, folder: str, problem: str) -> Unit:
    return Unit(path, Path(folder), (), (), problem, marker_found=False, folders=(), placeholder=True)


def _sentence(inner: str, what: str) -> str:
    return f"{shown(inner)} {what}."


def _unreadable(inner: str, reason: str) -> str:
    subject = f"The folder {shown(inner)}" if inner else "The folder"
    return f"{subject} cannot be read ({reason}); let the account that runs mqi read it."


def _too_much(entries: int) -> str:
    if entries > MAX_ENTRIES:
        what = f"more than {MAX_ENTRIES:,} entries"
    else:
        what = f"folders more than {MAX_LEVELS} levels deep"
    return f"Holds {what}, which no case does; check path and depth of this watch folder."


def _summary(problems: list[str]) -> str | None:
    if not problems:
        return None
    if len(problems) == 1:
        return problems[0]
    return f"{problems[0]} And {len(problems) - 1:,} more."
