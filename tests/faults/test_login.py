"""Logins by password: from the environment and from a keyring, to a real sshd that knows a user of its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.conftest import Installation
from tests.faults.computer import Computer
from tests.host.sshd import NEEDS_SSHD, Sshd
from tests.host.test_ssh_site import install_far

pytestmark = NEEDS_SSHD

PASSWORD = "a password of nobody"
# `openssl passwd -6` of it.
HASH = "$6$mqitests$CIZwV.ronecIa0.nvXH8Xp33X85hiNxyl/4otbMz0jEiclKfTYzxCl3SCwmYFExhl345Ami5AvW.XmInFrUtV0"
USER = "mqi-nobody"
# A keyring of the test's own, which the library `keyring` finds as it finds every other one.
KEYRING = """\
import keyring.backend

class Backend(keyring.backend.KeyringBackend):
    priority = 1

    def get_password(self, service, username):
        return {("mqi-gpu1", "mqi-nobody"): "a password of nobody"}.get((service, username))

    def set_password(self, service, username, password):
        raise NotImplementedError
"""


@pytest.fixture
def server(tmp_path: Path, short_folder: Path) -> Iterator[Sshd]:
    """An sshd that takes passwords. Its user is in the user tables of its own computer, and in no other."""
    tables = {}
    for name, line in {
        "passwd": f"{USER}:x:0:0::/nowhere:/bin/sh",
        "shadow": f"{USER}:{HASH}:20000:0:99999:7:::",
    }.items():
        table = short_folder / name
        table.write_text(f"{Path('/etc', name).read_text(encoding='utf-8')}{line}\n", encoding="utf-8")
        table.chmod(0o600 if name == "shadow" else 0o644)
        tables[table] = f"/etc/{name}"
    computer = Computer(short_folder, tables)
    options = ["PasswordAuthentication yes", "PermitRootLogin yes"]
    yield Sshd(tmp_path / "sshd", options, inside=computer.inside)
    computer.power_off()


@pytest.fixture
def site(tmp_path: Path, server: Sshd) -> Iterator[Installation]:
    made = install_far(tmp_path / "site", server, user=USER, key="null", secret="env:MQI_PASSWORD")
    made.run("host", "trust", "here", "--yes")
    yield made
    made.stop_everything()


def test_a_password_from_the_environment(site: Installation, server: Sshd) -> None:
    said = site.run("sync", code=77).stderr
    assert "the environment variable MQI_PASSWORD has no password" in said
    site.environment["MQI_PASSWORD"] = "wrong"
    site.run("host", "release", "here")
    assert "does not let the user mqi-nobody in" in site.run("sync", code=77).stderr
    assert "does not let the user mqi-nobody in" in site.run("status").stdout
    assert server.counts() == (0, 0)
    site.environment["MQI_PASSWORD"] = PASSWORD
    site.run("host", "release", "here")
    site.run("sync")
    assert "answers" in site.run("status").stdout
    kept = [path for path in site.root.rglob("*") if path.is_file()]
    assert len(kept) > 20
    assert not [path for path in kept if PASSWORD.encode() in path.read_bytes()], "it is nowhere on disk"


def test_a_password_from_the_keyring(site: Installation, tmp_path: Path) -> None:
    config = site.root / "mqi.yaml"
    config.write_text(config.read_text(encoding="utf-8").replace("env:MQI_PASSWORD", "keyring:mqi-gpu1"), encoding="utf-8")
    library = pytest.importorskip("keyring")
    assert library.__name__ == "keyring"
    (tmp_path / "keyrings").mkdir()
    (tmp_path / "keyrings" / "of_the_test.py").write_text(KEYRING, encoding="utf-8")
    site.environment["PYTHONPATH"] = str(tmp_path / "keyrings")
    site.environment["PYTHON_KEYRING_BACKEND"] = "keyring.backends.null.Keyring"
    assert "the keyring (service mqi-gpu1, user mqi-nobody) has no password" in site.run("sync", code=77).stderr
    site.environment["PYTHON_KEYRING_BACKEND"] = "not_there.Backend"
    site.run("host", "release", "here")
    assert "the keyring (service mqi-gpu1, user mqi-nobody) cannot be read" in site.run("sync", code=77).stderr
    site.environment["PYTHON_KEYRING_BACKEND"] = "of_the_test.Backend"
    site.run("host", "release", "here")
    site.run("sync")
    assert "answers" in site.run("status").stdout
