"""The effects: run a program, write and remove a file. Nothing here decides anything."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mqi.errors import ConfigurationProblem, DiskProblem, UsageProblem

# Task Scheduler answers within seconds, PowerShell starts in up to ten on a busy computer.
_TIMEOUT_S = 60.0


class SchedulerProblem(ConfigurationProblem):
    """The scheduler of this computer says no, or says nothing."""


class NotAllowed(UsageProblem):
    """Only an administrator may do this here."""


@dataclass(frozen=True, slots=True)
class Finished:
    """How a program ended. `err` is for people: it may be in any language."""

    code: int
    out: bytes
    err: str

    @property
    def text(self) -> str:
        """What it printed, as text."""
        return text_of(self.out)


def find_program(name: str) -> str | None:
    """The absolute path of a program, or None."""
    return shutil.which(name)


def run(
    argv: Sequence[str], *, stdin: bytes = b"", timeout_s: float = _TIMEOUT_S, cwd: str | None = None
) -> Finished:
    """Run a program to its end. Raises SchedulerProblem when it is not there or does not end."""
    # What programs such as crontab say is then in English on every computer.
    environment = {**os.environ, "LC_ALL": "C.UTF-8"}
    # Files, not pipes: a service that the program starts may keep its ends of them open for ever.
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        try:
            done = subprocess.run(
                [_program(argv[0]), *argv[1:]],
                input=stdin,
                stdout=out,
                stderr=err,
                timeout=timeout_s,
                check=False,
                cwd=cwd,
                env=environment,
                creationflags=_no_window(),
            )
        except subprocess.TimeoutExpired:
            raise SchedulerProblem(
                f"{argv[0]} did not answer within {timeout_s:.0f} s",
                "try again; look whether the scheduler's service runs",
            ) from None
        except (OSError, ValueError) as error:
            raise SchedulerProblem(f"{argv[0]} cannot be run: {_reason(error)}") from error
        out.seek(0)
        err.seek(0)
        return Finished(done.returncode, out.read(), text_of(err.read()).strip())


def run_asking(argv: Sequence[str]) -> int:
    """Run a program that asks a person something on the console; its exit code."""
    try:
        return subprocess.run([_program(argv[0]), *argv[1:]], check=False).returncode
    except OSError as error:
        raise SchedulerProblem(f"{argv[0]} cannot be run: {_reason(error)}") from error


def _program(name: str) -> str:
    found = find_program(name)
    if found is None:
        raise SchedulerProblem(f"the program {name} was not found on this computer")
    return found


def _no_window() -> int:
    if sys.platform == "win32":
        return subprocess.CREATE_NO_WINDOW
    return 0


def text_of(data: bytes) -> str:
    """What a program printed, as text: Windows' own programs write in one of three ways."""
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return data.decode("utf-16", errors="replace")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("oem" if sys.platform == "win32" else "latin-1", errors="replace")


def read_file(path: Path) -> str | None:
    """The text of a file; None when it is not there. Raises DiskProblem."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return None
    except OSError as error:
        raise DiskProblem(f"{path} cannot be read: {_reason(error)}") from error


def write_file(path: Path, data: bytes) -> None:
    """Put a file there, whole or not at all, readable by everybody. Raises NotAllowed, DiskProblem."""
    part = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, part = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        Path(part).chmod(0o644)
        Path(part).replace(path)
        part = None
    except PermissionError as error:
        raise NotAllowed(
            f"{path} may not be written: {_reason(error)}", "ask an administrator, or become one"
        ) from error
    except OSError as error:
        raise DiskProblem(f"{path} cannot be written: {_reason(error)}") from error
    finally:
        if part is not None:
            with contextlib.suppress(OSError):
                Path(part).unlink()


def remove_file(path: Path) -> None:
    """Remove a file; one that is gone already is as good. Raises NotAllowed, DiskProblem."""
    try:
        path.unlink(missing_ok=True)
    except PermissionError as error:
        raise NotAllowed(
            f"{path} may not be removed: {_reason(error)}", "ask an administrator, or become one"
        ) from error
    except OSError as error:
        raise DiskProblem(f"{path} cannot be removed: {_reason(error)}") from error


def make_folder(path: Path, owner: str = "") -> None:
    """Make a folder that is missing, for `owner` when that is somebody else. Raises NotAllowed, DiskProblem."""
    missing = [one for one in (path, *path.parents) if not one.exists()]
    try:
        path.mkdir(parents=True, exist_ok=True)
        if owner:
            for one in missing:
                shutil.chown(one, owner)
    except LookupError as error:
        raise UsageProblem(f"there is no account {owner!r} on this computer", "make it first") from error
    except PermissionError as error:
        raise NotAllowed(
            f"the folder {path} may not be made: {_reason(error)}", "make it, or become an administrator"
        ) from error
    except OSError as error:
        raise DiskProblem(f"the folder {path} cannot be made: {_reason(error)}") from error


def modified_at(path: Path) -> float | None:
    """When a file was last written, in Unix seconds; None when it is not there or not to be seen."""
    try:
        return path.stat().st_mtime
    except OSError:
        return None


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
