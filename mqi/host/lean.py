"""Imports fabric without what nobody uses here.

paramiko and fabric import all of invoke. For a class that tests of task files use, invoke imports unittest.mock, which
brings asyncio and ssl; and it has a copy of PyYAML for configuration files that we have none of. Every command that
talks to an SSH host would pay for that: a third of the time in which everything is imported.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import Any

_MOCK = "unittest.mock"
_YAML = "invoke.vendor.yaml"


class _Later(ModuleType):
    """PyYAML, imported when somebody asks for something of it."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(importlib.import_module("yaml"), name)


def import_fabric() -> None:
    """Imports fabric, and paramiko with it. Repeatable."""
    if "invoke" in sys.modules:
        return
    sys.modules[_YAML] = _Later(_YAML)
    stand_in = ModuleType(_MOCK)
    stand_in.__dict__["Mock"] = None  # invoke.context only binds the name
    put = sys.modules.setdefault(_MOCK, stand_in) is stand_in
    try:
        importlib.import_module("fabric")
    finally:
        if put:
            del sys.modules[_MOCK]  # whoever imports it from now on gets the real one
