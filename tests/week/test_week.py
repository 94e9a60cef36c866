"""A week of life in a minute, many times."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.week.machine import Week

COMMON = settings(
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
    print_blob=False,
    phases=(Phase.generate, Phase.shrink),
)


def live(number: int, weeks: int, steps: int) -> None:
    """Live through so many weeks of so many steps; the same number gives the same weeks."""

    class Numbered(Week):
        pass

    run_state_machine_as_test(
        seed(number)(Numbered), settings=settings(COMMON, max_examples=weeks, stateful_step_count=steps)
    )


def test_a_few_weeks() -> None:
    live(1, weeks=15, steps=30)


@pytest.mark.slow
@pytest.mark.parametrize("number", range(2, 22))
def test_many_weeks(number: int) -> None:
    live(number, weeks=100, steps=50)
