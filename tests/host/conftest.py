from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.agent.bench import Bench


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    folder = tmp_path / "bench"
    folder.mkdir()
    bench = Bench(folder)
    yield bench
    bench.stop()


@pytest.fixture
def fake_python(tmp_path: Path) -> Callable[[str], str]:
    """Makes a program to take the place of the host's Python; its path."""

    def make(script: str) -> str:
        path = tmp_path / "fake python"
        path.write_text(script)
        path.chmod(0o755)
        return str(path)

    return make
