"""A process killed at an effect boundary, any process at any boundary: every case completes, every job ran
once, and nothing is left over. There is nothing to do for that but to let the scheduler go on running mqi.

Every day a spread of the boundaries of each process, and always those around the moments on which
exactly-once rests; the full product of boundaries and faults with `--slow`.
"""

from __future__ import annotations

import re
from itertools import cycle

import pytest

from tests.crash.cases import FAULTS
from tests.crash.conftest import Crashes

EVERY_DAY = 14  # every so many-th boundary

# phase, role -> patterns of the boundaries that are always tried, with the one that follows each. The first of
# a role is tried with every fault.
PROCESSES: dict[tuple[str, str], tuple[str, ...]] = {
    ("first scan", "scan"): (r"^commit seen", r"^opened mqi\.db "),
    ("scan", "scan"): (r"^commit complete_folder",),
    ("submit", "submit"): (r"^commit begin", r"^opened mqi\.installation", r"^rename work/scripts/", r"^commit accept"),
    ("submit", "submit/1"): (r"^rename work/host\.json",),
    ("submit", "submit/2"): (r"^rename work/pins/",),
    ("submit", "submit/3"): (r"^rename work/store/.*#1$",),
    ("submit", "submit/4"): (r"^rename work/runs/RUN/plan\.json", r"^rename work/queue/", r"^started runner"),
    ("jobs", "sync"): (r"^started request 1",),
    ("jobs", "sync/1"): (r"^started runner",),
    ("jobs", "runner cpu"): (r"^started run ",),
    ("jobs", "runner gpu"): (r"^started run simulate\.b2",),
    ("jobs", "run prepare-a1"): (r"/claim #1$", r"/exit\.json #1$", r"^started the command", r"/out #1$"),
    ("jobs", "run simulate.b2-a1"): (r"/exit\.json #1$", r"/claim #1$"),
    ("jobs", "run simulate.b3-a1"): (r"/claim #1$",),
    ("jobs", "command prepare-a1"): (r"^rename .*/process\.json",),
    ("jobs", "command simulate.b2-a1"): (),
    ("jobs", "command simulate.b3-a1"): (),
    ("sync", "sync"): (r"^commit finish",),
    ("sync", "sync/1"): (),
    ("again", "sync"): (r"^commit next attempt",),
    ("again", "sync/1"): (),
    ("again", "sync/2"): (r"^rename work/runs/RUN/plan\.json",),
    ("fetch", "fetch"): (r"^rename results/G1/P1/RUN-1 ", r"^commit publish", r"^rename .*/latest\.json"),
    ("fetch", "fetch/1"): (),
    ("fetch", "fetch/2"): (r"^reply #3",),
    ("fetch", "fetch/3"): (r"^rename work/receipts/",),
}


def test_every_process_is_here(crashes: Crashes) -> None:
    phases = dict.fromkeys(phase for phase, _role in PROCESSES)
    assert {(phase, role) for phase in phases for role in crashes.boundaries(phase)} == set(PROCESSES)


def everyday(crossed: list[str], patterns: tuple[str, ...]) -> list[tuple[str, str]]:
    """(boundary, fault) of the cases that are tried every day."""
    chosen: dict[tuple[str, str], None] = {}
    for pattern in patterns:
        first = next((index for index, name in enumerate(crossed) if re.search(pattern, name)), None)
        assert first is not None, f"no boundary is like {pattern} any more"
        faults = list(FAULTS) if pattern == patterns[0] else ["nothing"]
        chosen.update({(crossed[first], "nothing"): None})
        chosen.update({(name, fault): None for name in crossed[first + 1 : first + 2] for fault in faults})
    spread = crossed[EVERY_DAY // 2 :: EVERY_DAY]
    chosen.update(dict.fromkeys(zip(spread, cycle(FAULTS), strict=False)))
    return list(chosen)


@pytest.mark.parametrize(("phase", "role"), PROCESSES)
def test_killed_every_day(crashes: Crashes, phase: str, role: str) -> None:
    crossed = crashes.boundaries(phase)[role]
    crashes.check(phase, role, everyday(crossed, PROCESSES[phase, role]))


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize(("phase", "role"), PROCESSES)
def test_killed_everywhere(crashes: Crashes, phase: str, role: str, fault: str) -> None:
    crashes.check(phase, role, [(name, fault) for name in crashes.boundaries(phase)[role]])
