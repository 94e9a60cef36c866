"""What these tests share: an installation whose host is reached over a real sshd."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

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


def far_site(root: Path, server: Sshd, database: str = "mqi.db", **ssh: object) -> Iterator[Installation]:
    """An installation below `root` whose host's key is pinned, and which has answered once."""
    installation = install_far(root, server, **ssh)
    installation.database = root / database
    config = (root / "mqi.yaml").read_text(encoding="utf-8")
    assert "database: mqi.db" in config
    (root / "mqi.yaml").write_text(config.replace("database: mqi.db", f"database: {database}"), encoding="utf-8")
    installation.run("host", "trust", "here", "--yes")
    installation.run("sync")
    yield installation
    installation.stop_everything()


def set_host_key(site: Installation, line: str) -> None:
    """One more key of the host, such as `timeout: 1s`."""
    config = site.root / "mqi.yaml"
    text = config.read_text(encoding="utf-8")
    assert text.count("    type: ssh\n") == 1
    config.write_text(text.replace("    type: ssh\n", f"    type: ssh\n    {line}\n"), encoding="utf-8")


def two_jobs_run(site: Installation) -> None:
    """A case whose beams are both being computed, until `go` is in the folder of the installation."""
    step = site.root / "step.py"
    wait = f"while not os.path.exists({str(site.root / 'go')!r}): time.sleep(0.05)\n"
    step.write_text(step.read_text(encoding="utf-8") + wait, encoding="utf-8")
    site.sample()
    site.cycle_until("running", limit_s=120)
    while len(site.ledger()) < 3:
        site.run("sync")


@pytest.fixture
def site(tmp_path: Path, own_sshd: Sshd) -> Iterator[Installation]:
    yield from far_site(tmp_path / "site", own_sshd)
