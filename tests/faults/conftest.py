"""What these tests share: an installation whose host is reached over a real sshd."""

from __future__ import annotations

import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.agent.system import wait_for
from tests.cli.conftest import Installation
from tests.host.conftest import own_sshd
from tests.host.sshd import Sshd
from tests.host.test_ssh_site import install_far

__all__ = ["own_sshd"]


@pytest.fixture
def short_folder() -> Iterator[Path]:
    """A folder whose path leaves room for a socket's name (107 bytes in all)."""
    folder = Path(tempfile.mkdtemp(prefix="mqi-f-"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def far_site(root: Path, server: Sshd, database: str = "mqi.db", **ssh: object) -> Iterator[Installation]:
    """An installation below `root` whose host's key is pinned, and which has answered once."""
    installation = install_far(root, server, **ssh)
    installation.database = root / database
    config = (root / "mqi.yaml").read_text(encoding="utf-8")
    assert "database: mqi.db" in config
    (root / "mqi.yaml").write_text(config.replace("database: mqi.db", f"database: {database}"), encoding="utf-8")
    try:
        installation.run("host", "trust", "here", "--yes")
        installation.run("sync")
        yield installation
    finally:
        installation.stop_everything()


def set_host_key(site: Installation, line: str) -> None:
    """One more key of the host, such as `timeout: 1s`."""
    config = site.root / "mqi.yaml"
    text = config.read_text(encoding="utf-8")
    assert text.count("    type: ssh\n") == 1
    config.write_text(text.replace("    type: ssh\n", f"    type: ssh\n    {line}\n"), encoding="utf-8")


def hand_over(site: Installation, name: str = "P1", seed: int = 1) -> None:
    """A new case goes to the host, with as few runs of mqi as that takes: one sees it, one sees it unchanged."""
    site.sample(name, seed=seed)
    site.run("scan")
    site.run("cycle")


def hold_jobs(site: Installation) -> None:
    """Jobs of beams do not end until `go` is in the folder of the installation."""
    step = site.root / "step.py"
    wait = f"while not os.path.exists({str(site.root / 'go')!r}): time.sleep(0.05)\n"
    step.write_text(step.read_text(encoding="utf-8") + wait, encoding="utf-8")


def two_jobs_run(site: Installation) -> None:
    """A case whose beams are both being computed, until `go` is there."""
    hold_jobs(site)
    hand_over(site)
    wait_for(lambda: len(site.ledger()) == 3, "both beams to be computed")
    site.run("sync")
    assert site.state_of() == "running"


def ends(site: Installation, count: int) -> None:
    """Waits until so many jobs have ended on the host, whatever mqi knows of it."""
    work = site.root / "work" / "runs"
    wait_for(lambda: len(list(work.glob("*/jobs/*/exit.json"))) == count, f"the end of {count} jobs", 120)


def all_is_well(site: Installation, cases: int = 1) -> None:
    """Nothing was lost, nothing ran twice, what is here is what was computed."""
    keys = Counter(site.ledger())
    assert max(keys.values()) == 1
    assert len(keys) == 3 * cases
    doses = sorted(path.read_text() for path in site.results.rglob("dose.txt"))
    assert doses == ["dose of beam 2"] * cases + ["dose of beam 3"] * cases
    assert len(list(site.results.rglob("provenance.json"))) == cases


@pytest.fixture
def site(tmp_path: Path, own_sshd: Sshd) -> Iterator[Installation]:
    with far_site(tmp_path / "site", own_sshd) as installation:
        yield installation
