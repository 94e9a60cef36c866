"""moqui: the Monte Carlo engine for GPUs. Its exit code is not trusted: everything that it leaves behind is looked at.

What is designed around, measured or read in upstream 4ec8185: wrong or missing results with exit code 0; a correct
run that ends with SIGSEGV once in 256 (repeated once); a second scored quantity that doubles the dose (one per run);
stopping statistics that repeat the same histories (off; batches instead, their seeds 1,000,003 apart); files of an
earlier run (a fresh folder for each); factors that multiply the output (set to 1); and what moqui_case.py says.
"""

from __future__ import annotations

import math
import os
import re
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any, Callable, Dict, List, Mapping, Optional, Tuple

import numpy as np

from ..report import BadInput, EngineFailed, Temporary
from . import moqui_case as case
from .base import BatchMean, Dose, Task
from .moqui_dialects import DIALECTS, Dialect, Value, input_text
from .process import TimedOut, ending, run_program

_SEED_STEP = 1_000_003
_LEAST_LIMIT_S = 600.0
# Bytes on the GPU per history of a batch and per voxel, and what CUDA itself takes.
_BYTES_PER_HISTORY, _BYTES_PER_VOXEL, _BYTES_MARGIN = 32, 16, 1_500_000_000
_TRACKED = re.compile(r"Number of particles tracked\s+(\d+)")
_TOTAL = re.compile(r"total histories\s+(\d+)")
_CLINICAL_BATCH = re.compile(r"for \((\d+) of (\d+) batches\)")
_COMPLAINTS = (
    "out-of-bound",
    "Cannot open",
    "Cannot write",
    "CUDA error",
    "Segmentation fault",
    "FATAL ERROR",
)
_FINISHED = {"upstream": ("Time taken",), "clinical": ("Total execution time", "Time taken by MC engine")}


class Moqui:
    """Simulates tasks with the program and dialect that the step's parameters name."""

    def __init__(self, parameters: Mapping[str, Any]) -> None:
        self._program = _find_program(parameters["moqui_program"])
        self._dialect: Dialect = DIALECTS[parameters["moqui_dialect"]]
        self._rate = parameters["moqui_histories_per_s"]
        self._gantry = parameters["moqui_gantry_number"]
        self._factor = parameters["moqui_dose_factor"]
        if not self._dialect.absolute:
            if self._gantry not in (1, 2):
                raise BadInput(
                    "moqui_gantry_number must be 1 or 2: moqui silently takes anything else for 2."
                )
            if self._factor <= 0.0:
                raise BadInput(
                    "moqui_dose_factor is needed: what the clinical build's output means is not documented."
                )
        elif self._factor not in (0.0, 1.0):
            raise BadInput(
                "moqui_dose_factor is for the clinical dialect: upstream moqui's dose is absolute."
            )
        self._cpu = parameters["moqui_on_cpu"] == "yes"
        self._gpu = _the_gpu(self._cpu)

    def facts(self) -> Dict[str, Any]:
        """What summary.json says about the engine."""
        return {
            "name": "moqui",
            "version": f"{self._dialect.name} dialect; the program does not say",
            "program": self._program.name,
            "binary_sha256": _sha256(self._program),
            "gpu": self._gpu or "none, a CPU build",
        }

    def simulate(self, task: Task) -> Dose:
        """The dose of one set of spots. Raises EngineFailed, Temporary, BadInput."""
        if task.batches < 8:
            raise BadInput("moqui's uncertainty needs eight batches at least.")
        self._demand_memory(task)
        shared = task.work / "case"
        shared.mkdir()
        staged, air = task.phantom, 0
        values: Dict[str, Value] = {}
        if self._dialect.spots_in_logs:
            keys, air = case.phantom_values(task)
            values = {**keys, "GantryNum": self._gantry}
        else:
            staged = case.padded(task.phantom)
            case.write_beam_model(task, shared / "machine.txt")
            (shared / "ct").mkdir()
            case.write_ct(staged, shared / "ct")
        mean = BatchMean(task.phantom.hu.shape)
        total = 0
        for batch in range(task.batches):
            histories = case.share_out(task, batch)
            folder = self._write_batch(task, batch, histories, shared, values)

            def told(share: float, batch: int = batch) -> None:
                done = (batch + share) / task.batches
                task.told(done, f"batch {batch + 1} of {task.batches}")

            raw = self._run(task, folder, histories.total, staged, air, told)
            dose = self._on_grid(raw, task, staged, air)
            mean.add(
                dose * (task.protons / histories.total * (1.0 if self._dialect.absolute else self._factor))
            )
            total += histories.total
            shutil.rmtree(str(folder / "out"))
        dose, sigma = mean.result()
        return Dose(dose, sigma, total, 0, {"histories": total})

    def _write_batch(
        self, task: Task, batch: int, histories: case.Histories, shared: Path, values: Mapping[str, Value]
    ) -> Path:
        """The batch's folder with input, plan and (as the dialect wants) CT or logs."""
        folder = task.work / f"batch_{batch}"
        dicom = folder / ("rtplan" if self._dialect.spots_in_logs else "dicom")
        dicom.mkdir(parents=True)
        case.write_plan(task, histories, dicom / "plan.dcm")
        seed = 1 + (task.seed + batch * _SEED_STEP) % (2**31 - 2)
        own: Dict[str, Value] = {
            **values,
            "RandomSeed": seed,
            "ParentDir": str(folder),
            "OutputDir": str(folder / "out"),
        }
        if self._dialect.spots_in_logs:
            case.write_logs(task, histories, folder / "log" / "beam_1")
        else:
            for path in sorted((shared / "ct").iterdir()):
                _link(path, dicom / path.name)
            own.update(DicomDir=str(dicom), Machine=f"PBS:{shared / 'machine.txt'}")
        (folder / "moqui_tps.in").write_bytes(input_text(self._dialect, own).encode("ascii"))
        return folder

    def _run(
        self,
        task: Task,
        folder: Path,
        histories: int,
        staged: Any,
        air: int,
        told: Callable[[float], None],
    ) -> Any:
        """One batch, repeated once after a crash that a good run may have; its dose, verified."""
        for attempt in (1, 2):
            out = folder / "out"
            if out.exists():
                shutil.rmtree(str(out))
            started = time.time()
            lines: List[str] = []

            def heard(line: str, lines: List[str] = lines) -> None:
                lines.append(line)
                found = _CLINICAL_BATCH.search(line)
                if found:
                    told((int(found[1]) - 1) / max(1, int(found[2])))

            try:
                code = run_program(
                    [str(self._program), str(folder / "moqui_tps.in")],
                    folder=folder,
                    environment={},
                    log=task.work / f"log_{folder.name.split('_')[1]}.txt",
                    heard=heard,
                    limit_s=max(_LEAST_LIMIT_S, 3.0 * histories / self._rate),
                )
            except TimedOut:
                raise EngineFailed("moqui did not come to an end in its time and was stopped.") from None
            if code == 0:
                self._demand_good_log(lines, histories)
                return self._read(out, started, staged, air)
            if attempt == 2 or not self._worth_repeating(code):
                raise _failure(code, lines)
        raise AssertionError

    def _worth_repeating(self, code: int) -> bool:
        """SIGSEGV (also of good runs), a failed CUDA check, out of GPU memory; never an input error (134)."""
        if code in (-11, 139):
            return True
        return code in (255, 2) and (self._cpu or _gpu_answers())

    def _demand_good_log(self, lines: List[str], histories: int) -> None:
        text = "".join(lines)
        for complaint in _COMPLAINTS:
            if complaint in text:
                raise EngineFailed(f'moqui ended with code 0 and complained of "{complaint}".')
        if not any(mark in text for mark in _FINISHED[self._dialect.name]):
            raise EngineFailed("moqui ended with code 0 and did not say that it finished.")
        if self._dialect.absolute:
            for pattern in (_TRACKED, _TOTAL):
                found = pattern.search(text)
                if found is None or int(found[1]) != histories:
                    said = "no number" if found is None else found[1]
                    raise EngineFailed(f"moqui was given {histories} histories and says {said}.")

    def _read(self, out: Path, started: float, staged: Any, air: int) -> Any:
        """The dose in Gy as float64 (nz, ny, nx) of the engine's grid. EngineFailed when anything is wrong."""
        found = sorted(out.glob("*_Dose.raw")) if out.is_dir() else []
        if len(found) != 1:
            raise EngineFailed(f"moqui ended with code 0 and left {len(found)} doses instead of one.")
        status = found[0].stat()
        if status.st_mtime < started - 2.0:
            raise EngineFailed("moqui's dose is older than its run.")
        nz, ny, nx = staged.hu.shape
        shape = (ny - air, nz, nx) if self._dialect.spots_in_logs else (nz, ny, nx)
        if status.st_size != 8 * int(np.prod(shape)):
            raise EngineFailed(
                f"moqui's dose has {status.st_size} bytes and should have {8 * int(np.prod(shape))}."
            )
        if self._dialect.header:
            _demand_header(found[0].with_suffix(".mhd"), staged)
        values = np.fromfile(str(found[0]), dtype="<f8").reshape(shape)
        if not np.all(np.isfinite(values)):
            raise EngineFailed("moqui's dose has values that are not finite.")
        if values.min() < 0.0 or values.max() <= 0.0:
            raise EngineFailed("moqui's dose is zero or negative.")
        return values

    def _on_grid(self, raw: Any, task: Task, staged: Any, air: int) -> Any:
        """The engine's dose on the phantom's grid, (nz, ny, nx) of the patient."""
        nz, ny, nx = task.phantom.hu.shape
        if not self._dialect.spots_in_logs:
            return raw[:, :, :nx]
        # Its z is the gantry's: against the patient's y; its y is the patient's z.
        dose = np.zeros((nz, ny, nx))
        dose[:, air:, :] = raw.transpose(1, 0, 2)[:, ::-1, :nx]
        return dose

    def _demand_memory(self, task: Task) -> None:
        """Temporary when the GPU's free memory is known and will not do."""
        if self._cpu:
            return
        batch = min(10_000_000, -(-task.primaries // task.batches))
        needed = _BYTES_PER_HISTORY * batch + _BYTES_PER_VOXEL * task.phantom.hu.size + _BYTES_MARGIN
        free = _free_bytes(self._gpu)
        if free is not None and free < needed:
            raise Temporary(
                f"The GPU has {free / 1e9:.1f} GB of free memory, and this beam needs {needed / 1e9:.1f} GB."
            )


def _find_program(named: str) -> Path:
    if not named:
        raise BadInput("engine: moqui needs the parameter moqui_program, the path of tps_env on the host.")
    found = shutil.which(named)
    if found is None:
        raise EngineFailed("The dose engine moqui is not on this host: moqui_program names no program.")
    return Path(found).absolute()


def _the_gpu(cpu: bool) -> str:
    """The UUID of the one GPU that this job was given."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    if cpu:
        return ""
    if not given or "," in given:
        raise EngineFailed(
            "moqui needs a GPU, and this job was given none: set gpu: true for the step and gpus for its group. "
            "No other engine is used in its place."
        )
    return given


def _failure(code: int, lines: List[str]) -> Exception:
    text = "".join(lines)
    cuda = next((line.strip() for line in lines if "CUDA error" in line), "")
    if code == 2 or "out of memory" in text:
        return Temporary("The GPU had too little free memory for moqui.")
    if "driver version is insufficient" in text or "no CUDA-capable device" in text:
        return EngineFailed("moqui found no usable GPU on this host. No other engine is used in its place.")
    if code in (-9, 137):
        return Temporary("moqui was killed, as happens when a host has too little memory.")
    if code in (-6, 134):
        return EngineFailed("moqui refused its input (signal SIGABRT); its log says why.")
    return EngineFailed(f"moqui ended with {ending(code)}{': ' + cuda if cuda else '.'}")


def _demand_header(path: Path, staged: Any) -> None:
    """The .mhd must describe the grid that was given. Two of its lines lack the `=`."""
    try:
        text = path.read_text(encoding="ascii", errors="replace")
    except FileNotFoundError:
        raise EngineFailed("moqui's dose has no header.") from None
    fields = {}
    for line in text.splitlines():
        words = line.replace("=", " ").split()
        if words:
            fields[words[0]] = words[1:]
    nz, ny, nx = staged.hu.shape
    meant: List[Tuple[str, Tuple[float, ...]]] = [
        ("DimSize", (nx, ny, nz)),
        ("ElementSpacing", staged.spacing_mm),
        ("Offset", staged.origin_mm),
    ]
    for key, wanted in meant:
        try:
            found = [float(word) for word in fields.get(key, [])]
        except ValueError:
            found = []
        if len(found) != 3 or any(abs(a - b) > 0.01 for a, b in zip(found, wanted)):
            raise EngineFailed(f"moqui's dose lies on another grid than it was given ({key}).")


def _smi(query: str) -> Optional[str]:
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    try:
        done = subprocess.run(
            [program, f"--query-gpu={query}", "--format=csv,noheader,nounits"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=20.0,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.decode("utf-8", "replace") if done.returncode == 0 else None


def _gpu_answers() -> bool:
    return _smi("uuid") is not None


def _free_bytes(uuid: str) -> Optional[float]:
    """Free memory of the GPU; None when nvidia-smi does not tell."""
    for line in (_smi("uuid,memory.free") or "").splitlines():
        name, _, free = line.partition(",")
        if name.strip() == uuid and free.strip().replace(".", "", 1).isdigit():
            value = float(free) * 2.0**20
            return value if math.isfinite(value) else None
    return None


def _sha256(path: Path) -> str:
    import hashlib

    return hashlib.sha256(path.read_bytes()).hexdigest()


def _link(source: Path, target: Path) -> None:
    try:
        os.link(str(source), str(target))
    except OSError:
        shutil.copyfile(str(source), str(target))
