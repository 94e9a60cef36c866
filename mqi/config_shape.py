"""Shapes: what a YAML file may contain, declared once. Single values here, groups in `config_table.py`.

A shape reads a node into a plain value (noting every mistake with its line), shows a value as it is
written in the file, and describes itself as JSON schema. `config_keys.py` and `workflow.py` declare
their files with it; the schema in `config/` and the commented example are rendered from the same
declaration, so none of the three can say something else than the other two.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from yaml.nodes import Node, ScalarNode, SequenceNode

from mqi.units import DURATION_PATTERN, SIZE_PATTERN, parse_duration, parse_size, show_duration, show_size
from mqi.yaml_reading import INVALID, Ambiguous, Key, Reading, plain

Schema = dict[str, Any]

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")

# The shapes are dataclasses without generated comparison and repr, which nobody needs: making those at
# import would cost every command some milliseconds.


class Shape(Protocol):
    """One kind of value. `read` gives INVALID after it has noted a mistake."""

    def read(self, node: Node, key: Key, reading: Reading) -> Any:
        """The value of `node`, which stands at `key`."""

    def show(self, value: Any) -> Any:
        """`value` as it is written in the file (text, number, list, …): `60s` for 60.0 seconds."""

    def schema(self) -> Schema:
        """The JSON schema (draft 7) of what `read` accepts, as far as a schema can say it."""


def scalar(node: Node, key: Key, reading: Reading, wanted: str) -> Any:
    """The value of a scalar, or INVALID after noting that `wanted` was expected."""
    if not isinstance(node, ScalarNode):
        what = "a list" if isinstance(node, SequenceNode) else "a group of keys"
        reading.wrong(key, f"must be {wanted}, not {what}")
        return INVALID
    try:
        return plain(node)
    except Ambiguous as problem:
        reading.wrong(key, str(problem))
        return INVALID


class AsWritten:
    """A shape whose values are written as they are."""

    def show(self, value: Any) -> Any:
        """The value itself."""
        return value


@dataclass(repr=False, eq=False)
class Text(AsWritten):
    """Text. `check` gives the sentence that says what is wrong with it, or None.

    `numbers`: a number needs no quotes and is taken as it is written. `fixed`: no `${VAR}`.
    """

    wanted: str = "text"
    pattern: str | None = None
    check: Callable[[str], str | None] | None = None
    may_be_empty: bool = False
    numbers: bool = False
    fixed: bool = False

    def read(self, node: Node, key: Key, reading: Reading) -> Any:
        """The text with `${VAR}` replaced, unless it is `fixed`."""
        value = scalar(node, key, reading, self.wanted)
        if value is INVALID:
            return INVALID
        if self.numbers and isinstance(value, (int, float)) and not isinstance(value, bool):
            value = node.value
        if not isinstance(value, str):
            written = node.value
            advice = f"write it in quotes: '{written}'" if written else "it is empty"
            reading.wrong(key, f"must be {self.wanted}; {advice}")
            return INVALID
        text: Any = value if self.fixed else reading.expanded(value, key)
        if text is INVALID:
            return INVALID
        problem = self._problem(text, value)
        if problem:
            reading.wrong(key, problem)
            return INVALID
        return text

    def _problem(self, text: str, written: str) -> str | None:
        # Messages quote what the file says: the value of a variable may be secret.
        if not text.strip() and not self.may_be_empty:
            return f"must be {self.wanted}; it is empty"
        if _CONTROL.search(text):
            return (
                "contains a control character; a Windows path stands in single quotes or in none, "
                "because \\t and \\n mean tab and new line in double quotes"
            )
        if self.pattern is not None and not re.search(self.pattern, text):
            return f"`{written}` is not {self.wanted}"
        return self.check(text) if self.check else None

    def schema(self) -> Schema:
        """A string, with the pattern where one is declared."""
        schema: Schema = {"type": ["string", "number"] if self.numbers else "string"}
        if self.pattern is not None:
            schema["pattern"] = self.pattern
        elif not self.may_be_empty:
            schema["minLength"] = 1
        return schema


@dataclass(repr=False, eq=False)
class FilePath:
    """A path on this computer: `~` is the home folder, relative paths start at the file's folder."""

    def read(self, node: Node, key: Key, reading: Reading) -> Any:
        """An absolute Path without `..`; nothing is looked up on the disk."""
        text = Text("a path").read(node, key, reading)
        if text is INVALID:
            return INVALID
        try:
            return local_path(text, reading.folder, reading.environ or {})
        except ValueError as problem:
            reading.wrong(key, str(problem))
            return INVALID

    def show(self, value: Any) -> Any:
        """The path as text."""
        return str(value)

    def schema(self) -> Schema:
        """A string that is not empty."""
        return {"type": "string", "minLength": 1}


def local_path(text: str, folder: Path, environ: Mapping[str, str]) -> Path:
    """`text` as an absolute path. `~` comes from HOME or USERPROFILE; raises ValueError for `~name`."""
    if text.startswith("~"):
        if len(text) > 1 and text[1] not in "/\\":
            raise ValueError(f"`{text}`: only `~` followed by a slash is understood; write the whole path")
        home = environ.get("USERPROFILE" if os.name == "nt" else "HOME") or str(Path.home())
        text = home + text[1:]
    # normpath and not resolve: a dead network drive must not delay a command that does not use it.
    return Path(os.path.normpath(folder / text))


@dataclass(repr=False, eq=False)
class Whole(AsWritten):
    """A whole number from `least` to `most`. `words` are texts that stand for a value, such as `any`."""

    least: int
    most: int
    words: tuple[tuple[str, Any], ...] = ()

    def read(self, node: Node, key: Key, reading: Reading) -> Any:
        """The number, or what the word stands for."""
        wanted = f"a whole number from {self.least} to {self.most}"
        wanted += "".join(f", or `{word}`" for word, _ in self.words)
        value = scalar(node, key, reading, wanted)
        if value is INVALID:
            return INVALID
        for word, meaning in self.words:
            if value == word:
                return meaning
        if not isinstance(value, int) or isinstance(value, bool) or not self.least <= value <= self.most:
            reading.wrong(key, f"must be {wanted}; `{node.value}` is not")
            return INVALID
        return value

    def show(self, value: Any) -> Any:
        """The number, or the word that stands for it."""
        return next((word for word, meaning in self.words if meaning == value), value)

    def schema(self) -> Schema:
        """An integer with its limits, or one of the words."""
        number: Schema = {"type": "integer", "minimum": self.least, "maximum": self.most}
        if not self.words:
            return number
        return {"anyOf": [number, {"enum": [word for word, _ in self.words]}]}


@dataclass(repr=False, eq=False)
class Flag(AsWritten):
    """true or false, in no other words."""

    def read(self, node: Node, key: Key, reading: Reading) -> Any:
        """True or False."""
        value = scalar(node, key, reading, "true or false")
        if value is not INVALID and not isinstance(value, bool):
            reading.wrong(key, f"must be true or false; `{node.value}` is neither")
            return INVALID
        return value

    def schema(self) -> Schema:
        """A boolean."""
        return {"type": "boolean"}


@dataclass(repr=False, eq=False)
class Choice(AsWritten):
    """One of a few words."""

    words: tuple[str, ...]

    def read(self, node: Node, key: Key, reading: Reading) -> Any:
        """The word."""
        value = scalar(node, key, reading, f"one of {', '.join(self.words)}")
        if value is not INVALID and value not in self.words:
            reading.wrong(key, f"`{node.value}` is not known; {choices(node.value, self.words)}")
            return INVALID
        return value

    def schema(self) -> Schema:
        """An enumeration."""
        return {"enum": list(self.words)}


@dataclass(repr=False, eq=False)
class Duration:
    """A duration such as `30s` or `5 min`, read as seconds."""

    least_s: float = 0.0
    most_s: float = 10 * 365 * 86400.0

    def read(self, node: Node, key: Key, reading: Reading) -> Any:
        """Seconds."""
        return _measured(node, key, reading, parse_duration, show_duration, self.least_s, self.most_s)

    def show(self, value: Any) -> Any:
        """With the largest unit that fits."""
        return show_duration(value)

    def schema(self) -> Schema:
        """A string in the pattern of durations; only 0 needs no unit."""
        return {"type": ["string", "integer"], "pattern": DURATION_PATTERN, "minimum": 0, "maximum": 0}


@dataclass(repr=False, eq=False)
class Size:
    """An amount of data such as `5 GiB`, read as bytes."""

    least: int = 0
    most: int = 2**60

    def read(self, node: Node, key: Key, reading: Reading) -> Any:
        """Bytes."""
        return _measured(node, key, reading, parse_size, show_size, self.least, self.most)

    def show(self, value: Any) -> Any:
        """With the largest unit that fits."""
        return show_size(value)

    def schema(self) -> Schema:
        """A string in the pattern of sizes; only 0 needs no unit."""
        return {"type": ["string", "integer"], "pattern": SIZE_PATTERN, "minimum": 0, "maximum": 0}


def _measured(
    node: Node,
    key: Key,
    reading: Reading,
    parse: Callable[[str], float],
    show: Callable[[Any], str],
    least: float,
    most: float,
) -> Any:
    value = scalar(node, key, reading, "a number with its unit")
    if value is INVALID:
        return INVALID
    if isinstance(value, (int, float)) and not isinstance(value, bool) and value != 0:
        reading.wrong(key, f"`{node.value}` needs a unit, as in `{show(30)}`")
        return INVALID
    try:
        amount = parse(str(node.value))
    except ValueError as problem:
        reading.wrong(key, str(problem))
        return INVALID
    if not least <= amount <= most:
        reading.wrong(key, f"must lie between {show(least)} and {show(most)}; `{node.value}` does not")
        return INVALID
    return amount


@dataclass(repr=False, eq=False)
class OrNull:
    """A value that may also be `null`: there is none."""

    shape: Shape

    def read(self, node: Node, key: Key, reading: Reading) -> Any:
        """None, or what the shape reads."""
        if is_null(node):
            return None
        return self.shape.read(node, key, reading)

    def show(self, value: Any) -> Any:
        """None, or as the shape shows it."""
        return None if value is None else self.shape.show(value)

    def schema(self) -> Schema:
        """The shape's schema or null."""
        return {"anyOf": [self.shape.schema(), {"type": "null"}]}


def is_null(node: Node) -> bool:
    """Whether the value is `null`, or nothing stands there."""
    return isinstance(node, ScalarNode) and not node.style and node.value in ("", "~", "null", "Null", "NULL")


def choices(given: str, known: tuple[str, ...]) -> str:
    """A clause that names the nearest known word, and all of them when they are few or none is near."""
    import difflib  # only when something is wrong: it would cost every command half a millisecond

    near = difflib.get_close_matches(given.lower(), [word.lower() for word in known], n=1, cutoff=0.6)
    meant = next((word for word in known if near and word.lower() == near[0]), None)
    if meant is not None:
        return f"did you mean `{meant}`?"
    return f"known: {', '.join(known)}" if known else "there is none"
