"""The work on a claimed job: check what it reads, run its command, check and list what it wrote."""

from __future__ import annotations

import hashlib
import os
import signal
import sys
import time
from pathlib import Path
from types import FrameType
from typing import Any, Dict, List, Optional, Tuple

from agent import command
from agent.files import (
    fsync_files,
    fsync_folder,
    fsync_folders,
    hash_file,
    read_foreign_json,
    regular_files,
    replace,
    write_bytes,
    write_json,
)
from agent.frames import encode
from agent.plans import StoredPlan
from agent.processes import Command
from agent.settings import Settings
from agent.store import drop_if_wrong
from agent.versions import python_of_steps
from agent.work import JobPaths, RunPaths, Work

_LOOK_EVERY_S = 0.2
# With less than this nothing can be written that a job would call a result.
_FULL_BYTES = 1 << 20


class Failure(Exception):
    """The job is not good; `kind` and `code` are those of the exit file."""

    def __init__(self, kind: str, message: str, code: int = 1) -> None:
        super().__init__(message)
        self.kind = kind
        self.code = code


def perform(
    work: Work,
    run: RunPaths,
    stored: StoredPlan,
    job: Dict[str, Any],
    settings: Settings,
    claim: Dict[str, Any],
    held: List[int],
    failure: Optional[Failure],
) -> Dict[str, Any]:
    """The content of the exit file. `held`: locks that the command shall keep should we be killed.

    `failure`: why the command cannot even begin, when that is known already. Never raises: whatever goes
    wrong is an ending that the operator gets to read.
    """
    paths = run.job(job["job_key"])
    outputs, otherwise = "", "spawn"
    try:
        if failure is not None:
            raise failure
        if paths.tombstone.exists():
            raise Failure("cancelled", "cancelled before it started")
        _check_inputs(work, run, stored, job)
        _run_command(paths, _prepared(work, run, stored, job, settings, claim), job, settings, held)
        otherwise = "failed"
        outputs = _keep_outputs(paths, job)
        kind, code, message = "ok", 0, ""
    except Failure as error:
        kind, code, message = error.kind, error.code, str(error)
    except Exception as error:  # noqa: BLE001  # a job without an exit file would count as lost and run again
        kind, code, message = otherwise, 1, _system_sentence(error)
    if kind not in ("ok", "cancelled") and _disk_is_full(paths.folder):
        message += "; the host's work disk is full"  # what the command itself could not even write down
    return {
        "kind": kind,
        "code": code,
        "message": message,
        "started_at": claim["started_at"],
        "ended_at": time.time(),
        "gpu": claim["gpu"],
        "outputs": outputs,
    }


def _system_sentence(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return "the host's system refused: %s" % error.strerror
    return "the agent failed (%s)" % type(error).__name__


def _disk_is_full(folder: Path) -> bool:
    try:
        import shutil  # slow to import, and asked for after failures only

        return shutil.disk_usage(str(folder)).free < _FULL_BYTES
    except OSError:
        return False


def _check_inputs(work: Work, run: RunPaths, stored: StoredPlan, job: Dict[str, Any]) -> None:
    """Every byte that the job reads is the one that was sent. Raises Failure."""
    places = [(run.input_dir / entry["n"], "input " + entry["n"], entry) for entry in stored.plan["inputs"]]
    files = run.job(job["job_key"]).files
    places += [(files / entry["name"], "the file " + entry["name"], entry) for entry in job["files"]]
    for path, what, entry in places:
        try:
            found = hash_file(path)
        except OSError as error:
            raise Failure("bad_input", "%s cannot be read (%s)" % (what, error.strerror)) from error
        if found != (entry["sha256"], entry["size"]):
            # The link in the store has the same bytes; without it the next attempt asks for the right ones.
            drop_if_wrong(work, entry["sha256"])
            raise Failure("bad_input", "%s is not what was sent" % what)


def _prepared(
    work: Work,
    run: RunPaths,
    stored: StoredPlan,
    job: Dict[str, Any],
    settings: Settings,
    claim: Dict[str, Any],
) -> Tuple[List[str], Dict[str, str]]:
    """argv and environment; everything that they name exists afterwards."""
    paths = run.job(job["job_key"])
    out_of = {need: str(run.job(need).out) for need in job["needs"]}
    paths.out_part.mkdir()
    write_json(paths.needs, command.needs_table(job, out_of))
    argv = command.command_line(
        job,
        {
            "python": python_of_steps(work, settings),
            "scripts": str(work.scripts / stored.plan["scripts"]),
            "inputs": str(run.inputs),
            "input_dir": str(run.input_dir),
            "out": str(paths.out_part),
            "parameters": str(paths.parameters),
            "files": str(paths.files),
            "needs": str(paths.needs),
        },
        out_of,
    )
    own = {
        "MQI_PROGRESS": str(paths.progress),
        "MQI_ERROR": str(paths.error),
        "MQI_JOB_KEY": job["job_key"],
    }
    if job["beam"] is not None:
        own["MQI_BEAM"] = str(job["beam"])
    if claim["gpu"]:
        own["CUDA_VISIBLE_DEVICES"] = claim["gpu"]
    return argv, command.environment(os.environ, settings.environment, own, sys.platform == "win32")


def _run_command(
    paths: JobPaths,
    prepared: Tuple[List[str], Dict[str, str]],
    job: Dict[str, Any],
    settings: Settings,
    held: List[int],
) -> None:
    """Runs the command to its end. Raises Failure unless it ends by itself with 0."""
    told: List[int] = []

    def told_to_end(number: int, _: Optional[FrameType]) -> None:
        told.append(number)

    # A queue or a shutdown that ends us politely gets the command ended and an exit file written.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, told_to_end)
    argv, environment = prepared
    try:
        process = Command(argv, paths.out_part, environment, paths.log, paths.process, held)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise Failure("spawn", "the command does not start (%s)" % reason, 127) from error
    give_up = time.monotonic() + job["time_limit_s"]
    ended: Optional[Failure] = None
    code: Optional[int] = None
    try:
        while code is None and ended is None:
            code = process.poll(_LOOK_EVERY_S)
            if code is None:
                ended = _reason_to_end(paths, job, give_up, told)
        if ended is not None:
            process.ask_to_end()
            process.poll(settings.kill_grace_s)
    finally:
        process.finish()
    if ended is not None:
        raise ended
    if code != 0 and code is not None:
        raise Failure("failed", _own_sentence(paths, code), code)


def _reason_to_end(
    paths: JobPaths, job: Dict[str, Any], give_up: float, told: List[int]
) -> Optional[Failure]:
    if paths.tombstone.exists():
        return Failure("cancelled", "cancelled while it ran", 128 + signal.SIGTERM)
    if time.monotonic() >= give_up:
        return Failure("timeout", "it ran longer than its limit of %g s" % job["time_limit_s"], 124)
    if told:
        return Failure("failed", "the host's queue or system ended it", 128 + told[0])
    return None


def _own_sentence(paths: JobPaths, code: int) -> str:
    """What the command says about its failure, else what its code says."""
    said = read_foreign_json(paths.error)
    if isinstance(said, dict) and isinstance(said.get("message"), str) and said["message"].strip():
        return command.one_line(said["message"])
    if sys.platform == "win32":
        # What nobody caught ends a process with its number, such as 0xC0000005.
        if code >= 0xC0000000:
            return "the command crashed (Windows status 0x%08X)" % code
    elif code == 128 + 9:
        return "the command was killed (signal 9: often the host ran out of memory)"
    elif code > 128:
        return "the command ended by signal %d" % (code - 128)
    return "the command ended with code %d" % code


def _keep_outputs(paths: JobPaths, job: Dict[str, Any]) -> str:
    """Checks, hashes and makes durable what the command wrote, and gives it its final name.

    The SHA-256 of outputs.json. Raises Failure when a declared output is missing.
    """
    files = list(regular_files(paths.out_part))
    there = {path for path, _ in files}
    for pattern in job["outputs"]:
        found = (path.relative_to(paths.out_part).as_posix() for path in paths.out_part.glob(pattern))
        if not any(path in there for path in found):
            raise Failure("missing_output", "the command ended well but left no %s" % pattern)
    entries = []
    for name, path in files:
        sha256, size = hash_file(path)
        entries.append({"path": name, "size": size, "sha256": sha256})
    fsync_files([path for _, path in files])
    fsync_folders(paths.out_part)
    data = encode({"files": entries})
    write_bytes(paths.outputs, data)
    replace(Path(paths.out_part), paths.out)
    fsync_folder(paths.folder)
    return hashlib.sha256(data).hexdigest()
