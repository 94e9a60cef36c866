"""The settings as they were read last, kept beside mqi.yaml: reading them anew takes an idle run a quarter of its time.

They stand for one reading only: these files, byte for byte, by this very program, with this home folder. When
anything differs, or cannot be compared, mqi.yaml is read anew. Mistakes are never remembered, and neither is a
reading that took a value from the environment, which may be a secret. Losing the file costs nothing.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import zlib
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from mqi import settings as shapes
from mqi.settings import Settings

# What `~` depends on. A reading that asked for any other variable is not remembered.
_HOME = ("HOME", "USERPROFILE")


def load_remembered(path: Path, environ: Mapping[str, str], *, keep: bool = True) -> Settings:
    """The settings in the file at `path`, as `mqi.config.load_settings` gives them. Raises what that raises.

    Without `keep` nothing is written down.
    """
    note = path.with_name(path.name + ".remembered")
    known = _recall(note, path, environ)
    if known is not None:
        return known
    from mqi.config import load_settings

    asked, read = _Asked(environ), dict[Path, bytes]()
    settings = load_settings(path, asked, read)
    if keep and all(name in _HOME and value is not None for name, value in asked.names.items()):
        _remember(note, [_program(), str(path), asked.names, _texts(read), _plain(settings)])
    return settings


class _Asked(Mapping[str, str]):
    """The environment, and which of its variables were asked for."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ
        self.names: dict[str, str | None] = {}

    def __getitem__(self, name: str) -> str:
        self.names[name] = self._environ.get(name)
        return self._environ[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._environ)

    def __len__(self) -> int:
        return len(self._environ)


def _recall(note: Path, path: Path, environ: Mapping[str, str]) -> Settings | None:
    try:
        checksum, _, text = note.read_bytes().partition(b"\n")
        if int(checksum, 16) != zlib.crc32(text):
            return None
        program, file, home, files, settings = json.loads(text)
        if program != _program() or file != str(path):
            return None
        if any(environ.get(name) != value for name, value in home.items()):
            return None
        if not files or files != _texts({Path(name): Path(name).read_bytes() for name in files}):
            return None
        known = _settings(settings)
        return known if isinstance(known, Settings) else None
    # Whatever is wrong with it, such as a class that has other fields now, mqi.yaml itself tells.
    except (OSError, ValueError, TypeError, LookupError, AttributeError):
        return None


def _remember(note: Path, value: list[Any]) -> None:
    text = json.dumps(value, separators=(",", ":")).encode("ascii")
    part = note.with_name(f"{note.name}.{os.getpid()}.part")
    try:
        # As private as it can be: mqi.yaml may be, too.
        with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(b"%08x\n" % zlib.crc32(text) + text)
        part.replace(note)
    except OSError:  # a folder that may not be written, or, on Windows, a reader: the next run tries again
        with contextlib.suppress(OSError):
            part.unlink()


def _program() -> list[Any]:
    """What tells this program from another, or an older one that reads mqi.yaml differently."""
    package = Path(__file__).parent
    with os.scandir(package) as entries:
        modules = sorted(
            [entry.name, entry.stat().st_size, entry.stat().st_mtime_ns]
            for entry in entries
            if entry.name.endswith(".py")
        )
    return [sys.version, sys.executable, str(package), modules]


def _texts(files: Mapping[Path, bytes]) -> dict[str, str]:
    """JSON has no bytes; this encoding has a character for every one of them."""
    return {str(path): data.decode("latin-1") for path, data in files.items()}


# --- settings as JSON: [name of the class, field, …], with "" for a tuple and "{}" for a mapping ------------


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, str | int | float | bool):
        return value
    if isinstance(value, Path):
        return ["Path", str(value)]
    if isinstance(value, ZoneInfo):
        return ["ZoneInfo", str(value)]
    if isinstance(value, Mapping):
        return ["{}", *([key, _plain(one)] for key, one in value.items())]
    if type(value) is tuple:
        return ["", *map(_plain, value)]
    return [type(value).__name__, *(_plain(getattr(value, name)) for name in _fields(value))]


def _settings(value: Any) -> Any:
    if not isinstance(value, list):
        return value
    kind, *fields = value
    if kind == "{}":
        return {key: _settings(one) for key, one in fields}
    if kind == "Path":
        return Path(fields[0])
    if kind == "ZoneInfo":
        return ZoneInfo(fields[0])
    made = [_settings(field) for field in fields]
    if not kind:
        return tuple(made)
    shape = getattr(shapes, kind)
    if len(made) != len(_fields(shape)):
        raise ValueError(f"not the fields of {kind}")  # defaults must not fill in for what is missing
    return shape(*made)


def _fields(shape: Any) -> Collection[str]:
    named: Collection[str] | None = getattr(shape, "_fields", None)  # a named tuple's; else a dataclass'
    return tuple(shape.__dataclass_fields__) if named is None else named
