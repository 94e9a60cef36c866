"""The agent's pure decisions, as tables."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from agent import command, names
from agent.feed import Candidate, choose
from agent.gpus import _parse_cards
from agent.problems import Refused
from agent.queues import Task
from agent.results import _whole_characters
from agent.settings import parse_settings
from agent.survey import Facts, Standing, count_absence, judge
from hypothesis import given
from hypothesis import strategies as st

RUN = "0123456789ab"
TASK = Task("k", "cpu", "k", 0, False)
CLAIM = {"boot_id": "b1"}


def facts(**changes: Any) -> Facts:
    plain = Facts(None, False, None, False, False, True, None, None, "b1")
    return plain._replace(**changes)


@pytest.mark.parametrize(
    ("seen", "held", "expected"),
    [
        pytest.param(facts(), False, Standing("waiting"), id="nothing has become of it"),
        pytest.param(facts(), True, Standing("held"), id="held"),
        pytest.param(facts(task=TASK), False, Standing("queued"), id="in the queue"),
        pytest.param(facts(listed=False), False, Standing("waiting", unknown=True), id="the queue is silent"),
        pytest.param(facts(tombstone=True), False, Standing("cancelled"), id="must not start"),
        pytest.param(facts(tombstone=True, task=TASK), False, Standing("cancelled"), id="a tombstone beats a task"),
        pytest.param(facts(exit={"kind": "ok"}, task=TASK), False, Standing("ended"), id="an exit beats the queue"),
        pytest.param(
            facts(claim=CLAIM, locked=True, wrapper=True, task=TASK), True, Standing("running"), id="runs; hold is late"
        ),
        pytest.param(
            facts(claim=CLAIM, locked=True, wrapper=True), False, Standing("running", orphan=True), id="queue forgot it"
        ),
        pytest.param(
            facts(claim=CLAIM, locked=True, task=TASK), False, Standing("running", orphan=True), id="wrapper is dead"
        ),
        pytest.param(
            facts(claim=CLAIM, locked=True, wrapper=True, listed=False),
            False,
            Standing("running", unknown=True),
            id="runs, queue silent: nothing is known of orphanhood",
        ),
        pytest.param(
            facts(claim=CLAIM, locked=True, boot_id="b2", task=TASK),
            False,
            Standing("running", orphan=True),
            id="a held lock is life, whatever the boot id says",
        ),
        pytest.param(facts(claim=CLAIM), False, Standing("missing", nowhere=True), id="nowhere: counted"),
        pytest.param(facts(claim=CLAIM, task=TASK), False, Standing("missing"), id="the queue still shows it"),
        pytest.param(
            facts(claim=CLAIM, listed=False), False, Standing("missing", unknown=True), id="silence is not counted"
        ),
        pytest.param(
            facts(claim=CLAIM, boot_id="b2"), False, Standing("lost", nowhere=True), id="another boot: lost at once"
        ),
        pytest.param(
            facts(claim=CLAIM, boot_id="b2", listed=False),
            False,
            Standing("lost", nowhere=True),
            id="another boot, queue silent: no process survives a boot",
        ),
        pytest.param(
            facts(claim=CLAIM, boot_id=""), False, Standing("missing", nowhere=True), id="no boot id, no hurry"
        ),
        pytest.param(
            facts(claim=CLAIM, tombstone=True), False, Standing("cancelled"), id="killed after a cancel: cancelled"
        ),
        pytest.param(
            facts(claim=CLAIM, tombstone=True, missing={"lost": True}), False, Standing("lost"), id="lost stays lost"
        ),
    ],
)
def test_judge(seen: Facts, held: bool, expected: Standing) -> None:
    assert judge(seen, held) == expected


SETTINGS = parse_settings({"queue": {"groups": []}, "lost_listings": 3, "lost_after_s": 120})


@pytest.mark.parametrize(
    ("times", "lost_at"),
    [
        pytest.param([0, 60, 120], 120, id="three listings over two minutes"),
        pytest.param([0, 1, 2, 3, 119, 119.9, 121], 121, id="many listings, too short a time"),
        pytest.param([0, 500], None, id="two are too few, however far apart"),
        pytest.param([1000, 1100, 0, 60, 120], 120, id="a clock that was set back starts anew"),
        pytest.param([0, 100000, 100001], 100001, id="a clock that was set forward does not make it earlier"),
    ],
)
def test_count_absence(times: list[float], lost_at: float | None) -> None:
    record: dict[str, Any] | None = None
    lost = []
    for now in times:
        record = count_absence(record, SETTINGS, now)
        lost.append(now) if record["lost"] else None
    assert (lost[0] if lost else None) == lost_at


def candidate(key: str, priority: int = 0, order: int = 0, group: str = "cpu") -> Candidate:
    return Candidate(key, group, priority, order)


def task(key: str, priority: int = 0, group: str = "cpu", running: bool = False) -> Task:
    return Task(key, group, key, priority, running)


@pytest.mark.parametrize(
    ("candidates", "tasks", "withdrawn", "added"),
    [
        pytest.param([], [], [], [], id="nothing to do"),
        pytest.param([candidate("a"), candidate("b"), candidate("c")], [], [], ["a", "b"], id="up to the limit"),
        pytest.param([candidate("a", order=2), candidate("b", order=1)], [], [], ["b", "a"], id="older runs first"),
        pytest.param([candidate("a"), candidate("b")], [task("a")], [], ["b"], id="what is there stays"),
        pytest.param([], [task("a")], ["a"], [], id="held, cancelled or unknown: withdrawn"),
        pytest.param([], [task("a", running=True)], [], [], id="what has started is left alone"),
        pytest.param([candidate("a")], [task("a", running=True)], [], [], id="a task that starts this moment is not added"),
        pytest.param(
            [candidate("a", order=1), candidate("b", order=2), candidate("c", 1)],
            [task("a"), task("b")],
            ["b"],
            ["c"],
            id="the urgent displaces the last",
        ),
        pytest.param([candidate("a", 3)], [task("a", 1)], ["a"], ["a"], id="another priority: anew"),
        pytest.param(
            [candidate("a", group="gpu")], [task("a", group="cpu")], ["a"], ["a"], id="another group: anew"
        ),
        pytest.param(
            [candidate("a"), candidate("b"), candidate("c", group="gpu")],
            [task("x", running=True)],
            [],
            ["a", "b", "c"],
            id="each group has its own limit, and running jobs do not count",
        ),
    ],
)
def test_choose(candidates: list[Candidate], tasks: list[Task], withdrawn: list[str], added: list[str]) -> None:
    result = choose(candidates, tasks, 2)
    assert (result[0], [one.job_key for one in result[1]]) == (withdrawn, added)


KEYS = st.sampled_from([f"j{number}" for number in range(8)])
CANDIDATES = st.dictionaries(KEYS, st.tuples(st.integers(-1, 1), st.integers(0, 3), st.sampled_from(["cpu", "gpu"])))
TASKS = st.dictionaries(KEYS, st.tuples(st.integers(-1, 1), st.sampled_from(["cpu", "gpu"]), st.booleans()))


SLOTS = st.none() | st.fixed_dictionaries({"cpu": st.integers(1, 3), "gpu": st.integers(1, 3)})


@given(wanted=CANDIDATES, there=TASKS, limit=st.integers(1, 4), slots=SLOTS)
def test_choose_settles(
    wanted: dict[str, Any], there: dict[str, Any], limit: int, slots: dict[str, int] | None
) -> None:
    """After one application there is nothing left to do, no group is over its limit, and no job is there twice."""
    candidates = [Candidate(key, group, priority, order) for key, (priority, order, group) in wanted.items()]
    tasks = [Task(key, group, key, priority, running) for key, (priority, group, running) in there.items()]
    withdrawn, added = choose(candidates, tasks, limit, slots)
    assert not {one.job_key for one in tasks if one.running} & (set(withdrawn) | {one.job_key for one in added})
    after = [one for one in tasks if one.job_key not in withdrawn]
    after += [Task(one.job_key, one.group, one.job_key, one.priority, False) for one in added]
    assert len({one.job_key for one in after}) == len(after)
    for group in ("cpu", "gpu"):
        assert sum(one.group == group and not one.running for one in after) <= limit
        running = sum(one.group == group and one.running for one in after)
        if slots is not None:
            # Where more run than there are slots now, nothing waits; nobody is sent away who has started.
            assert sum(one.group == group for one in after) <= max(running, slots[group])
    assert choose(candidates, after, limit, slots) == ([], [])


def job(**changes: Any) -> dict[str, Any]:
    plain: dict[str, Any] = {"argv": [], "beam": None, "needs": [], "parameters": {}}
    return plain | changes


PATHS = dict.fromkeys(("python", "scripts", "inputs", "input_dir", "out", "parameters", "files", "needs"), "/p")


@pytest.mark.parametrize(
    ("one", "expected"),
    [
        pytest.param(job(argv=["{python}", "{scripts}/x.py"]), ["/p", "/p/x.py"], id="paths, also within a word"),
        pytest.param(job(argv=['{"a": "{b}"}'], parameters={"b": 1}), ['{"a": "1"}'], id="JSON braces stay"),
        pytest.param(job(argv=["{beam}"], beam=3), ["3"], id="the beam"),
        pytest.param(job(argv=["{a}"], parameters={"a": "{python}"}), ["{python}"], id="values are not expanded again"),
        pytest.param(
            job(argv=["{outputs.sim}"], beam=2, needs=[f"{RUN}.sim.b1-a1", f"{RUN}.sim.b2-a4"]),
            [f"/out/{RUN}.sim.b2-a4"],
            id="the same beam's outputs",
        ),
        pytest.param(
            job(argv=["{outputs.prep}"], beam=2, needs=[f"{RUN}.prep-a2"]), [f"/out/{RUN}.prep-a2"], id="the case's outputs"
        ),
    ],
)
def test_command_line(one: dict[str, Any], expected: list[str]) -> None:
    out_of = {key: f"/out/{key}" for key in one["needs"]}
    assert command.unknown_placeholders(one) == []
    assert command.command_line(one, PATHS, out_of) == expected


@pytest.mark.parametrize(
    ("one", "unknown"),
    [
        pytest.param(job(argv=["{beam}", "{x}"]), ["beam", "x"], id="no beam, no such parameter"),
        pytest.param(job(argv=["{a}"], parameters={"a": [1]}), ["a"], id="a list is no word"),
        pytest.param(
            job(argv=["{outputs.sim}"], needs=[f"{RUN}.sim.b1-a1"]), ["outputs.sim"], id="a case step and many beams"
        ),
    ],
)
def test_unknown_placeholders(one: dict[str, Any], unknown: list[str]) -> None:
    assert command.unknown_placeholders(one) == unknown


def test_needs_table() -> None:
    keys = [f"{RUN}.prep-a2", f"{RUN}.sim.b1-a1", f"{RUN}.sim.b10-a1"]
    table = command.needs_table(job(needs=keys), {key: f"/out/{key}" for key in keys})
    assert table == {
        "prep": {"": f"/out/{keys[0]}"},
        "sim": {"1": f"/out/{keys[1]}", "10": f"/out/{keys[2]}"},
    }


@pytest.mark.parametrize(
    ("windows", "inherited", "expected"),
    [
        pytest.param(False, {"SSH_TTY": "x"}, {"PATH", "HOME", "LANG", "TMPDIR", "PYTHONUTF8", "A", "B"}, id="posix"),
        pytest.param(True, {"Path": "x", "SystemRoot": "y", "OneDrive": "z"}, {"PATH", "SYSTEMROOT", "PYTHONUTF8", "A", "B"}, id="windows"),
    ],
)
def test_environment(windows: bool, inherited: dict[str, str], expected: set[str]) -> None:
    table = command.environment(inherited, {"A": "site", "B": "site"}, {"B": "own"}, windows)
    assert set(table) == expected
    assert (table["A"], table["B"]) == ("site", "own")


@given(st.text(max_size=30), st.integers(0, 40))
def test_log_pieces_never_end_within_a_character(text: str, cut: int) -> None:
    data = text.encode("utf-8", "ignore")
    piece = data[:cut]
    whole = piece[: _whole_characters(piece)]
    assert piece.startswith(whole)
    if whole:
        whole.decode("utf-8")


def test_log_that_is_no_utf8_still_moves_on() -> None:
    for data in (b"\xff\xff\xff\xff", b"a\xff\xfe\xf0", b"\xf0\xf0\xf0\xf0", b"\x80\x80\x80\x80\x80"):
        assert _whole_characters(data) > 0


@given(st.text())
def test_relative_paths_stay_below(path: str) -> None:
    try:
        names.relative_path(path)
    except Refused:
        return
    base = Path("/base").resolve()
    assert (base / path).resolve().is_relative_to(base)
    assert path


@given(st.from_regex(r"\A[0-9a-f]{12}\.[a-z][a-z0-9_]{0,5}(\.b[1-9][0-9]{0,3})?-a[1-9]\Z"))
def test_job_keys_survive(key: str) -> None:
    parsed = names.parse_job_key(key)
    beam = "" if parsed.beam is None else f".b{parsed.beam}"
    assert f"{parsed.run_key}.{parsed.step}{beam}-a{parsed.attempt}" == key


def test_nvidia_smi_with_holes() -> None:
    text = "GPU-1, NVIDIA H200, 143771, 10, [N/A], 33\ngarbage\n\nGPU-2, x, y\n"
    assert _parse_cards(text) == [
        {
            "uuid": "GPU-1",
            "index": None,
            "name": "NVIDIA H200",
            "memory_total_mb": 143771.0,
            "memory_used_mb": 10.0,
            "utilisation": None,
            "temperature": 33.0,
            "processes": 0,
        }
    ]


def test_a_job_that_ends_while_we_look_is_ended(tmp_path: Path) -> None:
    """The exit file appears after we looked for it and before we look at the lock: it is looked for again."""
    from agent.survey import examine
    from agent.work import JobPaths

    paths = JobPaths(tmp_path, f"{RUN}.one-a1")
    paths.claim.mkdir()
    paths.claim_info.write_text('{"boot_id": "b1", "wrapper": {"pid": 1, "start": "1"}}')
    paths.lock.touch()
    active = True

    def end_now(event: str, _: tuple[Any, ...]) -> None:
        nonlocal active
        if active and event in ("fcntl.flock", "msvcrt.locking"):
            active = False
            paths.exit.write_text('{"kind": "ok"}')

    sys.addaudithook(end_now)
    seen = examine(paths, {}, "b1")
    assert not active
    assert judge(seen, held=False) == Standing("ended")
