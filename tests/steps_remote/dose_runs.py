"""Fields for moquisim.py: from a few numbers to an RT Ion Plan, the interpreter's tables and a dose."""

from __future__ import annotations

import csv
import hashlib
import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from step_runs import Run, dicom_bytes, interpret_prepared_here, prepare, run_here, run_step

from mqi.resources import packaged_config
from mqi.sample import SampleBeam, SampleLayer, sample_plan

MACHINE = packaged_config() / "machines" / "G1.yaml"
SpotList = Sequence[tuple[float, float, float]]


@dataclass(frozen=True)
class Field:
    """A case with one treatment beam (number 2), interpreted. `work`: inputs.json, in/, files/, out/ (the tables)."""

    work: Path

    @property
    def spots(self) -> Path:
        return self.work / "out"

    def arguments(self, out: Path, parameters: Any, beam: int = 2) -> list[str]:
        """moquisim.py's, with its parameters written beside `out`."""
        path = out.with_name(out.name + "-parameters.json")
        path.write_text(json.dumps(parameters), encoding="utf-8")
        places = {
            "--spots": self.spots,
            "--inputs": self.work / "inputs.json",
            "--input-dir": self.work / "in",
            "--files": self.work / "files",
            "--out": out,
            "--parameters": path,
        }
        return ["--beam", str(beam), *(word for option, path in places.items() for word in (option, str(path)))]

    def simulate(self, parameters: Mapping[str, Any], *, process: bool = False, beam: int = 2) -> Run:
        """Runs moquisim.py, in this process or in one of its own."""
        import moquisim

        work = Path(tempfile.mkdtemp(prefix="dose-", dir=self.work))
        arguments = self.arguments(work / "out", parameters, beam)
        return run_step("moquisim.py", work, arguments) if process else run_here(moquisim.main, work, arguments)

    def change_index(self, change: Any) -> None:
        """Lets `change` alter beams.json."""
        path = self.spots / "beams.json"
        index = json.loads(path.read_text(encoding="utf-8"))
        change(index)
        path.write_text(json.dumps(index), encoding="utf-8")

    def deliver(self, change: Any) -> None:
        """Gives beam 2 delivered spots: the planned ones, each row through `change(row)`."""
        with (self.spots / "beam_2.csv").open(encoding="utf-8", newline="") as stream:
            head, *rows = csv.reader(stream)
        lines = [",".join(head)] + [",".join(map(str, change(dict(zip(head, row, strict=True))).values())) for row in rows]
        content = ("\n".join(lines) + "\n").encode()
        (self.spots / "delivered_2.csv").write_bytes(content)
        record = {"file": "delivered_2.csv", "sha256": hashlib.sha256(content).hexdigest(), "source": "csv"}
        self.change_index(lambda index: index["beams"][0].update(delivered=record))


def field(
    work: Path,
    layers: Sequence[tuple[float, SpotList]],
    *,
    gantry: float = 0.0,
    couch: float = 0.0,
    wet_mm: float = 0.0,
    others: Sequence[SampleBeam] = (),
) -> Field:
    """A field of (energy MeV, [(x mm, y mm, MU), …]) per layer."""
    made = tuple(SampleLayer(energy, tuple(spots)) for energy, spots in layers)
    beam = SampleBeam(2, "field", gantry, couch, wet_mm, made)
    return field_of(work, sample_plan(1, (beam, *others)))


def field_of(work: Path, plan: Any, machine: Path = MACHINE, files: Sequence[Path | bytes] = ()) -> Field:
    """A field from an RT Ion Plan, and the case's other files."""
    folder = prepare(work, [plan if isinstance(plan, (bytes, Path)) else dicom_bytes(plan), *files])
    run = interpret_prepared_here(folder)
    assert (run.code, run.error) == (0, "")
    (folder / "files" / "machines").mkdir(parents=True)
    shutil.copyfile(machine, folder / "files" / "machines" / "G1.yaml")
    return Field(folder)


def one_spot(energy: float, x: float = 0.0, y: float = 0.0, mu: float = 1.0) -> list[tuple[float, SpotList]]:
    """The layers of a field with one spot."""
    return [(energy, [(x, y, mu)])]


def centroid(dose: Any, axes: Any) -> Any:
    """Dose-weighted mean position, (x, y, z) in the coordinates of `axes`."""
    sums = (dose.sum(axis=(0, 1)), dose.sum(axis=(0, 2)), dose.sum(axis=(1, 2)))
    return np.array([float((line * axis).sum() / line.sum()) for line, axis in zip(sums, axes, strict=True)])
