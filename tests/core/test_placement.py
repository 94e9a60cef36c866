"""Where cases go: room, GPUs, what is to do for each slot, and where the inputs are already."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mqi.case import State
from mqi.policy import GroupView, HostView, choose_submissions, group_views
from mqi.settings import Group
from tests.core.conftest import make_case

NOW = 1000.0
JOBS = {"cpu": 1, "gpu": 2}


def host(name: str, free: int = 9, obstacle: str = "", **groups: GroupView) -> HostView:
    return HostView(name, free, obstacle, groups)


def places(
    count: int, *hosts: HostView, near: tuple[str, ...] = (), jobs: Mapping[str, int] = JOBS
) -> list[str]:
    cases = [make_case(case_id=n, status=State.NEW, ready_at=float(n)) for n in range(1, count + 1)]
    chosen = choose_submissions(cases, hosts, NOW, jobs_of=lambda case: jobs, keeps_inputs=lambda case: near)
    return [place.host or place.reason for place in chosen]


G = GroupView


@pytest.mark.parametrize(
    ("hosts", "near", "expected", "remark"),
    [
        ([host("a", gpu=G(1)), host("b", gpu=G(4))], (), ["b", "b", "a", "b"], "in proportion to the slots"),
        ([host("a", gpu=G(2, 2)), host("b", gpu=G(2, 1))], (), ["b", "a", "b", "a"], "where a slot is free"),
        ([host("a", gpu=G(2)), host("b", gpu=G(2))], ("b",), ["b", "a", "b", "b"], "the inputs are there"),
        ([host("a", gpu=G(2)), host("b", gpu=G(2, 2))], ("b",), ["a", "b", "b", "b"], "not if it waited there"),
        ([host("a", free=1, gpu=G(9)), host("b", gpu=G(1, 50))], (), ["a", "b", "b", "b"], "never beyond max_cases"),
        ([host("a", gpu=G(9, 0, 4)), host("b", gpu=G(1, 50))], (), ["a", "a", "b", "b"], "never beyond max_jobs"),
        ([host("a", gpu=G(1, 0, 1)), host("b", obstacle="silent")], (), ["a"], "a case that is larger than the limit"),
        ([host("a", gpu=G(0, 0, None, "no GPU")), host("b", gpu=G(1))], (), ["b", "b"], "where a GPU can be used"),
    ],
)
def test_where_cases_go(hosts: list[HostView], near: tuple[str, ...], expected: list[str], remark: str) -> None:
    assert places(len(expected), *hosts, near=near) == expected, remark


@pytest.mark.parametrize(
    ("view", "words"),
    [
        (host("a", gpu=G(0, 0, None, "no GPU for the group gpu: GPU-1: 1 process of somebody else")), "host a: no GPU for"),
        (host("a", gpu=G(1, 3, 4)), "host a has as many jobs of the group gpu as it may have"),
        (host("a", obstacle="the door is shut; next try at 12:00:00"), "host a: the door is shut; next try at"),
    ],
)
def test_why_a_case_goes_nowhere(view: HostView, words: str) -> None:
    assert words in places(1, view)[0]


def test_a_case_without_gpu_steps_does_not_wait_for_a_gpu() -> None:
    assert places(1, host("a", cpu=G(1), gpu=G(0, 0, None, "no GPU")), jobs={"cpu": 1}) == ["a"]


NAMES = ("a", "b", "c")
GROUPS = st.builds(
    GroupView, st.integers(0, 4), st.integers(0, 9), st.none() | st.integers(1, 12), st.sampled_from(["", "", "no GPU"])
)
HOSTS = st.lists(
    st.builds(
        HostView,
        st.sampled_from(NAMES),
        st.integers(0, 4),
        st.sampled_from(["", "", "", "silent"]),
        st.fixed_dictionaries({"cpu": GROUPS, "gpu": GROUPS}),
    ),
    max_size=3,
    unique_by=lambda view: view.name,
)
CASES = st.lists(
    st.tuples(
        st.sampled_from(["", "", "", *NAMES, "gone"]),  # a retry is bound to its host
        st.integers(-2, 2),
        st.booleans(),
        st.sampled_from([None, NOW - 1, NOW + 1]),
        st.fixed_dictionaries({"cpu": st.integers(0, 3), "gpu": st.integers(0, 3)}),
    ),
    max_size=12,
)


@given(HOSTS, CASES, st.sets(st.sampled_from(NAMES)))
def test_no_host_gets_more_than_it_may_have_and_no_bound_case_moves(
    hosts: list[HostView], facts: list[Any], near: set[str]
) -> None:
    cases = [
        make_case(case_id=n, status=State.NEW, host=bound, priority=priority, held=held, next_try_at=later, reason="later")
        for n, (bound, priority, held, later, _jobs) in enumerate(facts, start=1)
    ]
    jobs = {n: fact[4] for n, fact in enumerate(facts, start=1)}
    chosen = choose_submissions(
        cases, hosts, NOW, jobs_of=lambda case: jobs[case.case_id], keeps_inputs=lambda case: near
    )
    assert sorted(place.case.case_id for place in chosen) == [case.case_id for case in cases], "each gets an answer"
    for place in chosen:
        assert bool(place.host) != bool(place.reason)
        assert place.host in ("", place.case.host or place.host), "a case stays with its host"
        assert not (place.host and (place.case.held or (place.case.next_try_at or 0) > NOW))
    for view in hosts:
        mine = [place.case.case_id for place in chosen if place.host == view.name]
        assert len(mine) <= view.free
        assert not (mine and view.obstacle)
        for name, group in view.groups.items():
            sizes = [jobs[case_id][name] for case_id in mine]
            assert not (group.obstacle and any(name in jobs[case_id] for case_id in mine))
            if group.limit is not None and mine:
                # Only the first may be larger than the limit, and only on an empty group.
                fits = group.load + sum(sizes) <= group.limit
                alone = group.load == 0 and sum(size > 0 for size in sizes) <= 1
                nothing = sum(sizes) == 0
                assert fits or alone or nothing


@given(HOSTS, CASES)
def test_an_urgent_case_is_never_passed_over_for_one_that_needs_the_same(
    hosts: list[HostView], facts: list[Any]
) -> None:
    cases = [make_case(case_id=n, status=State.NEW, priority=fact[1]) for n, fact in enumerate(facts, start=1)]
    chosen = choose_submissions(cases, hosts, NOW, jobs_of=lambda case: JOBS)
    sent = [bool(place.host) for place in chosen]
    assert sent == sorted(sent, reverse=True)
    priorities = [place.case.priority for place in chosen]
    assert priorities == sorted(priorities, reverse=True)


# --- what a host's last answer says about its groups -------------------------------------------------------


def probe(cards: list[dict[str, Any]], busy: str | None = None, **more: Any) -> dict[str, Any]:
    gpus = [{"uuid": "GPU-1", "busy_job": busy}, {"uuid": "GPU-2", "busy_job": None}]
    return {"gpus": cards, "queue": {"groups": [{"name": "gpu", "gpus": gpus}]}, **more}


def card(uuid: str, use: str, why: str = "") -> dict[str, Any]:
    return {"uuid": uuid, "use": use, "why": why}


GOOD = [card("GPU-1", "free"), card("GPU-2", "free")]
OTHERS = [card("GPU-1", "foreign", "1 process of somebody else"), card("GPU-2", "quarantined", "it failed")]


@pytest.mark.parametrize(
    ("told", "slots", "words", "remark"),
    [
        ({}, 4, "", "never asked"),
        (probe(GOOD), 2, "", "one job for each GPU"),
        (probe([OTHERS[0], GOOD[1]]), 1, "", "one is in use"),
        (probe(OTHERS), 0, "GPU-1: 1 process of somebody else; GPU-2: left out, since it failed", "none is left"),
        (probe(OTHERS, busy="k"), 1, "", "ours has it"),
        (probe([GOOD[0]]), 1, "", "one fell off the bus"),
        (probe([]), 2, "", "no nvidia-smi: the configuration is believed"),
        (probe([], gpu_problem="nvidia-smi hangs"), 0, "nvidia-smi hangs", "the driver is in trouble"),
        ({"gpus": [], "queue": {"groups": [{"name": "gpu", "gpus": []}]}}, 0, "nvidia-smi shows none", "auto, and no GPU"),
        ({"gpus": [], "queue": {"type": "slurm", "groups": [{"name": "gpu", "gpus": []}]}}, 4, "", "Slurm knows its nodes"),
    ],
)
def test_slots_are_gpus_that_can_be_used(told: dict[str, Any], slots: int, words: str, remark: str) -> None:
    (view,) = group_views([Group("gpu", slots=4, gpus="auto", max_jobs=7)], told, {"gpu": 3}).values()
    assert (view.slots, view.load, view.limit) == (slots, 3, 7), remark
    assert words in view.obstacle
    assert bool(words) == bool(view.obstacle)
