"""The machine file: what it means, and that nothing wrong in it passes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from dose_runs import MACHINE
from hypothesis import given, settings
from hypothesis import strategies as st
from steplib.beam_model import COLUMNS, find_machine, read_machine, rows_of_csv
from steplib.report import BadInput

CONTENT = MACHINE.read_bytes()


def spoiled(path: str, value: Any) -> bytes:
    """The example with another value at a dotted path."""
    root = yaml.safe_load(CONTENT)
    place = root
    *way, last = path.split(".")
    for key in way:
        place = place[int(key)] if isinstance(place, list) else place[key]
    if value is None:
        del place[last]
    else:
        place[int(last) if isinstance(place, list) else last] = value
    return yaml.safe_dump(root).encode()


def test_example_is_every_fifth_row_of_the_published_model(real_data: Path) -> None:
    """Between its rows the published table is linear within 0.4 %, correlations apart."""
    published = rows_of_csv((real_data / "dcpt-headphantom" / "DCPT_beam_model__v2.csv").read_bytes())
    model = read_machine(CONTENT).model
    assert len(published) == 1741
    for row in published:
        ours = model.at(row.nominal_mev)
        for name in ("mean_mev", "sigma_mev", "protons_per_mu", "size_x_mm", "size_y_mm"):
            assert getattr(ours, name) == pytest.approx(getattr(row, name), rel=1e-5)
        assert ours.correlation_y == pytest.approx(row.correlation_y, abs=0.02)


def test_interpolation_and_its_ends() -> None:
    model = read_machine(CONTENT).model
    assert model.at(150.0).mean_mev == 150.4
    half = model.at(152.5)
    assert half.mean_mev == pytest.approx((150.4 + 155.38) / 2.0)
    assert model.protons_per_mu(152.5) == pytest.approx((3519991 + 3589433) / 2.0)
    assert model.at(70.0) == model.rows[0]
    assert model.at(244.0) == model.rows[-1]
    for energy in (69.99, 244.01):
        with pytest.raises(BadInput, match="outside the beam model, which goes from 70 to 244 MeV"):
            model.at(energy)


def test_spot_size_at_the_isocentre() -> None:
    """160 MeV: the plan of a real field of this machine says 9.92 x 9.26 mm FWHM (plan02_mono)."""
    x, y = read_machine(CONTENT).model.at(160.0).size_at(500.0, 0.0)
    assert 2.3548 * x == pytest.approx(9.918, rel=0.03)
    assert 2.3548 * y == pytest.approx(9.260, rel=0.03)


@pytest.mark.parametrize(
    ("path", "value", "sentence"),
    [
        ("treatment_machines", [], "treatment_machines must be a list of names"),
        ("treatment_machines", "G1", "treatment_machines must be a list of names"),
        ("beam_model", None, "beam_model is missing"),
        ("beam_model.name", 5, "beam_model.name must be a text"),
        ("beam_model.reference_plane_mm", "far", "beam_model.reference_plane_mm must be a number from 0 to 3000"),
        ("beam_model.virtual_source_mm", [2000], "must be two numbers above 500"),
        ("beam_model.columns", list(COLUMNS[::-1]), "must be nominal_MeV, mean_MeV"),
        ("beam_model.rows", [[70] * 10], "row 1, has a sigma_MeV"),
        ("beam_model.rows.3", [1.0, 2.0], "row 4, must be 10 numbers"),
        ("beam_model.rows.3.3", 0, "row 4, has a protons_per_MU"),
        ("beam_model.rows.3.0", 70, "row 4, has an energy that is not above the row's before"),
        ("beam_model.rows.3.4", True, "row 4, has a size_x_mm"),
        ("beam_model.rows.3.9", 3.0, "row 4, has a correlation_y"),
        ("beam_model.range_shifters", {"A": {"density_g_cm3": 1.0}}, "without material"),
        ("beam_model.range_shifters", {"A": {"material": "PMMA"}}, "without density_g_cm3"),
        ("ct_scanners", {}, None),
        ("ct_scanners", {"a": 1}, "ct_scanners must be a list"),
    ],
)  # fmt: skip
def test_mistakes_are_named(path: str, value: Any, sentence: str | None) -> None:
    content = spoiled(path, value)
    if sentence is None:
        read_machine(content)
        return
    with pytest.raises(BadInput) as refused:
        read_machine(content)
    assert sentence in str(refused.value)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, len(CONTENT) - 1), st.integers(0, 255))
def test_a_flipped_byte_is_refused_or_harmless(place: int, value: int) -> None:
    """It may well alter a number, which nobody can see; it never makes a table that is not physical."""
    content = CONTENT[:place] + bytes([value]) + CONTENT[place + 1 :]
    try:
        machine = read_machine(content)
    except BadInput:
        return
    energies = [row.nominal_mev for row in machine.model.rows]
    assert energies == sorted(set(energies))
    assert all(row.protons_per_mu >= 1.0 and row.size_x_mm > 0.0 for row in machine.model.rows)


def test_exactly_one_file_is_wanted(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="given no machine file"):
        find_machine(tmp_path / "nowhere")
    (tmp_path / "machines").mkdir()
    for name in ("G1", "G2"):
        (tmp_path / "machines" / f"{name}.yaml").write_bytes(CONTENT)
    with pytest.raises(BadInput, match="given 2 machine files"):
        find_machine(tmp_path)
    with pytest.raises(BadInput, match="not YAML"):
        read_machine(b"\xff\xfe{")
    with pytest.raises(BadInput, match="another machine than the plan's"):
        read_machine(CONTENT).demand("G2")
