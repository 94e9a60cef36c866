"""Imports point one way: commands -> everything; steps -> pure modules; effects -> pure; pure -> errors."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from mqi.commands.registry import MODULE_OF

PACKAGE = Path(__file__).resolve().parents[2] / "mqi"
ROOT = PACKAGE.parent

PURE = {
    "case",
    "job",
    "planning",
    "policy",
    "explain",
    "alarms",
    "host_state",
    "render",
    "render_hosts",
    "rows",
    "settings",
    "errors",
    "names",
    "units",
    "workflow",
}
# Modules that touch the outside world; pure modules must not import them.
EFFECTS = {"store", "store_hosts", "installation", "database", "site", "lock", "logs", "results", "cli"}


def imports_of(path: Path) -> set[str]:
    """The mqi modules that a file imports when it is loaded or run, as `mqi.x.y`."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "mqi":
            found.add(node.module)
            found |= {f"{node.module}.{alias.name}" for alias in node.names if node.module == "mqi"}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.split(".")[0] == "mqi"}
    return found


def second(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else ""


@pytest.mark.parametrize("name", sorted(PURE))
def test_pure_modules_import_no_effects(name: str) -> None:
    reached = {second(module) for module in imports_of(PACKAGE / f"{name}.py")}
    assert not reached & (EFFECTS | {"host", "steps", "commands"})


@pytest.mark.parametrize("path", sorted((PACKAGE / "intake").glob("*.py")), ids=lambda path: path.name)
def test_intake_knows_no_store_no_hosts(path: Path) -> None:
    assert not {second(module) for module in imports_of(path)} & (EFFECTS | {"host", "steps", "commands"})


@pytest.mark.parametrize("path", sorted((PACKAGE / "steps").glob("*.py")), ids=lambda path: path.name)
def test_steps_know_no_commands(path: Path) -> None:
    assert not {second(module) for module in imports_of(path)} & {"commands", "cli"}


@pytest.mark.parametrize("path", sorted((PACKAGE / "host").glob("*.py")), ids=lambda path: path.name)
def test_hosts_know_no_database(path: Path) -> None:
    assert not {second(module) for module in imports_of(path)} & {
        "store",
        "database",
        "site",
        "steps",
        "commands",
        "cli",
    }


def all_sources() -> list[Path]:
    return sorted(
        [*PACKAGE.rglob("*.py"), *(ROOT / "remote_scripts").rglob("*.py"), *(ROOT / "scripts").glob("*.py")]
    )


@pytest.mark.parametrize("path", all_sources(), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_no_module_is_over_400_lines(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 400


def test_only_record_changes_the_state_of_a_case() -> None:
    for path in PACKAGE.rglob("*.py"):
        if path.name in ("store.py", "schema.sql"):
            continue
        assert "UPDATE cases" not in path.read_text(encoding="utf-8"), path


@pytest.mark.parametrize("path", all_sources(), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_sentences_name_commands_that_exist(path: Path) -> None:
    assert set(re.findall("`mqi ([a-z]+)", path.read_text(encoding="utf-8"))) <= set(MODULE_OF)
