"""A beam's depth dose on a grid, the depths that characterise it, and the checks that it must pass."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple

import numpy as np

from .bragg import Curve, Protons
from .pstar import stopping_power
from .report import FailedCheck
from .tables import LayerMu

# The energy at which the parameter protons_per_mu is stated.
REFERENCE_MEV = 150.0
JOULE_PER_MEV = 1.602176634e-13  # CODATA 2018, exact
WATER_KG_PER_MM3 = 1e-6


@dataclass(frozen=True)
class Settings:
    """Parameters of the calculation; moquisim.py describes them."""

    protons_per_mu: float
    spread_mev: float
    step_mm: float
    range_tolerance_mm: float
    energy_tolerance: float


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
class DepthDose:
    """Depth below the phantom's surface in mm and energy deposited per depth in MeV/mm, laterally integrated.

    `layers`: the same, per layer, one row each. The energies in MeV are those of all protons of one fraction:
    what comes in, what the range shifters take up, and what neutral secondaries carry away.
    """

    depth_mm: Curve
    energy_mev_per_mm: Curve
    layers: Curve
    protons: float
    incident_mev: float
    shifter_mev: float
    neutral_mev: float

    @property
    def dose_gy_mm2(self) -> Curve:
        """Dose in water integrated over the plane at each depth, Gy mm²."""
        return self.energy_mev_per_mm * (JOULE_PER_MEV / WATER_KG_PER_MM3)

    @property
    def deposited_mev(self) -> float:
        """Energy that the phantom takes up: the integral of the curve."""
        return _integral(self.energy_mev_per_mm, self.depth_mm)


def _integral(curve: Curve, depth: Curve) -> float:
    return float(np.sum(np.diff(depth) * (curve[1:] + curve[:-1]) / 2.0))


def protons_of(layer: LayerMu, settings: Settings) -> Protons:
    """The protons of a layer.

    A monitor unit is a charge in the nozzle's ionisation chamber, and a proton releases charge there in
    proportion to its stopping power; so the protons per MU grow with energy as 1 / S(E). The DCPT beam model
    follows this within 4 % from 70 to 225 MeV.
    """
    per_mu = settings.protons_per_mu * stopping_power(REFERENCE_MEV) / stopping_power(layer.energy_mev)
    return Protons(layer.energy_mev, settings.spread_mev, layer.mu * per_mu)


def compute(layers: Sequence[LayerMu], settings: Settings, told: Callable[[float], None]) -> DepthDose:
    """The depth dose of a beam in water behind its range shifters. `told` hears the share that is done."""
    protons = [protons_of(layer, settings) for layer in layers]
    wet_cm = [layer.wet_mm / 10.0 for layer in layers]
    end_cm = max(each.range_cm + 8.0 * each.sigma_cm - wet_cm[place] for place, each in enumerate(protons))
    steps = int(10.0 * max(end_cm, 1.0) / settings.step_mm) + 2
    depth_mm: Curve = np.arange(steps, dtype=np.float64) * settings.step_mm
    rows = np.zeros((len(layers), steps))
    shifter_mev = 0.0
    for place, each in enumerate(protons):
        rows[place] = each.dose(depth_mm / 10.0 + wet_cm[place]) / 10.0
        inside = np.linspace(0.0, wet_cm[place], int(10.0 * wet_cm[place] / settings.step_mm) + 2)
        shifter_mev += _integral(each.dose(inside), inside)
        told((place + 1) / len(layers))
    return DepthDose(
        depth_mm=depth_mm,
        energy_mev_per_mm=rows.sum(axis=0),
        layers=rows,
        protons=sum(each.count for each in protons),
        incident_mev=sum(each.count * each.energy_mev for each in protons),
        shifter_mev=shifter_mev,
        neutral_mev=sum(each.carried_away for each in protons),
    )


def distal_depth(depth_mm: Curve, dose: Curve, share: float) -> Optional[float]:
    """The greatest depth, mm, where the dose still is `share` of its maximum; None: it never falls so low."""
    level = share * float(np.max(dose))
    above = np.flatnonzero(dose >= level)
    if level <= 0.0 or not above.size or above[-1] + 1 >= dose.size:
        return None
    last = int(above[-1])
    high, low = float(dose[last]), float(dose[last + 1])
    return float(depth_mm[last] + (depth_mm[last + 1] - depth_mm[last]) * (high - level) / (high - low))


def check(result: DepthDose, layers: Sequence[LayerMu], settings: Settings) -> List[Check]:
    """Every check, passed or not. Those that need a curve come last and are left out when there is none."""
    curve = result.energy_mev_per_mm
    finite = bool(np.all(np.isfinite(curve)))
    told = "The dose is finite everywhere." if finite else "The dose is not finite everywhere."
    checks = [Check("finite", finite, None, None, "", told)]
    if not finite:
        return checks
    lowest = float(curve.min())
    told = f"The lowest dose is {lowest:g} MeV/mm."
    checks.append(Check("non_negative", lowest >= 0.0, lowest, 0.0, "MeV/mm", told))
    reach, deepest = max((csda_mm(layer) - layer.wet_mm, number) for number, layer in enumerate(layers))
    told = f"The protons reach {max(0.0, reach):.1f} mm into the phantom."
    checks.append(Check("reaches_water", reach > 0.0, reach, 0.0, "mm", told))
    if reach <= 0.0 or lowest < 0.0:
        return checks
    return [*checks, _energy_balance(result, settings), *_ranges(result, layers, settings, reach, deepest)]


def csda_mm(layer: LayerMu) -> float:
    """PSTAR range of a layer's energy, mm."""
    return Protons(layer.energy_mev, 0.0, 1.0).range_cm * 10.0


def _energy_balance(result: DepthDose, settings: Settings) -> Check:
    """The curve is integrated, incident and neutral energy are closed forms: two ways to the same number."""
    accounted = result.deposited_mev + result.shifter_mev + result.neutral_mev
    off = accounted / result.incident_mev - 1.0
    told = (
        f"Phantom, range shifters and neutral secondaries account for {100.0 * (1.0 + off):.2f} % of the incident "
        "energy."
    )
    limit = settings.energy_tolerance
    return Check("energy_balance", abs(off) <= limit, 100.0 * off, 100.0 * limit, "%", told)


def _ranges(
    result: DepthDose, layers: Sequence[LayerMu], settings: Settings, reach: float, deepest: int
) -> List[Check]:
    limit = settings.range_tolerance_mm
    energy = layers[deepest].energy_mev
    own = distal_depth(result.depth_mm, result.layers[deepest], 0.8)
    off = None if own is None else own - reach
    told = f"R80 of the {energy:g} MeV layer is {_mm(own)}, and PSTAR less range shifter says {reach:.2f} mm."
    passed = off is not None and abs(off) <= limit
    checks = [Check("range_of_highest_energy", passed, off, limit, "mm", told)]
    whole = distal_depth(result.depth_mm, result.energy_mev_per_mm, 0.8)
    off = None if whole is None else whole - reach
    one_range = len({(layer.energy_mev, layer.wet_mm) for layer in layers}) == 1
    # Many layers together fall off where the plan wants them to, but never behind the deepest of them.
    passed = off is not None and off <= limit and (not one_range or off >= -limit)
    told = f"R80 of the beam is {_mm(whole)}, and its deepest layer reaches {reach:.2f} mm."
    return [*checks, Check("range_of_beam", passed, off, limit, "mm", told)]


def _mm(depth: Optional[float]) -> str:
    return "not on the curve" if depth is None else f"{depth:.2f} mm"


def demand(checks: Sequence[Check], beam: int) -> None:
    """FailedCheck with the first check that failed."""
    for each in checks:
        if not each.passed:
            raise FailedCheck(f"Beam {beam} failed the check {each.name}: {each.sentence}")


def characteristics(result: DepthDose) -> Dict[str, Any]:
    """Depths for the summary, mm; None where the curve has no such point."""
    curve = result.energy_mev_per_mm
    depths: Tuple[Optional[float], ...] = tuple(distal_depth(result.depth_mm, curve, s) for s in (0.8, 0.9))
    return {
        "r80_mm": depths[0],
        "r90_mm": depths[1],
        "peak_depth_mm": float(result.depth_mm[int(np.argmax(curve))]),
        "peak_MeV_per_mm": float(curve.max()),
        "entrance_to_peak": float(curve[0] / curve.max()) if curve.max() > 0.0 else None,
    }
