"""Workflow files, and the jobs that a workflow becomes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from mqi.errors import ConfigurationProblem
from mqi.resources import packaged_config, remote_scripts
from mqi.workflow import JobPlan, Step, Workflow, expand, load_workflow, schema
from mqi.workflow_keys import PLACEHOLDERS

DEFAULT = packaged_config() / "workflows" / "default_qa.yaml"


def write(folder: Path, text: str) -> Path:
    path = folder / "qa.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def mistakes(folder: Path, text: str) -> list[str]:
    try:
        load_workflow(write(folder, text))
    except ConfigurationProblem as problem:
        assert problem.exit_code == 78 and problem.hint
        return [line.strip() for line in str(problem).splitlines()[1:]]
    return []


# --- the file ------------------------------------------------------------------------------------------


def test_the_packaged_workflow() -> None:
    workflow = load_workflow(DEFAULT)
    assert workflow.name == "default_qa"
    interpreter, moquisim, report = workflow.steps
    assert (interpreter.name, interpreter.for_each, interpreter.group) == ("interpreter", "case", "cpu")
    assert interpreter.outputs == ("beams.json", "beam_*.csv", "spot_check.json")
    assert interpreter.files == ("machines/{room}.yaml",)
    assert interpreter.fetches("delivered_2.csv") and not interpreter.fetches("log/beam_2/01_120.00MeV.csv")
    assert (moquisim.name, moquisim.for_each, moquisim.needs) == ("moquisim", "beam", ("interpreter",))
    assert (moquisim.group, moquisim.gpu) == ("gpu", False)
    assert moquisim.files == ("machines/{room}.yaml",)
    assert "dose_planned.npz" in moquisim.outputs
    assert (report.name, report.for_each, report.needs) == ("report", "case", ("interpreter", "moquisim"))
    assert {"qa.json", "report.html", "report.pdf"} <= set(report.outputs)
    for step in workflow.steps:
        assert step.transient_exit_codes == {75} and step.max_attempts == 3
        assert step.run[0] == "{python}"
        assert (remote_scripts() / step.run[1].removeprefix("{scripts}/")).is_file()
    written: dict[str, Any] = yaml.safe_load(DEFAULT.read_text(encoding="utf-8"))
    jsonschema.validate(written, schema())


def test_the_packaged_workflow_explains_every_placeholder() -> None:
    text = DEFAULT.read_text(encoding="utf-8")
    assert [name for name in PLACEHOLDERS if f"#   {{{name}}}" not in text] == []


def test_every_key_arrives_and_the_rest_are_the_defaults_of_step(tmp_path: Path) -> None:
    workflow = load_workflow(
        write(
            tmp_path,
            """
steps:
  - name: last
    run: ["{python}", "{scripts}/x.py", "{needs}", "{out}"]
    needs: [each]
  - name: each
    run: [prog, -n, 5, "{beam}", "{files}/m.json", "{outputs.first}/a b.csv"]
    for_each: beam
    needs: [first]
    group: big
    gpu: true
    time_limit: 90 min
    outputs: [dose.mhd, "sub/*.raw"]
    fetch: ["*.mhd"]
    transient_exit_codes: [75, 3]
    max_attempts: 5
    parameters: {histories: 5e8, seed: 7, name: water, flags: [true, null, {deep: 1.5}]}
    files: ["machines/{room}.json"]
    scripts: [x.py, "lib/*"]
  - {name: first, run: [a]}
""",
        ),
        name="site",
    )
    assert workflow.name == "site"
    assert [step.name for step in workflow.steps] == ["first", "each", "last"]  # by need, then by place
    assert workflow.step("first") == Step("first", ("a",))
    each = workflow.step("each")
    assert each.run[2] == "5"
    # PyYAML alone would read 5e8 as text, which a simulation then cannot count to.
    parameters = {"histories": 5e8, "seed": 7, "name": "water", "flags": [True, None, {"deep": 1.5}]}
    assert each.parameters == parameters
    assert (each.time_limit_s, each.transient_exit_codes, each.max_attempts) == (
        5400.0,
        frozenset({3, 75}),
        5,
    )
    assert (each.gpu, each.group, each.for_each) == (True, "big", "beam")
    assert each.files_in_room("G1") == ("machines/G1.json",)
    assert each.fetches("sub/x.mhd") and not each.fetches("x.raw")
    assert each.uses_script("lib/a/b.py") and not each.uses_script("y.py")


def test_what_is_part_of_a_definition_by_default() -> None:
    step = Step("a", ("b",))
    assert step.uses_script("interpreter.py") and step.uses_script("steplib/beam.py")
    assert not step.uses_script("agent/feed.py")
    assert not step.uses_script("steplib/__pycache__/beam.cpython-311.pyc")
    assert not step.uses_script("__pycache__/x.pyc")
    assert step.fetches("any/file")


ONE = "steps:\n  - name: one\n    run: [a]\n"
WRONG = [
    ("empty", "", ["`steps` is missing"]),
    ("no steps", "steps: []\n", ["must list at least one step"]),
    ("no run", "steps: [{name: one}]\n", ["steps[1]: `run` is missing"]),
    ("empty run", "steps: [{name: one, run: []}]\n", ["must list at least one word"]),
    ("no program", "steps: [{name: one, run: ['']}]\n", ["first word is the program"]),
    ("one string", "steps: [{name: one, run: a b}]\n", ["steps[1].run: must be a list"]),
    ("no step at all", "steps: [5, {name: one, run: [a]}]\n", ["steps[1]: must be lines of"]),
    ("name", "steps: [{name: One, run: [a]}]\n", ["`One` is not a name of a-z"]),
    ("long name", f"steps: [{{name: {'a' * 33}, run: [a]}}]\n", ["is not a name of a-z"]),
    ("name twice", ONE + "  - {name: one, run: [a]}\n", [":4: steps[2].name: `one` is already the step in line 2"]),
    ("unknown key", ONE + "    for_aech: beam\n", [":4: steps[1].for_aech: is not known; did you mean `for_each`?"]),
    ("key twice", ONE + "    group: a\n    group: b\n", [":5: steps[1].group: is given twice"]),
    ("for each", ONE + "    for_each: patient\n", ["`patient` is not known; known: case, beam"]),
    ("unknown need", ONE + "    needs: [oen]\n", ["there is no step `oen`; did you mean `one`?"]),
    ("need twice", ONE + "  - {name: b, run: [a], needs: [one, one]}\n", ["`one` is given twice"]),
    ("need itself", ONE + "    needs: [one]\n", ["`one` needs itself"]),
    ("yes is no flag", ONE + "    gpu: yes\n", ["`yes` is read differently"]),
    ("no unit", ONE + "    time_limit: 30\n", ["needs a unit"]),
    ("no time", ONE + "    time_limit: 0\n", ["must lie between 1s and 30d"]),
    ("exit code 0", ONE + "    transient_exit_codes: [0]\n", ["from 1 to 255"]),
    ("no attempt", ONE + "    max_attempts: 0\n", ["from 1 to 100"]),
    ("output outside", ONE + "    outputs: [../x]\n", ["`../x` must be a relative path"]),
    ("output absolute", ONE + "    outputs: [/x]\n", ["`/x` must be a relative path"]),
    ("output, drive", ONE + "    outputs: ['C:x']\n", ["`C:x` must be a relative path"]),
    ("output, backslash", ONE + "    outputs: ['a\\b']\n", ["must be a relative path"]),
    ("output, placeholder", ONE + "    outputs: ['{beam}.csv']\n", ["placeholders are not filled in here"]),
    ("file, placeholder", ONE + "    files: ['{beam}.csv']\n", ["placeholders are not filled in here"]),
    ("file outside", ONE + "    files: ['{room}/../../x']\n", ["must be a relative path"]),
    ("parameter", ONE + "    parameters: {a: 010}\n", ["`010` is read differently"]),
    ("parameter", ONE + "    parameters: {a: [no]}\n", ["parameters.a[1]: `no` is read differently"]),
    ("parameter", ONE + "    parameters: {a: .nan}\n", ["`.nan` is read differently"]),
    ("parameter", ONE + "    parameters: {a: 1e999}\n", []),  # text, as it is no finite number
    ("parameter twice", ONE + "    parameters: {a: {b: 1, b: 2}}\n", ["parameters.a.b: is given twice"]),
    ("unknown placeholder", ONE.replace("a]", "'{otu}']"), ["`{otu}` is not known; did you mean `out`?"]),
    ("empty placeholder", ONE.replace("a]", "'{}']"), ["`{}` is not known"]),
    ("a parameter", ONE.replace("a]", "'{seed}']") + "    parameters: {seed: 1}\n", []),
    ("a list parameter", ONE.replace("a]", "'{x}']") + "    parameters: {x: [1]}\n", ["only a parameter that is text"]),
    ("JSON", ONE.replace("a]", """'{"a": {"b": "{out}"}}']"""), []),
    ("JSON", ONE.replace("a]", """'{"a": "{otu}"}']"""), ["`{otu}` is not known; did you mean `out`?"]),
    ("literally PARAMETER", ONE.replace("a]", "'{PARAMETER}']"), ["`{PARAMETER}` is not known"]),
    ("lone brace", ONE.replace("a]", "'{out']"), ["has a brace without its partner"]),
    ("nested braces", ONE.replace("a]", "'{{out}}']"), ["has a brace without its partner"]),
    ("beam of a case", ONE.replace("a]", "'{beam}']"), ["only with `for_each: beam`"]),
    ("files of none", ONE.replace("a]", "'{files}']"), ["the step names no `files`"]),
    ("literally STEP", ONE.replace("a]", "'{outputs.STEP}']"), ["`STEP` is not among the step's `needs`"]),
    (
        "output of a step that is not needed",
        ONE + "  - {name: b, run: ['{outputs.one}']}\n",
        ["`{outputs.one}`: `one` is not among the step's `needs`"],
    ),
    (
        "outputs of all beams",
        ONE + "    for_each: beam\n  - {name: b, run: ['{outputs.one}'], needs: [one]}\n",
        ["`one` has one folder per beam; read them from `{needs}`"],
    ),
    (
        "cycle",
        "steps:\n  - {name: z, run: [a], needs: [c]}\n  - {name: a, run: [a], needs: [b]}\n"
        "  - {name: b, run: [a], needs: [c]}\n  - {name: c, run: [a], needs: [a]}\n",
        ["the steps wait for each other: `c` needs `a` needs `b` needs `c`"],
    ),
    (
        "numbers stay right behind a wrong item",
        "steps:\n  - 5\n  - {name: b, run: [[], '{x}'], needs: [[], q]}\n",
        ["steps[1]", "steps[2].needs[1]", "steps[2].needs[2]: there is no step", "steps[2].run[1]",
         "steps[2].run[2]: `{x}`"],
    ),
]  # fmt: skip


@pytest.mark.parametrize(("remark", "text", "expected"), WRONG)
def test_what_is_wrong_is_said(tmp_path: Path, remark: str, text: str, expected: list[str]) -> None:
    lines = mistakes(tmp_path, text)
    assert len(lines) == len(expected), lines
    for line, part in zip(lines, expected, strict=True):
        assert part in line, remark
        assert line.startswith("qa.yaml")


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationProblem, match=r"gone\.yaml: does not exist"):
        load_workflow(tmp_path / "gone.yaml")


def test_environment_variables_mean_nothing_here(tmp_path: Path) -> None:
    """A definition must not depend on who runs mqi."""
    text = ONE + "    parameters: {a: '${HOME}'}\n"
    assert load_workflow(write(tmp_path, text)).steps[0].parameters == {"a": "${HOME}"}


@settings(max_examples=150, deadline=None)
@given(data=st.text(alphabet="steps: -nameruned[]{}\n'\"&*!?|>#0a,", max_size=120))
def test_any_text_gives_a_workflow_or_a_sentence(tmp_path_factory: pytest.TempPathFactory, data: str) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzz.yaml"
    path.write_text("steps:\n" + data, encoding="utf-8")
    try:
        load_workflow(path)
    except ConfigurationProblem as problem:
        assert "fuzz.yaml" in str(problem)


# --- the jobs --------------------------------------------------------------------------------------------


def jobs(steps: tuple[Step, ...], beams: list[int], **contents: str) -> dict[tuple[str, int | None], JobPlan]:
    """The jobs by step and beam; `contents` gives the digests of scripts and files."""
    planned = expand(
        Workflow("w", steps),
        beams,
        scripts_digest=lambda step: contents.get("scripts", "s"),
        files_digest=lambda step: contents.get(f"files_{step.name}", "f"),
    )
    return {(job.step, job.beam): job for job in planned}


BASE = (
    Step("prepare", ("p",)),
    Step("dose", ("d", "{beam}"), for_each="beam", needs=("prepare",)),
    Step("gamma", ("g",), for_each="beam", needs=("dose", "prepare")),
    Step("report", ("r",), needs=("gamma",)),
)


def test_beams_need_their_own_beam_and_cases_need_all() -> None:
    planned = jobs(BASE, [3, 2])
    order = [("prepare", None), ("dose", 3), ("dose", 2), ("gamma", 3), ("gamma", 2), ("report", None)]
    assert list(planned) == order
    assert planned["prepare", None].needs == ()
    assert planned["dose", 2].needs == (("prepare", None),)
    assert planned["gamma", 2].needs == (("dose", 2), ("prepare", None))
    assert planned["report", None].needs == (("gamma", 3), ("gamma", 2))


def test_without_beams_only_the_case_remains() -> None:
    assert list(jobs(BASE, [])) == [("prepare", None), ("report", None)]


def test_a_beam_that_is_named_twice_is_one_job() -> None:
    assert list(jobs(BASE[:2], [1, 1])) == [("prepare", None), ("dose", 1)]


def test_definitions_are_digests_that_differ_by_beam() -> None:
    definitions = [job.definition for job in jobs(BASE, [1, 2]).values()]
    assert len(set(definitions)) == len(definitions)
    assert all(len(one) == 64 and int(one, 16) >= 0 for one in definitions)


def test_the_order_of_beams_does_not_matter() -> None:
    forward, backward = jobs(BASE, [1, 2]), jobs(BASE, [2, 1])
    assert {key: job.definition for key, job in forward.items()} == {
        key: job.definition for key, job in backward.items()
    }


ALL = {"prepare", "dose", "gamma", "report"}
CHANGES: list[tuple[str, dict[str, Any], set[str]]] = [
    ("the command", {"run": ("d", "-x", "{beam}")}, {"dose", "gamma", "report"}),
    ("parameters", {"parameters": {"a": 1}}, {"dose", "gamma", "report"}),
    ("the GPU flag", {"gpu": True}, {"dose", "gamma", "report"}),
    ("outputs", {"outputs": ("a",)}, {"dose", "gamma", "report"}),
    ("the time limit", {"time_limit_s": 1.0}, set()),
    ("attempts", {"max_attempts": 9}, set()),
    ("transient codes", {"transient_exit_codes": frozenset({1})}, set()),
    ("what is fetched", {"fetch": ("a",)}, set()),
    ("the group", {"group": "other"}, set()),
]


@pytest.mark.parametrize(("remark", "change", "changed"), CHANGES)
def test_what_changes_a_definition(remark: str, change: dict[str, Any], changed: set[str]) -> None:
    """The changed step is `dose`: what comes before it stays, what comes after it changes with it."""
    steps = tuple(step._replace(**change) if step.name == "dose" else step for step in BASE)
    before, after = jobs(BASE, [1]), jobs(steps, [1])
    assert {
        name for name, beam in before if before[name, beam].definition != after[name, beam].definition
    } == changed


def test_changed_scripts_and_files_change_definitions() -> None:
    before = jobs(BASE, [1])
    for after, changed in (
        (jobs(BASE, [1], scripts="t"), ALL),
        (jobs(BASE, [1], files_gamma="x"), {"gamma", "report"}),
    ):
        assert {key[0] for key in before if before[key].definition != after[key].definition} == changed


def test_one_more_beam_changes_only_what_reads_all_beams() -> None:
    before, after = jobs(BASE, [1]), jobs(BASE, [1, 2])
    assert {key for key in before if before[key].definition != after[key].definition} == {("report", None)}


def test_a_definition_is_the_same_in_every_process(tmp_path: Path) -> None:
    """Hash seeds and dict order must not leak into what decides about repeating a simulation."""
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from mqi.workflow import expand, load_workflow\n"
        "workflow = load_workflow(Path(sys.argv[1]))\n"
        "plans = expand(workflow, [1, 2], scripts_digest=lambda s: 's', files_digest=lambda s: 'f')\n"
        "print([plan.definition for plan in plans])\n"
    )
    text = ONE + "    parameters: {b: 1, a: 2}\n    transient_exit_codes: [1, 75, 3]\n"
    texts = (text, text.replace("{b: 1, a: 2}", "{a: 2, b: 1}"))
    seen = {
        subprocess.run(
            [sys.executable, "-c", code, str(write(tmp_path, texts[seed % 2]))],
            env={"PYTHONHASHSEED": str(seed), "PYTHONPATH": str(Path(__file__).parents[2])},
            capture_output=True, text=True, check=True,
        ).stdout
        for seed in range(4)
    }  # fmt: skip
    assert len(seen) == 1 and json.loads(seen.pop().replace("'", '"'))
