"""A control PC was copied with all that it has, and both copies go on: one host, one work directory, one name."""

from __future__ import annotations

import platform
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.cli.conftest import Installation, install
from tests.faults.computer import why_not


@pytest.mark.skipif(why_not() != "", reason="a name of its own needs root on Linux")
def test_another_computer_is_told(tmp_path: Path) -> None:
    site = install(tmp_path / "site")
    site.run("scan")
    site.run("scan")
    assert "was used on" not in site.run("status").stdout
    words = f"hostname qa-pc2 && exec {sys.executable} -m mqi --config {site.root / 'mqi.yaml'} scan"
    subprocess.run(["unshare", "--uts", "sh", "-c", words], check=True, capture_output=True)
    text = site.run("status").stdout
    assert f"this installation was used on the computer {platform.node()} before (seen at" in text


@pytest.mark.slow
def test_a_copied_control_pc(tmp_path: Path) -> None:
    one = install(tmp_path / "one")
    config = one.root / "mqi.yaml"
    text = config.read_text(encoding="utf-8").replace("work_dir: work", f"work_dir: {tmp_path / 'work'}")
    # Both look into the same folder.
    config.write_text(text.replace("path: cases", f"path: {one.root / 'cases'}"), encoding="utf-8")
    try:
        one.sample("P1", seed=1)
        one.cycle_until("completed")
        shutil.copytree(one.root, tmp_path / "two", ignore=shutil.ignore_patterns("cases", "ledger"))
        two = Installation(tmp_path / "two")
        one.behave(b2={"exit": 75, "why": "not now"})
        for number in (2, 3):
            one.sample(f"P{number}", seed=number)
        for _ in range(2):
            one.run("scan")
            two.run("scan")
        one.run("submit")
        two.run("submit")
        for _ in range(8):
            two.run("sync", code=None)
            one.run("sync", code=None)
        one.behave()
        one.run("hold", "2", code=None)
        two.run("priority", "2", "7", code=None)
        two.run("sync", code=None)
        one.run("sync", code=None)
        one.run("release", "2", code=None)
        for number in (2, 3):
            for site in (one, two):
                case = site.cycle_until("completed", "failed", case_id=number)
                if case["state"] == "failed":
                    site.run("retry", str(number))
        for number in (2, 3):
            for site in (one, two):
                case = site.cycle_until("completed", "failed", case_id=number)
                assert case["state"] == "completed", case["reason"]
        assert max(Counter(one.ledger()).values()) == 1
    finally:
        one.stop_everything()
        for site in (Installation(tmp_path / "two"), Installation(tmp_path / "work")):
            site.stop_everything()
