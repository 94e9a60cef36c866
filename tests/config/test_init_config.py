"""What `mqi init` writes: it must load, and mean what was answered."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from mqi.config import load_settings
from mqi.init_config import QUESTIONS, flow, render_config


def load(folder: Path, text: str) -> object:
    path = folder / "mqi.yaml"
    path.write_text(text, encoding="utf-8")
    return load_settings(path, {})


def test_the_defaults_load_and_are_those_of_the_least_file(tmp_path: Path) -> None:
    least = load(tmp_path, "watch: [{path: cases, room: G1}]\nhosts: [{name: here}]\n")
    assert load(tmp_path, render_config({})) == least


def test_comments_are_keys_that_only_wait_for_their_sign_to_go(tmp_path: Path) -> None:
    """Without its `#`, every key in a comment has the right indentation and the default as its value."""
    text = render_config({})
    active = "\n".join(
        line.replace("#", "", 1)
        if line.lstrip().startswith("#") and not re.match(r"#( \S|$)", line.lstrip())
        else line
        for line in text.splitlines()
    )
    assert active != text
    assert load(tmp_path, active) == load(tmp_path, text)
    assert len(yaml.safe_load(active)["timing"]) == 7


def test_answers_arrive(tmp_path: Path) -> None:
    answers = {
        "cases": str(tmp_path / "SHI log"), "room": "GTR 1", "layout": "shi", "depth": "2", "marker": "_READY",
        "results": str(tmp_path / "out"), "python": str(tmp_path / "python3"), "timezone": "Europe/Berlin",
    }  # fmt: skip
    assert set(answers) == {question.key for question in QUESTIONS}
    text = render_config(answers, schema="file:///opt/mqi/mqi.schema.json")
    assert text.splitlines()[0] == "# yaml-language-server: $schema=file:///opt/mqi/mqi.schema.json"
    path = tmp_path / "mqi.yaml"
    path.write_text(text, encoding="utf-8")
    loaded = load_settings(path, {})
    (watch,) = loaded.watch
    assert (watch.path, watch.room, watch.layout, watch.depth, watch.marker) == (
        tmp_path / "SHI log",
        "GTR 1",
        "shi",
        2,
        "_READY",
    )
    assert loaded.paths.results == tmp_path / "out"
    assert loaded.hosts[0].python == str(tmp_path / "python3")
    assert loaded.timezone.key == "Europe/Berlin"
    assert "$schema" not in render_config(answers)


def test_a_layout_brings_its_own_defaults(tmp_path: Path) -> None:
    text = render_config({"cases": str(tmp_path / "SHI log"), "layout": "shi"})
    assert "depth: any" in text
    path = tmp_path / "mqi.yaml"
    path.write_text(text, encoding="utf-8")
    (watch,) = load_settings(path, {}).watch
    assert (watch.layout, watch.depth, watch.marker) == ("shi", None, "_CASE_READY")


PROBLEMS = [
    ("cases", "", "must be a path"),
    ("cases", "a\nb", "control character"),
    ("cases", "a\udcff", "no characters"),  # a name that is not UTF-8, as os.fsdecode gives it
    ("room", "a:b", "cannot name a folder"),
    ("depth", "0", "from 1 to 20"),
    ("depth", "deep", "or `any`"),
    ("depth", "010", "read differently"),
    ("marker", "a/b", "is not the name of a file"),
]


@pytest.mark.parametrize(("key", "answer", "says"), PROBLEMS)
def test_wrong_answers_are_told_at_once(key: str, answer: str, says: str) -> None:
    (question,) = (one for one in QUESTIONS if one.key == key)
    assert says in (question.problem(answer) or "")
    with pytest.raises(ValueError, match=says):
        render_config({key: answer})


def test_the_default_answers_are_right() -> None:
    assert [question.problem(question.default) for question in QUESTIONS] == [None] * len(QUESTIONS)
    assert [question.key for question in QUESTIONS if question.is_path] == ["cases", "results"]
    with pytest.raises(KeyError):
        render_config({"unknown": "a"})


AWKWARD = [
    "D:\\new cases\\temp", "\\\\server\\share", "it's", 'a "b"', "a: b", "a #b", "${HOME}", "$${X}", "~x/y", "yes",
    "null", "010", "- a", "[a]", "{a}", "*a", "&a", "!a", "%a", "@a", "케이스", "a ", " a", "1e3", "\u2028x",
]  # fmt: skip


@pytest.mark.parametrize("name", AWKWARD)
def test_awkward_paths_mean_what_they_say(tmp_path: Path, name: str) -> None:
    answer = str(tmp_path / "in" / name)
    path = tmp_path / "mqi.yaml"
    path.write_text(render_config({"cases": answer, "python": answer}), encoding="utf-8")
    loaded = load_settings(path, {"HOME": "/elsewhere", "X": "x"})
    assert str(loaded.watch[0].path) == answer
    assert loaded.hosts[0].python == answer


@settings(max_examples=100, deadline=None)
@given(
    answers=st.fixed_dictionaries({}, optional={question.key: st.text(max_size=30) for question in QUESTIONS})
)
def test_what_passes_the_questions_loads_or_says_why(
    tmp_path_factory: pytest.TempPathFactory, answers: dict[str, str]
) -> None:
    try:
        text = render_config(answers)
    except ValueError as problem:
        assert "?" in str(problem)  # the question
        return
    yaml.safe_load(text)
    path = tmp_path_factory.getbasetemp() / "init.yaml"
    path.write_text(text, encoding="utf-8")


@given(st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(st.characters(codec="utf-8")),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text("ab:' ", min_size=1), inner, max_size=3),
))  # fmt: skip
def test_flow_reads_back(value: object) -> None:
    assert yaml.safe_load(f"a: {flow(value)}") == {"a": value}
