"""mqi sample, as a program."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from mqi.sample_case import LAYOUTS, Size, write_cases
from mqi.sample_delivery import read_calibration
from tests import warm


def mqi(*arguments: str) -> subprocess.CompletedProcess[str]:
    return warm.run(arguments, environment=os.environ)


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_a_case_in_the_layout_of_the_clinic(tmp_path: Path) -> None:
    done = mqi("--json", "sample", str(tmp_path), "--spots", "3", "--layers", "2", "--fractions", "2", "--cases", "2")
    assert (done.returncode, done.stderr) == (0, "")
    cases = [Path(each) for each in json.loads(done.stdout)["cases"]]
    assert [each.name for each in cases] == ["MQI-SAMPLE-1", "MQI-SAMPLE-2"]
    for each in cases:
        assert (each / "_CASE_READY").read_bytes() == b""
        (study,) = (path for path in each.iterdir() if path.is_dir())
        assert len(list(study.glob("RP.*.dcm"))) == 1
        deliveries = sorted(path for path in study.iterdir() if path.is_dir())
        assert len(deliveries) == 4
        for delivery in deliveries:
            names = sorted(path.suffix for path in delivery.iterdir())
            assert names == [".mgn", ".mgn", ".ptn", ".ptn", ".txt", ".txt"]
            info = dict(
                line.split(",", 1) for line in (delivery / "PlanInfo.txt").read_text(encoding="utf-8").splitlines()
            )
            assert info["TCSC_IRRAD_DATETIME"] == delivery.name
            assert info["DICOM_PATIENT_ID"] == each.name
            assert info["DICOM_STUDY_INS_UID"] == study.name
        order = [
            "DICOM_BEAM_NUMBER,3" in (delivery / "PlanInfo.txt").read_text(encoding="utf-8") for delivery in deliveries
        ]
        # Not the plan's order.
        assert order == [True, False, True, False]


def test_what_is_there_is_left_alone(tmp_path: Path) -> None:
    arguments = ("sample", str(tmp_path), "--spots", "1", "--layers", "1")
    assert mqi(*arguments).returncode == 0
    before = contents(tmp_path)
    again = mqi(*arguments)
    assert again.returncode == 2
    assert "exists and was left as it is" in again.stderr
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("--layout", "zip"), "Invalid value for '--layout'"),
        (("--cases", "0"), "Invalid value for '--cases'"),
        (("--machine", "missing.yaml"), "missing.yaml"),
    ],
)
def test_wrong_options_say_so(options: tuple[str, ...], sentence: str, tmp_path: Path) -> None:
    done = mqi("sample", str(tmp_path / "cases"), *options)
    assert done.returncode == 2
    assert sentence in done.stderr.replace("\n", " ")
    assert not (tmp_path / "cases").exists()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_same_seed_same_bytes(layout: str, tmp_path: Path) -> None:
    from mqi.resources import packaged_config

    calibration = read_calibration(packaged_config() / "machines" / "G1.yaml")
    size = Size(layers=2, spots=3, rows_per_spot=4)
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        assert len(list(write_cases(tmp_path / name, layout, seed, 1, size, calibration))) == 1
    first, again, other = (contents(tmp_path / name) for name in "abc")
    assert first == again
    assert {path for path in first if path.endswith("dcm")}.isdisjoint(other)
