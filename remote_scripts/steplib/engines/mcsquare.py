"""MCsquare: the Monte Carlo engine for CPUs, one process of one thread per batch, as many at once as threads.

MCsquare's dose is in eV per gram and simulated proton, so Gy = value x protons x 1.602e-16. Its exit code, its
count of protons "generated outside the geometry" (which it does not call an error even at 100 %), and the size of
its output are all looked at.
"""

from __future__ import annotations

import re
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, List, Optional

import numpy as np

from ..report import BadInput, EngineFailed, Temporary
from . import mcsquare_files as files
from .base import EV_J, BatchMean, Dose, Task
from .mcsquare_folder import VERSION, find_program
from .process import TimedOut, ending, run_program

GY_PER_EV_PER_G = EV_J * 1e3
# A batch has this long, and a hundredth of a second per proton: a hundred times what it takes.
_LIMIT_S, _LIMIT_S_PER_PROTON = 600.0, 0.01
_PROGRESS = re.compile(r"^\s*(\d+(?:\.\d+)?) %")
_SIMULATED = re.compile(r"Nbr primaries simulated:\s*(\d+)(?:\s*\((\d+) generated outside)?")


@dataclass(frozen=True)
class _Batch:
    dose: Any
    primaries: int
    outside: int


class MCsquare:
    """Simulates tasks with the MCsquare in `folder` ("": where it is by default)."""

    def __init__(self, folder: str) -> None:
        self._program, self._materials, self._sha256 = find_program(folder)
        self._labels = files.material_labels(self._materials)

    def facts(self) -> Dict[str, Any]:
        """What summary.json says about the engine."""
        return {
            "name": "MCsquare",
            "version": f"of opentps-core {VERSION}",
            "program": self._program.name,
            "binary_sha256": self._sha256,
        }

    def simulate(self, task: Task) -> Dose:
        """The dose of one set of spots. Raises EngineFailed, Temporary, BadInput."""
        self._demand_materials(task)
        self._write_inputs(task)
        mean = BatchMean(task.phantom.hu.shape)
        primaries = outside = 0
        shares = [0.0] * task.batches
        lock = threading.Lock()

        def told(batch: int, share: float) -> None:
            with lock:
                shares[batch] = max(shares[batch], share)
                task.told(
                    sum(shares) / task.batches, f"{round(100.0 * sum(shares) / task.batches)} % simulated"
                )

        with ThreadPoolExecutor(max_workers=min(task.threads, task.batches)) as pool:
            running = [pool.submit(self._run, task, batch, told) for batch in range(task.batches)]
            try:
                for place in range(len(running)):
                    batch = running[place].result()
                    # In this order, whichever ends first: the sum of floating point numbers depends on it.
                    running[place] = None  # type: ignore[call-overload]
                    mean.add(batch.dose * (GY_PER_EV_PER_G * task.protons))
                    primaries += batch.primaries
                    outside += batch.outside
            except BaseException:
                for each in running:
                    if each is not None:
                        each.cancel()
                raise
        dose, sigma = mean.result()
        return Dose(dose, sigma, primaries, outside, {})

    def _demand_materials(self, task: Task) -> None:
        wanted = {name for _, name in task.phantom.material_table}
        if task.shifter is not None:
            wanted.add(task.shifter.shifter.material)
        unknown = sorted(wanted - set(self._labels))
        if unknown:
            raise BadInput(f"MCsquare has no material called {unknown[0]}: correct the machine file.")

    def _write_inputs(self, task: Task) -> None:
        energies = [float(energy) for energy in np.unique(task.spots.energy_mev)]
        isocentre = files.isocentre(task.phantom, task.frame)
        texts = {
            "machine.txt": files.beam_model(task.model, energies, task.source_mm, task.shifter, self._labels),
            "plan.txt": files.plan(task.spots, task.frame, isocentre, task.shifter),
            "density.txt": files.density_table(task.phantom),
            "material.txt": files.material_table(task.phantom, self._labels),
            "CT.mhd": files.image_header(task.phantom, "CT.raw"),
        }
        for batch in range(task.batches):
            texts[f"config_{batch}.txt"] = files.config(
                primaries=-(-task.primaries // task.batches),
                # MCsquare takes 0 for "by the clock".
                seed=1 + (task.seed + batch) % (2**31 - 2),
                output=f"out_{batch}",
            )
        for name, text in texts.items():
            (task.work / name).write_bytes(text.encode("ascii"))
        hu = np.ascontiguousarray(files.flipped(task.phantom.hu), dtype="<f4")
        (task.work / "CT.raw").write_bytes(hu.tobytes())

    def _run(self, task: Task, batch: int, told: Any) -> _Batch:
        """One batch. The log stays in the work folder."""
        output = task.work / f"out_{batch}"
        output.mkdir()
        lines: List[str] = []

        def heard(line: str) -> None:
            lines.append(line)
            found = _PROGRESS.match(line)
            if found:
                told(batch, float(found[1]) / 100.0)

        wanted = -(-task.primaries // task.batches)
        try:
            code = run_program(
                [str(self._program), f"config_{batch}.txt"],
                folder=task.work,
                environment={"MCsquare_Materials_Dir": str(self._materials)},
                log=task.work / f"log_{batch}.txt",
                heard=heard,
                limit_s=_LIMIT_S + _LIMIT_S_PER_PROTON * wanted,
            )
        except TimedOut:
            raise EngineFailed("MCsquare did not come to an end and was stopped.") from None
        if code != 0:
            raise _failure(code, lines)
        primaries, outside = _count(lines, wanted)
        values = files.read_dose(output, task.phantom.hu.shape)
        _discard(output)
        return _Batch(values, primaries, outside)


def _failure(code: int, lines: List[str]) -> Exception:
    if code in (-9, 137):
        return Temporary("MCsquare was killed, as happens when a host has too little memory.")
    said = next((line.strip() for line in lines if "error" in line.lower()), "")
    # The message is the engine's own, about files that this program wrote: no patient is in it.
    return EngineFailed(f"MCsquare ended with {ending(code)}{': ' + said if said else '.'}")


def _count(lines: List[str], wanted: int) -> Any:
    """(primaries, generated outside) as MCsquare says at its end."""
    found: Optional[Any] = None
    for line in lines:
        found = _SIMULATED.search(line) or found
    if found is None:
        raise EngineFailed("MCsquare ended without saying how many protons it simulated.")
    primaries, outside = int(found[1]), int(found[2] or 0)
    if primaries < wanted:
        raise EngineFailed(f"MCsquare simulated {primaries} protons of {wanted}.")
    return primaries, outside


def _discard(folder: Path) -> None:
    """A batch's output is in memory now, and would fill the host's disk."""
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()
