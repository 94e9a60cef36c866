"""The story of moquisim.py between its arguments and its files: phantom, engine, checks, results."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import shutil
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable, Dict, Mapping, Sequence

from .beam_model import Machine
from .beam_setup import Setup, extent, set_up
from .depth import Curve
from .depth_picture import draw
from .dose_checks import Checked, check, without_air
from .dose_checks import demand as demand_checks
from .dose_grid import DoseGrid, write_grid
from .engines.base import Dose, Task
from .find_plan import Input
from .phantom import Phantom, water_phantom
from .report import BadInput
from .rtdose import WrittenDose, write_rtdose
from .spots import BeamSpots, Spots

if TYPE_CHECKING:
    from pydicom import Dataset

NOTICE = "Research tool, not a medical device. Dose recomputed by a Monte Carlo engine, not for clinical use."
# Kept from the engine's folder: what it was told and what it said. None of it holds patient data.
_KEPT = (
    "plan.txt",
    "machine.txt",
    "density.txt",
    "material.txt",
    "config_0.txt",
    "log_0.txt",
    "case/machine.txt",
    "batch_0/moqui_tps.in",
)


@dataclass(frozen=True)
class Case:
    """A beam with everything that its simulation depends on. `others`: the plan's beams that share its grid."""

    setup: Setup
    plan: Dataset
    machine: Machine
    phantom: Phantom
    parameters: Mapping[str, Any]

    @property
    def number(self) -> int:
        """DICOM beam number."""
        return self.setup.beam.number


@dataclass(frozen=True)
class Simulated:
    """One dose with its checks. `seconds`: how long the engine took."""

    dose: Dose
    checked: Checked
    spots: Spots
    seed: int
    seconds: float


def prepare(
    number: int,
    beams: Sequence[BeamSpots],
    plan: Dataset,
    machine: Machine,
    inputs: Sequence[Input],
    input_dir: Path,
    parameters: Mapping[str, Any],
) -> Case:
    """The case of beam `number`, phantom included. BadInput when anything about it cannot be simulated."""
    upright = parameters["gantry"] == "zero"
    setups = [set_up(beam, plan, machine, upright=upright) for beam in beams]
    own = next(setup for setup in setups if setup.beam.number == number)
    if parameters["geometry"] == "water":
        if machine.model.reference_plane_mm < parameters["isocentre_depth_mm"] + 3.0 * parameters["grid_mm"]:
            raise BadInput(
                "The beam model's reference plane would lie in the water: give a smaller isocentre_depth_mm."
            )
        extents = [extent(setup, machine) for setup in setups]
        phantom = water_phantom(extents, own.frame, parameters["isocentre_depth_mm"], parameters["grid_mm"])
    else:
        if upright:
            raise BadInput(
                "gantry: zero is for the water phantom: in a CT, a beam stands where the plan puts it."
            )
        from .ct_series import ct_phantom

        phantom = ct_phantom(inputs, input_dir, plan, machine, parameters["grid_mm"])
    return Case(own, plan, machine, phantom, parameters)


def simulate(case: Case, engine: Any, out: Path, told: Callable[[float, str], None]) -> Dict[str, Simulated]:
    """Dose and checks by "planned" and "delivered"."""
    tables = case.setup.beam.given()
    done: Dict[str, Simulated] = {}
    for place, (which, spots) in enumerate(tables.items()):
        done[which] = _simulate(
            case,
            engine,
            which,
            spots,
            out / "engine" / which,
            lambda share, text, place=place, which=which: told(  # type: ignore[misc]
                (place + share) / len(tables), f"{which} spots: {text}"
            ),
        )
    return done


def _simulate(
    case: Case,
    engine: Any,
    which: str,
    spots: Spots,
    kept: Path,
    told: Callable[[float, str], None],
) -> Simulated:
    parameters = case.parameters
    seed = parameters["seed"] or _seed(spots.sha256, case.number)
    started = time.time()
    told(0.0, "starting the engine")
    with tempfile.TemporaryDirectory(prefix="mqi-dose-") as folder:
        task = Task(
            spots=spots,
            frame=case.setup.frame,
            phantom=case.phantom,
            model=case.machine.model,
            source_mm=case.setup.source_mm,
            shifter=case.setup.shifter,
            primaries=parameters["primaries"],
            batches=parameters["batches"],
            threads=parameters["threads"] or _processors(),
            seed=seed,
            work=Path(folder),
            told=told,
        )
        try:
            raw = engine.simulate(task)
        finally:
            _keep(Path(folder), kept)
    density = case.phantom.density()
    dose = Dose(
        without_air(raw.dose_gy, density),
        without_air(raw.sigma_gy, density),
        raw.primaries,
        raw.generated_outside,
        raw.facts,
    )
    return Simulated(dose, check(dose, task, parameters), spots, seed, time.time() - started)


def _seed(digest: str, number: int) -> int:
    """Follows from the spots: the same spots give the same dose again."""
    return int(hashlib.sha256(f"{digest} {number}".encode()).hexdigest()[:7], 16)


def _processors() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _keep(folder: Path, kept: Path) -> None:
    kept.mkdir(parents=True, exist_ok=True)
    for name in _KEPT:
        if (folder / name).is_file():
            shutil.copyfile(str(folder / name), str(kept / Path(name).name))


def write(case: Case, engine: Any, doses: Mapping[str, Simulated], out: Path) -> None:
    """Every file of the result; the summary last."""
    parameters = case.parameters
    summary: Dict[str, Any] = {
        "format": 2,
        "notice": NOTICE,
        "engine": engine.facts(),
        "beam": case.number,
        "beam_name": case.setup.beam.entry.get("name"),
        "plan_sop_instance_uid": case.setup.beam.plan_uid,
        "geometry": _geometry(case),
        "doses": {},
        "parameters": dict(parameters),
        "machine": {"file_sha256": case.machine.sha256, "beam_model": case.machine.model.name},
        "times": {which: {"seconds": round(each.seconds, 1)} for which, each in doses.items()},
    }
    for which, each in doses.items():
        grid = DoseGrid(
            each.dose.dose_gy, each.dose.sigma_gy, case.phantom.origin_mm, case.phantom.spacing_mm
        )
        npz = out / f"dose_{which}.npz"
        write_grid(npz, grid)
        rtdose = None
        # What is no dose at all (NaN, all zero) makes no RT Dose; the check that says so ends the step.
        if each.checked.curve is not None:
            rtdose = write_rtdose(
                out / f"RD_beam_{case.number}_{which}.dcm",
                grid,
                case.plan,
                beam_numbers=[case.number],
                summation="BEAM",
                which=which,
                rbe=parameters["rbe"],
                frame_of_reference_uid=case.phantom.frame_of_reference_uid,
            )
            (out / f"depth_dose_{which}.csv").write_bytes(_csv(each.checked.curve))
        summary["doses"][which] = _dose_summary(each, npz, rtdose)
    draw(out / "depth_dose.png", {which: each.checked for which, each in doses.items()}, summary)
    text = json.dumps(summary, indent=1, ensure_ascii=False, allow_nan=False)
    (out / "summary.json").write_bytes((text + "\n").encode("utf-8", "replace"))


def demand(case: Case, doses: Mapping[str, Simulated]) -> None:
    """FailedCheck with the first check that failed in any dose."""
    for which, each in doses.items():
        demand_checks(each.checked.checks, case.number, which)


def _geometry(case: Case) -> Dict[str, Any]:
    frame, phantom = case.setup.frame, case.phantom
    shifter = case.setup.shifter
    return {
        **phantom.facts,
        "gantry_deg": frame.gantry_deg,
        "couch_deg": frame.couch_deg,
        "angles": "as planned" if case.parameters["gantry"] == "plan" else "set to zero",
        "isocentre_mm": list(frame.isocentre_mm),
        "origin_mm": list(phantom.origin_mm),
        "spacing_mm": list(phantom.spacing_mm),
        "voxels": list(phantom.hu.shape[::-1]),
        "virtual_source_mm": list(case.setup.source_mm),
        "range_shifter": None
        if shifter is None
        else {
            "wet_mm": shifter.wet_mm,
            "material": shifter.shifter.material,
            "density_g_cm3": shifter.shifter.density_g_cm3,
            "isocentre_distance_mm": shifter.isocentre_distance_mm,
        },
        "dose_in_air": "left out (below 0.01 g/cm3)",
    }


def _dose_summary(each: Simulated, npz: Path, rtdose: Any) -> Dict[str, Any]:
    dose, curve, wanted = each.dose, each.checked.curve, each.checked.expected
    written: Any = rtdose if isinstance(rtdose, WrittenDose) else None
    return {
        "spots_sha256": each.spots.sha256,
        "spots": len(each.spots.mu),
        "mu": float(each.spots.mu.sum()),
        "protons": float(each.spots.protons.sum()),
        "primaries": dose.primaries,
        "generated_outside": dose.generated_outside,
        "uncertainty_percent": dose.uncertainty_percent if curve is not None else 100.0,
        "seed": each.seed,
        "maximum_Gy": float(dose.dose_gy.max()) if curve is not None else None,
        "r80_mm": None if curve is None else curve.distal(0.8),
        "expected_r80_mm": None if wanted is None else wanted.distal(0.8),
        "checks": [asdict(one) for one in each.checked.checks],
        "passed": each.checked.passed,
        "npz_sha256": hashlib.sha256(npz.read_bytes()).hexdigest(),
        "rtdose_sop_instance_uid": None if written is None else written.sop_instance_uid,
        "rtdose_sha256": None if written is None else written.sha256,
        **dose.facts,
    }


def _csv(curve: Curve) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("depth_mm", "relative_dose", "energy_MeV_per_mm", "dose_Gy_mm2"))
    highest = float(curve.dose_gy_mm2.max()) or 1.0
    for depth, energy, gray in zip(curve.depth_mm, curve.energy_mev_per_mm, curve.dose_gy_mm2):
        writer.writerow((f"{depth:.3f}", f"{gray / highest:.6e}", f"{energy:.9e}", f"{gray:.9e}"))
    return text.getvalue().encode("ascii")
