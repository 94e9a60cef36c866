"""The scripts that are brought to a host, known by their content."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

# 128 bits: short enough for paths on Windows.
_HASH_LENGTH = 32
_IGNORED_FOLDERS = ("__pycache__", ".mypy_cache", ".ruff_cache", ".pytest_cache")
_IGNORED_SUFFIXES = (".pyc", ".pyo", "~", ".swp")


def script_files(folder: Path) -> Iterator[tuple[str, Path]]:
    """(relative posix path, path) of each file that is deployed, sorted. What Python or an editor leaves
    behind is none."""
    found = []
    for path in folder.rglob("*"):
        relative = path.relative_to(folder)
        if (
            path.is_file()
            and not any(part in _IGNORED_FOLDERS for part in relative.parts)
            and not relative.name.endswith(_IGNORED_SUFFIXES)
        ):
            found.append((relative.as_posix(), path))
    return iter(sorted(found))


def content_hash(folder: Path) -> str:
    """The name of these scripts: the same wherever they lie and whoever checked them out."""
    hasher = hashlib.sha256()
    for name, path in script_files(folder):
        hasher.update(f"{name}\0{hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return hasher.hexdigest()[:_HASH_LENGTH]
