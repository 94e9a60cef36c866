"""Durations and sizes as people write them: `30s`, `5 min`, `1h 30min`, `14d`; `500 MB`, `5 GiB`."""

from __future__ import annotations

import re

_SECONDS = {
    "ms": 0.001,
    "s": 1.0, "sec": 1.0, "second": 1.0, "seconds": 1.0,
    "min": 60.0, "minute": 60.0, "minutes": 60.0,
    "h": 3600.0, "hour": 3600.0, "hours": 3600.0,
    "d": 86400.0, "day": 86400.0, "days": 86400.0,
    "week": 604800.0, "weeks": 604800.0,
}  # fmt: skip
_BYTES = {
    "B": 1,
    "kB": 10**3, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12,
    "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40,
}  # fmt: skip
_NUMBER = r"[0-9]{1,12}(?:\.[0-9]{1,6})?"
_PART = rf"({_NUMBER})\s*([A-Za-z]+)"


def _alternatives(units: dict[str, float] | dict[str, int]) -> str:
    return "|".join(sorted(units, key=len, reverse=True))


# The same rules for the JSON schema, so that an editor underlines what `mqi` would refuse.
DURATION_PATTERN = (
    rf"^\s*{_NUMBER}\s*({_alternatives(_SECONDS)})(\s*{_NUMBER}\s*({_alternatives(_SECONDS)}))*\s*$"
)
SIZE_PATTERN = rf"^\s*{_NUMBER}\s*({_alternatives(_BYTES)})\s*$"


def parse_duration(text: str) -> float:
    """The seconds that `text` means; several parts add up. Raises ValueError with a sentence.

    A bare `m` is refused: it is read as minutes by some and as months by others.
    """
    if re.fullmatch(r"\s*0\s*", text):
        return 0.0
    if not re.fullmatch(rf"\s*(?:{_PART}\s*)+", text):
        raise ValueError(f"`{text}` is not a duration; write for instance 30s, 5 min, 2h or 14d")
    seconds = 0.0
    for number, unit in re.findall(_PART, text):
        if unit not in _SECONDS:
            raise ValueError(f"`{text}`: `{unit}` is not a unit of time; write ms, s, min, h, d or weeks")
        seconds += float(number) * _SECONDS[unit]
    return seconds


def parse_size(text: str) -> int:
    """The bytes that `text` means. Raises ValueError with a sentence."""
    if re.fullmatch(r"\s*0\s*", text):
        return 0
    match = re.fullmatch(rf"\s*{_PART}\s*", text)
    if match is None or match[2] not in _BYTES:
        raise ValueError(f"`{text}` is not a size; write for instance 500 MB or 5 GiB")
    return round(float(match[1]) * _BYTES[match[2]])


def show_duration(seconds: float) -> str:
    """The shortest way to write `seconds` (whole milliseconds) that parse_duration reads back."""
    milliseconds = round(seconds * 1000)
    if milliseconds == 0:
        return "0s"
    for unit, length in (("d", 86_400_000), ("h", 3_600_000), ("min", 60_000), ("s", 1000)):
        if milliseconds % length == 0:
            return f"{milliseconds // length}{' ' if unit == 'min' else ''}{unit}"
    return f"{milliseconds}ms"


def show_size(size: int) -> str:
    """The shortest way to write `size` bytes that parse_size reads back."""
    for unit in ("TiB", "GiB", "MiB", "KiB"):
        if size and size % _BYTES[unit] == 0:
            return f"{size // _BYTES[unit]} {unit}"
    return f"{size} B"
