"""Small durable files, and trees. Every write goes by temporary file, fsync, rename: one standard for all."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import stat
import sys
import time
from pathlib import Path
from typing import Any, Callable, Iterator, List, Optional, Sequence, Tuple, TypeVar, Union

T = TypeVar("T")

CHUNK = 1 << 20
_FSYNC_THREADS = 8
# Virus scanners and indexers hold a new file for a moment (Windows only).
_RETRY_DELAYS_S = (0.05, 0.1, 0.2, 0.4, 0.8, 1.0)
FULL_OR_READ_ONLY = (errno.ENOSPC, errno.EROFS, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.ENOTDIR)


def retried(action: Callable[[], T]) -> T:
    """Does `action`, again for a while when Windows says that somebody holds the file."""
    for delay in _RETRY_DELAYS_S:
        try:
            return action()
        except OSError as error:
            if getattr(error, "winerror", None) not in (5, 32, 33):
                raise
            time.sleep(delay)
    return action()


def replace(source: Union[Path, str], target: Union[Path, str]) -> None:
    retried(lambda: os.replace(source, target))


def fsync_folder(folder: Path) -> None:
    """Makes names in `folder` survive a power loss. Windows has no such call and needs none."""
    _fsync(folder)


def fsync_files(paths: Sequence[Path]) -> None:
    """fsync of many files or folders, several at a time: file systems write one journal for all that ask
    together, which is ten times faster than asking one after the other. Raises OSError."""
    if len(paths) < 2:
        for path in paths:
            _fsync(path)
        return
    from concurrent.futures import ThreadPoolExecutor  # slow to import, and most requests move no files

    with ThreadPoolExecutor(_FSYNC_THREADS) as pool:
        for _ in pool.map(_fsync, paths):
            pass


def _fsync(path: Path) -> None:
    if sys.platform == "win32":
        if path.is_dir():
            return
        # Windows fsyncs only what is open for writing.
        fd = os.open(str(path), os.O_RDWR | os.O_BINARY)
    else:
        fd = os.open(str(path), os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def unique() -> str:
    """A word that no other process uses. (The module `random` is slow to import.)"""
    return os.urandom(8).hex()


def temporary_beside(path: Path) -> Path:
    return path.with_name(".%s.%s~" % (path.name, unique()))


def write_bytes(path: Path, data: bytes) -> None:
    """The file holds all of `data`, or what it held before; also after a power loss. Mode 0600."""
    temporary = temporary_beside(path)
    try:
        fd = os.open(str(temporary), os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o600)
        with open(fd, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        replace(temporary, path)
    except BaseException:
        try:
            temporary.unlink()
        except OSError:
            pass  # the first error is the one to tell
        raise
    fsync_folder(path.parent)


def write_json(path: Path, value: Any) -> None:
    write_bytes(path, json.dumps(value, ensure_ascii=True, sort_keys=True).encode("ascii"))


def read_json(path: Path) -> Any:
    """The content of a file that only we write; None when it is not there. Raises ValueError when broken."""
    try:
        # Windows refuses to open a file in the very moment in which another takes its place.
        return json.loads(retried(path.read_bytes).decode("utf-8"))
    except FileNotFoundError:
        return None


def read_json_object(path: Path) -> Optional[dict]:  # type: ignore[type-arg]  # any JSON object
    """As read_json, for a file that holds an object. Raises ValueError for anything else."""
    value = read_json(path)
    if value is not None and not isinstance(value, dict):
        raise ValueError("%s does not hold an object" % path.name)
    return value


def read_foreign_json(path: Path, limit: int = 1 << 16) -> Any:
    """A file that a job writes as it likes: None when it is missing, too long or not JSON."""
    try:
        with open(str(path), "rb") as stream:
            data = stream.read(limit + 1)
        return json.loads(data.decode("utf-8")) if len(data) <= limit else None
    except (OSError, ValueError, RecursionError):
        return None


def hash_file(path: Path) -> Tuple[str, int]:
    """(SHA-256 in hex, size in bytes) of a file."""
    hasher = hashlib.sha256()
    size = 0
    view = memoryview(bytearray(CHUNK))
    with open(str(path), "rb", buffering=0) as stream:
        while True:
            count = stream.readinto(view)
            if not count:
                break
            hasher.update(view[:count])
            size += count
    return hasher.hexdigest(), size


def regular_files(folder: Path) -> Iterator[Tuple[str, Path]]:
    """(relative posix path, path) of each regular file below `folder`, sorted. Links are not followed."""
    found: List[Tuple[str, Path]] = []
    for root, _, names in os.walk(str(folder), followlinks=False):
        for name in names:
            path = Path(root, name)
            if stat.S_ISREG(os.lstat(str(path)).st_mode):
                found.append((path.relative_to(folder).as_posix(), path))
    return iter(sorted(found))


def fsync_folders(folder: Path) -> None:
    """fsync of `folder` and every folder below it."""
    fsync_files([Path(root) for root, _, _ in os.walk(str(folder), followlinks=False)])


def link_or_copy(source: Path, target: Path) -> None:
    """`target` has the bytes of `source`: a hard link where the file system can, else a copy."""
    temporary = temporary_beside(target)
    try:
        os.link(str(source), str(temporary))
    except OSError:
        import shutil  # slow to import, and seldom needed

        shutil.copyfile(str(source), str(temporary))
    replace(temporary, target)
    # Renaming a link onto another link of the same file does nothing and leaves the source (POSIX).
    try:
        temporary.unlink()
    except FileNotFoundError:
        pass


def remove(path: Path) -> None:
    """Removes a file; it is fine when it was not there."""
    try:
        retried(lambda: os.unlink(str(path)))
    except FileNotFoundError:
        pass


def remove_tree(folder: Path) -> None:
    """Removes a tree, whatever modes a job gave its folders. Raises OSError when something stays."""
    if not folder.exists():
        return
    for root, folders, names in os.walk(str(folder)):
        os.chmod(root, 0o700)
        # Windows refuses to remove what is marked read-only; elsewhere only folders matter.
        for name in folders + names if sys.platform == "win32" else folders:
            path = os.path.join(root, name)
            if not os.path.islink(path):
                os.chmod(path, 0o700)
    import shutil  # slow to import, and seldom needed

    retried(lambda: shutil.rmtree(str(folder)))
