"""Sample cases with delivery records, as {path in the case: bytes}, and ways through the interpreter."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from step_runs import Run, run_here

from mqi.resources import packaged_config
from mqi.sample import training_beams
from mqi.sample_case import Size, write_cases
from mqi.sample_delivery import Noise, read_calibration

MACHINE_FILE = packaged_config() / "machines" / "G1.yaml"
CALIBRATION = read_calibration(MACHINE_FILE)
SILENT = Noise(0.0, 0.0, 0.0)
SMALL = Size(beams=2, layers=3, spots=5, rows_per_spot=8)

Files = dict[str, bytes]


def case(layout: str = "shi", seed: int = 1, size: Size = SMALL) -> Files:
    """The files of one sample case."""
    with tempfile.TemporaryDirectory() as folder:
        (place,) = write_cases(Path(folder), layout, seed, 1, size, CALIBRATION)
        return {
            path.relative_to(place).as_posix(): path.read_bytes()
            for path in sorted(place.rglob("*"))
            if path.is_file()
        }


def meant(seed: int = 1, size: Size = SMALL) -> Any:
    return training_beams(seed, treatment_beams=size.beams, layers=size.layers, spots=size.spots)


def with_noise(noise: Noise, size: Size = SMALL) -> Size:
    return replace(size, noise=noise)


def only(files: Mapping[str, bytes], ending: str, place: int = 0) -> str:
    """The path of the `place`-th file with this ending."""
    return sorted(path for path in files if path.lower().endswith(ending.lower()))[place]


def changed(files: Files, path: str, old: bytes, new: bytes) -> Files:
    """The case with `old` replaced in one file; it must be there."""
    assert old in files[path], (old, path)
    return {**files, path: files[path].replace(old, new, 1)}


def lay_out(work: Path, files: Mapping[str, bytes], machine: bytes | None) -> Path:
    """work/in, work/inputs.json, work/files as on a host. The order of the mapping numbers the inputs."""
    for name in ("in", "files"):
        (work / name).mkdir(parents=True)
    inputs = []
    for place, (path, content) in enumerate(files.items(), 1):
        number = f"{place:06d}"
        (work / "in" / number).write_bytes(content)
        digest = hashlib.sha256(content).hexdigest()
        inputs.append({"n": number, "path": path, "size": len(content), "sha256": digest})
    (work / "inputs.json").write_text(json.dumps({"inputs": inputs}), encoding="utf-8")
    if machine is not None:
        (work / "files" / "G1.yaml").write_bytes(machine)
    return work


def interpret_case(
    work: Path, files: Mapping[str, bytes], parameters: Any = None, machine: bytes | None = b""
) -> Run:
    """The whole interpreter in this process. `machine`: the machine file; b"": the shipped example; None: none."""
    import interpreter

    if machine == b"":
        machine = MACHINE_FILE.read_bytes()
    lay_out(work, files, machine)
    (work / "parameters.json").write_text(json.dumps(parameters or {}), encoding="utf-8")
    places = {"--inputs": "inputs.json", "--input-dir": "in", "--out": "out", "--files": "files",
              "--parameters": "parameters.json"}  # fmt: skip
    return run_here(
        interpreter.main, work, [word for option, name in places.items() for word in (option, str(work / name))]
    )


def delivered_of(files: Mapping[str, bytes], machine: bytes | None = b"") -> dict[int, Any]:
    """What every beam delivered, by number, without writing anything. Raises BadInput."""
    from steplib.delivered import together
    from steplib.deliveries import by_beam, read_deliveries
    from steplib.delivery_log import read_delivery_log
    from steplib.find_plan import find_plan, read_inputs
    from steplib.plan import read_plan
    from steplib.report import Progress

    if machine == b"":
        machine = MACHINE_FILE.read_bytes()
    with tempfile.TemporaryDirectory() as folder:
        work = lay_out(Path(folder), files, None)
        inputs = read_inputs(work / "inputs.json")
        found = find_plan(inputs, work / "in", Progress())
        plan = read_plan(found.dataset, {}, (50.0, 300.0))
        log = read_delivery_log(machine) if machine else None
        records = by_beam(read_deliveries(inputs, work / "in", found.classes, plan, log, Progress()))
        results = {beam.number: together(beam, records.get(beam.number, []), None) for beam in plan.beams}
        return {number: result for number, result in results.items() if result is not None}


def table_bytes(delivered: Mapping[int, Any]) -> dict[int, bytes]:
    """The delivered tables as the bytes of their files."""
    from steplib.spot_table import spot_csv

    return {number: spot_csv(each.table) for number, each in delivered.items()}


def rewritten(text: str, **values: Any) -> bytes:
    """The shipped machine file with other values under `delivery_log`; None takes a key out."""
    import yaml

    root = yaml.safe_load(text)
    for key, value in values.items():
        if value is None:
            del root["delivery_log"][key]
        else:
            root["delivery_log"][key] = value
    return yaml.safe_dump(root).encode()
