"""YAML files as node trees: every value keeps its line, and every mistake is collected before one raises.

Plain scalars follow the YAML 1.2 core schema, as editors and other programs read them. PyYAML's own
rules are older and bite: `yes` is true, `010` is 8, `1:30` is 90, `5e8` is text. What the two read
differently is never guessed: it is a mistake that says what to write.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_MAX_BYTES = 2**20
_MAX_DEPTH = 50

Key = tuple[str | int, ...]
NAMES_IN_TEXT = re.compile(r"\$\$\{|\$\{([A-Za-z_][A-Za-z0-9_]*)\}|\$\{")
_INTEGER = re.compile(r"[-+]?(0|[1-9][0-9]{0,17})")
_FLOAT = re.compile(r"[-+]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][-+]?[0-9]+)?")
_AMBIGUOUS = re.compile(
    r"[-+]?0[0-9]+|0[xob][0-9a-fA-F]+|[-+]?[0-9]+(_[0-9]+)+|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)"
    r"|[-+]?[0-9]{19,}"
)
# What PyYAML gives to values without a written tag; `plain` then decides by itself.
_TAGS = {"str", "int", "float", "bool", "null", "timestamp", "merge", "value", "map", "seq"}
_AMBIGUOUS_WORDS = {"yes", "no", "on", "off", "y", "n"}
_WORDS: dict[str, bool | None] = {
    "true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False,
    "null": None, "Null": None, "NULL": None, "~": None, "": None,
}  # fmt: skip


class _Invalid:
    """What reading a value gives when a mistake was noted instead."""


INVALID = _Invalid()


class Ambiguous(ValueError):
    """A plain scalar that YAML programs read differently; the text says what to write."""


class Mistake(NamedTuple):
    """One thing to correct. `line` counts from 1; 0 is the file as a whole."""

    file: str
    line: int
    key: str
    message: str

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}" if self.line else self.file
        return f"{where}: {self.key}: {self.message}" if self.key else f"{where}: {self.message}"


class Reading:
    """One file being read: where its values stand, and the mistakes met so far.

    Without `environ`, `${VAR}` is ordinary text in this file. `read` collects what was read, by file.
    """

    def __init__(
        self,
        file: Path,
        environ: Mapping[str, str] | None = None,
        read: dict[Path, bytes] | None = None,
    ) -> None:
        self.file = file
        self.environ = environ
        self.read = {} if read is None else read
        self.mistakes: list[Mistake] = []
        self.lines: dict[Key, int] = {}

    @property
    def folder(self) -> Path:
        """The folder that relative paths in the file start from."""
        return self.file.parent

    def wrong(self, key: Key, message: str) -> None:
        """Note a mistake at `key`, or at the nearest key above it that the file has."""
        known = key
        while known and known not in self.lines:
            known = known[:-1]
        self.mistakes.append(Mistake(self.file.name, self.lines.get(known, 0), show_key(key), message))

    def entries(self, node: MappingNode, key: Key) -> Iterator[tuple[str, Node]]:
        """The keys and values of a mapping; what is no plain key, or comes twice, is noted and left out."""
        seen: dict[str, int] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            if not isinstance(key_node, ScalarNode):
                self.lines.setdefault((*key, "?"), line)
                self.wrong((*key, "?"), "a key must be a word")
            elif key_node.value == "<<" and not key_node.style:
                self.lines.setdefault((*key, "<<"), line)
                self.wrong((*key, "<<"), "merge keys are not supported; write the keys out")
            elif key_node.value in seen:
                # Noted at its own line; the first one keeps its place in `lines`.
                name = show_key((*key, key_node.value))
                first = seen[key_node.value]
                message = f"is given twice (first in line {first}); only one can be meant"
                self.mistakes.append(Mistake(self.file.name, line, name, message))
            else:
                seen[key_node.value] = line
                self.lines[(*key, key_node.value)] = line
                yield key_node.value, value_node

    def items(self, node: SequenceNode, key: Key) -> Iterator[tuple[int, Node]]:
        """The values of a list with their numbers, which count from 1 as people do."""
        for number, value_node in enumerate(node.value, start=1):
            self.lines[(*key, number)] = value_node.start_mark.line + 1
            yield number, value_node

    def expanded(self, text: str, key: Key) -> str | _Invalid:
        """`text` with `${VAR}` replaced from the environment; `$${` stands for a literal `${`."""
        environ = self.environ
        if environ is None or "${" not in text:
            return text
        problems = []

        def value(match: re.Match[str]) -> str:
            if match[0] == "$${":
                return "${"
            if match[1] is None:
                problems.append("`${` must be followed by a name and `}`; `$${` stands for the characters")
            elif match[1] not in environ:
                problems.append(f"the environment variable {match[1]} is not set")
            else:
                return environ[match[1]]
            return ""

        result = NAMES_IN_TEXT.sub(value, text)
        for problem in problems:
            self.wrong(key, problem)
        return INVALID if problems else result


def show_key(key: Key) -> str:
    """`("watch", 1, "path")` as `watch[1].path`."""
    parts = [f"[{part}]" if isinstance(part, int) else f".{part}" for part in key]
    return "".join(parts).removeprefix(".")


def plain(node: ScalarNode) -> str | int | float | bool | None:
    """The value of a scalar by the YAML 1.2 core schema. Raises Ambiguous."""
    text: str = node.value
    if node.style:  # quoted or a block: text, whatever it looks like
        return text
    if text in _WORDS:
        return _WORDS[text]
    if _INTEGER.fullmatch(text):
        return int(text)
    if _FLOAT.fullmatch(text) and not _AMBIGUOUS.fullmatch(text) and abs(float(text)) < float("inf"):
        return float(text)
    if _AMBIGUOUS.fullmatch(text):
        raise Ambiguous(f"`{text}` is read differently by YAML programs; write a decimal number, or quotes")
    if text.lower() in _AMBIGUOUS_WORDS:
        raise Ambiguous(f"`{text}` is read differently by YAML programs; write true or false, or quotes")
    return text


def parse(reading: Reading) -> Node | None:
    """The file's root node; None when it is empty or when a mistake was noted instead."""
    text = _text(reading)
    if text is None:
        return None
    if _too_deep(text):
        reading.wrong((), f"is nested more than {_MAX_DEPTH} levels deep")
        return None
    try:
        node: Node | None = yaml.compose(text, Loader=_LOADER)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        message = ", ".join(part for part in (error.context, error.problem) if part)
        if "escape character" in message:
            message += "; a Windows path stands in single quotes or in none, not in double quotes"
        elif "tab" in message or "\\t" in message:
            message += "; indent with spaces"
        reading.mistakes.append(
            Mistake(reading.file.name, mark.line + 1 if mark else 0, "", f"is not valid YAML: {message}")
        )
        return None
    except yaml.YAMLError as error:
        reason = str(getattr(error, "reason", error)).splitlines()[0]
        line = text.count("\n", 0, getattr(error, "position", 0) or 0) + 1
        reading.mistakes.append(Mistake(reading.file.name, line, "", f"is not valid YAML: {reason}"))
        return None
    if node is not None and _has_foreign_tag_or_loop(reading, node):
        return None
    return node


def _text(reading: Reading) -> str | None:
    try:
        with reading.file.open("rb") as stream:
            data = reading.read[reading.file] = stream.read(_MAX_BYTES + 1)
    except FileNotFoundError:
        reading.wrong((), "does not exist")
        return None
    except OSError as error:
        reading.wrong((), f"cannot be read: {error.strerror or error}")
        return None
    if len(data) > _MAX_BYTES:
        reading.wrong((), "is larger than 1 MiB, which no such file is")
        return None
    try:
        # PowerShell's `>` writes UTF-16 with a byte order mark, Notepad UTF-8 with one.
        return data.decode("utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        reading.mistakes.append(
            Mistake(reading.file.name, line, "", "is not UTF-8; save the file with the encoding UTF-8")
        )
        return None


def _too_deep(text: str) -> bool:
    """Whether the file nests too deeply; composing such a tree would overflow the C stack."""
    if text.count("[") + text.count("{") + text.count("- ") + text.count("? ") < 500:
        return False
    depth = 0
    try:
        for event in yaml.parse(text, Loader=_LOADER):
            if isinstance(event, yaml.CollectionStartEvent):
                depth += 1
                if depth > _MAX_DEPTH:
                    return True
            elif isinstance(event, yaml.CollectionEndEvent):
                depth -= 1
    except yaml.YAMLError as error:
        # libyaml (PyYAML 6.0.4 and later) has a limit of its own, and meets it before it tells of any level.
        # Everything else is reported with its line when the tree is composed.
        return "nesting depth" in str(error)
    return False


def _has_foreign_tag_or_loop(reading: Reading, root: Node) -> bool:
    """Note tags such as `!env` and every use of an alias: lines and limits are lost behind either."""
    before = len(reading.mistakes)
    seen: set[int] = set()
    stack = [root]
    while stack:
        node = stack.pop()
        line = node.start_mark.line + 1
        if id(node) in seen:
            message = "anchors (&name) and aliases (*name) are not supported; write the value out"
            reading.mistakes.append(Mistake(reading.file.name, line, "", message))
            continue
        seen.add(id(node))
        if node.tag.removeprefix("tag:yaml.org,2002:") not in _TAGS:
            reading.mistakes.append(
                Mistake(reading.file.name, line, "", f"tags such as {node.tag} are not supported")
            )
        if isinstance(node, MappingNode):
            stack.extend(part for pair in node.value for part in pair)
        elif isinstance(node, SequenceNode):
            stack.extend(node.value)
    return len(reading.mistakes) > before
