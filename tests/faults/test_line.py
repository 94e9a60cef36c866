"""The line to the host breaks, is late, or its other end goes away, while `mqi cycle` does its work."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.conftest import Installation
from tests.faults.conftest import all_is_well, ends, far_site, set_host_key
from tests.host.proxy import Proxy
from tests.host.sshd import NEEDS_SSHD, Sshd

pytestmark = NEEDS_SSHD


@pytest.fixture
def proxy(own_sshd: Sshd) -> Iterator[Proxy]:
    made = Proxy(own_sshd.port)
    yield made
    made.close()


@pytest.fixture
def behind(tmp_path: Path, own_sshd: Sshd, proxy: Proxy) -> Iterator[Installation]:
    """An installation whose host is reached through the proxy."""
    with far_site(tmp_path / "site", own_sshd, port=proxy.port) as site:
        yield site


def cycles_with_cuts(site: Installation, proxy: Proxy, points: list[tuple[str, int]]) -> None:
    """Each `mqi cycle` has one connection; the n-th one breaks at the n-th point."""
    (site.sample() / "more.bin").write_bytes(random.Random(4).randbytes(200_000))
    site.run("scan")
    for point in points:
        proxy.cut = point
        done = site.run("cycle", code=None)
        assert done.returncode in (0, 75), done.stderr
        if done.returncode:
            text = site.run("status").stdout
            assert "host here" in text
            assert "silent" in text or "trouble" in text, text
            site.run("host", "release", "here")
        proxy.cut = None
    case = site.cycle_until("completed", "failed")
    assert case["state"] == "completed", case["reason"]
    all_is_well(site)


# In the key exchange, the start of the agent, the input on its way up, a report, the results on their way down.
@pytest.mark.parametrize("points", [[("up", 150_000), ("down", 4_500)]], ids=["both ways"])
def test_cut_at_a_byte(behind: Installation, proxy: Proxy, points: list[tuple[str, int]]) -> None:
    cycles_with_cuts(behind, proxy, points)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(12))
def test_cut_at_random_bytes(behind: Installation, proxy: Proxy, seed: int) -> None:
    choice = random.Random(seed)
    points = [(choice.choice(["up", "down"]), int(10 ** choice.uniform(1, 5.3))) for _ in range(8)]
    cycles_with_cuts(behind, proxy, points)


# Everything that the host is asked, and answers, goes through this. The `when`-th request finds the server and its
# connections gone (before: nothing of it was done; lost: all of it, and nobody heard the answer), or its answer is late.
GATE = """\
#!{python} -IS
import os, signal, subprocess, sys, threading, time
os.chdir({folder!r})
agent = subprocess.Popen(["/bin/sh", "-c", os.environ["SSH_ORIGINAL_COMMAND"]], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
number = int(open("requests").read())
when, what = open("wish").read().split()

def another():
    global number
    number += 1
    with open("requests", "w") as file:
        file.write(str(number))
    return what if number == int(when) else ""

def gone():
    for pid in (int(open("pid").read()), os.getppid()):
        os.kill(pid, signal.SIGKILL)
    os._exit(1)

def ask():
    while True:
        words = os.read(0, 1 << 16)
        if words and what == "before" and number == int(when) - 1:
            another()
            gone()
        if not words:
            return agent.stdin.close()
        agent.stdin.write(words)
        agent.stdin.flush()

def answer():
    for line in iter(agent.stdout.readline, b""):
        fault = another() if line.startswith(b"MQI-REPLY ") else ""
        if fault == "late":
            time.sleep(4)
        tell = (lambda data: None) if fault == "lost" else sys.stdout.buffer.write
        tell(line)
        while line.startswith(b"MQI-REPLY ") or line.split()[:2] in ([b"MQI", b"J"], [b"MQI", b"B"]):
            line = agent.stdout.readline()
            tell(line)
            tell(agent.stdout.read(int(line.split()[2])))
        sys.stdout.buffer.flush()
        if fault == "lost":
            gone()

threading.Thread(target=ask, daemon=True).start()
answer()
os._exit(agent.wait())
"""


class Gated:
    """An installation whose host's sshd goes away at chosen requests."""

    def __init__(self, site: Installation, server: Sshd) -> None:
        self.site, self.server = site, server
        gate = server.folder / "gate"
        gate.write_text(GATE.format(python=sys.executable, folder=str(server.folder)), encoding="utf-8")
        gate.chmod(0o755)
        self._options = [f"ForceCommand {gate}"]
        self.wish(0, "nothing")
        (server.folder / "requests").write_text("0")
        server.stop()
        server.start(self._options)

    def wish(self, when: int, what: str) -> None:
        (self.server.folder / "wish").write_text(f"{when} {what}\n")

    def requests(self) -> int:
        """So many were made."""
        return int((self.server.folder / "requests").read_text())

    def step(self, step: str, request: int, what: str) -> bool:
        """Runs a step whose `request`-th request meets this fault; False when it made fewer requests."""
        before = self.requests()
        self.wish(before + request, what)
        done = self.site.run(step, code=None)
        self.wish(0, "nothing")
        if self.requests() < before + request:
            return False
        assert done.returncode == 75, (done.returncode, done.stderr)
        text = self.site.run("status").stdout
        assert "silent" in text
        assert ("did not answer in time" if what == "late" else "host here") in text
        if what != "late":
            self.server.stop()
            self.server.start(self._options)
        self.site.run("host", "release", "here")
        return True


@pytest.fixture
def gated(site: Installation, own_sshd: Sshd) -> Gated:
    return Gated(site, own_sshd)


@pytest.mark.parametrize(
    ("submits", "fetches"), [([4], [3]), pytest.param([1, 2, 2, 2], [1, 2, 3], marks=pytest.mark.slow)], ids=["two", "all"]
)
def test_sshd_goes_away_at_a_request(gated: Gated, submits: list[int], fetches: list[int]) -> None:
    """It was carried out, and its answer is lost with the server."""
    gated.site.sample()
    gated.site.run("scan")
    gated.site.run("scan")
    # Which runs the host holds; which files it lacks; the files; the plan. The first of these is asked once.
    for request in submits:
        assert gated.step("submit", request, "lost")
    gated.site.run("submit")
    ends(gated.site, 3)
    if len(fetches) > 1:
        assert gated.step("sync", 1, "lost")
    gated.site.run("sync")
    # What there is; the files; that they are safe here.
    for request in fetches:
        assert gated.step("fetch", request, "lost")
    gated.site.run("cycle")
    assert gated.site.state_of() == "completed"
    all_is_well(gated.site)


@pytest.mark.slow
@pytest.mark.parametrize("what", ["before", "lost"])
def test_sshd_goes_away_again_and_again(gated: Gated, what: str) -> None:
    """Between any two requests, in every cycle of several cases."""
    for number in range(3):
        gated.site.sample(f"P{number}", seed=number + 1)
    for request in (1, 1, 2, 3, 4, 5, 1, 2, 3, 4, 5, 6, 7, 8):
        gated.step("cycle", request, what)
    for number in (1, 2, 3):
        assert gated.site.cycle_until("completed", "failed", case_id=number)["state"] == "completed"
    all_is_well(gated.site, cases=3)


def test_answers_that_come_after_the_time_out(gated: Gated) -> None:
    """What was asked was done; it is asked again, and not done again."""
    set_host_key(gated.site, "timeout: 1s")
    gated.site.sample()
    gated.site.run("scan")
    gated.site.run("scan")
    assert gated.step("submit", 4, "late"), "the plan was taken, and nobody here knows it"
    assert gated.site.state_of() == "submitting"
    ends(gated.site, 3)
    gated.site.run("cycle")
    assert gated.site.state_of() == "completed"
    all_is_well(gated.site)
