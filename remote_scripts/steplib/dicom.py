"""Attributes of a DICOM item, read with care: a damaged value ends in a sentence that names the attribute.

Text values are never quoted in messages: a name of a patient may sit in any of them.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, List, MutableSequence, Optional, Tuple

from .report import BadInput

if TYPE_CHECKING:
    from pydicom import Dataset


class Item:
    """One dataset or sequence item. `where` begins every sentence about it, as in "Beam 2"."""

    def __init__(self, dataset: Dataset, where: str) -> None:
        self._dataset = dataset
        self.where = where

    def called(self, where: str) -> Item:
        """The same item under another name."""
        return Item(self._dataset, where)

    def problem(self, keyword: str, what: str) -> BadInput:
        """BadInput("<where> <what> <keyword> (gggg,eeee).")"""
        return BadInput(f"{self.where} {what} {keyword} ({_tag(keyword)}).")

    def _value(self, keyword: str) -> Any:
        try:
            value = self._dataset.get(keyword)
        except Exception:  # noqa: BLE001 - pydicom converts here and fails in many ways
            raise self.problem(keyword, "has an unreadable") from None
        return None if value is None or value == "" else value

    def text(self, keyword: str) -> str:
        """The text, stripped; "" when absent or empty."""
        value = self._value(keyword)
        if value is None:
            return ""
        # A backslash separates values.
        parts = value if isinstance(value, MutableSequence) else [value]
        return "\\".join(map(str, parts)).strip(" \0")

    def integer(self, keyword: str) -> Optional[int]:
        """The whole number, or None when absent or empty."""
        number = self.number(keyword)
        if number is None:
            return None
        if number != int(number):
            raise self.problem(keyword, "has no whole number as")
        return int(number)

    def number(self, keyword: str) -> Optional[float]:
        """The finite number, or None when absent or empty."""
        numbers = self.numbers(keyword)
        if numbers is None:
            return None
        if len(numbers) != 1:
            raise self.problem(keyword, f"has {len(numbers)} values instead of one as")
        return numbers[0]

    def numbers(self, keyword: str) -> Optional[Tuple[float, ...]]:
        """All values as finite numbers, or None when absent or empty. One value comes as a tuple of one."""
        value = self._value(keyword)
        if value is None:
            return None
        try:
            numbers = tuple(map(float, [value] if isinstance(value, (str, bytes, int, float)) else value))
        except (TypeError, ValueError, OverflowError):
            raise self.problem(keyword, "has something else than numbers as") from None
        if not all(map(math.isfinite, numbers)):
            raise self.problem(keyword, "has NaN or infinity in")
        return numbers or None

    def items(self, keyword: str, where: str) -> List[Item]:
        """The items of a sequence, none when absent. `where` with {} for the item's position from 1."""
        value = self._value(keyword)
        if value is None:
            return []
        if not hasattr(value, "__iter__") or isinstance(value, (str, bytes)):
            raise self.problem(keyword, "has no sequence as")
        found = list(value)
        if not all(hasattr(each, "get") for each in found):
            raise self.problem(keyword, "has no sequence as")
        return [Item(each, where.format(position)) for position, each in enumerate(found, 1)]


def _tag(keyword: str) -> str:
    from pydicom.datadict import tag_for_keyword

    tag = tag_for_keyword(keyword) or 0
    return f"{tag >> 16:04X},{tag & 0xFFFF:04X}"
