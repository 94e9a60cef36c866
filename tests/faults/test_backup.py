"""Yesterday's database is put back, over SSH: what it forgot is known to the host, and nothing is computed again."""

from __future__ import annotations

import sqlite3
from collections import Counter
from contextlib import closing

from tests.cli.conftest import Installation
from tests.host.sshd import NEEDS_SSHD

pytestmark = NEEDS_SSHD


def test_yesterdays_backup(site: Installation) -> None:
    """One case was known, one ended since and is at home, one runs just now."""
    site.sample("P1", seed=1)
    site.cycle_until("completed")
    backup = site.root / "yesterday.db"
    with closing(sqlite3.connect(site.database)) as live, closing(sqlite3.connect(backup)) as copy:
        live.backup(copy)
    site.sample("P2", seed=2)
    site.cycle_until("completed", case_id=2)
    site.behave(b2={"sleep": 4}, b3={"sleep": 600})
    site.sample("P3", seed=3)
    site.cycle_until("running", case_id=3)
    while len(site.ledger()) < 9:
        site.run("sync")
    kept = {path: path.read_bytes() for path in site.results.rglob("*") if path.is_file()}

    for name in ("mqi.db", "mqi.db-wal", "mqi.db-shm"):
        (site.root / name).unlink(missing_ok=True)
    backup.rename(site.database)
    site.run("cycle")
    text = site.run("status").stdout
    assert "a database older than the one used last was put back (seen at" in text
    assert "the hosts are asked which runs they hold, and nothing is computed twice" in text
    # What runs there is taken over; a retry of nothing, a second run of nothing.
    case = site.cycle_until("running", "completed", case_id=3)
    site.run("cancel", "3", "--reason", "it would take ten minutes")
    case = site.cycle_until("cancelled", case_id=3)
    assert {job["state"] for job in case["jobs"]} <= {"done", "cancelled"}
    assert {number: site.state_of(number) for number in (1, 2)} == {1: "completed", 2: "completed"}
    assert max(Counter(site.ledger()).values()) == 1
    assert len(site.ledger()) == 9
    assert {path: path.read_bytes() for path in kept} == kept, "the results at home were not touched"
