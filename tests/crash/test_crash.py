"""A process stopped at an effect boundary, any process at any boundary: every case completes, every job ran
once, and nothing is left over. There is nothing to do for that but to let the scheduler go on running mqi.

Every day a spread of the boundaries of each process, and always those around the moments on which
exactly-once rests; the full product of boundaries and faults with `--slow`. Those are 5,600 cases, hours: with
MQI_CRASH_EVERY=20 in the environment each part of it takes only every 20th boundary, and each part other ones.
"""

from __future__ import annotations

import os
import re
from itertools import cycle, islice

import pytest

from tests.crash.cases import (
    CHANGED,
    HELD,
    LATE,
    NO_DATABASE,
    NO_QUEUE,
    NOTHING,
    PHASES,
    SLOW,
    UNANSWERED,
)
from tests.crash.crashes import Crashes

EVERY_DAY = 100  # every so many-th boundary

# phase, role -> what is tried every day besides: the boundary that follows the first one like this.
PROCESSES: dict[tuple[str, str], tuple[str, ...]] = {
    ("first scan", "scan"): (r"^open mqi\.db ",),
    ("scan", "scan"): (r"^commit complete folder",),
    ("submit", "submit"): (r"^open mqi\.installation",),
    ("submit", "submit/1"): (r"^rename work/host\.json",),
    ("submit", "submit/2"): (r"^rename work/pins/",),
    ("submit", "submit/3"): (r"^rename work/store/",),
    ("submit", "submit/4"): (r"^rename work/queue/",),
    ("jobs", "sync"): (r"^start request",),
    ("jobs", "sync/1"): (r"^start runner",),
    ("jobs", "runner cpu"): (r"^start run ",),
    ("jobs", "runner gpu"): (r"^started run simulate\.b2",),
    ("jobs", "run prepare-a1"): (r"claim\.X~ #1$", r"/out #1$"),
    ("jobs", "run simulate.b2-a1"): (r"/claim #1$",),
    ("jobs", "run simulate.b3-a1"): (r"/outputs\.json #1$",),
    ("jobs", "command prepare-a1"): (r"^rename .*/process\.json",),
    ("jobs", "command simulate.b2-a1"): (r"^open ",),
    ("jobs", "command simulate.b3-a1"): (r"^opened ",),
    ("sync", "sync"): (r"^commit start",),
    ("sync", "sync/1"): (r"^rename work/seq",),
    ("again", "sync"): (r"^kill a process #2",),
    ("again", "sync/1"): (r"^unlock work/agent\.lock",),
    ("again", "sync/2"): (r"^rename work/queue/",),
    ("fetch", "fetch"): (r"^open .*\.part~", r"^commit publish"),
    ("fetch", "fetch/1"): (r"^unlock work/agent\.lock",),
    ("fetch", "fetch/2"): (r"^reply #3",),
    ("fetch", "fetch/3"): (r"^rename work/receipts/",),
}  # fmt: skip

# The moments on which exactly-once rests: just before and just after, every day, with these faults.
MOMENTS: dict[str, tuple[str, str, str, tuple[str, ...]]] = {
    "begin is committed": ("submit", "submit", r"^commit begin", (NO_DATABASE,)),
    "the host has answered": ("submit", "submit", r"^kill a process #4", (CHANGED,)),
    # Held up here, a request still has to take back what it thinks is an old word that the results are safe.
    "the run is laid out": ("submit", "submit/4", r"^fsync work/runs/RUN/jobs #1", (HELD,)),
    "the plan is stored": (
        "submit",
        "submit/4",
        r"/plan\.json #1$",
        (UNANSWERED, HELD),
    ),
    "a next plan is stored": ("again", "sync/2", r"/plan\.json #1$", (LATE, NO_DATABASE)),
    "the job is claimed": (
        "jobs",
        "run prepare-a1",
        r"/claim #1$",
        (LATE, NO_QUEUE, HELD),
    ),
    "the command is started": ("jobs", "run simulate.b3-a1", r"^start the command", (SLOW,)),
    "the exit is written": ("jobs", "run simulate.b2-a1", r"/exit\.json #1$", (NO_QUEUE,)),
    "the results are published": ("fetch", "fetch", r"^rename results/G1/P1/RUN-1 ", (NO_DATABASE,)),
}


def test_every_process_is_here(crashes: Crashes) -> None:
    assert {(phase, role) for phase in PHASES for role in crashes.boundaries(phase)} == set(PROCESSES)


def test_a_cold_start_is_no_other(crashes: Crashes) -> None:
    """What is killed here runs from a warm interpreter; a scheduler starts a fresh one."""
    cold = crashes.boundaries_cold("submit")
    assert cold["submit"] == crashes.boundaries("submit")["submit"]


def position(crossed: list[str], pattern: str) -> int:
    """Where the first boundary like `pattern` is."""
    found = next((index for index, name in enumerate(crossed) if re.search(pattern, name)), None)
    assert found is not None, f"no boundary is like {pattern} any more"
    return found


@pytest.mark.parametrize("moment", MOMENTS)
def test_stopped_around_the_moment_when(crashes: Crashes, moment: str) -> None:
    phase, role, pattern, faults = MOMENTS[moment]
    crossed = crashes.boundaries(phase)[role]
    before = position(crossed, pattern)
    after = [(crossed[before + 1], fault) for fault in dict.fromkeys((NOTHING, *faults))]
    crashes.check(phase, role, [(crossed[before], NOTHING), *after])


@pytest.mark.parametrize(("phase", "role"), PROCESSES)
def test_stopped_here_and_there(crashes: Crashes, phase: str, role: str) -> None:
    crossed = crashes.boundaries(phase)[role]
    after = [crossed[position(crossed, pattern) + 1] for pattern in PROCESSES[phase, role]]
    # Each process begins with another fault.
    faults = islice(cycle(PHASES[phase].faults), list(PROCESSES).index((phase, role)), None)
    spread = zip(crossed[EVERY_DAY // 2 :: EVERY_DAY], faults, strict=False)
    crashes.check(phase, role, list(dict.fromkeys([*((name, NOTHING) for name in after), *spread])))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("phase", "role", "fault"),
    [(phase, role, fault) for phase, role in PROCESSES for fault in PHASES[phase].faults],
)
def test_stopped_everywhere(crashes: Crashes, phase: str, role: str, fault: str) -> None:
    every = int(os.environ.get("MQI_CRASH_EVERY", "1"))
    first = list(PROCESSES).index((phase, role)) * 7 + PHASES[phase].faults.index(fault) * 13
    chosen = crashes.boundaries(phase)[role][first % every :: every]
    crashes.check(phase, role, [(name, fault) for name in chosen])
