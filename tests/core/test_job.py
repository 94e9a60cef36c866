"""What reports and retries mean for jobs."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mqi.job import (
    ENDED,
    Job,
    JobState,
    can_move,
    case_progress,
    choose_attempts,
    current_step,
    job_key,
    observe,
    parse_job_key,
    wants_another_attempt,
)
from mqi.workflow import JobPlan, Step, Workflow

RUN = "0123456789ab"


def job(step: str = "moquisim", beam: int | None = 2, attempt: int = 1, **changes: Any) -> Job:
    base = Job(job_key(RUN, step, beam, attempt), 1, step, beam, attempt, JobState.PLANNED, "d" * 64)
    return base._replace(**changes)


@given(st.sampled_from(["interpreter", "a", "x_1"]), st.none() | st.integers(0, 9999), st.integers(1, 999))
def test_a_job_key_reads_back(step: str, beam: int | None, attempt: int) -> None:
    assert parse_job_key(job_key(RUN, step, beam, attempt)) == (RUN, step, beam, attempt)


@pytest.mark.parametrize(
    "text",
    [
        "",
        RUN,
        f"{RUN}.x",
        f"{RUN}.x-a0",
        f"{RUN}.X-a1",
        f"{RUN}.x.b-a1",
        f"../{RUN}.x-a1",
        f"{RUN}.x-a1\n",
        f"{RUN[:-1]}.x-a1",
    ],
)
def test_what_is_no_job_key_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a job key"):
        parse_job_key(text)


EXIT_OK = {"kind": "ok", "code": 0, "started_at": 10.0, "ended_at": 20.0, "outputs": "f" * 64, "gpu": "GPU-1"}
EXIT_3 = {"kind": "failed", "code": 3, "message": "range is off", "started_at": 10.0, "ended_at": 20.0}

REPORTS = [
    # report, state, part of the reason, remark
    (None, JobState.PLANNED, "", "a host that says nothing about a job changes nothing"),
    ({"state": "waiting"}, JobState.WAITING, "", ""),
    ({"state": "held"}, JobState.HELD, "", ""),
    ({"state": "queued", "queue_id": 7}, JobState.QUEUED, "", ""),
    ({"state": "running", "started_at": 5.0}, JobState.RUNNING, "", ""),
    ({"state": "running", "orphan": True}, JobState.RUNNING, "forgot it", "an orphan runs"),
    ({"state": "missing"}, JobState.RUNNING, "makes sure", "missing is not lost"),
    ({"state": "lost"}, JobState.LOST, "vanished", ""),
    ({"state": "queued", "unknown": True}, JobState.QUEUED, "does not answer", "silence is no answer"),
    ({"state": "cancelled"}, JobState.CANCELLED, "", "tombstoned before it started"),
    ({"state": "ended", "exit": EXIT_OK}, JobState.DONE, "", ""),
    ({"state": "ended", "exit": EXIT_3}, JobState.FAILED, "range is off", ""),
    (
        {"state": "ended", "exit": {"kind": "cancelled", "code": -15}},
        JobState.CANCELLED,
        "",
        "killed by cancel",
    ),
    (
        {"state": "ended", "exit": {"kind": "missing_output", "code": 0}},
        JobState.FAILED,
        "",
        "exit 0 is not enough",
    ),
    ({"state": "ended"}, JobState.FAILED, "", "an end without an exit file is never good"),
    ({"state": "a word from the future"}, JobState.PLANNED, "", "an unknown word changes nothing"),
]


@pytest.mark.parametrize(("report", "state", "reason", "remark"), REPORTS)
def test_observe(report: dict[str, Any] | None, state: JobState, reason: str, remark: str) -> None:
    seen = observe(job(), report)
    assert seen.state is state, remark
    assert reason in seen.reason


@pytest.mark.parametrize("state", [JobState.DONE, JobState.FAILED, JobState.CANCELLED])
def test_an_ended_job_never_changes_again(state: JobState) -> None:
    ended = job(state=state)
    assert observe(ended, {"state": "running"}) is ended
    assert observe(ended, {"state": "ended", "exit": EXIT_OK}) is ended


def test_a_lost_job_that_ended_after_all_is_believed() -> None:
    # Its exit file is better evidence than its absence was.
    assert observe(job(state=JobState.LOST), {"state": "ended", "exit": EXIT_OK}).state is JobState.DONE


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False) | st.just("half") | st.none(), max_size=10))
def test_progress_never_goes_backwards_and_stays_in_range(fractions: list[Any]) -> None:
    seen = job()
    for fraction in fractions:
        after = observe(seen, {"state": "running", "progress": {"fraction": fraction, "message": "x"}})
        assert seen.progress <= after.progress <= 1.0
        seen = after


WORKFLOW = Workflow("w", (Step("s", ("x",), transient_exit_codes=frozenset({75}), max_attempts=3),))


@pytest.mark.parametrize(
    ("state", "kind", "code", "attempt", "expected", "remark"),
    [
        (JobState.LOST, "", None, 1, True, "lost jobs run again"),
        (JobState.LOST, "", None, 3, False, "but not for ever"),
        (JobState.FAILED, "failed", 75, 2, True, "a transient exit"),
        (JobState.FAILED, "failed", 3, 1, False, "any other exit needs an operator"),
        (JobState.FAILED, "timeout", 75, 1, False, "a time-out is no exit code of the step"),
        (JobState.FAILED, "missing_output", 0, 1, False, "nor is a missing output"),
        (JobState.CANCELLED, "cancelled", 75, 1, False, "an operator's word stands"),
        (JobState.DONE, "ok", 0, 1, False, ""),
        (JobState.RUNNING, "", None, 1, False, ""),
    ],
)
def test_wants_another_attempt(
    state: JobState, kind: str, code: int | None, attempt: int, expected: bool, remark: str
) -> None:
    candidate = job("s", None, attempt, state=state, exit_kind=kind, exit_code=code)
    assert wants_another_attempt(candidate, WORKFLOW) is expected, remark


NEEDS = {("b", 2): [("a", None)], ("b", 3): [("a", None)], ("c", None): [("b", 2), ("b", 3)]}


@pytest.mark.parametrize(
    ("states", "expected", "remark"),
    [
        ("done done done done", False, "all good"),
        ("done done running planned", True, ""),
        ("failed waiting waiting waiting", False, "all the rest waits in vain"),
        ("done failed waiting waiting", True, "the other beam may still run"),
        ("done failed done waiting", False, "the report needs both beams"),
        ("lost waiting waiting waiting", False, "a lost job that gets no next attempt"),
        ("planned planned planned planned", True, ""),
    ],
)
def test_can_move(states: str, expected: bool, remark: str) -> None:
    slots = [("a", None), ("b", 2), ("b", 3), ("c", None)]
    jobs = [job(s, b, state=JobState(state)) for (s, b), state in zip(slots, states.split(), strict=True)]
    assert can_move(jobs, NEEDS) is expected, remark


def test_progress_of_a_case_leaves_room_for_the_way_home() -> None:
    assert case_progress([]) == 0.0
    assert case_progress([job(progress=1.0), job(beam=3, progress=0.5)]) == pytest.approx(71.2, abs=0.1)
    assert case_progress([job(progress=1.0)]) == 95.0


def test_current_step_is_what_runs_then_what_comes() -> None:
    jobs = [
        job("a", None, state=JobState.DONE),
        job("b", 2, state=JobState.WAITING),
        job("b", 3, state=JobState.RUNNING),
    ]
    assert current_step(jobs) == "b"
    assert current_step(jobs[:1]) == "a"
    assert current_step([]) == ""


EXPANSION = (
    JobPlan("a", None, "1" * 64, ()),
    JobPlan("b", 2, "2" * 64, (("a", None),)),
    JobPlan("b", 3, "3" * 64, (("a", None),)),
)


def history(**states: str) -> list[Job]:
    slots = {"a": ("a", None, "1"), "b2": ("b", 2, "2"), "b3": ("b", 3, "3")}
    return [
        job(slots[name][0], slots[name][1], state=JobState(state), definition=slots[name][2] * 64)
        for name, state in states.items()
    ]


@pytest.mark.parametrize(
    ("states", "options", "attempts", "remark"),
    [
        ({}, {}, [1, 1, 1], "a new run"),
        ({"a": "done", "b2": "failed", "b3": "done"}, {}, [1, 2, 1], "only what failed"),
        ({"a": "failed", "b2": "waiting", "b3": "waiting"}, {}, [2, 2, 2], "and all that waited for it"),
        (
            {"a": "done", "b2": "done", "b3": "cancelled"},
            {},
            [1, 1, 2],
            "a tombstoned key is never used again",
        ),
        ({"a": "done", "b2": "done", "b3": "done"}, {}, [1, 1, 1], "nothing to do"),
        ({"a": "done", "b2": "done", "b3": "done"}, {"redo_all": True}, [2, 2, 2], "everything"),
        ({"a": "done", "b2": "done", "b3": "done"}, {"from_step": "b"}, [1, 2, 2], "from one step on"),
        ({"a": "done", "b2": "done", "b3": "done"}, {"from_step": "a"}, [2, 2, 2], "and all downstream"),
        (
            {"a": "lost", "b2": "planned", "b3": "planned"},
            {},
            [2, 2, 2],
            "lost for good, retried by a person",
        ),
    ],
)
def test_choose_attempts(
    states: dict[str, str], options: dict[str, Any], attempts: list[int], remark: str
) -> None:
    choices = choose_attempts(EXPANSION, history(**states), **options)
    assert [choice.attempt for choice in choices] == attempts, remark


def test_a_changed_definition_is_redone_with_everything_downstream() -> None:
    changed = (EXPANSION[0]._replace(definition="9" * 64), *EXPANSION[1:])
    choices = choose_attempts(changed, history(a="done", b2="done", b3="done"))
    assert [choice.keep for choice in choices] == [False, False, False]
    assert "changed" in choices[0].why
    assert "a runs again" in choices[1].why


def test_the_newest_attempt_counts() -> None:
    old = [*history(a="failed"), history(a="done")[0]._replace(attempt=2, job_key=job_key(RUN, "a", None, 2))]
    assert choose_attempts(EXPANSION[:1], old)[0].keep


@given(
    st.lists(st.sampled_from(list(JobState)), min_size=3, max_size=3),
    st.sampled_from([None, "a", "b"]),
    st.booleans(),
)
def test_a_kept_job_is_good_and_so_is_all_it_consumes(
    states: list[JobState], from_step: str | None, redo_all: bool
) -> None:
    past = history(a=str(states[0]), b2=str(states[1]), b3=str(states[2]))
    choices = {
        (c.plan.step, c.plan.beam): c
        for c in choose_attempts(EXPANSION, past, from_step=from_step, redo_all=redo_all)
    }
    state = {j.slot: j.state for j in past}
    for slot, choice in choices.items():
        if choice.keep:
            assert state[slot] is JobState.DONE
            assert all(choices[need].keep for need in choice.plan.needs)
        else:
            assert choice.attempt == 2  # never the key of an earlier execution


def test_ended_states_are_the_ones_without_a_way_on() -> None:
    assert set(ENDED) == {JobState.DONE, JobState.FAILED, JobState.LOST, JobState.CANCELLED}
