"""Every key of a step in a workflow file, declared once. The defaults are those of `workflow.Step`."""

from __future__ import annotations

from mqi.config_shape import Choice, Duration, Flag, Text, Whole
from mqi.config_table import Anything, Entry, Many, Named

STEP_NAME = r"^[a-z][a-z0-9_]{0,31}$"
# What the host fills in, with the sentence that the documentation shows.
PLACEHOLDERS = {
    "python": "the Python that the host's configuration names",
    "scripts": "the folder with the deployed scripts",
    "inputs": "inputs.json: which input file had which name",
    "input_dir": "the folder with the input files",
    "out": "the folder that the step writes its outputs to",
    "parameters": "parameters.json: the step's `parameters`",
    "files": "the folder with the step's `files`",
    "needs": "needs.json: the output folders of all the jobs that this one needs",
    "beam": "the beam's number (only with `for_each: beam`)",
    "outputs.STEP": "the output folder of the needed step STEP (the same beam's)",
    "PARAMETER": "the value of that one of the step's `parameters`, if it is text or a number",
}


def _glob_problem(text: str) -> str | None:
    if text.startswith("/") or "\\" in text or ":" in text or ".." in text.split("/"):
        return f"`{text}` must be a relative path with `/` between folders, without `..`, `\\` and `:`"
    return f"`{text}`: placeholders are not filled in here" if "{" in text or "}" in text else None


def _file_problem(text: str) -> str | None:
    return _glob_problem(text.replace("{room}", "room"))


_GLOB = Text("a pattern such as `*.csv`", check=_glob_problem)

STEP_ENTRIES = (
    Entry(
        "name",
        Text("a name of a-z, 0-9 and _ (32 at most)", pattern=STEP_NAME),
        "The step's name; it is part of the names of its jobs and of the results' folders.",
    ),
    Entry(
        "run",
        Many(Text("a word of the command", may_be_empty=True, numbers=True), 1, "word of the command"),
        "The command, word by word, without a shell. {placeholders} are filled in on the host.",
    ),
    Entry("for_each", Choice(("case", "beam")), "Run once per case, or once per treatment beam."),
    Entry(
        "needs",
        Many(Text("the name of a step"), noun="step"),
        "Steps that must have succeeded before. A beam needs the same beam; a case needs all beams.",
    ),
    Entry("group", Text("the name of a group"), "The group of the host's queue that limits how many run."),
    Entry("gpu", Flag(), "true: the job takes a free GPU of its group for itself."),
    Entry(
        "time_limit",
        Duration(1, 30 * 86400),
        "A job that runs for longer is ended and counts as failed.",
        field="time_limit_s",
    ),
    Entry("outputs", Many(_GLOB, noun="pattern"), "Each pattern must match a file when the job ends."),
    Entry("fetch", Many(_GLOB, noun="pattern"), "The output files that are brought to the results."),
    Entry(
        "transient_exit_codes",
        Many(Whole(1, 255), noun="exit code"),
        "The job is tried again by itself when it ends with one of these.",
    ),
    Entry("max_attempts", Whole(1, 100), "So many attempts at most, the first one included."),
    Entry(
        "parameters",
        Named(Anything(), r"^[A-Za-z_][A-Za-z0-9_.-]*$", "a parameter's name"),
        "Free values for the script. A changed value makes a retry compute the step again.",
    ),
    Entry(
        "files",
        Many(Text("a relative path", check=_file_problem), noun="file"),
        "Files below the folder of mqi.yaml that go with the job; {room} is the room's label.",
    ),
    Entry(
        "scripts",
        Many(_GLOB, noun="pattern"),
        "The scripts whose contents decide whether a retry computes the step again.",
    ),
)
