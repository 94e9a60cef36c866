"""A job's command line and environment: templates and tables in, lists and tables out. All of it pure."""

from __future__ import annotations

import re
from typing import Any, Dict, List, Mapping

from agent.names import parse_job_key

# Only what looks exactly like one of ours is a placeholder: a JSON text among the arguments is left alone.
_PLACEHOLDER = re.compile(r"\{([a-z][a-z0-9_]*(?:\.[a-z][a-z0-9_]*)?)\}")
_PATHS = ("python", "scripts", "inputs", "input_dir", "out", "parameters", "files", "needs")
# What programs cannot do without on Windows.
_WINDOWS = (
    "SYSTEMROOT", "SYSTEMDRIVE", "WINDIR", "COMSPEC", "PATHEXT", "TEMP", "TMP", "USERPROFILE", "APPDATA",
    "LOCALAPPDATA", "PROGRAMDATA", "PROGRAMFILES", "NUMBER_OF_PROCESSORS", "PROCESSOR_ARCHITECTURE",
)  # fmt: skip


def needed_jobs(job: Mapping[str, Any]) -> Dict[str, Dict[str, str]]:
    """step -> beam ("" for the case) -> job key, of the jobs that `job` needs."""
    table: Dict[str, Dict[str, str]] = {}
    for key in job["needs"]:
        need = parse_job_key(key)
        table.setdefault(need.step, {})["" if need.beam is None else str(need.beam)] = key
    return table


def _output_steps(job: Mapping[str, Any]) -> Dict[str, str]:
    """step -> job key for {outputs.STEP}: the same beam's, or the case-level one."""
    own = "" if job["beam"] is None else str(job["beam"])
    found = {}
    for step, beams in needed_jobs(job).items():
        for beam in (own, ""):
            if beam in beams:
                found[step] = beams[beam]
                break
    return found


def _plain_values(job: Mapping[str, Any]) -> Dict[str, str]:
    """What the job itself says: its beam, and its parameters as far as they are one word or number."""
    values = {
        name: str(value)
        for name, value in job["parameters"].items()
        if isinstance(value, (str, int, float)) and not isinstance(value, bool) and "\0" not in str(value)
    }
    if job["beam"] is not None:
        values["beam"] = str(job["beam"])
    return values


def unknown_placeholders(job: Mapping[str, Any]) -> List[str]:
    """The placeholders of a job's command that nothing stands behind."""
    known = set(_PATHS) | set(_plain_values(job)) | {"outputs." + step for step in _output_steps(job)}
    used = {name for word in job["argv"] for name in _PLACEHOLDER.findall(word)}
    return sorted(used - known)


def command_line(job: Mapping[str, Any], paths: Mapping[str, str], out_of: Mapping[str, str]) -> List[str]:
    """The job's argv. `paths`: a value for each of the fixed placeholders; `out_of`: job key -> out folder."""
    values = dict(_plain_values(job))
    values.update(paths)
    values.update({"outputs." + step: out_of[key] for step, key in _output_steps(job).items()})
    return [_PLACEHOLDER.sub(lambda match: values[match[1]], word) for word in job["argv"]]


def needs_table(job: Mapping[str, Any], out_of: Mapping[str, str]) -> Dict[str, Dict[str, str]]:
    """The content of needs.json: step -> beam ("" for the case) -> out folder."""
    return {
        step: {beam: out_of[key] for beam, key in beams.items()} for step, beams in needed_jobs(job).items()
    }


def environment(
    inherited: Mapping[str, str], configured: Mapping[str, str], own: Mapping[str, str], windows: bool
) -> Dict[str, str]:
    """The job's environment: little of what we were started with, so that a step does the same whether a
    login, a queue or a service started us; then the configuration's; then the job's own."""
    table = {
        "PATH": inherited.get("PATH") or "/usr/local/bin:/usr/bin:/bin",
        "HOME": inherited.get("HOME") or "/",
        "LANG": "C.UTF-8",
        "TMPDIR": inherited.get("TMPDIR") or "/tmp",
        "PYTHONUTF8": "1",
    }
    if windows:
        upper = {name.upper(): value for name, value in inherited.items()}
        table = {"PATH": upper.get("PATH", ""), "PYTHONUTF8": "1"}
        table.update({name: upper[name] for name in _WINDOWS if name in upper})
    table.update(configured)
    table.update(own)
    return table


def one_line(text: str) -> str:
    """A job's own message as one line of at most 500 characters, safe to show on a terminal."""
    joined = " ".join(text.split())
    return "".join(character if character.isprintable() else "?" for character in joined)[:500]
