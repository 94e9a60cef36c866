"""The line breaks anywhere: nothing is lost, nothing runs twice, nothing wrong is taken for right."""

from __future__ import annotations

import hashlib
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mqi.errors import HostUnreachable, TemporaryProblem
from mqi.host.base import Blob, RemoteFile
from tests.agent.bench import DIGEST, RUN, Bench, sha256, wait_for
from tests.host.proxy import Proxy
from tests.host.sshd import NEEDS_SSHD, Sshd

pytestmark = NEEDS_SSHD

INPUT = random.Random(2).randbytes(1_500_000)
MAKES = "import random; open('big', 'wb').write(random.Random(1).randbytes(1_500_000)); write('small', 'x')"
OUTPUT = random.Random(1).randbytes(1_500_000)
SILENCE_S = 3.0


class Story:
    """A run from its first question to its results at home, told over a line that fails, until it is done."""

    def __init__(self, folder: Path, server: Sshd) -> None:
        self.server = server
        self.proxy = Proxy(server.port)
        server.trust(self.proxy.port)
        self.bench = Bench(folder, ssh=server.ssh(port=self.proxy.port, connect_timeout_s=SILENCE_S))
        self.bench.host = self.bench.new_host(timeout_s=SILENCE_S)
        self.input = folder / "input"
        self.input.write_bytes(INPUT)
        self.failures: list[str] = []

    def steps(self) -> list[Callable[[], bool]]:
        """The requests, in order; each may be repeated, and says whether the next one may follow."""
        return [self._sent, self._planned, self._computed, self._at_home]

    def _sent(self) -> bool:
        blobs = [[sha256(INPUT), len(INPUT)]]
        missing = dict(self.bench.ask({"verb": "have", "run_key": RUN, "digest": DIGEST, "blobs": blobs})[0]["missing"])
        blob = Blob(sha256(INPUT), len(INPUT), self.input)
        return not missing or bool(self.bench.host.upload([(blob, missing[blob.sha256])]).stored)

    def _planned(self) -> bool:
        entry = {"n": "000001", "path": "a", "sha256": sha256(INPUT), "size": len(INPUT)}
        traced = self.bench.traced("one-a1")
        jobs = [traced, self.bench.code("two-a1", MAKES, "one-a1")]
        return self.bench.submit(self.bench.plan(*jobs, inputs=[entry])) in ("accepted", "same")

    def _computed(self) -> bool:
        jobs = self.bench.report()
        return bool(jobs) and all(job["state"] == "ended" for job in jobs.values())

    def _at_home(self) -> bool:
        key = f"{RUN}.two-a1"
        said = self.bench.ask({"verb": "outputs", "jobs": [key]})[0]["jobs"][key]
        home = self.bench.folder / "home"
        files = [RemoteFile(key, one["path"], one["size"], one["sha256"], home / one["path"]) for one in said["files"]]
        outcome = self.bench.host.download([one for one in files if not one.target.exists()])
        assert not outcome.failed
        return all(one.target.exists() for one in files)

    def tell(self, before: Callable[[int], None] = lambda number: None, limit_s: float = 90.0) -> None:
        """`before` is called with the number of each try."""
        steps, tries, give_up = self.steps(), 0, time.monotonic() + limit_s
        while steps:
            assert time.monotonic() < give_up, self.failures
            tries += 1
            before(tries)
            try:
                if steps[0]():
                    steps.pop(0)
                else:
                    time.sleep(0.05)
            except (HostUnreachable, TemporaryProblem) as error:
                self.failures.append(str(error))
        assert self.bench.begun("one-a1") == 1
        assert (self.bench.folder / "home" / "big").read_bytes() == OUTPUT
        assert sorted(path.name for path in (self.bench.folder / "home").iterdir()) == ["big", "small"]
        stored = self.bench.work / "store" / sha256(INPUT)[:2] / sha256(INPUT)
        assert stored.read_bytes() == INPUT

    def close(self) -> None:
        self.proxy.close()
        self.bench.stop()


@pytest.fixture
def story(tmp_path: Path, own_sshd: Sshd) -> Iterator[Story]:
    made = Story(tmp_path, own_sshd)
    yield made
    made.close()


def cut_every_connection(story: Story, points: list[tuple[str, int]]) -> None:
    """The n-th connection is cut at the n-th point; those after the last are whole."""
    left = list(points)

    def before(number: int) -> None:
        if left and story.proxy.cut is None:
            story.proxy.cut = left.pop(0)

    story.tell(before)


# In the banner, the key exchange, the login, the start of the agent, the data.
UP = [10, 900, 2_000, 3_500, 9_000, 200_000, 1_300_000]
DOWN = [10, 900, 1_900, 3_300, 6_000, 200_000, 1_300_000]


@pytest.mark.parametrize(("direction", "points"), [("up", UP), ("down", DOWN)])
def test_cut_at_a_byte(story: Story, direction: str, points: list[int]) -> None:
    cut_every_connection(story, [(direction, point) for point in points])
    assert len(story.failures) >= 5
    assert all("bench" in one for one in story.failures)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(30))
def test_cut_at_random_bytes(story: Story, seed: int) -> None:
    choice = random.Random(seed)
    points = [(choice.choice(["up", "down"]), int(10 ** choice.uniform(0.5, 6.25))) for _ in range(12)]
    cut_every_connection(story, points)


def test_answers_that_come_too_late(story: Story) -> None:
    """What the host did meanwhile is unknown, and asked for again; it is not done twice."""

    def before(number: int) -> None:
        story.proxy.silent = number in (2, 4)
        if number in (2, 4):
            story.bench.host.close()

    story.tell(before)
    assert len(story.failures) == 2


def test_silence_in_the_middle_of_a_connection(story: Story) -> None:
    story.bench.ask()
    story.proxy.silent = True
    started = time.monotonic()
    with pytest.raises(HostUnreachable):
        story.bench.ask()
    assert time.monotonic() - started < 4 * SILENCE_S + 5
    story.proxy.silent = False
    story.tell()


def stopped_before(story: Story, numbers: set[int]) -> None:
    """sshd is down during these tries, with every connection to it."""

    def before(number: int) -> None:
        if number in numbers:
            story.server.stop()
        elif number - 1 in numbers:
            story.server.start()

    story.tell(before)
    assert story.failures


def test_sshd_stopped_between_two_execs(story: Story) -> None:
    stopped_before(story, {2, 4})


@pytest.mark.slow
@pytest.mark.parametrize("number", range(1, 7))
def test_sshd_stopped_before_any_exec(story: Story, number: int) -> None:
    stopped_before(story, {number})


@pytest.mark.slow
def test_more_than_a_gigabyte_in_one_connection(tmp_path: Path, sshd: Sshd) -> None:
    """paramiko#822: new keys are due after 512 MiB, and the connection may hang when the channel ends then."""
    bench = Bench(tmp_path, ssh=sshd.ssh())
    size = 1_200 * 2**20
    big = tmp_path / "big"
    with big.open("wb") as file:
        for number in range(size // 2**20):
            file.write(random.Random(number).randbytes(2**20))
    with big.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    before = sshd.counts()
    assert bench.host.upload([(Blob(digest, size, big), 0)]).stored == (digest,)
    stored = bench.work / "store" / digest[:2] / digest
    code = f"import shutil; shutil.copy({str(stored)!r}, 'big')"
    bench.submit(bench.plan(bench.code("one-a1", code)))
    # It is hashed there; the machine may have other things to do.
    wait_for((bench.job("one-a1") / "exit.json").exists, "the job to end", timeout_s=300.0)
    file_ = RemoteFile(f"{RUN}.one-a1", "big", size, digest, tmp_path / "home" / "big")
    assert bench.host.download([file_]).done == (file_,)
    assert sshd.counts()[0] == before[0] + 1
    assert bench.report()[f"{RUN}.one-a1"]["state"] == "ended"
    bench.stop()
