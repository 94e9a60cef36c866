"""A whole installation whose host is reached over a real sshd, driven by running `mqi`."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.conftest import Installation, install
from tests.host.sshd import NEEDS_SSHD, Sshd, fingerprint_of, new_key

pytestmark = NEEDS_SSHD


def far(server: Sshd, work: Path, **ssh: object) -> str:
    login = {
        "address": "127.0.0.1", "port": server.port, "user": server.ssh().user, "key": str(server.key),
        "python": sys.executable, **ssh,
    }  # fmt: skip
    inner = ", ".join(f"{name}: {value}" for name, value in login.items())
    return (
        f"  - name: here\n    type: ssh\n    work_dir: {work}\n    python: {sys.executable}\n"
        f"    ssh: {{{inner}}}\n"
    )


def install_far(root: Path, server: Sshd, **ssh: object) -> Installation:
    """An installation with the quick workflow whose host is `server`; its work directory is root/work."""
    site = install(root)
    config = (root / "mqi.yaml").read_text(encoding="utf-8")
    old = "  - name: here\n    work_dir: work\n"
    assert old in config
    (root / "mqi.yaml").write_text(config.replace(old, far(server, root / "work", **ssh)), encoding="utf-8")
    return site


@pytest.fixture
def site(tmp_path: Path, own_sshd: Sshd) -> Iterator[Installation]:
    installation = install_far(tmp_path / "site", own_sshd)
    yield installation
    installation.stop_everything()


def test_from_a_new_host_to_results(site: Installation, own_sshd: Sshd) -> None:
    """The first day: an unknown key is refused, pinned on purpose, and then cases go there and come back."""
    site.sample()
    refused = site.run("cycle", code=77)
    assert fingerprint_of(own_sshd.folder / "host_key.pub") in refused.stderr
    assert "mqi host trust here" in refused.stderr
    assert own_sshd.counts() == (0, 0)
    assert site.run("host", "trust", "here", code=2).stdout.count("SHA256:") == 1  # nobody to ask
    site.run("host", "trust", "here", "--fingerprint", "SHA256:" + "A" * 43, code=77)
    site.run("host", "trust", "here", "--fingerprint", fingerprint_of(own_sshd.folder / "host_key.pub"))
    assert "pinned already" in site.run("host", "trust", "here", "--yes").stdout
    assert "ok" in site.run("config", "check").stdout
    case = site.cycle_until("completed")
    assert case["state"] == "completed"
    assert len(site.ledger()) == len(set(site.ledger())) == 3
    assert sorted(path.name for path in site.results.rglob("dose.txt")) == ["dose.txt", "dose.txt"]


def test_a_changed_key_stops_everything(site: Installation, own_sshd: Sshd) -> None:
    site.run("host", "trust", "here", "--yes")
    site.run("sync")
    site.sample()
    site.run("scan")
    own_sshd.stop()
    new_key(own_sshd.folder / "host_key")
    own_sshd.start()
    before = own_sshd.counts()
    said = site.run("cycle", code=77).stderr
    assert "CHANGED" in said
    assert fingerprint_of(own_sshd.folder / "host_key.pub") in said
    assert own_sshd.counts() == before
    assert "CHANGED" in site.run("status").stdout
    assert "--replace" in site.run("host", "trust", "here", "--yes", code=77).stderr
    site.run("host", "trust", "here", "--yes", "--replace")
    site.run("sync")


def test_through_a_jump_host(tmp_path: Path, own_sshd: Sshd) -> None:
    """Both computers are pinned, the jump host first; neither sees more than a connection."""
    behind = Sshd(tmp_path / "behind")
    user = own_sshd.ssh().user
    jump = f"{{address: 127.0.0.1, port: {own_sshd.port}, user: {user}, key: {own_sshd.key}}}"
    site = install_far(tmp_path / "site", behind, jump=jump)
    config = site.root / "mqi.yaml"
    text = config.read_text(encoding="utf-8")
    assert "backoff_first: 1s, backoff_max: 2s" in text
    config.write_text(text.replace("backoff_first: 1s, backoff_max: 2s", "backoff_first: 1h, backoff_max: 1h"), "utf-8")
    try:
        assert "the jump host of here" in site.run("sync", code=77).stderr
        keys = [fingerprint_of(server.folder / "host_key.pub") for server in (own_sshd, behind)]
        site.run("host", "trust", "here", "--fingerprint", keys[0], code=77)  # the jump host's alone
        site.run("host", "trust", "here", "--fingerprint", keys[0], "--fingerprint", keys[1])
        site.run("sync")  # at once, although the refusal before is an hour's reason to wait
        assert own_sshd.counts()[1] == 0
        assert behind.counts() == (1, 1)
    finally:
        site.stop_everything()
        behind.stop()


def test_what_is_going_on_is_said_in_status(site: Installation, own_sshd: Sshd, tmp_path: Path) -> None:
    site.run("host", "trust", "here", "--yes")
    site.run("sync")
    # A second control PC with the same work directory, by mistake: it may not touch anything there.
    other = install_far(tmp_path / "other", own_sshd)
    config = (other.root / "mqi.yaml").read_text(encoding="utf-8")
    config = config.replace(str(other.root / "work"), str(site.root / "work"))
    (other.root / "mqi.yaml").write_text(config, encoding="utf-8")
    other.run("host", "trust", "here", "--yes")
    assert "belongs to another installation" in other.run("sync", code=78).stderr
    assert "belongs to another installation" in other.run("status").stdout
    # The server is gone: silence, which is tried again.
    site.sample()
    site.run("scan")
    own_sshd.stop()
    assert "Connection refused" in site.run("cycle", code=75).stderr
    assert "Connection refused" in site.run("status").stdout
    own_sshd.start()
    site.cycle_until("completed")
    assert len(site.ledger()) == len(set(site.ledger())) == 3
    assert "Connection refused" not in site.run("status", "--all").stdout


def test_many_cases_share_one_stream(site: Installation, own_sshd: Sshd) -> None:
    """The connection budget of the README, from sshd's log."""
    site.run("host", "trust", "here", "--yes")
    for number in range(3):
        site.sample(f"P{number}", seed=number + 1)
    site.run("scan")
    site.run("scan")
    site.run("sync")  # whose probe brings the scripts there

    def requests(step: str) -> int:
        """Of a step that has one connection, and one exec on it; their number is what the agent counts."""
        logins, execs = own_sshd.counts()
        before = int((site.root / "work" / "seq").read_text())
        site.run(step)
        assert own_sshd.counts() == (logins + 1, execs + 1)
        return int((site.root / "work" / "seq").read_text()) - before

    assert requests("submit") == 4  # the first one also asks what the host holds
    while {case["state"] for case in site.status()["cases"]} != {"fetching"}:
        assert requests("sync") == 1
        time.sleep(0.2)
    assert requests("fetch") == 3
    assert {case["state"] for case in site.status()["cases"]} == {"completed"}
    before = own_sshd.counts()
    for step in ("scan", "submit", "sync", "fetch"):
        site.run(step)
    assert own_sshd.counts() == before  # nothing was to be said
    assert len(site.ledger()) == len(set(site.ledger())) == 9
