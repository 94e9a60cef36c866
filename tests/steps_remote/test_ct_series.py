"""A CT series as phantom: Hounsfield units where they belong, and every series that cannot be trusted refused."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from dose_runs import MACHINE
from steplib.beam_model import read_machine
from steplib.ct_series import ct_phantom
from steplib.depth import water_depth
from steplib.engines.moqui_case import write_ct
from steplib.find_plan import Input
from steplib.geometry import BeamFrame
from steplib.phantom import Phantom
from steplib.report import BadInput

SCANNER = {
    "manufacturer": "ACME", "model": "One",
    "density": [[-1000, 0.001], [0, 1.0], [1000, 2.0]], "material": [[-1050, "Schneider_Air"], [-900, "Water"]],
}  # fmt: skip
TABLE = ((-1000.0, 0.001), (0.0, 1.0), (1000.0, 2.0))


def series(folder: Path, change: Callable[[int, Any], None] = lambda place, image: None) -> list[Input]:
    """Six slices of 8 x 10 pixels of 2 mm, 2 mm apart: water with a dense corner. `change(place, image)`."""
    folder.mkdir(parents=True)
    hu = np.zeros((6, 8, 10), dtype=np.float32)
    hu[4:, 6:, 8:] = 400.0
    write_ct(Phantom("ct", hu, (-9.0, -7.0, 50.0), (2.0, 2.0, 2.0), TABLE, (), {}), folder)
    inputs = []
    # Numbered against their order in space.
    for number, path in enumerate(sorted(folder.glob("ct_*.dcm"), reverse=True), 1):
        image = pydicom.dcmread(path)
        image.Manufacturer, image.ManufacturerModelName = "ACME", "One"
        change(6 - number, image)
        path.unlink()
        name = f"{number:06d}"
        image.save_as(folder / name, enforce_file_format=True)
        content = (folder / name).read_bytes()
        inputs.append(Input(number=name, size=len(content), sha256=hashlib.sha256(content).hexdigest(), path=""))
    return inputs


def phantom(folder: Path, inputs: list[Input], grid_mm: float = 2.0) -> Phantom:
    plan = pydicom.Dataset()
    plan.FrameOfReferenceUID = "2.25.5"
    machine = replace(read_machine(MACHINE.read_bytes()), scanners=[SCANNER])
    return ct_phantom(inputs, folder, plan, machine, grid_mm)


def unsigned(place: int, image: Any) -> None:
    """As most scanners write it: unsigned with an intercept."""
    values = image.pixel_array.astype(int) + 1024
    image.PixelRepresentation, image.RescaleIntercept = 0, "-1024"
    image.PixelData = values.astype("<u2").tobytes()


@pytest.mark.parametrize("change", [lambda place, image: None, unsigned], ids=["signed", "unsigned"])
def test_voxels_lie_where_the_images_say(change: Callable[[int, Any], None], tmp_path: Path) -> None:
    found = phantom(tmp_path / "ct", series(tmp_path / "ct", change))
    assert found.hu.shape == (6, 8, 10)
    assert found.origin_mm == pytest.approx((-9.0, -7.0, 50.0))
    assert (found.hu[4:, 6:, 8:] == 400.0).all()
    assert np.count_nonzero(found.hu) == 8
    assert found.frame_of_reference_uid == "2.25.5"


def test_a_coarser_grid_has_the_mean(tmp_path: Path) -> None:
    found = phantom(tmp_path / "ct", series(tmp_path / "ct"), grid_mm=4.0)
    assert found.hu.shape == (3, 4, 5)
    assert found.origin_mm == pytest.approx((-8.0, -6.0, 51.0))
    assert found.hu[2, 3, 4] == pytest.approx(400.0)
    assert found.hu.sum() == pytest.approx(400.0)


def test_water_depth_grows_along_the_beam(tmp_path: Path) -> None:
    found = phantom(tmp_path / "ct", series(tmp_path / "ct"))
    depth = water_depth(found, BeamFrame.of(0.0, 0.0, (0.0, 0.0, 55.0)))
    assert depth[0, :, 0] == pytest.approx(2.0 * np.arange(8) + 1.0, rel=0.02)
    dense = depth[5, 7, 9] - depth[5, 5, 9]
    assert dense == pytest.approx(1.0 + 3.0 * 1.33, rel=0.05)
    sideways = water_depth(found, BeamFrame.of(90.0, 0.0, (0.0, 0.0, 55.0)))
    assert sideways[0, 0, ::-1] == pytest.approx(2.0 * np.arange(10) + 1.0, rel=0.02)


def attribute(keyword: str, value: Any, only: int | None = None) -> Callable[[int, Any], None]:
    def change(place: int, image: Any) -> None:
        if only in (None, place):
            setattr(image, keyword, value)

    return change


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (attribute("ManufacturerModelName", "Two"), "The CT's scanner (0008,0070), (0008,1090) is not in"),
        (attribute("FrameOfReferenceUID", "2.25.6"), "not in the RT Ion Plan's frame of reference"),
        (attribute("PatientPosition", "FFS"), "is not HFS"),
        (attribute("ImageOrientationPatient", [0, 1, 0, 1, 0, 0]), "is not axial"),
        (attribute("SeriesInstanceUID", "2.25.9", only=2), "is not of the series of the others"),
        (attribute("PixelSpacing", ["2.0", "2.1"], only=2), "differs from the others in PixelSpacing"),
        (attribute("ImagePositionPatient", ["-9", "-7", "53"], only=2), "not evenly spaced"),
        (attribute("ImagePositionPatient", ["-8", "-7", "54"], only=2), "does not lie above the others"),
        (attribute("SOPClassUID", "1.2.3"), "the case holds none"),
        (attribute("PixelData", b"\0\0", only=3), "cannot be read"),
    ],
)
def test_a_series_that_cannot_be_trusted_is_refused(
    change: Callable[[int, Any], None], sentence: str, tmp_path: Path
) -> None:
    inputs = series(tmp_path / "ct", change)
    with pytest.raises(BadInput) as refused:
        phantom(tmp_path / "ct", inputs)
    assert sentence in str(refused.value)


def test_a_missing_slice_is_seen(tmp_path: Path) -> None:
    inputs = series(tmp_path / "ct")
    with pytest.raises(BadInput, match="not evenly spaced"):
        phantom(tmp_path / "ct", inputs[:2] + inputs[3:])
