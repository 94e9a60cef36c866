"""Imports fabric without what nobody uses here.

paramiko and fabric import all of invoke. For a class that tests of task files use, invoke imports unittest.mock, which
brings asyncio and ssl; it has a copy of PyYAML for configuration files that we have none of; and paramiko imports
importlib.metadata, which brings email and zipfile, to know its own version. Every command that talks to an SSH host
would pay for that: a third of the time in which everything is imported.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

_MOCK = "unittest.mock"
_METADATA = "importlib.metadata"
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
    # invoke.context only binds the name.
    with _instead(_MOCK, Mock=None), _instead(_METADATA, version=_version):
        importlib.import_module("fabric")


@contextmanager
def _instead(name: str, **content: Any) -> Iterator[None]:
    """A stand-in for a module that was not imported yet; whoever imports it afterwards gets the real one."""
    stand_in = ModuleType(name)
    stand_in.__dict__.update(content)
    put = sys.modules.setdefault(name, stand_in) is stand_in
    try:
        yield
    finally:
        if put:
            del sys.modules[name]


def _version(package: str) -> str:
    """The version of an installed package, by the name of the folder that describes it (PEP 376)."""
    for place in sys.path:
        for found in Path(place).glob(f"{package}-*.dist-info"):
            return found.name.removesuffix(".dist-info").removeprefix(f"{package}-")
    stand_in = sys.modules.pop(_METADATA)  # installed in some other way, or frozen: ask the one who knows
    try:
        return str(importlib.import_module(_METADATA).version(package))
    finally:
        sys.modules[_METADATA] = stand_in
