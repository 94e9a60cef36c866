"""Ranges and stopping powers of protons in liquid water, from NIST PSTAR.

M.J. Berger, J.S. Coursey, M.A. Zucker, J. Chang: ESTAR, PSTAR, and ASTAR, NISTIR 4999 / NIST Standard
Reference Database 124, https://physics.nist.gov/Star (DOI 10.18434/T4NC7P); the data follow ICRU Report 49
(1993). Density 1 g/cm³, so g/cm² are cm. CSDA range: in water 0.1 % longer than the projected one at these
energies.
"""

from __future__ import annotations

import bisect
import math

# (kinetic energy MeV, CSDA range g/cm², total stopping power MeV cm²/g)
WATER = (
    (40.0, 1.489, 14.88),
    (45.0, 1.841, 13.54),
    (50.0, 2.227, 12.45),
    (55.0, 2.644, 11.54),
    (60.0, 3.093, 10.78),
    (65.0, 3.572, 10.13),
    (70.0, 4.080, 9.559),
    (75.0, 4.618, 9.063),
    (80.0, 5.184, 8.625),
    (85.0, 5.777, 8.236),
    (90.0, 6.398, 7.888),
    (95.0, 7.045, 7.573),
    (100.0, 7.718, 7.289),
    (125.0, 11.46, 6.192),
    (150.0, 15.77, 5.445),
    (175.0, 20.62, 4.903),
    (200.0, 25.96, 4.492),
    (225.0, 31.74, 4.170),
    (250.0, 37.94, 3.911),
    (275.0, 44.52, 3.698),
    (300.0, 51.45, 3.520),
    (350.0, 66.28, 3.241),
)


def csda_range_cm(energy_mev: float) -> float:
    """Mean range in water, cm, for 40 to 350 MeV (ValueError outside).

    Cubic Hermite interpolation of ln R over ln E; the slope is known from the stopping power, dR/dE = 1/S, so
    the curve is good to the table's own rounding even where its points are 25 MeV apart.
    """
    low, high, part = _interval(energy_mev)
    width = math.log(high[0] / low[0])
    slopes = [width * energy / (range_cm * stopping) for energy, range_cm, stopping in (low, high)]
    rest = 1.0 - part
    return math.exp(
        math.log(low[1]) * (1.0 + 2.0 * part) * rest**2
        + slopes[0] * part * rest**2
        + math.log(high[1]) * part**2 * (3.0 - 2.0 * part)
        - slopes[1] * part**2 * rest
    )


def stopping_power(energy_mev: float) -> float:
    """Total stopping power of water, MeV/cm, 40 to 350 MeV (ValueError outside). Log-log linear: 0.3 %."""
    low, high, part = _interval(energy_mev)
    return math.exp(math.log(low[2]) + part * math.log(high[2] / low[2]))


def _interval(energy_mev: float) -> tuple[tuple[float, ...], tuple[float, ...], float]:
    """The table's rows on both sides, and where between them the energy lies, from 0 to 1 in ln E."""
    if not WATER[0][0] <= energy_mev <= WATER[-1][0]:
        raise ValueError(energy_mev)
    place = min(max(1, bisect.bisect_left(WATER, (energy_mev,))), len(WATER) - 1)
    low, high = WATER[place - 1], WATER[place]
    return low, high, math.log(energy_mev / low[0]) / math.log(high[0] / low[0])
