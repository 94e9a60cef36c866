"""Shapes of groups: lists, named values, and tables of known keys (see `config_shape.py`)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass
from typing import Any

from yaml.nodes import MappingNode, Node, SequenceNode

from mqi.config_shape import AsWritten, FilePath, Schema, Shape, choices, is_null, local_path, scalar
from mqi.yaml_reading import INVALID, Key, Reading


class _Required:
    """The default of a key that has none."""


REQUIRED = _Required()


@dataclass(repr=False, eq=False)
class OneOrMany:
    """A word, or a list: `auto` or `[GPU-…, GPU-…]`."""

    one: Shape
    many: Shape

    def read(self, node: Node, key: Key, reading: Reading) -> Any:
        """A tuple for a list, else the word."""
        shape = self.many if isinstance(node, SequenceNode) else self.one
        return shape.read(node, key, reading)

    def show(self, value: Any) -> Any:
        """As the matching shape shows it."""
        return (self.one if isinstance(value, str) else self.many).show(value)

    def schema(self) -> Schema:
        """Either."""
        return {"anyOf": [self.one.schema(), self.many.schema()]}


@dataclass(repr=False, eq=False)
class Many:
    """A list of at least `least` values."""

    shape: Shape
    least: int = 0
    noun: str = "value"

    def read(self, node: Node, key: Key, reading: Reading) -> Any:
        """A tuple, with INVALID for items that are wrong: the others keep their numbers."""
        if is_null(node) or (isinstance(node, SequenceNode) and len(node.value) < self.least):
            if self.least == 0:
                return ()
            reading.wrong(key, f"must list at least one {self.noun}")
            return INVALID
        if not isinstance(node, SequenceNode):
            reading.wrong(key, f"must be a list: each {self.noun} on its own line behind `- `, or in [ ]")
            return INVALID
        return tuple(
            self.shape.read(item, (*key, number), reading) for number, item in reading.items(node, key)
        )

    def show(self, value: Any) -> Any:
        """A list."""
        return [self.shape.show(item) for item in value]

    def schema(self) -> Schema:
        """An array; null stands for an empty one."""
        array: Schema = {"type": "array", "items": self.shape.schema()}
        return {**array, "minItems": self.least} if self.least else {"anyOf": [array, {"type": "null"}]}


@dataclass(repr=False, eq=False)
class Named:
    """Values under names that the site chooses, such as workflows and environment variables."""

    shape: Shape
    pattern: str
    wanted: str

    def read(self, node: Node, key: Key, reading: Reading) -> Any:
        """A dict of what could be read."""
        if is_null(node):
            return {}
        if not isinstance(node, MappingNode):
            reading.wrong(key, f"must be lines of `{self.wanted}: value`")
            return INVALID
        values = {}
        for name, value_node in reading.entries(node, key):
            if not re.search(self.pattern, name):
                reading.wrong((*key, name), f"`{name}` is not {self.wanted}")
                continue
            value = self.shape.read(value_node, (*key, name), reading)
            if value is not INVALID:
                values[name] = value
        return values

    def show(self, value: Any) -> Any:
        """A dict."""
        return {name: self.shape.show(item) for name, item in value.items()}

    def schema(self) -> Schema:
        """An object whose keys match the pattern."""
        return {
            "type": ["object", "null"],
            "additionalProperties": self.shape.schema(),
            "propertyNames": {"pattern": self.pattern},
        }


@dataclass(repr=False, eq=False)
class Anything(AsWritten):
    """Free values for a script: text, numbers, true, false, null, lists and groups of them."""

    def read(self, node: Node, key: Key, reading: Reading) -> Any:
        """Plain Python values that JSON can write."""
        if isinstance(node, SequenceNode):
            return [self.read(item, (*key, number), reading) for number, item in reading.items(node, key)]
        if isinstance(node, MappingNode):
            return {name: self.read(item, (*key, name), reading) for name, item in reading.entries(node, key)}
        return scalar(node, key, reading, "a value")

    def schema(self) -> Schema:
        """No constraint."""
        return {}


@dataclass(repr=False, eq=False)
class Entry:
    """One key of a Table. `about` is the sentence that the example and the schema show.

    `field` is the name of the attribute that the value becomes, where it differs from the key. `default`
    is needed where the table's `target` has none, or where the file's differs; paths give it as text.
    """

    name: str
    shape: Shape
    about: str
    field: str = ""
    default: Any = REQUIRED

    @property
    def attribute(self) -> str:
        """The name under which the value is read."""
        return self.field or self.name


class Table:
    """A group of known keys. Defaults come from the named tuple or dataclass `target` that it becomes, if any."""

    def __init__(self, *entries: Entry, target: type | None = None) -> None:
        self.entries = {entry.name: entry for entry in entries}
        known = _defaults(target) if target else {}
        self._defaults = {
            entry.attribute: known.get(entry.attribute, REQUIRED)
            if entry.default is REQUIRED
            else entry.default
            for entry in entries
        }

    def default(self, entry: Entry) -> Any:
        """The value when the key is absent, or REQUIRED."""
        return self._defaults[entry.attribute]

    def read(self, node: Node | None, key: Key, reading: Reading) -> Any:
        """A dict attribute → value with defaults filled in; without those that are wrong or missing."""
        values: dict[str, Any] = {}
        given: set[str] = set()
        if node is not None and not isinstance(node, MappingNode) and not is_null(node):
            reading.wrong(key, f"must be lines of `key: value`, with keys such as {', '.join(self.entries)}")
            return INVALID
        if isinstance(node, MappingNode):
            for name, value_node in reading.entries(node, key):
                entry = self.entries.get(name)
                if entry is None:
                    reading.wrong((*key, name), f"is not known; {choices(name, tuple(self.entries))}")
                    continue
                given.add(name)
                value = entry.shape.read(value_node, (*key, name), reading)
                if value is not INVALID:
                    values[entry.attribute] = value
        for entry in self.entries.values():
            if entry.name in given:
                continue
            default = self.default(entry)
            if default is REQUIRED:
                reading.wrong(key, f"`{entry.name}` is missing: {entry.about}")
            else:
                values[entry.attribute] = self._absent(entry, default, key, reading)
        return values

    def _absent(self, entry: Entry, default: Any, key: Key, reading: Reading) -> Any:
        if isinstance(entry.shape, Table):
            return entry.shape.read(None, (*key, entry.name), reading)
        if isinstance(entry.shape, FilePath):
            return local_path(default, reading.folder, reading.environ or {})
        return default

    def show(self, value: Any) -> Any:
        """A dict key → value as written, from a mapping or an object with the attributes."""
        if not isinstance(value, Mapping):
            value = {entry.attribute: getattr(value, entry.attribute) for entry in self.entries.values()}
        return {
            entry.name: entry.shape.show(value[entry.attribute])
            for entry in self.entries.values()
            if entry.attribute in value
        }

    def schema(self) -> Schema:
        """An object that allows no other keys."""
        properties = {}
        required = []
        for entry in self.entries.values():
            schema = {"description": entry.about, **entry.shape.schema()}
            default = self.default(entry)
            if default is REQUIRED:
                required.append(entry.name)
            elif not isinstance(entry.shape, Table):
                # A path's default is text, still relative to a file that the schema does not know.
                path = isinstance(entry.shape, FilePath)
                schema["default"] = default if path else entry.shape.show(default)
            properties[entry.name] = schema
        schema = {"type": "object", "additionalProperties": False, "properties": properties}
        return {**schema, "required": required} if required else {**schema, "type": ["object", "null"]}


def _defaults(target: type) -> dict[str, Any]:
    if not is_dataclass(target):
        return dict(vars(target)["_field_defaults"])  # a named tuple
    defaults = {}
    for one in fields(target):
        if one.default is not MISSING:
            defaults[one.name] = one.default
        elif one.default_factory is not MISSING:
            defaults[one.name] = one.default_factory()
    return defaults
