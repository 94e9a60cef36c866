"""The results folder: where results lie, how they get there at once, and what proves what they are.

results/<room>/<case>/<run>/<step>[/beam_<n>]/…   published by one rename, never altered afterwards
results/<room>/<case>/<run>/provenance.json        what was computed from what, by what, where
results/<room>/<case>/latest.json                  names the newest run
results/<room>/<case>/.part-<run>/                 being downloaded
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mqi.errors import DiskProblem
from mqi.names import unique_names
from mqi.renaming import replace, sync_folder
from mqi.rows import Case

PROVENANCE = "provenance.json"
LATEST = "latest.json"
_CHUNK = 1 << 20


class Output(NamedTuple):
    """One output of a job as the host declares it; `path` is posix, relative to the job's out folder."""

    job_key: str
    step: str
    beam: int | None
    path: str
    size: int
    sha256: str


def run_name(run_key: str, serial: int) -> str:
    """The folder of one run's results: the run key and the serial of the plan that gave them."""
    return f"{run_key}-{serial}"


def case_folder(results: Path, case: Case) -> Path:
    """Where all runs of a case lie. Revisions share it; the run key tells them apart."""
    return results / case.room / case.results_name


def run_folder(results: Path, case: Case, layout: Mapping[str, Output]) -> Path:
    """Where the results of the case's present plan are published: `<run key>-<serial>`.

    When something else lies there (results of this very run that no longer verify), it stays as it is and
    the name gets a number: `<run key>-<serial>.2`.
    """
    assert case.run_key is not None
    first = case_folder(results, case) / run_name(case.run_key, case.plan_serial)
    candidates = itertools.chain([first], (first.with_name(f"{first.name}.{n}") for n in itertools.count(2)))
    return next(path for path in candidates if not path.exists() or is_published(path, case.run_key, layout))


def is_published(folder: Path, run_key: str, layout: Mapping[str, Output]) -> bool:
    """True when these very results lie in `folder`, every byte of them."""
    provenance = read_json(folder / PROVENANCE)
    return provenance is not None and provenance.get("run_key") == run_key and not verified(folder, layout)


def part_folder(results: Path, case: Case) -> Path:
    """Where they are collected first."""
    assert case.run_key is not None
    return case_folder(results, case) / f".part-{run_name(case.run_key, case.plan_serial)}"


def lay_out(outputs: Iterable[Output]) -> dict[str, Output]:
    """Relative path below the run folder -> output. Legal and unique on Windows, whatever the host says."""
    wanted: dict[str, Output] = {}
    for output in outputs:
        folder = output.step if output.beam is None else f"{output.step}/beam_{output.beam}"
        wanted[f"{folder}/{output.path}"] = output
    names = unique_names(wanted)
    return {names[path]: output for path, output in wanted.items()}


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def holds(path: Path, output: Output) -> bool:
    """True when `path` is that output, byte for byte."""
    try:
        return path.stat().st_size == output.size and sha256_of(path) == output.sha256
    except OSError:
        return False


def verified(folder: Path, layout: Mapping[str, Output]) -> list[str]:
    """The paths of `layout` that are not in `folder` as the host declared them; empty means all good."""
    return [path for path, output in layout.items() if not holds(folder / path, output)]


def publish(part: Path, final: Path, layout: Mapping[str, Output], provenance: Mapping[str, Any]) -> None:
    """Check every file once more, add the provenance and rename `part` to `final`.

    A `final` that exists already holds these very results (`run_folder`): a run was killed after the
    rename. Raises DiskProblem when the disk says no.
    """
    try:
        if final.exists():
            return
        part.mkdir(parents=True, exist_ok=True)
        bad = verified(part, layout)
        if bad:
            raise DiskProblem(
                f"{len(bad)} downloaded files changed on the results disk; they are fetched again"
            )
        write_json(part / PROVENANCE, provenance)
        replace(part, final)
        sync_folder(final.parent)
    except OSError as error:
        raise DiskProblem(
            f"the results folder cannot be written: {error.strerror or error}",
            "check free space and permissions of the results disk; mqi goes on by itself afterwards",
        ) from error


def point_latest(results: Path, case: Case, run: Path) -> None:
    """Let latest.json name this run, unless it names a newer one (a later revision, or a later serial)."""
    path = case_folder(results, case) / LATEST
    known = read_json(path) or {}
    rank = [case.revision, case.plan_serial]
    if known.get("rank", [0, 0]) > rank:
        return
    content = {
        "run": run.name,
        "run_key": case.run_key,
        "revision": case.revision,
        "rank": rank,
        "complete": run_is_complete(run),
    }
    try:
        write_json(path, content)
    except OSError as error:
        raise DiskProblem(
            f"{LATEST} cannot be written: {error.strerror or error}", f"check {path}"
        ) from error


def run_is_complete(run: Path) -> bool:
    """True when every job of the published run was good."""
    return bool((read_json(run / PROVENANCE) or {}).get("complete"))


def find_published(results: Path, case: Case) -> Path | None:
    """The newest complete run folder of this case's run key whose every file verifies; None without one.

    For a database that was lost: the results themselves say that the work was done.
    """
    folder = case_folder(results, case)
    if case.run_key is None or not folder.is_dir():
        return None
    runs = [path for path in folder.iterdir() if path.is_dir() and path.name.startswith(f"{case.run_key}-")]
    for run in sorted(runs, key=_serial_of, reverse=True):
        provenance = read_json(run / PROVENANCE)
        if provenance is None or provenance.get("run_key") != case.run_key or not provenance.get("complete"):
            continue
        files = provenance.get("outputs", [])
        if all(_matches(run / str(file["file"]), file) for file in files):
            return run
    return None


def _serial_of(run: Path) -> int:
    serial = run.name.rpartition("-")[2].partition(".")[0]
    return int(serial) if serial.isdecimal() else 0


def _matches(path: Path, file: Mapping[str, Any]) -> bool:
    return holds(path, Output("", "", None, "", int(file["size"]), str(file["sha256"])))


def provenance_of(
    case: Case,
    *,
    version: str,
    jobs: Sequence[Mapping[str, Any]],
    inputs: Sequence[Mapping[str, Any]],
    layout: Mapping[str, Output],
    host: Mapping[str, Any],
    notes: str,
    complete: bool,
    times: Mapping[str, str | None],
) -> dict[str, Any]:
    """What provenance.json says. Original file names are in here: it lies below the results root."""
    return {
        "format": 1,
        "run_key": case.run_key,
        "run_digest": case.run_digest,
        "complete": complete,
        "notes": notes,
        "room": case.room,
        "case": case.path,
        "fraction": case.fraction,
        "deliveries": list(case.delivery_names),
        "partial": case.partial,
        "revision": case.revision,
        "serial": case.plan_serial,
        "mqi_version": version,
        "workflow": case.workflow,
        "scripts": (case.frozen_plan or {}).get("scripts"),
        "host": dict(host),
        "times": dict(times),
        "jobs": list(jobs),
        "inputs": list(inputs),
        "outputs": [
            {
                "file": path,
                "job_key": output.job_key,
                "name": output.path,
                "size": output.size,
                "sha256": output.sha256,
            }
            for path, output in sorted(layout.items())
        ],
    }


def read_json(path: Path) -> dict[str, Any] | None:
    """The JSON object in a file, or None when there is none that can be read."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write a JSON file so that a reader sees the old one or the new one, never half of it."""
    part = path.with_name(path.name + ".part")
    path.parent.mkdir(parents=True, exist_ok=True)
    with part.open("w", encoding="utf-8", newline="\n") as file:
        json.dump(value, file, ensure_ascii=False, indent=2)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    replace(part, path)
