"""Runs the shipped steps as the agent does: as processes, with MQI_PROGRESS and MQI_ERROR, in a folder of their own.

A process spends half a second and more on importing numpy, pydicom and matplotlib. Long tables therefore call the
same entry points in this process (`interpret_here`); everything else starts processes.
"""

from __future__ import annotations

import contextlib
import csv
import hashlib
import io
import itertools
import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mqi.resources import remote_scripts
from mqi.sample import sample_beams, sample_plan

_numbers = itertools.count(1)


@dataclass(frozen=True)
class Run:
    """What a step left behind. `error`: the sentence in MQI_ERROR, "" when there is none."""

    code: int
    out: Path
    stdout: str
    stderr: str
    error: str
    progress: dict[str, Any]

    def json(self, name: str) -> Any:
        return json.loads((self.out / name).read_text(encoding="utf-8"))


def run_step(script: str, work: Path, arguments: Sequence[str], **environment: str) -> Run:
    """Starts a step with `arguments` in work/out."""
    out = work / "out"
    out.mkdir(parents=True, exist_ok=True)
    names = ("PATH", "HOME", "SYSTEMROOT", "TMPDIR", "TEMP", "USERPROFILE", "LOCALAPPDATA")
    done = subprocess.run(
        [sys.executable, "-I", str(remote_scripts() / script), *arguments],
        cwd=out,
        env={name: os.environ[name] for name in names if name in os.environ}
        | {"MQI_PROGRESS": str(work / "progress.json"), "MQI_ERROR": str(work / "error.json")}
        | environment,
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
    )
    return _left_behind(work, done.returncode, done.stdout, done.stderr)


def _left_behind(work: Path, code: int, stdout: str, stderr: str) -> Run:
    progress, error = work / "progress.json", work / "error.json"
    return Run(
        code=code,
        out=work / "out",
        stdout=stdout,
        stderr=stderr,
        error=json.loads(error.read_text(encoding="utf-8"))["message"] if error.exists() else "",
        progress=json.loads(progress.read_text(encoding="utf-8")) if progress.exists() else {},
    )


def interpret(work: Path, files: Sequence[Path | bytes], parameters: Any = None) -> Run:
    """Runs interpreter.py on these files, stored under numbers as on a host."""
    return interpret_prepared(prepare(work, files), parameters)


def prepare(work: Path, files: Sequence[Path | bytes]) -> Path:
    """A work folder with these files as inputs."""
    work = work / f"run{next(_numbers)}"
    folder = work / "in"
    folder.mkdir(parents=True)
    inputs = []
    for place, each in enumerate(files, 1):
        content = each if isinstance(each, bytes) else each.read_bytes()
        number = f"{place:06d}"
        (folder / number).write_bytes(content)
        digest = hashlib.sha256(content).hexdigest()
        inputs.append({"n": number, "path": f"Doe_Jane/{place}.dcm", "size": len(content), "sha256": digest})
    (work / "inputs.json").write_text(json.dumps({"inputs": inputs}), encoding="utf-8")
    return work


def interpret_prepared(work: Path, parameters: Any = None) -> Run:
    """Runs interpreter.py on work/in and work/inputs.json as they are."""
    return run_step("interpreter.py", work, _interpreter_arguments(work, parameters))


def interpret_here(work: Path, files: Sequence[Path | bytes], parameters: Any = None) -> Run:
    """The same as `interpret`, in this process."""
    return interpret_prepared_here(prepare(work, files), parameters)


def interpret_prepared_here(work: Path, parameters: Any = None) -> Run:
    """The same as `interpret_prepared`, in this process."""
    import interpreter

    return run_here(interpreter.main, work, _interpreter_arguments(work, parameters))


def run_here(main: Callable[..., None], work: Path, arguments: list[str]) -> Run:
    from steplib import report

    (work / "out").mkdir(exist_ok=True)
    told, complained = io.StringIO(), io.StringIO()
    names = {"MQI_PROGRESS": str(work / "progress.json"), "MQI_ERROR": str(work / "error.json")}
    before = dict(os.environ)
    os.environ.update(names)
    try:
        with contextlib.redirect_stdout(told), contextlib.redirect_stderr(complained):
            code = report.run_step(main, arguments)
    finally:
        for name in names:
            os.environ.pop(name)
        os.environ.update(before)
    return _left_behind(work, code, told.getvalue(), complained.getvalue())


def _interpreter_arguments(work: Path, parameters: Any) -> list[str]:
    places = {"--inputs": work / "inputs.json", "--input-dir": work / "in", "--out": work / "out"}
    arguments = [word for option, path in places.items() for word in (option, str(path))]
    return [*arguments, "--parameters", _parameters(work, parameters)]


def _parameters(work: Path, parameters: Any) -> str:
    path = work / "parameters.json"
    text = parameters if isinstance(parameters, str) else json.dumps({} if parameters is None else parameters)
    path.write_text(text, encoding="utf-8")
    return str(path)


def spots_of(out: Path, beam: int) -> list[tuple[int, int, float, float, float, float]]:
    """The rows of beam_<number>.csv, header checked."""
    with (out / f"beam_{beam}.csv").open(encoding="utf-8", newline="") as stream:
        lines = list(csv.reader(stream))
    assert lines[0] == ["layer", "spot", "energy_MeV", "x_mm", "y_mm", "mu", "protons", "time_ms"]
    return [(int(a), int(b), float(c), float(d), float(e), float(f)) for a, b, c, d, e, f, *_ in lines[1:]]


def dicom_bytes(plan: Any) -> bytes:
    """A data set as the bytes of a file."""
    stream = io.BytesIO()
    plan.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


def fresh_plan(seed: int = 1) -> Any:
    """A small sample, for a test to spoil: beam 1 is the setup beam, 2 and 3 treat in 3 layers of 9 spots; 3 has a
    range shifter."""
    beams = []
    for beam in sample_beams(seed, layers=3):
        layers = tuple(replace(layer, spots=layer.spots[:9]) for layer in beam.layers)
        beams.append(replace(beam, layers=layers))
    return sample_plan(seed, tuple(beams))
