"""Imports fabric without what nobody uses here.

paramiko and fabric import all of invoke. For a class that tests of task files use, invoke imports unittest.mock, which
brings asyncio and ssl; and it has a copy of PyYAML, beside the one that mqi has already. Every command that talks to an
SSH host would pay for that: a fifth of the time in which everything is imported.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType

_MOCK = "unittest.mock"
_YAML = "invoke.vendor.yaml"


def import_fabric() -> None:
    """Imports fabric, and paramiko with it. Repeatable."""
    if "invoke" in sys.modules:
        return
    sys.modules[_YAML] = importlib.import_module("yaml")
    stand_in = ModuleType(_MOCK)
    stand_in.__dict__["Mock"] = None  # invoke.context only binds the name
    put = sys.modules.setdefault(_MOCK, stand_in) is stand_in
    try:
        importlib.import_module("fabric")
    finally:
        if put:
            del sys.modules[_MOCK]  # whoever imports it from now on gets the real one
