"""A new mqi.yaml, written from the declaration in `config_keys.py`: every key with its sentence. Pure.

The same renderer makes `config/mqi.example.yaml` (every default written out) and what `mqi init` writes
(the answers written out, the rest as comments, so that a later mqi may bring better defaults).
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from yaml.nodes import ScalarNode

from mqi.config_keys import DEFAULT_TIMEZONE, FILE, HOST, LAYOUT_DEFAULTS, PATHS, WATCH
from mqi.config_shape import FilePath, OrNull, Shape, Text, Whole
from mqi.config_table import REQUIRED, Entry, Many, Table
from mqi.yaml_reading import Ambiguous, Reading, plain

_WIDTH = 100
_HEADER = """\
The configuration of mqi. {what}

Durations are written as 30s, 5 min, 2h or 14d, sizes as 500 MB or 5 GiB. Relative paths start at the \
folder of this file; ~ is the home folder. Text may contain environment variables, as in ${{HOME}}. \
Write Windows paths in single quotes: 'D:\\cases'. Every command checks the file and names all mistakes."""
_SECTIONS = {"watch": WATCH, "hosts": HOST, "paths": PATHS}


@dataclass(frozen=True, slots=True)
class Question:
    """What `mqi init` asks. `key` names the answer, and is the option's name without questions."""

    key: str
    text: str
    default: str
    section: str
    entry: str

    def default_after(self, answers: Mapping[str, str]) -> str:
        """The default once the questions before it are answered: a layout has its own."""
        of_layout = LAYOUT_DEFAULTS.get(answers.get("layout", ""), {})
        if self.section != "watch" or self.entry not in of_layout:
            return self.default
        return str(self.shape.show(of_layout[self.entry]))

    @property
    def shape(self) -> Shape:
        """The shape of the configuration key that the answer becomes."""
        table = _SECTIONS.get(self.section, FILE)
        return table.entries[self.entry].shape

    @property
    def is_path(self) -> bool:
        """Whether the answer is a path on this computer, which a person means from where they stand."""
        return isinstance(self.shape, FilePath)

    def problem(self, answer: str) -> str | None:
        """The sentence that says why `answer` will not do, or None when it will."""
        if answer == "" and isinstance(self.shape, OrNull):
            return None
        try:
            answer.encode("utf-8")
        except UnicodeEncodeError:
            return "the answer contains bytes that are no characters"
        reading = Reading(Path.cwd() / "mqi.yaml", {})
        style = None if isinstance(self.shape, Whole) else '"'
        self.shape.read(ScalarNode("", _literal(answer, self.shape), style=style), (), reading)
        return reading.mistakes[0].message if reading.mistakes else None

    def value(self, answer: str) -> Any:
        """`answer` as it is written in the file."""
        if isinstance(self.shape, Whole):
            return int(answer) if answer.lstrip("-").isdecimal() else answer
        if isinstance(self.shape, OrNull):
            return answer or None
        return _literal(answer, self.shape)


QUESTIONS = (
    Question("cases", "In which folder do case folders appear?", "cases", "watch", "path"),
    Question("room", "What is the treatment room called?", "G1", "watch", "room"),
    Question(
        "layout",
        "What does a case folder look like? (generic: a case; shi: patient/study with deliveries)",
        "generic",
        "watch",
        "layout",
    ),
    Question(
        "depth",
        "How many levels below it do case folders lie? (1: directly in it; 2: patient/study; any)",
        "1",
        "watch",
        "depth",
    ),
    Question("marker", "Which file says that a case is complete? (empty: none does)", "", "watch", "marker"),
    Question("results", "Where shall the results go?", "data/results", "paths", "results"),
    Question("python", "Which Python runs the steps? (empty: the one that runs mqi)", "", "hosts", "python"),
    Question("timezone", "In which time zone are you?", DEFAULT_TIMEZONE, "", "timezone"),
)
DEFAULT_HOST = "here"


def render_config(answers: Mapping[str, str], *, schema: str | None = None) -> str:
    """A commented mqi.yaml from answers by question key; a missing answer is the question's default.

    `schema` is the path or address of mqi.schema.json for editors. Raises ValueError with a sentence for
    an answer that will not do, KeyError for one that no question has.
    """
    by_key = {question.key: question for question in QUESTIONS}
    given: dict[str, Any] = {"watch": {}, "hosts": {"name": DEFAULT_HOST}, "paths": {}}
    defaults = {one.key: one.default_after(answers) for one in QUESTIONS}
    for key, answer in {**defaults, **answers}.items():
        question = by_key[key]
        problem = question.problem(answer)
        if problem:
            raise ValueError(f"{question.text} {answer!r}: {problem}")
        place = given[question.section] if question.section else given
        place[question.entry] = question.value(answer)
    values = {**given, "watch": [given["watch"]], "hosts": [given["hosts"]]}
    return render(values, schema=schema, write_defaults=False)


def render_example() -> str:
    """The text of config/mqi.example.yaml: every key with its default."""
    values = {"watch": [{"path": "cases", "room": "G1"}], "hosts": [{"name": DEFAULT_HOST}]}
    return render(values, schema="mqi.schema.json", write_defaults=True)


def render(values: Mapping[str, Any], *, schema: str | None, write_defaults: bool) -> str:
    """A commented mqi.yaml from `values` (as written in the file). Other keys have their defaults, which
    are written out or, without `write_defaults`, stand in comments."""
    what = (
        "This example has every key with its default; only `watch` and `hosts` are needed."
        if write_defaults
        else "To change a default, remove the # before its key."
    )
    lines = [] if schema is None else [f"# yaml-language-server: $schema={schema}", "#"]
    lines += _comment(_HEADER.format(what=what))
    lines += _table(FILE, values, write_defaults, spaced=True)
    return "\n".join(lines) + "\n"


def _comment(text: str, indent: str = "") -> list[str]:
    lines: list[str] = []
    for paragraph in text.split("\n\n"):
        lines += [f"{indent}#"] if lines else []
        wrapped = textwrap.wrap(paragraph, _WIDTH - len(indent) - 2, break_long_words=False)
        lines += [f"{indent}# {line}" for line in wrapped]
    return lines


def _table(
    table: Table, values: Mapping[str, Any], write_defaults: bool, *, spaced: bool = False, about: bool = True
) -> Iterator[str]:
    """The lines of a group of keys, without indentation."""
    for entry in table.entries.values():
        if spaced:
            yield ""
        if about:
            yield from _comment(entry.about)
        lines = list(_entry(table, entry, values, write_defaults))
        # A group keeps its first line even when everything below it is a comment.
        if entry.name in values or write_defaults or isinstance(entry.shape, Table):
            yield from lines
        else:
            # Without a space: whoever removes the `#` has the right indentation.
            yield from (f"#{line}" for line in lines)


def _entry(table: Table, entry: Entry, values: Mapping[str, Any], write_defaults: bool) -> Iterator[str]:
    shape = entry.shape
    if isinstance(shape, Table):
        yield f"{entry.name}:"
        yield from _indented(_table(shape, values.get(entry.name, {}), write_defaults))
        return
    value = values[entry.name] if entry.name in values else _default(table, entry)
    if isinstance(shape, Many) and isinstance(shape.shape, Table):
        yield f"{entry.name}:"
        for number, item in enumerate(value):
            # The keys are explained once, at the first item; a default list is shown bare.
            explained = number == 0 and entry.name in values
            lines = list(_table(shape.shape, item, write_defaults, about=explained))
            yield from _indented(_item(lines))
    else:
        yield from _pair(entry.name, value)


def _default(table: Table, entry: Entry) -> Any:
    default = table.default(entry)
    if default is REQUIRED:
        raise ValueError(f"`{entry.name}` has no default and needs a value")
    return default if isinstance(entry.shape, FilePath) else entry.shape.show(default)


def _indented(lines: Iterator[str]) -> Iterator[str]:
    return (f"  {line}" if line else line for line in lines)


def _item(lines: list[str]) -> Iterator[str]:
    """The lines of a list's item: `- ` before its first key."""
    started = False
    for line in lines:
        if not started and not line.startswith("#"):
            yield f"- {line}"
            started = True
        else:
            yield f"  {line}" if started else line


def _pair(name: str, value: Any) -> Iterator[str]:
    line = f"{name}: {flow(value)}"
    if len(line) <= _WIDTH or not isinstance(value, list):
        yield line
        return
    yield f"{name}:"
    pieces = [flow(item) + "," for item in value]
    pieces[0], pieces[-1] = "[" + pieces[0], pieces[-1].removesuffix(",") + "]"
    line = " "
    for piece in pieces:
        if len(line) + len(piece) >= _WIDTH:
            yield line
            line = "  "
        line += " " + piece
    yield line


def flow(value: Any) -> str:
    """`value` in YAML on one line; reading it back gives the same value."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{flow(name)}: {flow(item)}" for name, item in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(flow(item) for item in value) + "]"
    return _text(str(value))


def _text(text: str) -> str:
    harmless = re.fullmatch(r"[A-Za-z0-9_/][A-Za-z0-9_/.-]*( [A-Za-z0-9_/.-]+)*", text)
    if harmless and _is_text(text):
        return text
    if not text.isprintable():
        escaped = "".join(
            f"\\{one}" if one in '"\\' else one if one.isprintable() else f"\\U{ord(one):08x}" for one in text
        )
        return f'"{escaped}"'
    return "'" + text.replace("'", "''") + "'" if '"' in text or "\\" in text else f'"{text}"'


def _is_text(text: str) -> bool:
    try:
        return isinstance(plain(ScalarNode("", text)), str)
    except Ambiguous:
        return False


def _literal(answer: str, shape: Shape) -> str:
    """`answer` for a shape that replaces `${VAR}`: an answer means what it says."""
    replaces = isinstance(shape, FilePath) or (isinstance(shape, Text) and not shape.fixed)
    return answer.replace("${", "$${") if replaces else answer
