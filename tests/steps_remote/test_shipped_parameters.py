"""default_qa.yaml names every parameter of moquisim.py with its default, so that the file documents them all."""

from __future__ import annotations

import moquisim

from mqi.resources import packaged_config
from mqi.workflow import load_workflow


def test_every_parameter_is_shown_with_its_default() -> None:
    workflow = load_workflow(packaged_config() / "workflows" / "default_qa.yaml")
    shown = dict(workflow.step("moquisim").parameters)
    assert shown == {name: kind.default for name, kind in moquisim.PARAMETERS.items()}
    for name, value in shown.items():
        assert moquisim.PARAMETERS[name].check(name, value) == value
