"""A host whose clock is hours off, and is set right while jobs run: said, and nothing else comes of it."""

from __future__ import annotations

import json
import shutil
import sqlite3
import sys
from contextlib import closing
from pathlib import Path

import pytest

from tests.cli.conftest import Installation
from tests.faults.conftest import all_is_well, ends, far_site, two_jobs_run
from tests.host.sshd import NEEDS_SSHD, Sshd

FAKETIME = shutil.which("faketime")
pytestmark = [NEEDS_SSHD, pytest.mark.skipif(FAKETIME is None, reason="faketime is not here: scripts/test.py installs it")]


class Clock:
    """Every Python that the host starts from now on lives so many hours from us. No running process sees a jump."""

    def __init__(self, program: Path) -> None:
        self.program = program

    def shift(self, hours: int) -> None:
        start = f"faketime -f {hours:+d}h " if hours else ""
        new = self.program.with_name("new")
        new.write_text(f'#!/bin/sh\nexec {start}{sys.executable} "$@"\n')
        new.chmod(0o755)
        new.replace(self.program)


@pytest.fixture
def clock(tmp_path: Path) -> Clock:
    return Clock(tmp_path / "python")


def test_a_clock_that_is_hours_off_is_told(tmp_path: Path, own_sshd: Sshd, clock: Clock) -> None:
    clock.shift(5)
    with far_site(tmp_path / "site", own_sshd, python=clock.program) as site:
        assert abs(skew(site) - 3600 * 5) < 60
        assert "the clock of host here differs from this computer's by +1" in site.run("status", "--check", code=40).stderr
        clock.shift(0)
        with closing(sqlite3.connect(site.database)) as connection, connection:
            connection.execute("UPDATE hosts SET last_answer_at = 0")  # it is asked again only after an hour
        site.run("sync")
        assert "differs" not in site.run("status").stdout


@pytest.mark.slow
@pytest.mark.parametrize("hours", [5, -5])
def test_a_clock_that_is_hours_off_does_no_harm(tmp_path: Path, own_sshd: Sshd, clock: Clock, hours: int) -> None:
    """It is set right while jobs run: they are not lost, and not ended either."""
    clock.shift(hours)
    with far_site(tmp_path / "site", own_sshd, python=clock.program) as site:
        two_jobs_run(site)
        assert f"differs from this computer's by {'+' if hours > 0 else '-'}1" in site.run("status").stdout
        clock.shift(0)
        for _ in range(3):
            site.run("sync")
        assert {job["state"] for job in site.case()["jobs"]} == {"done", "running"}
        (site.root / "go").touch()
        ends(site, 3)
        site.run("cycle")
        assert site.state_of() == "completed"
        all_is_well(site)


def skew(site: Installation) -> float:
    (host,) = json.loads(site.run("--json", "status").stdout)["hosts"]
    return float(host["clock_skew_s"])
