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
def fake_agent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Makes hosts deploy and run this Python code in place of the agent."""

    def make(code: str) -> None:
        scripts = tmp_path / "fake" / "scripts"
        (scripts / "agent").mkdir(parents=True)
        (scripts / "agent" / "__main__.py").write_text(code, encoding="utf-8")
        monkeypatch.setattr("mqi.host.local.remote_scripts", lambda: scripts)

    return make
