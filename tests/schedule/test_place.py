"""What a configuration needs of the computer, from real configurations."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mqi.config import load_settings
from mqi.errors import ConfigurationProblem
from mqi.schedule.place import Place, arguments, place_of
from tests.schedule.conftest import POSIX

BASE = """\
watch:
  - {{path: in, room: G1}}
  - {{path: /mnt/nas/in, room: G2}}
hosts:
  - name: here
    work_dir: {work}
    queue: {{groups: [{{name: cpu}}, {{name: gpu, gpus: {gpus}}}]}}
paths: {{database: {database}, results: out, logs: logs}}
transfer: {{budget: {budget}}}
"""


def far(folder: Path, path: str) -> str:
    """A path elsewhere as this system writes it: on Windows with the drive of `folder`."""
    return os.path.abspath(folder / path)  # noqa: PTH100


def place(folder: Path, **changes: str) -> Place:
    values = {"work": "work", "gpus": "none", "database": "data/mqi.db", "budget": "5 min", **changes}
    path = folder / "mqi.yaml"
    path.write_text(BASE.format(**values), encoding="utf-8")
    return place_of(load_settings(path, os.environ), far(folder, "/opt/mqi/bin/python"), [far(folder, "/opt/mqi"), far(folder, "/opt/mqi/lib")])


def test_everything_is_absolute_and_named_once(tmp_path: Path) -> None:
    found = place(tmp_path)
    assert found.config == str(tmp_path / "mqi.yaml")
    assert found.folder == str(tmp_path)
    # The configuration's folder holds the installation id, and here everything else too.
    assert found.writes == (str(tmp_path),)
    assert set(found.folders) == {str(tmp_path), *(str(tmp_path / name) for name in ("data", "logs", "work"))}
    assert found.results == str(tmp_path / "out")
    assert found.watch == (str(tmp_path / "in"), far(tmp_path, "/mnt/nas/in"))
    assert far(tmp_path, "/opt/mqi") in found.reads
    assert far(tmp_path, "/opt/mqi/lib") not in found.reads
    assert found.notes == str(tmp_path / "data" / "mqi.db.locks")
    assert all(Path(path).is_absolute() for path in found.paths)


def test_what_lies_elsewhere_is_named_too(tmp_path: Path) -> None:
    found = place(tmp_path, work="/scratch/mqi", database="/var/lib/mqi/mqi.db")
    assert set(found.writes) == {str(tmp_path), far(tmp_path, "/scratch/mqi"), far(tmp_path, "/var/lib/mqi")}


@pytest.mark.parametrize(("gpus", "uses"), [("none", False), ("auto", True), ("[GPU-1234]", True)])
def test_gpus(tmp_path: Path, gpus: str, uses: bool) -> None:
    assert place(tmp_path, gpus=gpus).uses_gpus is uses


@pytest.mark.parametrize(
    ("budget", "limit_s"),
    [
        ("5 min", 1800),  # the facts' limit, for the default
        ("1 min", 1800),  # never less
        ("1h", 3600 + 1500),  # a transfer within its budget is never ended by the scheduler
        ("90s", 1800),
        ("301s", 360 + 1500),  # whole minutes
    ],
)
def test_the_limit_is_longer_than_any_good_run(tmp_path: Path, budget: str, limit_s: int) -> None:
    assert place(tmp_path, budget=budget).limit_s == limit_s


@POSIX  # Windows has no such names
def test_a_path_with_a_line_break_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "a\nb"
    folder.mkdir()
    with pytest.raises(ConfigurationProblem, match="control character"):
        place(folder)


def test_what_runs(tmp_path: Path) -> None:
    found = place(tmp_path)
    assert arguments(found, "cycle") == (
        "-X", "utf8", "-I", "-m", "mqi", "--config", str(tmp_path / "mqi.yaml"), "cycle",
    )  # fmt: skip
