"""Yesterday's database is put back, over SSH: what it forgot is known to the host, and nothing is computed again."""

from __future__ import annotations

import sqlite3
from contextlib import closing

from tests.agent.system import wait_for
from tests.cli.conftest import Installation
from tests.faults.conftest import all_is_well, ends, hand_over, hold_jobs
from tests.host.sshd import NEEDS_SSHD

pytestmark = NEEDS_SSHD


def test_yesterdays_backup(site: Installation) -> None:
    """One case came since and is at home, one runs just now."""
    backup = site.root / "yesterday.db"
    with closing(sqlite3.connect(site.database)) as live, closing(sqlite3.connect(backup)) as copy:
        live.backup(copy)
    hand_over(site)
    ends(site, 3)
    hold_jobs(site)
    hand_over(site, "P2", seed=2)
    wait_for(lambda: len(site.ledger()) == 6, "the second case to be computed")
    site.run("cycle")
    assert [site.state_of(number) for number in (1, 2)] == ["completed", "running"]
    kept = {path: path.read_bytes() for path in site.results.rglob("*") if path.is_file()}

    for name in ("mqi.db", "mqi.db-wal", "mqi.db-shm"):
        (site.root / name).unlink(missing_ok=True)
    backup.rename(site.database)
    site.run("scan")
    site.run("cycle")
    text = site.run("status").stdout
    assert "a database older than the one used last was put back (seen at" in text
    assert "the hosts are asked which runs they hold, and nothing is computed twice" in text
    assert [site.state_of(number) for number in (1, 2)] == ["completed", "running"]
    (site.root / "go").touch()
    ends(site, 6)
    site.run("cycle")
    all_is_well(site, cases=2)
    assert {path: path.read_bytes() for path in kept} == kept, "the results at home were not touched"
