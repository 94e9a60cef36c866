from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.agent.bench import Bench
from tests.agent.daemons import OTHERS, STANDS, Stand


@pytest.fixture
def make_bench(tmp_path: Path) -> Iterator[Callable[..., Bench]]:
    made: list[Bench] = []

    def make(name: str = "bench", **options: float) -> Bench:
        folder = tmp_path / name
        folder.mkdir()
        made.append(Bench(folder, **options))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for bench in made:
        bench.stop()


@pytest.fixture
def bench(make_bench: Callable[..., Bench]) -> Bench:
    return make_bench()


@pytest.fixture
def short_folder() -> Iterator[Path]:
    """A folder whose path leaves room for a socket's name (107 bytes in all)."""
    folder = Path(tempfile.mkdtemp(prefix="mqi-q-"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(params=[*sorted(STANDS), *(pytest.param(name, marks=pytest.mark.slow) for name in sorted(OTHERS))])
def stand(request: pytest.FixtureRequest, short_folder: Path) -> Iterator[Stand]:
    """Each type of queue in turn, with its real daemons."""
    started = {**STANDS, **OTHERS}[request.param](short_folder)
    yield started
    started.stop()
