"""The host loses its power: its jobs, its queue's daemon, its sshd and its temporary state are gone at once."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.agent.daemons import LocalStand, PueueStand, SlurmStand, Stand
from tests.cli.conftest import Installation
from tests.cli.test_queues import use
from tests.faults.computer import TEMPORARY, Computer
from tests.faults.conftest import ends, two_jobs_run
from tests.host.sshd import NEEDS_SSHD, Sshd
from tests.host.test_ssh_site import install_far

pytestmark = NEEDS_SSHD


class Host:
    """A computer with an sshd and a queue, which come up again with it; and an installation that uses it."""

    def __init__(self, folder: Path, short_folder: Path, queue: str) -> None:
        self.computer = Computer(short_folder)
        inside = self.computer.inside
        home = folder / "sshd" / "home"
        self._options = [f"SetEnv HOME={home} {TEMPORARY}"]
        self.server = Sshd(folder / "sshd", self._options, inside=inside)
        stands = {"pueue": PueueStand, "slurm": SlurmStand}
        (short_folder / "q").mkdir()
        self.stand: Stand = stands[queue](short_folder / "q", inside=inside) if queue in stands else LocalStand()
        self.site = install_far(folder / "site", self.server)
        if queue in stands:
            use(self.site, self.stand)
        self.site.run("host", "trust", "here", "--yes")
        self.site.run("sync")

    def power_off(self) -> None:
        self.computer.power_off()

    def power_on(self) -> None:
        self.computer.power_on()
        self.server.inside = self.computer.inside
        self.server.start(self._options)
        if isinstance(self.stand, PueueStand):
            self.stand.inside = self.computer.inside
            self.stand.start()
        if isinstance(self.stand, SlurmStand):
            self.stand.inside = self.computer.inside
            self.stand.start_controller()
            self.stand.start_node()


@pytest.fixture
def host(request: pytest.FixtureRequest, tmp_path: Path, short_folder: Path) -> Iterator[Host]:
    made = Host(tmp_path, short_folder, request.param)
    yield made
    made.power_off()


@pytest.mark.parametrize(
    "host",
    ["pueue", pytest.param("local", marks=pytest.mark.slow), pytest.param("slurm", marks=pytest.mark.slow)],
    indirect=True,
)
def test_a_host_that_is_restarted_while_jobs_run(host: Host) -> None:
    site = host.site
    two_jobs_run(site)
    host.power_off()
    (site.root / "go").touch()
    site.run("cycle", code=75)
    text = site.run("status").stdout
    assert "silent (1 tries)" in text
    assert "host here cannot be reached" in text
    assert site.state_of() == "running", "silence is no answer"

    host.power_on()
    site.run("host", "release", "here")
    if host.stand.name == "slurm":
        # It may run a job on another computer: only listings without it over two minutes, which Slurm begins with
        # some minutes after it missed its node, say that it is lost.
        site.cycle_until("completed", "failed", limit_s=600)
    else:
        site.run("sync")
        ends(site, 3)
        site.run("cycle")
    case = site.case()
    assert case["state"] == "completed", case["reason"]
    executed = Counter(key.partition(".")[2] for key in site.ledger())
    assert executed == {"prepare-a1": 1, **{f"simulate.b{beam}-a{n}": 1 for beam in (2, 3) for n in (1, 2)}}
    for beam in (2, 3):
        dose = Path(case["results_path"]) / "simulate" / f"beam_{beam}" / "dose.txt"
        assert dose.read_text() == f"dose of beam {beam}"
    text = site.run("status").stdout
    assert "host here was restarted (seen at" in text
    assert "jobs that this ended are started again as new attempts" in text
    assert "! " not in text, "nothing is left to do"


def cycle(site: Installation) -> subprocess.Popen[bytes]:
    """`mqi cycle`, not waited for."""
    words = [sys.executable, "-m", "mqi", "--config", str(site.root / "mqi.yaml"), "cycle"]
    return subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("host", ["local", "pueue"], indirect=True)
def test_a_power_that_fails_at_any_moment(host: Host, seed: int) -> None:
    choice, site = random.Random(seed), host.site
    workflow = site.root / "default_qa.yaml"
    text = workflow.read_text(encoding="utf-8").replace("max_attempts: 3", "max_attempts: 20")
    workflow.write_text(text.replace("    group: cpu\n", "    group: cpu\n    max_attempts: 20\n"), encoding="utf-8")
    site.behave(b2={"sleep": 0.5}, b3={"sleep": 1.0})
    site.sample("P1", seed=1)
    site.sample("P2", seed=2)
    for _ in range(5):
        running = cycle(site)
        time.sleep(choice.uniform(0.3, 2.5))
        host.power_off()
        assert running.wait(60) in (0, 75)
        host.power_on()
        site.run("host", "release", "here")
        site.run("cycle", code=None)
    for number in (1, 2):
        case = site.cycle_until("completed", "failed", case_id=number)
        assert case["state"] == "completed", case["reason"]
    assert max(Counter(site.ledger()).values()) == 1, "no key is executed twice"
    assert sorted(path.name for path in site.results.rglob("dose.txt")) == ["dose.txt"] * 4
