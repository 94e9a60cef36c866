"""The model's own numbers against the paper, PSTAR and quadrature elsewhere."""

from __future__ import annotations

import ast
from pathlib import Path

import numpy as np
import pytest
from steplib.bragg import P, Protons, smeared_power
from steplib.pstar import WATER, csda_range_cm, stopping_power

from mqi.resources import remote_scripts

# exp(-x²/4) D_{-nu}(-x) Gamma(nu) / sqrt(2 pi) with scipy.special.pbdv and gamma (scipy 1.17.1): (exponent, x, value).
PARABOLIC_CYLINDER = [
    (1 / P - 1, -4.0, 9.398198454e-05),
    (1 / P - 1, -1.0, 3.106976928e-01),
    (1 / P - 1, 0.0, 7.732203352e-01),
    (1 / P - 1, 0.7, 9.522256462e-01),
    (1 / P - 1, 2.0, 8.071811755e-01),
    (1 / P - 1, 5.0, 5.033431318e-01),
    (1 / P - 1, 10.0, 3.684297651e-01),
    (1 / P, -4.0, 1.222166481e-05),
    (1 / P, -1.0, 1.002615405e-01),
    (1 / P, 0.0, 4.064110581e-01),
    (1 / P, 0.7, 7.550911817e-01),
    (1 / P, 2.0, 1.423224411e00),
    (1 / P, 5.0, 2.469868190e00),
    (1 / P, 10.0, 3.668030426e00),
]


@pytest.mark.parametrize(("exponent", "distance", "value"), PARABOLIC_CYLINDER)
def test_smeared_power_is_the_parabolic_cylinder_function(
    exponent: float, distance: float, value: float
) -> None:
    assert smeared_power(np.array([distance]), exponent)[0] == pytest.approx(value, rel=1e-6)


def test_far_from_the_peak_the_curve_is_the_paper_s_unsmeared_formula() -> None:
    """Eq. 28 of Bortfeld 1997 with epsilon = 0: 17.93 (R0-z)^-0.435 + 0.444 (R0-z)^0.565 over 1 + 0.012 R0."""
    protons = Protons(150.0, 0.0, 1.0)
    depth = np.linspace(0.0, protons.range_cm - 12.0 * protons.sigma_cm, 40)
    rest = protons.range_cm - depth
    paper = (17.93 * rest**-0.435 + 0.444 * rest**0.565) / (1.0 + 0.012 * protons.range_cm)
    # The paper's alpha is 0.0022; here it follows from the PSTAR range.
    alpha = protons.range_cm / 150.0**P
    assert protons.dose(depth) * (alpha / 0.0022) ** (1.0 / P) == pytest.approx(paper, rel=4e-3)


@pytest.mark.parametrize("energy_mev", [50.0, 70.0, 123.4, 150.0, 200.0, 300.0])
def test_energy_is_conserved(energy_mev: float) -> None:
    protons = Protons(energy_mev, 0.7, 1e9)
    depth = np.linspace(0.0, protons.range_cm + 9.0 * protons.sigma_cm, 4001)
    dose = protons.dose(depth)
    area = float(np.sum((dose[1:] + dose[:-1]) / 2.0 * np.diff(depth)))
    assert area + protons.carried_away == pytest.approx(1e9 * energy_mev, rel=1e-3)


@pytest.mark.parametrize(("energy_mev", "range_cm", "stopping"), WATER)
def test_table_is_met_at_its_points(energy_mev: float, range_cm: float, stopping: float) -> None:
    assert csda_range_cm(energy_mev) == pytest.approx(range_cm, rel=1e-12)
    assert stopping_power(energy_mev) == pytest.approx(stopping, rel=1e-12)


def test_range_between_the_points_agrees_with_the_stopping_power() -> None:
    """dR/dE = 1/S: two columns of one table, integrated against each other."""
    energies = np.linspace(50.0, 300.0, 2501)
    slopes = np.array([1.0 / stopping_power(float(energy)) for energy in energies])
    grown = np.concatenate([[0.0], np.cumsum((slopes[1:] + slopes[:-1]) / 2.0 * np.diff(energies))])
    ranges = np.array([csda_range_cm(float(energy)) for energy in energies])
    assert np.all(np.diff(ranges) > 0.0)
    assert ranges - ranges[0] == pytest.approx(grown, rel=2e-3, abs=2e-3)


@pytest.mark.parametrize("energy_mev", [39.9, 350.1, float("nan")])
def test_outside_of_the_table_is_an_error(energy_mev: float) -> None:
    with pytest.raises(ValueError, match=r"\d|nan"):
        csda_range_cm(energy_mev)


@pytest.mark.parametrize(
    "path",
    [
        remote_scripts() / "interpreter.py",
        remote_scripts() / "moquisim.py",
        *sorted((remote_scripts() / "steplib").glob("*.py")),
    ],
    ids=lambda path: path.name,
)
def test_syntax_of_python_3_8(path: Path) -> None:
    ast.parse(path.read_text(encoding="utf-8"), feature_version=(3, 8))
