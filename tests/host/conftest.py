from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mqi.host import open_host
from mqi.host.base import Host
from mqi.settings import HostSettings
from tests.agent.bench import Bench
from tests.host.sshd import PROGRAM, Sshd

OpenHost = Callable[..., Host]


@pytest.fixture(scope="session")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    """One sshd for the tests that change nothing about it."""
    if PROGRAM is None:
        pytest.skip("there is no sshd here")
    server = Sshd(tmp_path_factory.mktemp("sshd") / "server")
    server.trust()
    yield server
    server.stop()


@pytest.fixture
def own_sshd(tmp_path: Path) -> Iterator[Sshd]:
    """An sshd that a test may stop, change and start."""
    if PROGRAM is None:
        pytest.skip("there is no sshd here")
    server = Sshd(tmp_path / "sshd")
    server.trust()
    yield server
    server.stop()


@pytest.fixture(params=["local", "ssh"])
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Bench]:
    """A work directory, spoken to as a local host and over a real sshd: one contract for both."""
    folder = tmp_path / "bench"
    folder.mkdir()
    server = request.getfixturevalue("sshd") if request.param == "ssh" else None
    bench = Bench(folder, ssh=server.ssh() if server else None)
    yield bench
    bench.stop()


@pytest.fixture(params=["local", "ssh"])
def a_host(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[OpenHost]:
    """Opens hosts called `h` of both types on `tmp_path`/work."""
    opened: list[Host] = []
    server = request.getfixturevalue("sshd") if request.param == "ssh" else None

    def make(**changes: object) -> Host:
        values: dict[str, object] = {"work_dir": str(tmp_path / "work"), "timeout_s": 20.0, **changes}
        if server:
            python = values.pop("python", None)
            values |= {"type": "ssh", "ssh": server.ssh(**({"python": python} if python else {}))}
        opened.append(open_host(HostSettings("h", **values), "i"))  # type: ignore[arg-type]
        return opened[-1]

    yield make
    for host in opened:
        host.close()


@pytest.fixture
def fake_agent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Makes hosts deploy and run this Python code in place of the agent."""

    def make(code: str) -> None:
        scripts = tmp_path / "fake" / "scripts"
        (scripts / "agent").mkdir(parents=True)
        (scripts / "agent" / "__main__.py").write_text(code, encoding="utf-8")
        for module in ("local", "ssh"):
            monkeypatch.setattr(f"mqi.host.{module}.remote_scripts", lambda: scripts)

    return make
