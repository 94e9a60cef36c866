"""The queue's daemons are killed while jobs run, and what they knew is deleted: as an operator sees it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.agent.daemons import PueueStand, SlurmStand
from tests.agent.system import wait_for
from tests.cli.conftest import Installation, install
from tests.cli.test_queues import use
from tests.faults.conftest import all_is_well, ends, hand_over, two_jobs_run


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Installation]:
    installation = install(tmp_path / "site")
    yield installation
    installation.stop_everything()


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
        hand_over(site, "P2", seed=2)
        wait_for(lambda: len(site.ledger()) == 4, "the first step of the second case")
        site.run("sync")
        wait_for(lambda: sum("Running" in task["status"] for task in daemon.tasks()) == 2, "Pueue to start two more")
        time.sleep(0.5)  # time to do the wrong thing
        assert len(site.ledger()) == 4
        (site.root / "go").touch()
        ends(site, 6)
        site.run("cycle")
        assert {site.state_of(1), site.state_of(2)} == {"completed"}
        all_is_well(site, cases=2)
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
        (site.root / "go").touch()
        case = site.cycle_until("completed", "failed", limit_s=120)
        assert case["state"] == "completed", case["reason"]
        all_is_well(site)
    finally:
        cluster.stop()
