"""The search is worth something: it finds what goes wrong when a rule of the protocol is taken out.

What is taken out of the model is not changed in the product; tests/crash does that to the real processes.
"""

from __future__ import annotations

import pytest

from tests.protocol.model import OPEN, SHIPPED, Guards
from tests.protocol.search import explore
from tests.protocol.worlds import LONG, MUTANTS, mutated, world


def _marked(guards: tuple[str, ...] | list[str]) -> list[object]:
    return [pytest.param(one, marks=pytest.mark.slow) if one in LONG else one for one in guards]


@pytest.mark.parametrize("guard", _marked(list(MUTANTS)))
def test_a_rule_that_is_taken_out_is_missed(guard: str) -> None:
    settings = mutated(guard)
    result = explore(settings)
    print("\n".join([result.wrong, *result.trace]))
    assert result.wrong == MUTANTS[guard][1]
    assert result.trace


@pytest.mark.parametrize("guard", _marked(list(MUTANTS)))
def test_the_same_world_keeps_its_promises_with_the_rule(guard: str) -> None:
    result = explore(mutated(guard)._replace(guards=Guards()))
    assert not result.wrong, "\n".join([result.wrong, *result.trace])


def test_the_shipped_code_has_what_is_open() -> None:
    """To close one: correct the product, reproduce it in test_product.py, remove its line in model.OPEN."""
    for guard in OPEN:
        settings, wrong = MUTANTS[guard]
        assert explore(settings._replace(guards=SHIPPED)).wrong == wrong


def test_every_rule_has_a_mutant() -> None:
    assert set(MUTANTS) == set(Guards._fields)
    assert set(OPEN) <= set(MUTANTS)


def test_a_trace_is_the_shortest_way() -> None:
    """By hand: without the claim, a second copy of a task runs the job again."""
    result = explore(mutated("claim"))
    # As short as it gets: begun, offered, handed over, listed; two starts and what is between.
    assert result.trace[:2] == ("submit hashes", "submit begins 1")
    assert [step for step in result.trace if "starts the command" in step] == [
        "run starts the command (0, 1)"
    ] * 2
    assert result.trace[-1] == "run starts the command (0, 1)"


def test_nothing_happens_without_a_cause() -> None:
    """In a world without faults and wishes, no move of either is among the labels."""
    labels = explore(world()).labels
    assert not [
        one for one in labels if "killed" in one or "cut off" in one or one in ("cancel", "hold", "retry")
    ]
