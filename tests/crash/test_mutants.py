"""The suite can fail: with the claim, a lock or the intent taken out it does, and says why."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.crash.mutants import MUTANTS, NOTHING, ROOT, edited, everyday, mutate


@pytest.mark.parametrize("name", MUTANTS)
def test_what_is_taken_out_is_there(name: str) -> None:
    for file, text, other in MUTANTS[name].edits:
        assert edited(ROOT / file, text, other)


@pytest.mark.slow
@pytest.mark.parametrize("name", MUTANTS)
def test_the_everyday_selection_misses(name: str, tmp_path: Path) -> None:
    mutate(MUTANTS[name], tmp_path)
    done = everyday(tmp_path)
    if name == NOTHING:
        assert done.returncode == 0, done.stdout
    else:
        assert done.returncode == 1, done.stdout
        assert re.search(MUTANTS[name].seen, done.stdout), done.stdout
