"""The main job through every queue, as a user runs it: `mqi cycle` until it is done."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from mqi.settings import Group
from tests.agent.daemons import STANDS, PueueStand, Stand
from tests.cli.conftest import Installation


@pytest.fixture
def short_folder() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="mqi-q-"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(params=sorted(set(STANDS) - {"local"}))
def stand(request: pytest.FixtureRequest, short_folder: Path) -> Iterator[Stand]:
    started = STANDS[request.param](short_folder)
    yield started
    started.stop()


def use(site: Installation, stand: Stand) -> None:
    """The configuration that a user would write for this queue."""
    queue = stand.queue((Group("cpu"),))
    options = {"pueue": ("program", "config"), "slurm": ("config",)}[stand.name]
    chosen = json.dumps({name: getattr(getattr(queue, stand.name), name) for name in options})
    path = site.root / "mqi.yaml"
    text = path.read_text(encoding="utf-8")
    assert "queue: {type: local" in text
    text = text.replace("queue: {type: local", f"queue: {{type: {stand.name}, {stand.name}: {chosen}")
    path.write_text(text, encoding="utf-8")


def test_a_case_from_folder_to_result(site: Installation, stand: Stand) -> None:
    use(site, stand)
    assert "ok" in site.run("config", "check").stdout
    site.sample("PATIENT-4711")
    case = site.cycle_until("completed", "failed", limit_s=120)
    assert case["state"] == "completed", case["reason"]
    assert (Path(case["results_path"]) / "simulate" / "beam_2" / "dose.txt").read_text() == "dose of beam 2"
    assert set(Counter(site.ledger()).values()) == {1}
    assert len(site.ledger()) == 3
    assert "PATIENT" not in "".join(path.read_text(errors="replace") for path in stand_files(stand))


def stand_files(stand: Stand) -> list[Path]:
    """What the queue keeps on disk: no patient's name belongs there."""
    folder: Path = stand.folder  # type: ignore[attr-defined]
    return [path for path in folder.rglob("*") if path.is_file()]


def test_a_queue_that_is_down_is_told_and_goes_on(site: Installation, short_folder: Path) -> None:
    daemon = PueueStand(short_folder)
    try:
        use(site, daemon)
        site.sample()
        daemon.kill()
        checked = site.run("config", "check", code=75)
        assert "its queue does not work: Pueue's daemon does not run on this host; start it there" in checked.stderr
        site.run("cycle", code=None)
        assert "Pueue's daemon does not run" in site.run("status", code=None).stdout
        assert "Pueue's daemon does not run" in site.run("status", "--check", code=40).stdout
        daemon.start()
        assert site.cycle_until("completed", "failed")["state"] == "completed"
        assert set(Counter(site.ledger()).values()) == {1}
    finally:
        daemon.stop()
