"""What lies directly in one folder, sorted out: files, folders, names that are not there yet, and trouble."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from mqi.intake.files import kind_of, reason_of
from mqi.intake.unit import LASTING_NAMES, name_pattern, storable
from mqi.names import is_unsafe_on_windows
from mqi.settings import WatchFolder

# A case has hundreds of files. Beyond this the watch folder is most likely set to the wrong level.
MAX_ENTRIES = 100_000  # files, folders and ignored names of one unit
WINDOWS_FOLDER_LIMIT = 247  # characters in the path of a folder; longer ones need a setting of Windows

_LINK = "is a link, and links are not followed; put the files themselves there, or remove the link"
_BAD_NAME = "has a name that is not valid text (UTF-8); rename it"
_WINDOWS_NAME = "has a name that Windows programs cannot open; rename it"
_SPECIAL = "is a pipe, socket or device and not a file; remove it"


class Rules(NamedTuple):
    """A watch folder's settings, ready for matching names."""

    ignore: re.Pattern[str]
    lasting: re.Pattern[str]
    require: re.Pattern[str]
    marker: str | None  # case-folded
    depth: int | None
    settled: Mapping[str, tuple[tuple[str, int], ...]]
    deliveries: bool  # layout shi: folders named by a time hold deliveries
    # Unit -> delivery -> time of its folder; while that is the same, its files need no look.
    known: Mapping[str, Mapping[str, int]]

    @classmethod
    def of(
        cls,
        watch: WatchFolder,
        settled: Mapping[str, tuple[tuple[str, int], ...]],
        known: Mapping[str, Mapping[str, int]],
    ) -> Rules:
        return cls(
            ignore=name_pattern(watch.ignore),
            lasting=name_pattern(LASTING_NAMES),
            require=name_pattern(watch.require or ("*",)),
            marker=None if watch.marker is None else watch.marker.casefold(),
            depth=watch.depth,
            settled=settled,
            deliveries=watch.layout == "shi",
            known=known,
        )

    def is_marker(self, name: str) -> bool:
        return self.marker is not None and name.casefold() == self.marker

    def is_unit(self, contents: Contents) -> bool:
        """Without a depth: whether this folder is a unit, and not only on the way to one."""
        if any(self.require.match(name) for name, _ in contents.files):
            return True
        # A study whose plan is still to come is seen, too.
        if not self.deliveries:
            return False
        from mqi.intake.delivery import is_delivery  # other layouts do without it

        return any(is_delivery(name) for name, _ in contents.folders)


@dataclass(slots=True)
class Contents:
    """What lies directly in one folder. Names only; sentences are made where they are needed."""

    files: list[tuple[str, os.stat_result]] = field(default_factory=list)
    folders: list[tuple[str, int]] = field(default_factory=list)
    temporary: list[str] = field(default_factory=list)
    # (name, what is wrong with it, whether it stands where a folder would)
    wrong: list[tuple[str, str, bool]] = field(default_factory=list)
    markers: list[tuple[str, os.stat_result]] = field(default_factory=list)
    unreadable: str = ""  # why; then the rest is empty

    @property
    def entries(self) -> int:
        return len(self.files) + len(self.folders) + len(self.temporary) + len(self.wrong)


def names_in(folder: str, limit: int | None) -> list[str]:
    """The names in a folder, at most `limit`, sorted. Raises OSError."""
    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in itertools.islice(entries, limit))


def contents_of(folder: str, rules: Rules) -> Contents | None:
    """What lies directly in a folder; None when it has vanished."""
    try:
        return sorted_out(folder, names_in(folder, MAX_ENTRIES + 1), rules)
    except (FileNotFoundError, NotADirectoryError):
        if os.name == "nt" and len(folder) >= WINDOWS_FOLDER_LIMIT:
            return Contents(unreadable="its path is too long for Windows")
        return None
    except OSError as error:
        return Contents(unreadable=reason_of(error))


def sorted_out(folder: str, names: list[str], rules: Rules) -> Contents:
    """Look at each of the names in a folder. One that has vanished since it was listed is passed over."""
    contents = Contents()
    for name in names:
        is_marker = rules.is_marker(name)
        if not is_marker and rules.ignore.match(name):
            if not rules.lasting.match(name):
                contents.temporary.append(name)
            continue
        path = f"{folder}{os.sep}{name}"
        try:
            # Not DirEntry.stat(): on NTFS the folder's entry is stale while a writer holds the file.
            status = os.lstat(_exactly(path) if os.name == "nt" and is_unsafe_on_windows(name) else path)
        except FileNotFoundError:
            if os.name == "nt" and len(path) > WINDOWS_FOLDER_LIMIT:
                contents.wrong.append((name, "has a path that is too long for Windows; shorten it", True))
            continue
        except OSError as error:
            # It may be a folder with a case in it, so it must not disappear from the list.
            what = f"cannot be looked at ({reason_of(error)}); let the account that runs mqi read the folder"
            contents.wrong.append((name, what, True))
            continue
        kind = kind_of(status)
        if kind == "link":
            contents.wrong.append((name, _LINK, True))
        elif not storable(name):
            contents.wrong.append((name, _BAD_NAME, kind == "folder"))
        elif os.name == "nt" and is_unsafe_on_windows(name):
            contents.wrong.append((name, _WINDOWS_NAME, kind == "folder"))
        elif kind == "special":
            contents.wrong.append((name, _SPECIAL, False))
        elif kind == "folder":
            contents.folders.append((name, status.st_mtime_ns))
        elif is_marker:
            contents.markers.append((name, status))
        else:
            contents.files.append((name, status))
    return contents


def _exactly(path: str) -> str:
    """A Windows path so that it means this very name: `a.` would mean `a`, which is not there, and the file
    would be passed over as if it had vanished."""
    if path.startswith("\\\\?\\"):
        return path
    plain = path.replace("/", "\\")
    return f"\\\\?\\UNC{plain[1:]}" if plain.startswith("\\\\") else f"\\\\?\\{plain}"
