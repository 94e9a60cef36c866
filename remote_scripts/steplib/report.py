"""How a step reports: exit codes, progress, and the one sentence that says why it stopped.

Exit codes of every shipped step:

    0   ok
    1   a defect of the step itself
    2   bad input: the case, or the step's parameters, cannot be computed; trying again changes nothing
    3   a check of the result failed; the files of the result are there for inspection
    4   the dose engine is not there, or did not do its work
    75  temporary (memory, disk): worth another attempt
    78  the Python of this host lacks a package that the step needs

The agent names two files in the environment: MQI_PROGRESS takes {"fraction": 0..1, "message"},
MQI_ERROR takes {"message": one sentence}. Both are optional, so that a step can be run by hand.

Nothing that a step prints or writes here may hold patient data: messages name an input by its number,
a beam by its DICOM number, an attribute by its keyword and tag, and never quote a text value.
"""

from __future__ import annotations

import argparse
import errno
import json
import os
import sys
import time
import traceback
from pathlib import Path
from typing import Any, Callable, NoReturn, Sequence

OK, DEFECT, BAD_INPUT, FAILED_CHECK, ENGINE_FAILED, TEMPORARY, WRONG_PYTHON = 0, 1, 2, 3, 4, 75, 78

# Running out of these passes; a missing permission does not.
_PASSING = {errno.ENOSPC, errno.ENOMEM, errno.EAGAIN, errno.EIO, errno.EMFILE, errno.ENFILE}
_PASSING |= {getattr(errno, name) for name in ("EDQUOT", "ESTALE", "ETIMEDOUT") if hasattr(errno, name)}


class StepProblem(Exception):
    """A reason to stop that is understood. `str(problem)` is one sentence for the operator."""

    exit_code = DEFECT


class BadInput(StepProblem):
    """The case or the parameters cannot be computed as they are."""

    exit_code = BAD_INPUT


class FailedCheck(StepProblem):
    """There is a result, and it contradicts what is known about it."""

    exit_code = FAILED_CHECK


class EngineFailed(StepProblem):
    """The dose engine is missing, or ended without a dose that can be trusted."""

    exit_code = ENGINE_FAILED


class Temporary(StepProblem):
    """Nothing is wrong with the case; another attempt may succeed."""

    exit_code = TEMPORARY


class WrongPython(StepProblem):
    """A package is missing."""

    exit_code = WRONG_PYTHON


class Progress:
    """Writes MQI_PROGRESS. The fraction never goes backwards; failing to write does not fail the step."""

    _EVERY_S = 0.2

    def __init__(self) -> None:
        name = os.environ.get("MQI_PROGRESS", "")
        self._path = Path(name) if name else None
        self._fraction = 0.0
        self._written = float("-inf")

    def __call__(self, fraction: float, message: str) -> None:
        self._fraction = max(self._fraction, min(1.0, fraction))
        now = time.monotonic()
        if self._path is None or (now - self._written < self._EVERY_S and self._fraction < 1.0):
            return
        self._written = now
        try:
            _write_whole(self._path, {"fraction": round(self._fraction, 4), "message": message})
        except OSError:
            # Somebody reads the file (Windows) or the disk is full: the next report, or the work, will tell.
            pass


class Arguments(argparse.ArgumentParser):
    """An argument parser whose complaints take the same way as every other problem."""

    def error(self, message: str) -> NoReturn:
        raise BadInput(f"The step was started with wrong arguments: {message}.")


def run_step(main: Callable[[Sequence[str], Progress], None], argv: Sequence[str]) -> int:
    """Runs `main(argv, progress)`; the exit code, after telling stderr and MQI_ERROR what went wrong."""
    try:
        main(argv, Progress())
    except StepProblem as problem:
        return _stop(problem.exit_code, str(problem))
    except MemoryError:
        return _stop(TEMPORARY, "There is not enough memory for this step now.")
    except ModuleNotFoundError as missing:
        package = (missing.name or "a package").split(".")[0]
        return _stop(
            WRONG_PYTHON,
            f"The Python of this host has no {package}: install the packages of mqi[steps] there, or name "
            "another Python in the host's configuration.",
        )
    except OSError as problem:
        if problem.errno in _PASSING:
            return _stop(TEMPORARY, f"The operating system refused for now: {problem.strerror}.")
        return _stop(DEFECT, f"{_defect(problem)}: {problem.strerror}.")
    except Exception as problem:  # noqa: BLE001 - its text may quote the case, so only the place is told
        return _stop(DEFECT, f"{_defect(problem)}.")
    return OK


def _defect(problem: BaseException) -> str:
    frames = traceback.extract_tb(problem.__traceback__)
    place = f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "an unknown place"
    return f"The step stopped on an unexpected {type(problem).__name__} at {place}"


def _stop(code: int, sentence: str) -> int:
    print(sentence, file=sys.stderr, flush=True)
    name = os.environ.get("MQI_ERROR", "")
    if name:
        try:
            _write_whole(Path(name), {"message": sentence})
        except OSError as problem:
            print(f"(the sentence above could not be recorded: {problem.strerror})", file=sys.stderr)
    return code


def _write_whole(path: Path, content: Any) -> None:
    """A reader sees the old content or the new one, never half of it."""
    part = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    part.write_text(json.dumps(content), encoding="utf-8")
    for attempt in range(5):
        try:
            os.replace(part, path)
            return
        except PermissionError:
            # Windows: a reader has the old file open for a moment.
            if attempt == 4:
                part.unlink()
                raise
            time.sleep(0.02)
