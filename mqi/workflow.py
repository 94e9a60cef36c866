"""A workflow: the steps that a case goes through, and the jobs that they become.

A step is a program that runs once per case or once per beam. A **job** is one such run. Its
**definition** is a digest of everything that can change its output; a retry repeats the jobs whose
definition changed and keeps the others.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, NamedTuple

from mqi.config_table import Entry, Many, Table
from mqi.errors import ConfigurationProblem
from mqi.workflow_checks import check_steps
from mqi.workflow_keys import STEP_ENTRIES
from mqi.yaml_reading import Mistake, Reading, parse

# What is deployed to a host but cannot change a job's output.
_AGENT = "agent/"


class Step(NamedTuple):
    """One step. `run` is the command with placeholders, which are filled in on the host."""

    name: str
    run: tuple[str, ...]
    for_each: str = "case"  # or "beam"
    needs: tuple[str, ...] = ()
    group: str = "cpu"
    gpu: bool = False
    time_limit_s: float = 3600.0
    outputs: tuple[str, ...] = ()  # globs; each must match a file when the job ends
    fetch: tuple[str, ...] = ("*",)  # globs; what matches is brought here
    transient_exit_codes: frozenset[int] = frozenset()
    max_attempts: int = 3
    parameters: Mapping[str, Any] = {}
    files: tuple[str, ...] = ()  # below the configuration's folder; may contain {room}
    scripts: tuple[str, ...] = ("*",)  # globs below remote_scripts

    def fetches(self, path: str) -> bool:
        """Whether the output file `path` (posix, relative to the job's outputs) is brought here."""
        return any(fnmatchcase(path, pattern) for pattern in self.fetch)

    def uses_script(self, path: str) -> bool:
        """Whether the script `path` (posix, relative to remote_scripts) is part of the definition."""
        if path.startswith(_AGENT) or "__pycache__/" in path:
            return False
        return any(fnmatchcase(path, pattern) for pattern in self.scripts)

    def files_in_room(self, room: str) -> tuple[str, ...]:
        """`files` with the room's label filled in."""
        return tuple(name.replace("{room}", room) for name in self.files)


class Workflow(NamedTuple):
    """Steps in topological order: each comes after those that it needs."""

    name: str
    steps: tuple[Step, ...]

    def step(self, name: str) -> Step:
        """The step called `name`. Raises KeyError."""
        step = self.find(name)
        if step is None:
            raise KeyError(name)
        return step

    def find(self, name: str) -> Step | None:
        """The step called `name`, or None when the workflow has no such step (any more)."""
        return next((step for step in self.steps if step.name == name), None)


class JobPlan(NamedTuple):
    """A job to be: which step, for which beam (None: the whole case), after which (step, beam)."""

    step: str
    beam: int | None
    definition: str  # 64 hex digits
    needs: tuple[tuple[str, int | None], ...]


def expand(
    workflow: Workflow,
    beams: Sequence[int],
    *,
    scripts_digest: Callable[[Step], str],
    files_digest: Callable[[Step], str],
) -> tuple[JobPlan, ...]:
    """The jobs of a case with these beams, each after those that it needs.

    A beam's job needs the same beam's job of an earlier beam step; a case's job needs those of all beams.
    `scripts_digest` and `files_digest` give a digest of the contents that the step's globs and files name.
    """
    beams = tuple(dict.fromkeys(beams))
    jobs: dict[tuple[str, int | None], JobPlan] = {}
    for step in workflow.steps:
        contents = (scripts_digest(step), files_digest(step))
        for beam in beams if step.for_each == "beam" else (None,):
            needs = tuple(
                (name, needed)
                for name in step.needs
                for needed in _needed_beams(workflow.step(name), beam, beams)
            )
            definitions = [jobs[need].definition for need in needs]
            definition = _definition(step, beam, contents, list(zip(needs, definitions, strict=True)))
            jobs[step.name, beam] = JobPlan(step.name, beam, definition, needs)
    return tuple(jobs.values())


def _needed_beams(needed: Step, beam: int | None, beams: Sequence[int]) -> Sequence[int | None]:
    if needed.for_each == "case":
        return (None,)
    return beams if beam is None else (beam,)


def _definition(
    step: Step,
    beam: int | None,
    contents: tuple[str, str],
    needs: list[tuple[tuple[str, int | None], str]],
) -> str:
    """SHA-256 of what can change the job's output; limits, group, priority, retry and fetch cannot."""
    import hashlib  # OpenSSL takes its time to load, and most commands only read the workflow

    scripts, files = contents
    facts = {
        "argv": step.run,
        "parameters": step.parameters,
        "scripts": scripts,
        "files": files,
        "gpu": step.gpu,
        "outputs": step.outputs,
        # Sorted, so that the order in which a plan lists its beams does not matter.
        "needs": sorted([name, -1 if of is None else of, definition] for (name, of), definition in needs),
        "beam": beam,
    }
    text = json.dumps(facts, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode("ascii")).hexdigest()


FILE = Table(
    Entry(
        "steps",
        Many(Table(*STEP_ENTRIES, target=Step), 1, "step"),
        "The steps, in any order; `needs` says what comes after what.",
    )
)


def schema() -> dict[str, Any]:
    """The JSON schema of a workflow file, as it lies in config/workflow.schema.json."""
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "A workflow of mqi",
        "description": "Written by scripts/write_config.py from mqi/workflow_keys.py.",
        **FILE.schema(),
    }


def load_workflow(path: Path, name: str | None = None) -> Workflow:
    """The workflow in the file at `path`, called `name` (default: the file's name without its ending).

    Raises ConfigurationProblem, whose message lists every mistake, one per line with file, line and key.
    """
    workflow, mistakes = read_workflow(path, name)
    if workflow is not None:
        return workflow
    count = "1 mistake" if len(mistakes) == 1 else f"{len(mistakes)} mistakes"
    lines = [f"the workflow {path} has {count}", *(f"  {mistake}" for mistake in sorted(set(mistakes)))]
    raise ConfigurationProblem("\n".join(lines), "correct the file and run the command again")


def read_workflow(
    path: Path, name: str | None = None, read: dict[Path, bytes] | None = None
) -> tuple[Workflow | None, list[Mistake]]:
    """The workflow, or None and all the mistakes. `read` collects what was read, by file."""
    reading = Reading(path, read=read)
    node = parse(reading)
    if reading.mistakes:
        return None, reading.mistakes
    values = FILE.read(node, (), reading)
    steps: tuple[dict[str, Any], ...] = values.get("steps", ()) if isinstance(values, dict) else ()
    # A step that could not be read at all is noted; the others keep their numbers.
    steps = tuple(step if isinstance(step, dict) else {} for step in steps)
    order = check_steps(steps, reading)
    if reading.mistakes:
        return None, reading.mistakes
    made = {step["name"]: _step(step) for step in steps}
    return Workflow(name or path.stem, tuple(made[one] for one in order)), []


def _step(values: dict[str, Any]) -> Step:
    return Step(**{**values, "transient_exit_codes": frozenset(values["transient_exit_codes"])})
