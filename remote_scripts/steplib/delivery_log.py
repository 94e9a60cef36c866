"""How to read a room's delivery log (PTN): the part `delivery_log` of its machine file (machines/<room>.yaml).

    delivery_log:
      x: {centre: 32768, mm_per_count: 0.01}    mm at the isocentre = (count - centre) x mm_per_count
      y: {centre: 32768, mm_per_count: 0.01}    in the IEC gantry system; a negative gain turns the axis round
      field_mm: [200, 150]          the farthest |x| and |y| that the scanner reaches
      time_gain_ms: 0.0600745       from one row to the next
      range_factors: {2: 1.0, …}    what a count of dose1 means, by the range code of the layer
      mu_per_count: 2.0e-6          monitor units per count of dose1 x range factor; or instead of it
      normalise_to: beam_meterset   each beam's counts are scaled to its planned BeamMeterset. Then nothing is
                                    known of the absolute output; every result says so
      background_counts: 8          the most that dose1 shows in a row without beam
      first_layer: 1                what the layer column holds for the plan's first layer
      spot_radius_mm: 1.5           see steplib/ptn_spots.py
      interlock_ms: 5.0             a gap in the beam for so long within a painting is an interlock
      room_number: 1                first part of the PTN files' names; left out: not checked
      energy_tolerance_MeV: 0.05    how far LAYER_ENERGY may be off the plan's energy

The formulas are those of LOGFILE_SPEC.md in jokh38/ptn_checker. Its 15 µs per row contradicts the sites'
configurations (0.0600745 ms): the file decides.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Callable, List, Mapping, Optional, Tuple

from .parameters import is_number
from .report import BadInput

_REQUIRED = ("x", "y", "field_mm", "time_gain_ms", "range_factors", "background_counts")
_OPTIONAL = (
    "mu_per_count",
    "normalise_to",
    "first_layer",
    "spot_radius_mm",
    "interlock_ms",
    "room_number",
    "energy_tolerance_MeV",
)


@dataclass(frozen=True)
class Axis:
    """mm = (count - centre) x mm_per_count"""

    centre: float
    mm_per_count: float
    limit_mm: float


@dataclass(frozen=True)
class DeliveryLog:
    """The values of `delivery_log`. `mu_per_count` is None when counts are to be normalised to the plan."""

    x: Axis
    y: Axis
    time_gain_ms: float
    range_factors: Mapping[int, float]
    mu_per_count: Optional[float]
    background_counts: int
    first_layer: int
    spot_radius_mm: float
    interlock_ms: float
    room_number: Optional[int]
    energy_tolerance_mev: float


def read_delivery_log(content: bytes) -> Optional[DeliveryLog]:
    """The part `delivery_log` of a machine file; None when it has none. BadInput names the key that is wrong."""
    import yaml

    try:
        root = yaml.safe_load(content.decode("utf-8"))
    except (UnicodeDecodeError, yaml.YAMLError, RecursionError):
        raise BadInput("The machine file is not YAML.") from None
    raw = root.get("delivery_log") if isinstance(root, dict) else None
    if raw is None:
        return None
    if not isinstance(raw, dict):
        raise _wrong("delivery_log", "must be a mapping")
    for key in _REQUIRED:
        if key not in raw:
            raise _wrong(f"delivery_log.{key}", "is missing")
    for key in raw:
        if key not in _REQUIRED and key not in _OPTIONAL:
            raise _wrong(f"delivery_log.{key}", "is not known")
    field = raw["field_mm"]
    if not isinstance(field, list) or len(field) != 2 or not all(map(_positive, field)):
        raise _wrong("delivery_log.field_mm", "must be two numbers above 0")
    return DeliveryLog(
        x=_axis(raw["x"], "x", float(field[0])),
        y=_axis(raw["y"], "y", float(field[1])),
        time_gain_ms=_number(raw, "time_gain_ms", _positive, "a number above 0"),
        range_factors=_factors(raw["range_factors"]),
        mu_per_count=_mu_per_count(raw),
        background_counts=int(_number(raw, "background_counts", _count, "a whole number from 0 to 65534")),
        first_layer=int(_number({"first_layer": 1, **raw}, "first_layer", _count, "a whole number")),
        spot_radius_mm=_number({"spot_radius_mm": 1.5, **raw}, "spot_radius_mm", _positive, "above 0"),
        interlock_ms=_number({"interlock_ms": 5.0, **raw}, "interlock_ms", _positive, "above 0"),
        room_number=int(_number(raw, "room_number", _count, "a whole number"))
        if "room_number" in raw
        else None,
        energy_tolerance_mev=_number(
            {"energy_tolerance_MeV": 0.05, **raw}, "energy_tolerance_MeV", _energy_gap, "from 0 to 0.5"
        ),
    )


def _mu_per_count(raw: Mapping[str, Any]) -> Optional[float]:
    """Absolute or normalised: the file must say which, and not both."""
    if ("mu_per_count" in raw) == ("normalise_to" in raw):
        raise _wrong("delivery_log", "must have either mu_per_count or normalise_to")
    if "normalise_to" in raw:
        if raw["normalise_to"] != "beam_meterset":
            raise _wrong("delivery_log.normalise_to", "can only be beam_meterset")
        return None
    return _number(raw, "mu_per_count", _positive, "a number above 0")


def _axis(raw: Any, name: str, limit_mm: float) -> Axis:
    if not isinstance(raw, dict) or set(raw) != {"centre", "mm_per_count"}:
        raise _wrong(f"delivery_log.{name}", "must have centre and mm_per_count")
    gain: Any = raw["mm_per_count"]
    if not is_number(raw["centre"]) or not is_number(gain) or gain == 0.0:
        raise _wrong(f"delivery_log.{name}", "must have numbers, and a gain that is not 0")
    return Axis(float(raw["centre"]), float(gain), limit_mm)


def _factors(raw: Any) -> Mapping[int, float]:
    if not isinstance(raw, dict) or not raw or not all(type(code) is int for code in raw):
        raise _wrong("delivery_log.range_factors", "must map range codes (whole numbers) to factors")
    if not all(map(_positive, raw.values())):
        raise _wrong("delivery_log.range_factors", "must have factors above 0")
    return {code: float(factor) for code, factor in raw.items()}


def _number(raw: Mapping[str, Any], key: str, good: Callable[[Any], bool], what: str) -> float:
    if not good(raw[key]):
        raise _wrong(f"delivery_log.{key}", f"must be {what}")
    return float(raw[key])


def _positive(value: Any) -> bool:
    return is_number(value) and value > 0.0


def _count(value: Any) -> bool:
    return type(value) is int and 0 <= value <= 65534


def _energy_gap(value: Any) -> bool:
    return is_number(value) and 0.0 <= value <= 0.5


def _wrong(key: str, what: str) -> BadInput:
    return BadInput(f"In the machine file, {key} {what}.")


def layer_range(numbers: Tuple[int, ...]) -> str:
    """Layers as an operator reads them: "layer 3", "layers 1 to 34", "layers 1, 2 and 5 to 7"."""
    runs: List[List[int]] = []
    for number in sorted(set(numbers)):
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    words = [str(first) if first == last else f"{first} to {last}" for first, last in runs]
    text = words[0] if len(words) == 1 else ", ".join(words[:-1]) + " and " + words[-1]
    return ("layer " if len(set(numbers)) == 1 else "layers ") + text
