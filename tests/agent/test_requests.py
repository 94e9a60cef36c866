"""What the agent answers to: frames, keys, installations, plans that come twice, late or wrong."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from agent import results
from agent.work import Work
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mqi.errors import HostRefused, TemporaryProblem
from tests.agent.bench import DIGEST, RUN, Bench, sha256

NONCE = "0" * 32


def frame(value: Any, kind: bytes = b"J") -> bytes:
    data = value if isinstance(value, bytes) else json.dumps(value).encode()
    return b"MQI %s %d\n" % (kind, len(data)) + data


def request(bench: Bench, *calls: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {
        "protocol": 1,
        "nonce": NONCE,
        "installation": "installation-1",
        "now": 0,
        "settings": bench.host._request_settings(),
        "calls": list(calls),
        **changes,
    }


END = frame(b"", b"E")


def talk(bench: Bench, data: bytes) -> tuple[str, dict[str, Any]]:
    """(kind, content) of the agent's first frame to raw bytes."""
    done = subprocess.run(bench.agent("request"), input=data, stdout=subprocess.PIPE, timeout=30, check=False)
    assert done.returncode == 0
    first, header, rest = done.stdout.split(b"\n", 2)
    assert first in (b"MQI-REPLY " + NONCE.encode(), b"MQI-REPLY -")
    _, kind, length = header.split(b" ")
    return kind.decode(), json.loads(rest[: int(length)])


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"GET / HTTP/1.1\r\n\r\n", id="another protocol"),
        pytest.param(b"MQI J 99999999999999999\n", id="a length beyond the limit"),
        pytest.param(b"MQI J " + b"9" * 10000, id="a header without an end"),
        pytest.param(b"MQI J -1\n", id="a negative length"),
        pytest.param(b"MQI J 10\n{}", id="cut off within a message"),
        pytest.param(frame(b"{" * 100), id="not JSON"),
        pytest.param(frame(b"[" * 100000), id="a nesting bomb"),
        pytest.param(frame([1]), id="not an object"),
        pytest.param(frame({"protocol": 2}), id="a later protocol"),
        pytest.param(frame({"protocol": 1, "nonce": "../x"}), id="a strange nonce"),
    ],
)
def test_bad_requests_are_refused(bench: Bench, data: bytes) -> None:
    kind, said = talk(bench, data)
    assert (kind, said["code"]) in (("X", "protocol"), ("X", "bad_request"))
    assert not (bench.work / "host.json").exists()


def test_bad_settings_and_calls(bench: Bench) -> None:
    for queue in ({}, {"type": "pbs", "groups": []}, {"groups": [{"name": "../x"}]}, {"groups": [{"name": "a", "slots": 0}]}):
        changed = request(bench, settings={"queue": queue})
        kind, said = talk(bench, frame(changed) + END)
        assert (kind, said["code"]) == ("X", "bad_request")
    calls: list[Any] = [{"verb": "no"}, {}, {"verb": ["plan"]}, {"verb": "put", "blobs": []}, {"verb": "plan"}]
    calls += [{"verb": "report", "runs": "all"}, {"verb": "get", "files": 3}, {"verb": "inventory"}]
    kind, said = talk(bench, frame(request(bench, *calls)) + END)
    assert kind == "J"
    assert [reply["ok"] for reply in said["replies"]] == [False] * 7 + [True]
    assert {reply["code"] for reply in said["replies"][:7]} == {"bad_request"}
    # Bytes after a request without a put are no part of the protocol.
    assert talk(bench, frame(request(bench)) + frame(b"x", b"B") + END)[1]["code"] == "protocol"


BAD_KEYS = ["../../../etc", "0123456789aB", RUN + "\n", RUN + ".", "", "/etc/passwd", "0123456789a", 7, None, "０" * 12]
BAD_JOBS = [RUN, f"{RUN}.one", f"{RUN}.one-a0", f"{RUN}.../x-a1", f"{RUN}.One-a1", f"{RUN}.one.b-a1", f"{RUN}.one-a1/.."]
BAD_JOBS += [f"{RUN}.one.b٣-a1", f"{RUN}.one-a1\n", f"{RUN}.{'x' * 33}-a1"]


def test_bad_keys_become_no_paths(bench: Bench) -> None:
    bench.ask()
    before = sorted(path.name for path in bench.work.rglob("*"))
    calls: list[dict[str, Any]] = []
    for key in BAD_KEYS:
        calls += [
            {"verb": "have", "run_key": key, "digest": DIGEST, "blobs": []},
            {"verb": "report", "runs": [key]},
            {"verb": "release", "run_key": key, "serial": 9},
            {"verb": "purge", "run_keys": [key], "dry_run": False},
            {"verb": "plan", "plan": bench.plan() | {"run_key": key}},
            {"verb": "have", "run_key": RUN, "digest": DIGEST, "blobs": [[key, 1]]},
        ]
    for key in BAD_JOBS:
        calls += [
            {"verb": "outputs", "jobs": [key]},
            {"verb": "log", "job_key": key, "offset": 0, "limit": 9},
            {"verb": "plan", "plan": bench.plan(bench.code("one-a1") | {"job_key": key})},
        ]
    assert all(reply["code"] == "bad_request" for reply in bench.ask(*calls))
    files = [{"job_key": f"{RUN}.one-a1", "sha256": DIGEST, "size": 1, "offset": 0}]
    for path in ("../exit.json", "/etc/passwd", "a//b", "a/./b", "", "a/../../b", "a\0b", 3):
        reply = bench.ask({"verb": "get", "files": [{**files[0], "path": path}]})[0]
        assert reply["code"] == "bad_request"
    assert sorted(path.name for path in bench.work.rglob("*")) == before


WRONG_PLANS: dict[str, dict[str, Any]] = {
    "another format": {"format": 2},
    "a serial of 0": {"serial": 0},
    "held is no flag": {"held": 1},
    "scripts elsewhere": {"scripts": "../../x"},
    "an input with a path for a number": {"inputs": [{"n": "../1", "path": "x", "size": 1, "sha256": "0" * 64}]},
    "an input twice": {"inputs": [{"n": "000001", "path": "x", "size": 1, "sha256": "0" * 64}] * 2},
    "jobs is no list": {"jobs": {}},
}
WRONG_JOBS: dict[str, dict[str, Any]] = {
    "another step than its key": {"step": "two"},
    "another beam than its key": {"beam": 1},
    "a group with a path": {"group": "../x"},
    "no command": {"argv": []},
    "a NUL in the command": {"argv": ["a\0b"]},
    "an unknown placeholder": {"argv": ["{nothing}"]},
    "outputs of a step that it does not need": {"argv": ["{outputs.two}"]},
    "a beam without a beam": {"argv": ["{beam}"]},
    "needs of another run": {"needs": ["ba9876543210.one-a1"]},
    "outputs upwards": {"outputs": ["../*"]},
    "absolute outputs": {"outputs": ["/etc/*"]},
    "a file upwards": {"files": [{"name": "../x", "sha256": "0" * 64, "size": 1}]},
    "a hidden file": {"files": [{"name": "a/.x", "sha256": "0" * 64, "size": 1}]},
    "two files in one on Windows": {"files": [{"name": name, "sha256": "0" * 64, "size": 1} for name in ("a", "A")]},
    "no time limit": {"time_limit_s": 0},
    "an endless time limit": {"time_limit_s": float("inf")},
    "gpu is no flag": {"gpu": "yes"},
}


def test_wrong_plans_are_refused(bench: Bench) -> None:
    plans = [bench.plan(**changes) for changes in WRONG_PLANS.values()]
    plans += [bench.plan(bench.code("one-a1") | changes) for changes in WRONG_JOBS.values()]
    job = bench.code("one-a1")
    plans.append(bench.plan(job, job))
    names = [*WRONG_PLANS, *WRONG_JOBS, "a job twice"]
    replies = bench.ask(*({"verb": "plan", "plan": plan} for plan in plans))
    assert {name: reply.get("code") for name, reply in zip(names, replies, strict=True)} == dict.fromkeys(
        names, "bad_request"
    )
    assert not (bench.work / "runs").exists()


def test_plans_that_this_host_cannot_do(bench: Bench) -> None:
    outcomes = {}
    for name, plan in {
        "unknown scripts": bench.plan(scripts="0" * 32),
        "an unknown group": bench.plan(bench.code("one-a1", group="big"), serial=2),
        "an unknown need": bench.plan(bench.code("one-a1", "", "two-a1"), serial=3),
        "an input that is not there": bench.plan(
            inputs=[{"n": "000001", "path": "x", "size": 1, "sha256": "0" * 64}], serial=4
        ),
    }.items():
        reply = bench.ask({"verb": "plan", "plan": plan})[0]
        outcomes[name] = (reply["outcome"], bool(reply["reason"]), reply["missing"])
    assert outcomes == {
        "unknown scripts": ("refused", True, []),
        "an unknown group": ("refused", True, []),
        "an unknown need": ("refused", True, []),
        "an input that is not there": ("inputs_missing", False, ["0" * 64]),
    }


def test_what_is_refused_stays_refused(bench: Bench) -> None:
    """Also what was sent before it and comes later; a cancel is always welcome, and so is whatever is newer."""
    group = bench.code("one-a1", group="big")
    refused = bench.ask({"verb": "plan", "plan": bench.plan(group, serial=5)})[0]
    assert (refused["outcome"], refused["serial"], refused["plan"]) == ("refused", 5, None)
    late = bench.ask({"verb": "plan", "plan": bench.plan(serial=4)})[0]
    assert (late["outcome"], late["serial"], late["reason"]) == ("refused", 5, refused["reason"])
    assert not (bench.work / "runs").exists()
    assert bench.submit(bench.plan(serial=4, cancel=True)) == "accepted"
    assert bench.submit(bench.plan(serial=5)) == "refused"
    assert bench.submit(bench.plan(bench.code("one-a2"), serial=6)) == "accepted"
    assert bench.exit("one-a2")["kind"] == "ok"
    assert list((bench.work / "refusals").iterdir()) == []
    # It goes with the run, and by itself when nobody can be late any more.
    assert bench.submit(bench.plan(bench.code("one-a3", group="big"), serial=7)) == "refused"
    (note,) = (bench.work / "refusals").iterdir()
    bench.ask({"verb": "purge", "run_keys": [], "dry_run": False})
    assert note.exists()
    os.utime(note, (time.time() - 8 * 86400,) * 2)
    bench.ask({"verb": "purge", "run_keys": [], "dry_run": False})
    assert not note.exists()


def test_same_newer_and_another_digest(bench: Bench) -> None:
    first, second = bench.plan(priority=1), bench.plan(priority=2, serial=2)
    assert bench.submit(first) == "accepted"
    assert bench.submit(first) == "same"
    assert bench.submit({**first, "priority": 9}) == "newer"  # equal serial, other content
    assert bench.submit(second) == "accepted"
    late = bench.ask({"verb": "plan", "plan": first})[0]
    assert (late["outcome"], late["plan"]) == ("newer", second)
    other = {**second, "digest": RUN + "1" * 52, "serial": 3}
    assert bench.submit(other) == "refused"
    have = bench.ask({"verb": "have", "run_key": RUN, "digest": other["digest"], "blobs": []})[0]
    assert have["code"] == "key_conflict"
    known = bench.ask({"verb": "have", "run_key": RUN, "digest": DIGEST, "blobs": [["0" * 64, 1]]})[0]
    assert known["known"] == {"plan": second}
    assert known["missing"] == [["0" * 64, 0]]


def test_foreign_installation(bench: Bench) -> None:
    bench.ask()
    host = json.loads((bench.work / "host.json").read_text())
    with pytest.raises(HostRefused) as caught:
        bench.new_host("installation-2").ask([{"verb": "plan", "plan": bench.plan(bench.traced("one-a1"))}])
    assert caught.value.code == "foreign_installation"
    assert "work_dir" in caught.value.hint
    assert json.loads((bench.work / "host.json").read_text()) == host
    assert not (bench.work / "runs").exists()


def test_numbers_grow_and_the_work_id_stays(bench: Bench) -> None:
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: bench.host.ask([]), range(6)))
    assert sorted(answer.seq for answer in answers) == list(range(1, 7))
    assert len({answer.work_id for answer in answers}) == 1
    assert abs(answers[0].clock_skew_s) < 5
    if sys.platform == "linux":
        assert answers[0].boot_id == Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    shutil.rmtree(bench.work)
    assert bench.new_host().ask([]).work_id != answers[0].work_id


def test_a_busy_host_says_so(bench: Bench) -> None:
    from agent.locks import Lock

    bench.ask()
    with Lock(bench.work / "agent.lock") as lock:
        assert lock.acquire(5.0)
        started = time.monotonic()
        with pytest.raises(TemporaryProblem):
            bench.new_host(timeout_s=2.0).ask([])
        assert time.monotonic() - started < 10


def test_a_work_directory_that_cannot_be_written(bench: Bench) -> None:
    bench.ask()
    (bench.work / "seq").unlink()
    (bench.work / "seq").mkdir()  # as root nothing is read-only; a folder in the way is what fails for all
    with pytest.raises(TemporaryProblem):
        bench.ask()


def test_a_broken_plan_stops_no_other_run(bench: Bench) -> None:
    bench.submit(bench.plan(run="ba9876543210"))
    (bench.work / "runs" / "ba9876543210" / "plan.json").write_bytes(b"\0\0\0")
    bench.submit(bench.plan(bench.traced("one-a1")))
    assert bench.exit("one-a1")["kind"] == "ok"
    answer = bench.host.ask([{"verb": "report", "runs": ["ba9876543210"]}, {"verb": "report", "runs": [RUN]}])
    assert "ba9876543210" in answer.probe["queue"]["message"]
    assert answer.replies[0]["code"] == "internal"
    assert answer.replies[1]["ok"]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
PLAN_KEYS = ["format", "run_key", "digest", "serial", "scripts", "priority", "held", "cancel", "inputs", "jobs"]


@given(key=st.sampled_from(PLAN_KEYS), value=JSON)
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_nonsense_in_a_plan_is_refused_and_nothing_worse(key: str, value: Any) -> None:
    from agent import plans
    from agent.problems import Refused

    plan: dict[str, Any] = {"format": 1, "run_key": RUN, "digest": DIGEST, "serial": 1, "scripts": "0" * 32}
    plan |= {"priority": 0, "held": False, "cancel": False, "inputs": [], "jobs": [], key: value}
    try:
        plans.check(plan)
    except Refused:
        return


@given(value=JSON)
@settings(max_examples=200, deadline=None)
def test_any_nonsense_as_settings_is_refused_and_nothing_worse(value: Any) -> None:
    from agent.problems import Refused
    from agent.settings import parse_settings

    for raw in (value, {"queue": value}, {"queue": {"groups": value}}, {"queue": {"groups": []}, "environment": value}):
        try:
            parse_settings(raw)
        except Refused:
            pass


def test_collection_keeps_what_is_used_announced_or_young(bench: Bench) -> None:
    used, announced, young, old = (bench.put(word.encode(), word) for word in ("used", "announced", "young", "old"))
    bench.submit(bench.plan(inputs=[{"n": "000001", "path": "x", "size": 4, "sha256": used}]))
    bench.ask({"verb": "have", "run_key": "ba9876543210", "digest": "0" * 64, "blobs": [[announced, 9], [young, 5]]})
    part = bench.work / "store" / "part" / sha256(b"begun")
    part.write_bytes(b"beg")
    for digest in (used, announced, old):
        os.utime(blob(bench, digest), (time.time() - 2 * 86400,) * 2)
    assert bench.ask({"verb": "purge", "run_keys": [], "dry_run": True})[0]["bytes"] == 0
    assert blob(bench, old).exists()
    reply = bench.ask({"verb": "purge", "run_keys": [], "dry_run": False})[0]
    assert reply == {"ok": True, "purged": [], "bytes": 3, "refused": []}
    assert [blob(bench, one).exists() for one in (used, announced, young, old)] == [True, True, True, False]
    assert part.exists()
    # The plan's own links keep its inputs; its pin goes when the plan comes.
    assert not (bench.work / "pins" / f"{RUN}.json").exists()
    assert (bench.work / "pins" / "ba9876543210.json").exists()
    os.utime(part, (time.time() - 30 * 86400,) * 2)
    bench.ask({"verb": "purge", "run_keys": ["ba9876543210"], "dry_run": False})
    assert not part.exists()
    assert not (bench.work / "pins" / "ba9876543210.json").exists()
    assert not blob(bench, announced).exists()


def blob(bench: Bench, digest: str) -> Path:
    return bench.work / "store" / digest[:2] / digest


def test_release_purge_and_what_a_receipt_answers(bench: Bench) -> None:
    digest = bench.put(b"data")
    inputs = [{"n": "000001", "path": "x", "size": 4, "sha256": digest}]
    plan = bench.plan(bench.code("one-a1", "write('r', '1')", outputs=["r"]), inputs=inputs)
    with bench.no_runner():
        bench.submit(plan)
        assert inventory(bench) == {RUN: "active"}
        assert bench.ask({"verb": "release", "run_key": RUN, "serial": 9})[0]["code"] == "not_ended"
        refused = bench.ask({"verb": "purge", "run_keys": [RUN], "dry_run": False})[0]
        assert refused["purged"] == []
        assert refused["refused"][0][0] == RUN
    bench.report()
    exit_ = bench.exit("one-a1")
    assert inventory(bench) == {RUN: "ended"}
    # It arrives late: the control PC has released an older plan, and these results are not fetched.
    assert bench.ask({"verb": "release", "run_key": RUN, "serial": 0})[0]["code"] == "newer_plan"
    assert bench.ask({"verb": "purge", "run_keys": [RUN], "dry_run": False})[0]["purged"] == []
    assert bench.ask({"verb": "release", "run_key": RUN, "serial": 9})[0]["ok"]
    assert bench.ask({"verb": "release", "run_key": RUN, "serial": 9})[0]["ok"]
    assert bench.ask({"verb": "release", "run_key": "ba9876543210", "serial": 9})[0]["code"] == "unknown_run"
    assert inventory(bench) == {RUN: "released"}
    assert bench.ask({"verb": "purge", "run_keys": [RUN], "dry_run": True})[0]["purged"] == [RUN]
    assert bench.job("one-a1").exists()
    purged = bench.ask({"verb": "purge", "run_keys": [RUN], "dry_run": False})[0]
    assert purged["purged"] == [RUN]
    assert purged["bytes"] > 0
    assert not (bench.work / "runs" / RUN).exists()
    assert inventory(bench) == {RUN: "receipt"}
    # A late request, and a new database, hear what became of the run.
    late = bench.ask({"verb": "plan", "plan": plan})[0]
    assert late["outcome"] == "receipt"
    assert late["receipt"]["jobs"] == {f"{RUN}.one-a1": exit_}
    known = bench.ask({"verb": "have", "run_key": RUN, "digest": DIGEST, "blobs": []})[0]["known"]
    assert known["receipt"]["outputs"] == {f"{RUN}.one-a1": exit_["outputs"]}
    report = bench.ask({"verb": "report", "runs": [RUN]})[0]["runs"][RUN]
    assert (report["released"], report["receipt"]["serial"], report["jobs"]) == (True, 1, {})
    assert bench.ask({"verb": "plan", "plan": {**plan, "digest": RUN + "1" * 52}})[0]["outcome"] == "refused"
    # A retry is welcome, but no job key has a second life.
    assert bench.submit({**plan, "serial": 2}) == "refused"
    again = bench.plan(bench.traced("one-a2"), inputs=inputs, serial=3)
    assert bench.submit(again) == "accepted"
    assert bench.exit("one-a2")["kind"] == "ok"
    bench.ask({"verb": "release", "run_key": RUN, "serial": 9}, {"verb": "purge", "run_keys": [RUN], "dry_run": False})
    receipt = json.loads((bench.work / "receipts" / f"{RUN}.json").read_text())
    assert set(receipt["jobs"]) == {f"{RUN}.one-a1", f"{RUN}.one-a2"}


def test_no_plan_goes_back_to_an_earlier_attempt(bench: Bench) -> None:
    """A database that was restored from a backup does not know of the later one."""
    later = bench.plan(bench.traced("one-a2"), held=True, serial=2)
    assert bench.submit(later) == "accepted"
    for changed in ({"held": False}, {"cancel": True}):
        reply = bench.ask({"verb": "plan", "plan": bench.plan(bench.traced("one-a1"), serial=9, **changed)})[0]
        assert (reply["outcome"], reply["plan"]) == ("newer", later)
    # The same attempt under a higher serial, and another job's first attempt, are wishes like any other.
    assert bench.submit({**later, "serial": 10, "held": False}) == "accepted"
    assert bench.exit("one-a2")["kind"] == "ok"
    assert bench.submit(bench.plan(bench.traced("one-a2"), bench.traced("two-a1", "one-a2"), serial=11)) == "accepted"
    assert bench.exit("two-a1")["kind"] == "ok"


def inventory(bench: Bench) -> dict[str, str]:
    return {run["run_key"]: run["state"] for run in bench.ask({"verb": "inventory"})[0]["runs"]}


def test_a_released_run_is_not_fed_until_a_newer_plan(bench: Bench) -> None:
    bench.submit(bench.plan(bench.code("one-a1", "sys.exit(1)"), bench.traced("two-a1", "one-a1")))
    bench.exit("one-a1")
    assert bench.ask({"verb": "release", "run_key": RUN, "serial": 9})[0]["ok"]  # nothing of it can move any more
    assert bench.submit(bench.plan(bench.traced("one-a2"), serial=2)) == "accepted"
    assert bench.exit("one-a2")["kind"] == "ok"
    assert inventory(bench) == {RUN: "ended"}


def test_a_purge_that_was_killed_is_finished_by_the_next(bench: Bench) -> None:
    bench.submit(bench.plan())
    bench.ask({"verb": "release", "run_key": RUN, "serial": 9})
    (bench.work / "runs" / RUN).rename(bench.work / "runs" / f".purged.{RUN}.00000000")
    assert inventory(bench) == {RUN: "receipt"}
    bench.ask({"verb": "purge", "run_keys": [RUN], "dry_run": False})
    assert list((bench.work / "runs").iterdir()) == []


def test_a_job_with_closed_folders_can_be_purged(bench: Bench) -> None:
    bench.submit(bench.plan(bench.shell("one-a1", "mkdir -p a/b; echo 1 >a/b/c; chmod 500 a/b a")))
    assert bench.exit("one-a1")["kind"] == "ok"
    bench.ask({"verb": "release", "run_key": RUN, "serial": 9})
    assert bench.ask({"verb": "purge", "run_keys": [RUN], "dry_run": False})[0]["purged"] == [RUN]
    assert not bench.job("one-a1").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux moves a file's bytes by itself")
def test_outputs_from_a_file_system_that_cannot_move_bytes_by_itself(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.submit(bench.plan(bench.code("one-a1", "open('big', 'wb').write(bytes(range(200)) * 1000)")))
    bench.exit("one-a1")
    listed = bench.ask({"verb": "outputs", "jobs": [f"{RUN}.one-a1"]})[0]["jobs"][f"{RUN}.one-a1"]["files"]
    (big,) = (one for one in listed if one["path"] == "big")
    wanted = results.Wanted({"job_key": f"{RUN}.one-a1", "offset": 5, **big})
    asked = []

    def refuse(*words: int) -> int:
        asked.append(words)
        raise OSError(errno.EINVAL, "not here")

    monkeypatch.setattr(os, "sendfile", refuse)
    with (tmp_path / "stream").open("wb") as stream:
        results.send(Work(str(bench.work)), [wanted], stream)
    assert asked
    assert (tmp_path / "stream").read_bytes().partition(b"MQI B 199995\n")[2] == (bytes(range(200)) * 1000)[5:]
