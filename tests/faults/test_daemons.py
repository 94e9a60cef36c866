"""The queue's daemons are killed while jobs run, and what they knew is deleted: as an operator sees it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.agent.daemons import PueueStand, SlurmStand
from tests.cli.conftest import Installation, install
from tests.cli.test_queues import use
from tests.faults.conftest import two_jobs_run


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Installation]:
    installation = install(tmp_path / "site")
    yield installation
    installation.stop_everything()


def ends_well(site: Installation) -> None:
    (site.root / "go").touch()
    case = site.cycle_until("completed", "failed", limit_s=120)
    assert case["state"] == "completed", case["reason"]
    assert len(site.ledger()) == 3
    assert max(Counter(site.ledger()).values()) == 1, "what the daemon forgot was not started again"
    assert "queue" not in site.run("status").stdout


def test_pueued_killed_and_its_state_deleted(site: Installation, short_folder: Path) -> None:
    daemon = PueueStand(short_folder)
    try:
        use(site, daemon)
        two_jobs_run(site)
        daemon.kill()
        daemon.state.unlink()
        site.run("cycle")
        text = site.run("status").stdout
        assert "the queue of host here does not answer: Pueue's daemon does not run on this host; start it" in text
        assert "the host's queue does not answer" in site.case()["reason"]
        daemon.start()
        site.run("cycle")
        assert "its queue forgot it, but it is still running; mqi waits for it to end" in site.case()["reason"]
        assert "does not answer" not in site.run("status").stdout
        # Work that comes now goes through the new daemon, and waits for the slots that the orphans keep.
        site.sample("P2", seed=2)
        assert site.cycle_until("running", "completed", case_id=2)
        assert len(site.ledger()) == 4, "its first step alone: both slots of the other group are taken"
        (site.root / "go").touch()
        assert site.cycle_until("completed", "failed", case_id=2)["state"] == "completed"
        assert site.cycle_until("completed", "failed")["state"] == "completed"
        assert len(site.ledger()) == 6
        assert max(Counter(site.ledger()).values()) == 1
    finally:
        daemon.stop()


@pytest.mark.slow
def test_slurms_controller_and_node_killed(site: Installation, short_folder: Path) -> None:
    cluster = SlurmStand(short_folder)
    try:
        use(site, cluster)
        two_jobs_run(site)
        for process in (cluster.controller, cluster.node):
            process.kill()
            process.wait()
        site.run("cycle")
        assert "the queue of host here does not answer: Slurm does not answer" in site.run("status").stdout
        assert "the host's queue does not answer" in site.case()["reason"]
        cluster.start_controller()
        cluster.start_node()
        site.run("cycle")
        # A controller that was killed may take its node out of service, which is an operator's to mend.
        cluster.run("scontrol", "update", "nodename=ALL", "state=resume", code=None)
        ends_well(site)
    finally:
        cluster.stop()
