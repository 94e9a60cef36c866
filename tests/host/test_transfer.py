"""Bytes on their way: resumed where they broke off, and never stored or accepted wrong."""

from __future__ import annotations

import filecmp
import os
import random
import sys
import time
from pathlib import Path

import pytest

from mqi.errors import DiskProblem, HostUnreachable
from mqi.host.base import Blob, RemoteFile
from mqi.host.pace import Pace
from tests.agent.bench import DIGEST, RUN, Bench, sha256, wait_for
from tests.host.sshd import Sshd

DATA = random.Random(1).randbytes(3_000_000)
BIG = "import random; open('big', 'wb').write(random.Random(1).randbytes(3_000_000))"


def blob(bench: Bench, name: str, data: bytes) -> Blob:
    path = bench.folder / name
    path.write_bytes(data)
    return Blob(sha256(data), len(data), path)


def missing(bench: Bench, *blobs: Blob) -> dict[str, int]:
    wanted = [[one.sha256, one.size] for one in blobs]
    reply = bench.ask({"verb": "have", "run_key": RUN, "digest": DIGEST, "blobs": wanted})[0]
    return dict(reply["missing"])


def stored(bench: Bench, one: Blob) -> Path:
    return bench.work / "store" / one.sha256[:2] / one.sha256


def part(bench: Bench, one: Blob) -> Path:
    return bench.work / "store" / "part" / one.sha256


def test_upload_of_many(bench: Bench) -> None:
    blobs = [blob(bench, f"f{number}", DATA[: number * 1000]) for number in range(50)]
    assert missing(bench, *blobs) == {one.sha256: 0 for one in blobs}
    seen: list[tuple[int, int]] = []
    outcome = bench.host.upload([(one, 0) for one in blobs], progress=lambda *counts: seen.append(counts))
    assert outcome.stored == tuple(one.sha256 for one in blobs)
    total = sum(one.size for one in blobs)
    assert seen[-1] == (total, total)
    assert missing(bench, *blobs) == {}
    assert all(stored(bench, one).read_bytes() == one.path.read_bytes() for one in blobs)
    # Sending it again is harmless.
    assert len(bench.host.upload([(one, 0) for one in blobs]).stored) == 50


def test_upload_resumes_at_its_offset(bench: Bench) -> None:
    one = blob(bench, "a", DATA)
    bench.ask()
    part(bench, one).parent.mkdir(parents=True)
    part(bench, one).write_bytes(DATA[:1_000_000])
    assert missing(bench, one) == {one.sha256: 1_000_000}
    seen: list[tuple[int, int]] = []
    outcome = bench.host.upload([(one, 1_000_000)], progress=lambda *counts: seen.append(counts))
    assert outcome.stored == (one.sha256,)
    assert seen[-1] == (2_000_000, 2_000_000)
    assert stored(bench, one).read_bytes() == DATA
    assert not part(bench, one).exists()


def test_upload_that_broke_off_keeps_what_arrived(bench: Bench) -> None:
    one = blob(bench, "a", DATA)

    class Interrupted(Exception):
        pass

    def interrupt(moved: int, total: int) -> None:
        if moved > 1_500_000:
            # What is still in the pipe when the agent ends is lost: at most 1 MiB of it.
            wait_for(lambda: part(bench, one).exists() and part(bench, one).stat().st_size, "the first bytes")
            raise Interrupted

    with pytest.raises(Interrupted):
        bench.host.upload([(one, 0)], progress=interrupt)
    offset = missing(bench, one)[one.sha256]
    assert 0 < offset < one.size
    assert bench.host.upload([(one, offset)]).stored == (one.sha256,)
    assert stored(bench, one).read_bytes() == DATA


@pytest.mark.parametrize(
    ("begun", "offset"),
    [
        pytest.param(b"x" * 1000, 1000, id="another beginning on the host"),
        pytest.param(DATA[:10], 1000, id="the host lost some of it"),
    ],
)
def test_wrong_bytes_on_the_host_are_never_stored(bench: Bench, begun: bytes, offset: int) -> None:
    one = blob(bench, "a", DATA)
    bench.ask()
    part(bench, one).parent.mkdir(parents=True)
    part(bench, one).write_bytes(begun)
    outcome = bench.host.upload([(one, offset)])
    assert (outcome.stored, outcome.changed) == ((), ())
    assert outcome.rejected[0][0] == one.sha256
    assert not stored(bench, one).exists()
    # The next attempt starts where the host says, and succeeds.
    assert bench.host.upload([(one, missing(bench, one)[one.sha256])]).stored == (one.sha256,)


def test_local_files_that_are_not_what_they_were(bench: Bench) -> None:
    good = blob(bench, "good", b"good")
    changed = blob(bench, "changed", b"before")
    changed.path.write_bytes(b"after!")
    shorter = blob(bench, "shorter", b"long enough")
    shorter.path.write_bytes(b"short")
    absent = blob(bench, "absent", b"absent")
    absent.path.unlink()
    last = blob(bench, "last", b"last")
    outcome = bench.host.upload([(one, 0) for one in (good, changed, shorter, absent, last)])
    assert outcome.stored == (good.sha256, last.sha256)
    assert set(outcome.changed) == {changed.sha256, shorter.sha256}
    assert outcome.unreadable == ((absent.sha256, "No such file or directory"),)
    assert outcome.rejected == ()
    assert not any(stored(bench, one).exists() for one in (changed, shorter, absent))
    assert not list((bench.work / "store" / "part").iterdir())


def test_empty_files_travel_too(bench: Bench) -> None:
    empty = blob(bench, "empty", b"")
    assert bench.host.upload([(empty, 0)]).stored == (empty.sha256,)
    assert stored(bench, empty).stat().st_size == 0


def test_upload_stops_between_files_at_its_deadline(bench: Bench) -> None:
    blobs = [blob(bench, f"f{number}", bytes([number]) * 400_000) for number in range(5)]
    deadline = time.monotonic() + 3600
    sent = 0

    def late(moved: int, total: int) -> None:
        nonlocal deadline, sent
        sent = moved

    outcome = bench.host.upload([(one, 0) for one in blobs], deadline=time.monotonic() - 1, progress=late)
    assert (outcome.stored, outcome.paused, sent) == ((), True, 0)
    assert not bench.host.upload([(one, 0) for one in blobs], deadline=deadline).paused


def test_upload_deadline_in_the_middle(bench: Bench) -> None:
    blobs = [blob(bench, f"f{number}", bytes([number]) * 400_000) for number in range(5)]

    bench.ask()  # connected: what follows is only the upload
    deadline = time.monotonic() + 3.0

    def slow(moved: int, total: int) -> None:
        if moved > blobs[0].size:
            time.sleep(max(0.0, deadline - time.monotonic()))

    outcome = bench.host.upload([(one, 0) for one in blobs], deadline=deadline, progress=slow)
    assert outcome.paused
    assert outcome.stored == tuple(one.sha256 for one in blobs[: len(outcome.stored)])
    assert 0 < len(outcome.stored) < 5
    assert set(missing(bench, *blobs)) == {one.sha256 for one in blobs[len(outcome.stored) :]}


# --- downloads


def results(bench: Bench, code: str) -> list[RemoteFile]:
    """Runs a job; its outputs, to be fetched to `results`."""
    bench.submit(bench.plan(bench.code("one-a1", code)))
    assert bench.exit("one-a1")["kind"] == "ok"
    files = bench.ask({"verb": "outputs", "jobs": [f"{RUN}.one-a1"]})[0]["jobs"][f"{RUN}.one-a1"]["files"]
    folder = bench.folder / "results"
    return [
        RemoteFile(f"{RUN}.one-a1", entry["path"], entry["size"], entry["sha256"], folder / str(number))
        for number, entry in enumerate(files)
    ]


def test_download_of_what_a_job_left(bench: Bench) -> None:
    code = f"{BIG}; os.makedirs('a/b'); write('a/b/empty', ''); write('a/x', 'x\\n')"
    if sys.platform != "win32":  # links need a privilege there
        code += "; os.symlink('/etc/passwd', 'link')"
    files = results(bench, code)
    assert [one.path for one in files] == ["a/b/empty", "a/x", "big"]
    seen: list[tuple[int, int]] = []
    outcome = bench.host.download(files, progress=lambda *counts: seen.append(counts))
    assert outcome.done == tuple(files)
    assert seen[-1] == (3_000_002, 3_000_002)
    assert [one.target.read_bytes() for one in files] == [b"", b"x\n", DATA]
    assert sorted(path.name for path in (bench.folder / "results").iterdir()) == ["0", "1", "2"]


def test_download_resumes_and_distrusts_its_own_part(bench: Bench) -> None:
    file = results(bench, BIG)[0]
    half = file.target.with_name("0.part~")
    half.parent.mkdir()
    half.write_bytes(DATA[:2_000_000])
    seen: list[tuple[int, int]] = []
    assert bench.host.download([file], progress=lambda *counts: seen.append(counts)).done == (file,)
    assert seen[0] == (2_000_000, 3_000_000)
    assert file.target.read_bytes() == DATA
    file.target.unlink()
    half.write_bytes(b"x" * 2_000_000)
    outcome = bench.host.download([file])
    assert outcome.done == ()
    assert outcome.failed[0][0] == file
    assert not file.target.exists()
    assert not half.exists()  # so that the next time starts from nothing
    half.write_bytes(b"x" * 9_000_000)  # longer than the file can be
    assert bench.host.download([file]).done == (file,)
    half.write_bytes(DATA)  # all there, only the rename was missing
    assert bench.host.download([file]).done == (file,)


def test_download_that_breaks_off_is_continued(bench: Bench) -> None:
    file = results(bench, BIG)[0]

    def interrupt(moved: int, total: int) -> None:
        if moved > 1_000_000:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        bench.host.download([file], progress=interrupt)
    assert not file.target.exists()
    assert file.target.with_name("0.part~").stat().st_size > 1_000_000
    # Over SSH the agent hears of it when it writes the next time.
    wait_for(lambda: not [pid for pid, argv in bench.processes() if "request" in argv], "the agent to end")
    seen: list[tuple[int, int]] = []
    assert bench.host.download([file], progress=lambda *counts: seen.append(counts)).done == (file,)
    assert seen[0][0] > 1_000_000


def test_download_stops_between_files_at_its_deadline(bench: Bench) -> None:
    files = results(bench, "for n in '123': write(n, n)")
    outcome = bench.host.download(files, deadline=time.monotonic() - 1)
    assert (outcome.done, outcome.failed, outcome.paused) == ((), (), True)


@pytest.mark.skipif(sys.platform == "win32", reason="making links needs a privilege on Windows")
def test_download_gives_only_what_was_listed(bench: Bench) -> None:
    code = r"write('a', '1\n'); write('b', '2\n'); os.mkdir('c'); write('c/d', '3\n'); write('../secret', 'x')"
    files = results(bench, code)
    out = bench.job("one-a1") / "out"
    by_path = {one.path: one for one in files}
    # What somebody changes on the host after the job ended is not what was hashed.
    (out / "b").write_bytes(b"3\n")
    (out / "c").rename(out / "moved")
    (out / "c").symlink_to(out / "moved")
    (out / "late").write_bytes(b"1\n")
    late = RemoteFile(f"{RUN}.one-a1", "late", 2, sha256(b"1\n"), bench.folder / "late")
    other = RemoteFile(f"{RUN}.one-a1", "a", 3, sha256(b"1\n"), bench.folder / "other")
    outcome = bench.host.download([by_path["a"], by_path["b"], by_path["c/d"], late, other])
    assert outcome.done == (by_path["a"],)
    assert {one.path: why for one, why in outcome.failed} == {
        "b": "its bytes are not those that the host announced",
        "c/d": "there is a link on the way to the output",
        "late": "the job has no such output",
        "a": "the job's output is another than the one asked for",
    }
    assert not any(one.target.exists() for one, _ in outcome.failed)


HOSTILE = ["a b", "ä", "quote'\"", "new\nline", "-rf", "$(id)", "semi;colon", "back\\slash", "tab\t", "*", "con", "x" * 200]


@pytest.mark.skipif(sys.platform == "win32", reason="such names exist on POSIX only")
def test_hostile_names_come_home(bench: Bench) -> None:
    files = results(bench, f"for name in {HOSTILE!r}: write(name, name)\nwrite(b'\\xff\\xfe raw', 'raw')")
    assert {one.path for one in files} == {*HOSTILE, os.fsdecode(b"\xff\xfe raw")}
    outcome = bench.host.download(files)
    assert outcome.failed == ()
    assert {one.target.read_text() for one in outcome.done} == {*HOSTILE, "raw"}


def test_a_results_folder_that_cannot_be_made(bench: Bench) -> None:
    file = results(bench, "write('a', '1')")[0]
    file.target.parent.write_text("a file in the way")
    with pytest.raises(DiskProblem):
        bench.host.download([file])


def test_killed_agent_is_silence(bench: Bench) -> None:
    import threading

    from tests.agent.bench import kill

    one = blob(bench, "a", DATA)
    bench.ask()

    def slow(moved: int, total: int) -> None:
        if moved < 1_500_000:
            threading.Thread(target=lambda: [kill(pid) for pid, argv in bench.processes() if "request" in argv]).start()
        time.sleep(0.3)

    with pytest.raises(HostUnreachable):
        bench.host.upload([(one, 0)], progress=slow)
    assert missing(bench, one)[one.sha256] <= one.size


# --- much


LARGE = 1100  # MiB: more than the 512 after which paramiko would negotiate new keys, and more than the host's 1024
MAKE_LARGE = f"""
import random
with open('large', 'wb') as file:
    for number in range({LARGE}):
        file.write(random.Random(number).randbytes(1 << 20))
"""


@pytest.mark.slow
def test_more_than_a_gibibyte_each_way_in_one_connection(tmp_path: Path, sshd: Sshd) -> None:
    bench = Bench(tmp_path, ssh=sshd.ssh())
    try:
        bench.submit(bench.plan(bench.code("one-a1", MAKE_LARGE, time_limit_s=900.0)))
        wait_for((bench.job("one-a1") / "exit.json").exists, "the large file", 900)
        asked = {"verb": "outputs", "jobs": [f"{RUN}.one-a1"]}
        entry = bench.ask(asked)[0]["jobs"][f"{RUN}.one-a1"]["files"][0]
        assert entry["size"] == LARGE << 20
        file = RemoteFile(f"{RUN}.one-a1", "large", entry["size"], entry["sha256"], tmp_path / "large")
        before = sshd.counts()[0]
        assert bench.host.download([file]).done == (file,)
        one = Blob(entry["sha256"], entry["size"], file.target)
        assert bench.host.upload([(one, 0)]).stored == (one.sha256,)
        assert filecmp.cmp(stored(bench, one), file.target, shallow=False)
        # And what follows on it: no key exchange was left half done.
        assert missing(bench, one) == {}
        assert sshd.counts()[0] == before
    finally:
        bench.stop()


# --- not too fast


def test_a_limit_to_the_bandwidth(bench: Bench) -> None:
    file = results(bench, BIG)[0]
    one = blob(bench, "a", DATA)
    slow = bench.new_host(bandwidth=2_000_000)
    slow.ask([])
    started = time.monotonic()
    assert slow.upload([(one, 0)]).stored == (one.sha256,)
    assert time.monotonic() - started > 1.2
    started = time.monotonic()
    assert slow.download([file]).done == (file,)
    assert time.monotonic() - started > 1.2


def test_the_pace_is_kept_on_average_without_credit() -> None:
    clock = 0.0

    def sleep(seconds: float) -> None:
        nonlocal clock
        clock += seconds

    pace = Pace(1000_000, lambda: clock, sleep)
    assert pace.chunk == 200_000
    for _ in range(50):
        pace.spent(100_000)
    assert 4.7 <= clock <= 5.0
    clock += 100.0  # a pause is not made up for
    before = clock
    for _ in range(20):
        pace.spent(100_000)
    assert 1.7 <= clock - before <= 2.0
    assert Pace(None).chunk == 2**20
    assert Pace(1).chunk == 2**12
