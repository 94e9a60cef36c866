"""The parameters of a step: a JSON object, every key known, every value checked.

An unknown key is refused rather than ignored: a misspelt parameter would silently leave its default in force.
"""

from __future__ import annotations

import difflib
import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Mapping, Optional, Tuple

from .report import BadInput


@dataclass(frozen=True)
class Number:
    """A number within [low, high]."""

    default: float
    low: float
    high: float

    def check(self, key: str, value: Any) -> float:
        if not is_number(value) or not self.low <= value <= self.high:
            raise BadInput(f"Parameter {key} must be a number from {self.low:g} to {self.high:g}.")
        return float(value)


@dataclass(frozen=True)
class Numbers:
    """A mapping of names to numbers within [low, high]; empty by default."""

    low: float
    high: float
    default: Mapping[str, float] = field(default_factory=dict)

    def check(self, key: str, value: Any) -> Mapping[str, float]:
        if not isinstance(value, dict):
            raise BadInput(f"Parameter {key} must map names to numbers.")
        one = Number(0.0, self.low, self.high)
        return {name: one.check(f"{key}.{name}", number) for name, number in value.items()}


@dataclass(frozen=True)
class Whole:
    """A whole number within [low, high]."""

    default: int
    low: int
    high: int

    def check(self, key: str, value: Any) -> int:
        if type(value) is not int or not self.low <= value <= self.high:
            raise BadInput(f"Parameter {key} must be a whole number from {self.low} to {self.high}.")
        return value


@dataclass(frozen=True)
class Choice:
    """One of some words."""

    default: str
    words: Tuple[str, ...]

    def check(self, key: str, value: Any) -> str:
        if not isinstance(value, str) or value not in self.words:
            raise BadInput(f"Parameter {key} must be one of {', '.join(self.words)}.")
        return value


@dataclass(frozen=True)
class Text:
    """A text on one line, such as a path on the host; may be empty."""

    default: str = ""

    def check(self, key: str, value: Any) -> str:
        if not isinstance(value, str) or not value.isprintable():
            raise BadInput(f"Parameter {key} must be a text on one line.")
        return value


def is_number(value: Any) -> bool:
    """Whether this is a finite number; true and false are none."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:
        # A whole number of more than 308 digits.
        return False


def read_parameters(path: Optional[Path], known: Mapping[str, Any]) -> Mapping[str, Any]:
    """Every known parameter: its value in the file, else its default. BadInput names the wrong key."""
    given = read_object(path, "The parameters file") if path is not None else {}
    for key in given:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(sorted(known))}."
            raise BadInput(f"Parameter {key} is unknown: {hint}")
    return {key: kind.check(key, given[key]) if key in given else kind.default for key, kind in known.items()}


def read_object(path: Path, what: str) -> Mapping[str, Any]:
    """The JSON object in a file; BadInput when there is none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BadInput(f"{what} is missing.") from None
    except (ValueError, RecursionError):
        raise BadInput(f"{what} is not JSON.") from None
    if not isinstance(content, dict):
        raise BadInput(f"{what} is not a JSON object.")
    return content
