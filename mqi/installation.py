"""Who this installation is to a host, and how a host that was declared lost is kept from going on.

A work directory belongs to the installation that made it: its agent refuses every other one before it does
anything else. When an operator declares a host lost, its cases are computed on other hosts; should it come
back after all, its old work directory must start nothing more. So from then on we go by another name there.
The old work directory refuses that name; one that was emptied takes it.

Both files lie beside the configuration, not in the database: a restored database must not know less.
"""

from __future__ import annotations

import json
import os
import secrets
from pathlib import Path

from mqi.errors import ConfigurationProblem, DiskProblem
from mqi.renaming import replace

_WAIT_S = 10.0


def installation_id(path: Path) -> str:
    """The id of this installation, made once at `path`. Tells this control PC from another one."""
    try:
        known = _read(path)
        if not known:
            path.parent.mkdir(parents=True, exist_ok=True)
            _write_once(path)
            known = _read(path)
        return known
    except OSError as error:
        raise DiskProblem(f"the installation id cannot be read or written: {error}") from error


def name_at(path: Path, host: str) -> str:
    """What we call ourselves to `host`: the id, and how often the host was declared lost, if ever."""
    count = times_lost(path, host)
    return installation_id(path) + (f".{count}" if count else "")


def times_lost(path: Path, host: str) -> int:
    """How often `host` was declared lost. Raises ConfigurationProblem when that cannot be read: guessing
    might wake a work directory whose cases were computed elsewhere."""
    return _lost(path).get(host, 0)


def note_lost(path: Path, host: str) -> None:
    """From now on we go by another name to `host`. Durable before it returns. Raises DiskProblem."""
    from filelock import FileLock

    note = _note(path)
    try:
        with FileLock(note.with_name(note.name + ".lock"), timeout=_WAIT_S):
            counts = _lost(path)
            _write(note, json.dumps({**counts, host: counts.get(host, 0) + 1}))
    except OSError as error:
        raise DiskProblem(
            f"{note} cannot be written: {error.strerror or error}", "nothing was changed; say it again"
        ) from error


def _note(path: Path) -> Path:
    return path.with_suffix(".lost")


def _lost(path: Path) -> dict[str, int]:
    note = _note(path)
    try:
        counts = json.loads(note.read_text(encoding="utf-8"))
        return {str(name): int(count) for name, count in counts.items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise ConfigurationProblem(
            f"{note}, which says which hosts were declared lost, cannot be read",
            'restore it, or write it anew: a JSON object such as {"gpu1": 1}, a number for each such host',
        ) from error


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        return ""


def _write_once(path: Path) -> None:
    """Of several first commands one writes the id; a file that was left empty is replaced."""
    from filelock import FileLock  # only the first command of an installation comes here

    with FileLock(path.with_name(path.name + ".lock"), timeout=_WAIT_S):
        if _read(path):
            return  # another command was first; its id counts
        _write(path, secrets.token_hex(16) + "\n")


def _write(path: Path, text: str) -> None:
    """The whole file or nothing, durable; under its lock. The temporary has one name, so a killed command's is
    used again and none is left over. Raises OSError."""
    part = path.with_name(path.name + ".part")
    with part.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    replace(part, path)
