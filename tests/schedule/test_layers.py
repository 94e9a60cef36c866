"""Imports point one way here too: rendering and deciding know no effects."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "mqi" / "schedule"
PURE = ("order", "place", "items", "task_scheduler", "systemd", "cron", "codes", "report")
EFFECTS = {"programs", "computer", "record", "install", "remove", "show", "with_cron", "with_systemd", "with_schtasks"}
OUTSIDE = {"subprocess", "os", "shutil", "tempfile", "socket", "time"}


def test_every_module_is_one_or_the_other() -> None:
    assert {path.stem for path in FOLDER.glob("*.py")} == {"__init__", *PURE, *EFFECTS}


@pytest.mark.parametrize("name", PURE)
def test_pure_modules_have_no_effects(name: str) -> None:
    for node in ast.walk(ast.parse((FOLDER / f"{name}.py").read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            assert not {alias.name for alias in node.names} & OUTSIDE
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.module not in OUTSIDE
            assert node.module.rpartition(".")[2] not in EFFECTS
            assert not {alias.name for alias in node.names} & EFFECTS


def test_programs_are_started_in_one_place() -> None:
    for path in FOLDER.glob("*.py"):
        assert path.stem == "programs" or "import subprocess" not in path.read_text(encoding="utf-8"), path
