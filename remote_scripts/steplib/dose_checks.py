"""What every computed dose must pass before anybody sees it. Each check is a sentence, passed or not.

The computed dose is held against what is known without the engine: how many protons, of which energy, aimed where.
Ranges and energies come from the analytic model of bragg.py with NIST PSTAR's ranges.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, List, Mapping, Optional, Sequence

import numpy as np

from .depth import JOULE_PER_MEV, Curve, depth_dose, exit_depth, expected, water_depth
from .engines.base import Dose, Task
from .geometry import at_isocentre
from .report import FailedCheck

# In a CT the stopping power is known from the density only, and the energy from dose to water.
CT_FACTOR = {"range_tolerance_mm": 4.0, "energy_tolerance_percent": 3.0, "centroid_tolerance_mm": 3.0}


@dataclass(frozen=True)
class Check:
    """One check: `value` against `limit` in `unit`, and the sentence that tells the outcome."""

    name: str
    passed: bool
    value: Optional[float]
    limit: Optional[float]
    unit: str
    sentence: str


@dataclass(frozen=True)
class Checked:
    """All checks of a dose, and the curves they came from (None when the dose is not finite or empty)."""

    checks: Sequence[Check]
    curve: Optional[Curve]
    expected: Optional[Curve]

    @property
    def passed(self) -> bool:
        """Whether every check did."""
        return all(each.passed for each in self.checks)


def check(dose: Dose, task: Task, limits: Mapping[str, float]) -> Checked:
    """The checks of one dose. `limits`: the step's parameters *_tolerance_* and outside_limit_percent."""
    values = dose.dose_gy
    finite = bool(np.all(np.isfinite(values)) and np.all(np.isfinite(dose.sigma_gy)))
    checks = [_yes("finite", finite, "The dose is finite everywhere.", "The dose is not finite everywhere.")]
    if not finite:
        return Checked(checks, None, None)
    lowest, highest = float(values.min()), float(values.max())
    checks.append(
        _yes("not_negative", lowest >= 0.0, "No dose is negative.", f"The lowest dose is {lowest:.3g} Gy.")
    )
    checks.append(_yes("not_empty", highest > 0.0, "There is dose.", "The dose is zero everywhere."))
    checks.append(_outside(dose, limits["outside_limit_percent"]))
    if highest <= 0.0:
        return Checked(checks, None, None)
    ct = task.phantom.kind != "water"
    tolerance = {name: limits[name] * (factor if ct else 1.0) for name, factor in CT_FACTOR.items()}
    depth = water_depth(task.phantom, task.frame)
    # With the density, so that it is energy that is summed, also where the voxels are not water.
    energy = values * task.phantom.density()
    curve = depth_dose(energy, depth, task.phantom.voxel_mm3, min(task.phantom.spacing_mm))
    air_mm = 0.0
    if not ct:
        air_mm = max(0.0, task.model.reference_plane_mm - float(task.phantom.facts["isocentre_depth_mm"]))
    # A patient may end before the protons do; the water never does.
    ends = exit_depth(depth, task.phantom, task.frame, task.spots) if ct else None
    wanted = expected(task.spots, task.model, air_mm, curve.depth_mm, ends)
    checks.append(_energy(dose, task, wanted, tolerance["energy_tolerance_percent"]))
    checks += _centroid(dose, task, tolerance["centroid_tolerance_mm"])
    judge = _mean_depth if ct else _range
    checks.append(judge(curve, wanted, tolerance["range_tolerance_mm"]))
    return Checked(checks, curve, wanted)


def demand(checks: Sequence[Check], beam: int, which: str) -> None:
    """FailedCheck with the first check that failed."""
    for each in checks:
        if not each.passed:
            raise FailedCheck(
                f"The {which} dose of beam {beam} failed the check {each.name}: {each.sentence}"
            )


def _yes(name: str, passed: bool, good: str, bad: str) -> Check:
    return Check(name, passed, None, None, "", good if passed else bad)


def _outside(dose: Dose, limit: float) -> Check:
    share = 100.0 * dose.generated_outside / max(1, dose.primaries)
    told = f"{dose.generated_outside} of {dose.primaries} protons ({share:.2f} %) missed the phantom."
    return Check("protons_outside", share <= limit, share, limit, "%", told)


def _energy(dose: Dose, task: Task, wanted: Curve, limit: float) -> Check:
    """Deposited energy: dose x density x volume, against the analytic model's integral behind the range shifters."""
    kilograms = task.phantom.density() * (task.phantom.voxel_mm3 * 1e-6)
    deposited = float((dose.dose_gy * kilograms).sum()) / JOULE_PER_MEV
    step = float(wanted.depth_mm[1] - wanted.depth_mm[0])
    meant = float(wanted.energy_mev_per_mm.sum()) * step
    off = 100.0 * (deposited / meant - 1.0) if meant > 0.0 else float("inf")
    per_proton = deposited / task.protons
    told = (
        f"The phantom takes up {per_proton:.2f} MeV per proton, {off:+.2f} % of what the protons' energy and ranges "
        "in water give."
    )
    return Check("energy_balance", abs(off) <= limit, off, limit, "%", told)


def _centroid(dose: Dose, task: Task, limit: float) -> List[Check]:
    """Where the deposited energy lies, followed back to the isocentre's plane, against where the spots were aimed."""
    axes = task.phantom.axes_mm()
    z = task.frame.coordinate(2, axes)
    weight = dose.dose_gy * task.phantom.density()
    total = float(weight.sum())
    checks = []
    # A deep layer leaves more energy behind its range shifter than a shallow one, per proton.
    energies = np.array([task.model.at(float(energy)).mean_mev for energy in task.spots.energy_mev])
    aimed_weight = task.spots.protons * energies
    for axis, name, spots in ((0, "x", task.spots.x_mm), (1, "y", task.spots.y_mm)):
        place = at_isocentre(task.frame.coordinate(axis, axes), z, task.source_mm[axis])
        found = float((weight * place).sum()) / total
        aimed = float((aimed_weight * spots).sum() / aimed_weight.sum())
        off = found - aimed
        told = f"The dose's centre in {name} is {found:.2f} mm, and the spots' is {aimed:.2f} mm."
        checks.append(Check(f"centroid_{name}", abs(off) <= limit, off, limit, "mm", told))
    return checks


def _range(curve: Curve, wanted: Curve, limit: float) -> Check:
    found, meant = curve.distal(0.8), wanted.distal(0.8)
    told = f"R80 is {_mm(found)}, and the spots' energies and PSTAR give {_mm(meant)}."
    off = None if found is None or meant is None else found - meant
    return Check("range", off is not None and abs(off) <= limit, off, limit, "mm", told)


def _mean_depth(curve: Curve, wanted: Curve, limit: float) -> Check:
    """For a CT: neighbouring protons pass different tissue, which blurs the distal edge but not the mean depth."""
    means = [
        float((one.depth_mm * one.dose_gy_mm2).sum() / one.dose_gy_mm2.sum())
        for one in (
            Curve(curve.depth_mm[curve.depth_mm > 0.0], curve.dose_gy_mm2[curve.depth_mm > 0.0]),
            Curve(wanted.depth_mm[wanted.depth_mm > 0.0], wanted.dose_gy_mm2[wanted.depth_mm > 0.0]),
        )
    ]
    off = means[0] - means[1]
    told = (
        f"The energy's mean depth is {means[0]:.2f} mm of water, and the spots' energies and PSTAR give "
        f"{means[1]:.2f} mm."
    )
    return Check("mean_depth", abs(off) <= limit, off, limit, "mm", told)


def _mm(depth: Optional[float]) -> str:
    return "not on the curve" if depth is None else f"{depth:.2f} mm"


def without_air(values: Any, density: Any) -> Any:
    """The values with zero where the density is below 0.01 g/cm³: dose in air is noise, and belongs to nobody."""
    return np.where(density < 0.01, np.float32(0.0), values)
