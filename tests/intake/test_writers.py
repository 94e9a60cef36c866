"""open_for_writing: elsewhere than on Windows there is nobody to ask."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from mqi.intake.unit import FileStat
from mqi.intake.writers import open_for_writing

FILES = (FileStat("sub/plan.dcm", 3, 0, 0), FileStat("gone.dcm", 3, 0, 0))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "plan.dcm").write_bytes(b"abc")
    return tmp_path


def test_a_closed_file_and_a_missing_one_are_not_held(folder: Path) -> None:
    assert open_for_writing(folder, FILES) is None
    assert open_for_writing(folder, ()) is None


@pytest.mark.skipif(sys.platform != "win32", reason="share modes exist on Windows only")
def test_windows_names_the_file_a_writer_holds(folder: Path) -> None:
    with (folder / "sub" / "plan.dcm").open("ab"):
        assert open_for_writing(folder, FILES) == "sub/plan.dcm"
    assert open_for_writing(folder, FILES) is None
    with (folder / "sub" / "plan.dcm").open("rb"):
        assert open_for_writing(folder, FILES) is None, "a reader does not hold a case back"


@pytest.mark.skipif(sys.platform == "win32", reason="elsewhere than on Windows")
def test_elsewhere_a_writer_cannot_be_seen(folder: Path) -> None:
    with (folder / "sub" / "plan.dcm").open("ab"):
        assert open_for_writing(folder, FILES) is None
