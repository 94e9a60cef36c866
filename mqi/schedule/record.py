"""The order that was given, kept beside the configuration: `show` compares with it."""

from __future__ import annotations

import json
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from mqi.errors import ConfigurationProblem
from mqi.schedule import programs
from mqi.schedule.order import BACKENDS, LOGONS, Order

_FORMAT = 1


def record_path(config: Path) -> Path:
    """Where the order of this configuration is kept."""
    return config.with_name(f"{config.stem}.schedule.json")


def read_order(path: Path) -> Order | None:
    """The order that was given; None for none. Raises ConfigurationProblem, DiskProblem."""
    text = programs.read_file(path)
    if text is None:
        return None
    try:
        return _order(json.loads(text))
    except (ValueError, TypeError, KeyError):
        raise ConfigurationProblem(
            f"{path} is not what `mqi schedule install` writes there",
            "delete it, and say `mqi schedule install` with your options again",
        ) from None


def _order(value: dict[str, Any]) -> Order:
    if value["format"] != _FORMAT:
        raise ValueError("of another version")
    given = {one.name: value[one.name] for one in fields(Order)}
    types = {"every_s": int, "steps": bool}
    if any(type(item) is not types.get(name, str) for name, item in given.items()):
        raise TypeError("a value of another type")
    order = Order(**given)
    if order.backend not in BACKENDS or order.logon not in ("", *LOGONS):
        raise ValueError("an unknown word")
    return order


def write_order(path: Path, order: Order) -> None:
    """Keep the order. Raises NotAllowed, DiskProblem."""
    text = json.dumps({"format": _FORMAT, **asdict(order)}, ensure_ascii=False, indent=2)
    programs.write_file(path, f"{text}\n".encode())
