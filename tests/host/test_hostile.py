"""Hosts that greet, stall, lie, break off and attack."""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from mqi.errors import ConfigurationProblem, HostRefused, HostUnreachable, MqiError, TemporaryProblem
from mqi.host import framing, open_host
from mqi.host.base import Host, RemoteFile
from mqi.resources import remote_scripts
from mqi.settings import HostSettings
from tests.agent.bench import RUN, Bench, sha256

FakeAgent = Callable[[str], None]
OpenHost = Callable[..., Host]

# Reads the request, then sends what the test says in Python: `nonce`, `reply`, `say` and `frame` are at hand.
LIAR = """import json, sys, time
source, output = sys.stdin.buffer, sys.stdout.buffer
length = int(source.readline().split()[2])
request = json.loads(source.read(length))
nonce = request["nonce"]
reply = {"protocol": 1, "nonce": nonce, "work_id": "w", "seq": 1, "now": time.time(), "boot_id": "b",
         "probe": {}, "replies": [{"ok": True} for _ in request["calls"]]}
def say(data):
    output.write(data)
    output.flush()
def frame(kind, value=b""):
    data = value if isinstance(value, bytes) else json.dumps(value).encode()
    say(b"MQI %s %d\\n" % (kind, len(data)) + data)
def begin():
    say(b"MQI-REPLY " + nonce.encode() + b"\\n")
"""


INVENTORY = [{"verb": "inventory"}]


def test_a_talkative_login_is_ignored(bench: Bench, fake_agent: FakeAgent) -> None:
    greeting = "Welcome!\nMQI J 5\nMQI-REPLY 00000000\n"
    agent = remote_scripts() / "agent" / "__main__.py"
    fake_agent(
        f"import runpy, sys\nsys.stdout.write({greeting!r} + 'x' * 300_000 + 'prompt> ')\nsys.stdout.flush()\n"
        f"sys.argv[0] = {str(agent)!r}\nrunpy.run_path(sys.argv[0], run_name='__main__')\n"
    )
    noisy = bench.new_host()
    assert noisy.ask([{"verb": "inventory"}]).replies == [{"ok": True, "runs": []}]


SILENT = {
    "nothing": "",
    "endless talk": 'say(b"x" * 100 + b"\\n") if 0 else [say(b"hello " * 1000 + b"\\n") for _ in range(400)]',
    "an answer to another question": 'say(b"MQI-REPLY 00ff\\n"); frame(b"J", reply)',
    "an answer that breaks off": 'begin(); say(b"MQI J 1000\\n{}")',
    "a header bomb": 'begin(); say(b"MQI J 99999999999999\\n")',
    "a header without an end": 'begin(); say(b"MQI J " + b"9" * 100000)',
    "not JSON": 'begin(); frame(b"J", b"{")',
    "a nesting bomb": 'begin(); frame(b"J", b"[" * 200000)',
    "a list": 'begin(); frame(b"J", [])',
    "an answer without a number": 'begin(); del reply["seq"]; frame(b"J", reply)',
    "a number that is none": 'begin(); reply["seq"] = "1"; frame(b"J", reply)',
    "too few replies": 'begin(); reply["replies"] = []; frame(b"J", reply)',
    "replies that are none": 'begin(); reply["replies"] = [1]; frame(b"J", reply)',
    "another nonce inside": 'begin(); reply["nonce"] = "0"; frame(b"J", reply)',
    "a later protocol": 'begin(); reply["protocol"] = 2; frame(b"J", reply)',
    "bytes before any answer": 'begin(); frame(b"B", b"x")',
    "no end": 'begin(); frame(b"J", reply)',
    "files that nobody asked for": 'begin(); frame(b"J", reply); frame(b"B", b"x"); frame(b"E")',
    "a Python that is too old": 'sys.stderr.write("SyntaxError: invalid syntax"); sys.exit(1)',
}


@pytest.mark.parametrize("script", SILENT.values(), ids=SILENT.keys())
def test_garbage_is_no_answer(a_host: OpenHost, fake_agent: FakeAgent, script: str) -> None:
    fake_agent(LIAR + script)
    with pytest.raises(HostUnreachable) as caught:
        a_host().ask(INVENTORY)
    assert "host h" in str(caught.value)
    assert len(str(caught.value)) < 600


def test_the_last_words_of_the_host_are_told(a_host: OpenHost, fake_agent: FakeAgent) -> None:
    fake_agent(LIAR + SILENT["a Python that is too old"])
    with pytest.raises(HostUnreachable) as caught:
        a_host().ask(INVENTORY)
    assert "SyntaxError" in str(caught.value)
    assert "exit code 1" in str(caught.value)


def test_silence_has_a_time_limit(a_host: OpenHost, fake_agent: FakeAgent) -> None:
    fake_agent(LIAR + "time.sleep(60)")
    started = time.monotonic()
    with pytest.raises(HostUnreachable) as caught:
        a_host(timeout_s=0.5).ask(INVENTORY)
    assert time.monotonic() - started < 10
    assert "in time" in str(caught.value)


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("foreign_installation", HostRefused),
        ("bad_request", HostRefused),
        ("a word from the future", HostRefused),
        ("lock_timeout", TemporaryProblem),
        ("work_dir", TemporaryProblem),
        ("internal", TemporaryProblem),
    ],
)
def test_refusals(a_host: OpenHost, fake_agent: FakeAgent, code: str, kind: type[MqiError]) -> None:
    said = {"code": code, "message": "no", "hint": "do this"}
    fake_agent(f'{LIAR}begin(); frame(b"X", {said})')
    with pytest.raises(kind) as caught:
        a_host().ask(INVENTORY)
    assert (str(caught.value), caught.value.hint) == ("host h: no", "do this")
    assert not isinstance(caught.value, HostUnreachable)


def test_a_python_that_is_not_there(a_host: OpenHost) -> None:
    with pytest.raises((ConfigurationProblem, HostRefused)) as caught:
        a_host(python="/no/such/python").ask(INVENTORY)
    assert caught.value.exit_code == 78
    assert "python" in caught.value.hint


def test_a_type_that_there_is_not(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationProblem):
        open_host(HostSettings("h", type="carrier pigeon", work_dir=str(tmp_path)), "i")


GOOD = b"0123456789"
LIES = {
    "other bytes": ('frame(b"J", {"index": 0}); frame(b"B", b"x" * 10); frame(b"E")', "failed"),
    "an error": ('frame(b"J", {"index": 0, "error": "gone"}); frame(b"E")', "failed"),
    "a longer file": ('frame(b"J", {"index": 0}); frame(b"B", b"0123456789+"); frame(b"E")', "silence"),
    "an endless file": ('frame(b"J", {"index": 0}); say(b"MQI B 999999999999\\n"); say(b"x" * 100)', "silence"),
    "a shorter file": ('frame(b"J", {"index": 0}); frame(b"B", b"01234"); frame(b"E")', "silence"),
    "half a file": ('frame(b"J", {"index": 0}); say(b"MQI B 10\\n01234")', "silence"),
    "another file": ('frame(b"J", {"index": 7}); frame(b"B", b"0123456789"); frame(b"E")', "silence"),
    "no file": ('frame(b"E")', "silence"),
    "more files": ('frame(b"J", {"index": 0}); frame(b"B", b"0123456789"); frame(b"J", {"index": 1})', "silence"),
}


@pytest.mark.parametrize(("script", "expected"), LIES.values(), ids=LIES.keys())
def test_lies_in_a_download(
    tmp_path: Path, a_host: OpenHost, fake_agent: FakeAgent, script: str, expected: str
) -> None:
    fake_agent(f'{LIAR}begin(); frame(b"J", reply); {script}')
    host = a_host()
    file = RemoteFile(f"{RUN}.one-a1", "../../evil", 10, sha256(GOOD), tmp_path / "results" / "good")
    if expected == "failed":
        assert host.download([file]).failed[0][0] == file
    else:
        with pytest.raises(HostUnreachable):
            host.download([file])
    if script != LIES["more files"][0]:
        assert not file.target.exists()
    there = [path.name for path in tmp_path.rglob("*") if path.is_file() and "scripts" not in path.parts]
    assert set(there) - {"deploy.lock"} <= {"good", "good.part~"}


def test_a_host_that_stores_what_nobody_sent(tmp_path: Path, a_host: OpenHost, fake_agent: FakeAgent) -> None:
    from mqi.host.base import Blob

    local = tmp_path / "file"
    local.write_bytes(GOOD)
    claim = '{"ok": True, "stored": ["f" * 64], "rejected": [["e" * 64, "x"]]}'
    fake_agent(f'{LIAR}begin(); reply["replies"] = [{claim}]; frame(b"J", reply); frame(b"E")')
    host = a_host()
    outcome = host.upload([(Blob(sha256(GOOD), 10, local), 0)])
    assert (outcome.stored, outcome.rejected) == ((), ())


def test_an_upload_hears_why_the_host_stopped_listening(
    tmp_path: Path, a_host: OpenHost, fake_agent: FakeAgent
) -> None:
    from mqi.host.base import Blob

    local = tmp_path / "file"
    local.write_bytes(bytes(5_000_000))
    said = {"code": "work_dir", "message": "the disk is full", "hint": ""}
    fake_agent(f'{LIAR}begin(); frame(b"X", {said}); output.close(); source.close()')
    host = a_host()
    with pytest.raises(TemporaryProblem) as caught:
        host.upload([(Blob(sha256(bytes(5_000_000)), 5_000_000, local), 0)])
    assert "the disk is full" in str(caught.value)


@given(st.binary(max_size=300))
def test_any_bytes_are_a_frame_or_garbled(data: bytes) -> None:
    stream = io.BytesIO(data)
    try:
        kind, length = framing.read_header(stream)
    except framing.Garbled:
        return
    assert kind in "JBEX"
    assert kind == "B" or length <= framing.MAX_JSON


@given(noise=st.binary(max_size=200), value=st.dictionaries(st.text(), st.integers() | st.text()))
def test_frames_survive_noise(noise: bytes, value: dict[str, object]) -> None:
    assume(b"MQI-REPLY -" not in noise)  # that is how an agent answers a request that it could not read
    stream = io.BytesIO()
    stream.write(noise + b"MQI-REPLY abcdef0123456789\n")
    framing.write_frame(stream, "J", framing.encode(value))
    stream.seek(0)
    framing.skip_noise(stream, "abcdef0123456789")
    kind, length = framing.read_header(stream)
    assert (kind, framing.read_object(stream, length)) == ("J", value)


def test_nobody_sends_a_message_that_is_too_long() -> None:
    with pytest.raises(ValueError, match="too long"):
        framing.encode("x" * (framing.MAX_JSON + 1))
