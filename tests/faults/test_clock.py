"""A host whose clock is hours off, and is set right while jobs run: said, and nothing else comes of it."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest

from tests.cli.conftest import Installation
from tests.faults.conftest import all_is_well, ends, far_site, two_jobs_run
from tests.host.sshd import NEEDS_SSHD, Sshd

FAKETIME = shutil.which("faketime")
pytestmark = [NEEDS_SSHD, pytest.mark.skipif(FAKETIME is None, reason="faketime is not here: scripts/test.py installs it")]


@pytest.mark.parametrize(
    ("hours", "words"),
    [(5, "by +"), pytest.param(-5, "by -", marks=pytest.mark.slow)],
    ids=["ahead", "behind"],
)
def test_a_clock_that_is_hours_off(tmp_path: Path, own_sshd: Sshd, hours: int, words: str) -> None:
    python = tmp_path / "python"

    def shift(hours: int) -> None:
        """Every Python that is started there from now on lives in this time; a clock jumps under nobody's feet here."""
        start = f"faketime -f {hours:+d}h " if hours else ""
        new = tmp_path / "new"
        new.write_text(f'#!/bin/sh\nexec {start}{sys.executable} "$@"\n')
        new.chmod(0o755)
        new.replace(python)

    shift(hours)
    with far_site(tmp_path / "site", own_sshd, python=python) as site:
        assert abs(skew(site) - 3600 * hours) < 60
        text = site.run("status").stdout
        assert f"the clock of host here differs from this computer's {words}{abs(3600 * hours) // 10_000}" in text
        assert "differs" in site.run("status", "--check", code=40).stderr
        two_jobs_run(site)
        # Set right while its jobs run: they are not lost, and not ended either.
        shift(0)
        site.run("sync")
        assert {job["state"] for job in site.case()["jobs"]} == {"done", "running"}
        assert "differs" not in site.run("status").stdout
        (site.root / "go").touch()
        ends(site, 3)
        site.run("cycle")
        assert site.state_of() == "completed"
        all_is_well(site)


def skew(site: Installation) -> float:
    (host,) = json.loads(site.run("--json", "status").stdout)["hosts"]
    return float(host["clock_skew_s"])
