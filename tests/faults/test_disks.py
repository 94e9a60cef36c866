"""Disks that are full, on the host and here: nothing is lost or half done, and the work goes on when there is room."""

from __future__ import annotations

import os
import time
from collections import Counter
from pathlib import Path

import pytest

from mqi.errors import DiskProblem
from mqi.store import Store
from tests.agent.system import wait_for
from tests.cli.conftest import Installation
from tests.faults.computer import small_disk
from tests.faults.conftest import all_is_well, ends, far_site, hand_over, set_host_key
from tests.host.sshd import NEEDS_SSHD, Sshd


def fill(disk: Path, leave: int = 0) -> Path:
    """A file that leaves only so many bytes of the disk."""
    filler = disk / "filler"
    free = os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize - leave
    with filler.open("wb") as file:
        while free > 0:
            try:
                free -= file.write(bytes(min(free, 1 << 12)))
                file.flush()
            except OSError:
                break
    return filler


def without_watermarks(site: Installation) -> None:
    """So that the disks themselves say no."""
    set_host_key(site, "min_free: 0 B")
    config = site.root / "mqi.yaml"
    text = config.read_text(encoding="utf-8")
    assert "transfer: {min_free: 1 MiB}" in text
    config.write_text(text.replace("transfer: {min_free: 1 MiB}", "transfer: {min_free: 0 B}"), encoding="utf-8")


LARGE_RESULT = """\
import os, pathlib, sys, time
root = pathlib.Path({root!r})
with open(root / "ledger", "a") as ledger:
    ledger.write(os.environ["MQI_JOB_KEY"] + "\\n")
while not (root / "go").exists():
    time.sleep(0.05)
try:
    pathlib.Path("dose.npz").write_bytes(bytes(1 << 20))
except OSError:
    (root / "no room").touch()
    raise
pathlib.Path("dose.txt").write_text("dose of beam " + sys.argv[1])
"""


@NEEDS_SSHD
def test_the_hosts_disk_is_full_while_jobs_run(tmp_path: Path, own_sshd: Sshd) -> None:
    """What a job could not write is its failure, and said; new cases wait; both go on when there is room."""
    with small_disk(tmp_path / "site" / "work", "8m"), far_site(tmp_path / "site", own_sshd) as site:
        without_watermarks(site)
        (site.root / "step.py").write_text(LARGE_RESULT.format(root=str(site.root)), encoding="utf-8")
        hand_over(site)
        wait_for(lambda: len(site.ledger()) == 3, "both beams to be computed")
        site.sample("P2", seed=2)
        site.run("scan")
        filler = fill(site.root / "work")
        (site.root / "go").touch()
        assert "No space left" in site.run("cycle", code=75).stderr
        assert "work directory cannot be used (No space left" in site.run("status").stdout
        wait_for((site.root / "no room").exists, "a job to find no room")
        time.sleep(2.0)  # for its wrapper to find the same
        filler.unlink()
        site.run("host", "release", "here")
        ends(site, 3)
        site.run("cycle")
        assert "the host's work disk is full" in site.case()["reason"]
        assert site.state_of() == "failed", "what it could not write is lost, and said"
        ends(site, 6)
        site.run("retry", "1", "--reason", "there is room again")
        site.run("cycle")
        ends(site, 8)
        site.run("cycle")
        assert [site.state_of(number) for number in (1, 2)] == ["completed"] * 2
        assert max(Counter(site.ledger()).values()) == 1
        assert len(list(site.results.rglob("latest.json"))) == 2


@NEEDS_SSHD
def test_our_disk_with_the_database_is_full(tmp_path: Path, own_sshd: Sshd) -> None:
    """Nothing is decided that could not be noted: no step does anything, and says why."""
    with small_disk(tmp_path / "site" / "disk", "4m"), far_site(tmp_path / "site", own_sshd, database="disk/mqi.db") as site:
        database = site.root / "disk" / "mqi.db"
        site.sample()
        site.run("scan")
        site.run("scan")
        for jobs in (0, 3):
            ends(site, jobs)
            filler = fill(site.root / "disk")
            assert f"the database {database} cannot be" in site.run("cycle", code=75).stderr
            told = site.run("status", code=None)
            assert told.returncode == 0 or f"the database {database} cannot be" in told.stderr
            filler.unlink()
            site.run("cycle")
        assert site.state_of() == "completed"
        all_is_well(site)


def test_a_database_on_a_full_disk_rolls_back_once(tmp_path: Path) -> None:
    """A transaction larger than SQLite's cache finds out before its end, and SQLite rolls back by itself."""
    with small_disk(tmp_path / "disk", "1m"):
        store = Store(tmp_path / "disk" / "mqi.db")
        store.put_meta("before", "kept")
        for _ in range(2):
            with pytest.raises(DiskProblem, match="disk is full"), store.together():
                for number in range(3000):
                    store.put_meta(f"key {number}", "x" * 2000)
        assert (store.meta("before"), store.meta("key 1")) == ("kept", "")
        store.put_meta("after", "kept too")
        assert store.meta("after") == "kept too"
        store.close()
