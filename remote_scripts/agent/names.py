"""Keys, digests and paths that come from outside. Nothing becomes a path here before it passed one of these."""

from __future__ import annotations

import re
import sys
from typing import Any, NamedTuple, Optional

from agent.problems import Refused

# Compiled at the first use: one process needs two of them, and each takes half a millisecond.
_RUN_KEY = r"[0-9a-f]{12}"
_DIGEST = r"[0-9a-f]{64}"
_SCRIPTS = r"[0-9a-f]{16,64}"
_INPUT = r"[0-9]{6,9}"
_GROUP = r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}"
_GPU = r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}"
_PLAIN = r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}"
_JOB_KEY = (
    r"(?P<run>[0-9a-f]{12})\.(?P<step>[a-z][a-z0-9_]{0,31})"
    r"(?:\.b(?P<beam>0|[1-9][0-9]{0,8}))?-a(?P<attempt>[1-9][0-9]{0,5})"
)


class JobKey(NamedTuple):
    """The parts of `<run key>.<step>[.b<beam>]-a<attempt>`."""

    run_key: str
    step: str
    beam: Optional[int]
    attempt: int


def _checked(pattern: str, value: Any, what: str) -> str:
    if not isinstance(value, str) or re.fullmatch(pattern, value) is None:
        raise Refused("bad_request", "not %s: %.80r" % (what, value))
    return value


def run_key(value: Any) -> str:
    return _checked(_RUN_KEY, value, "a run key")


def digest(value: Any) -> str:
    return _checked(_DIGEST, value, "a SHA-256 digest")


def scripts(value: Any) -> str:
    return _checked(_SCRIPTS, value, "a hash of scripts")


def input_name(value: Any) -> str:
    return _checked(_INPUT, value, "the number of an input")


def group(value: Any) -> str:
    return _checked(_GROUP, value, "the name of a group")


def gpu(value: Any) -> str:
    return _checked(_GPU, value, "the UUID of a GPU")


def job_key(value: Any) -> str:
    return _checked(_JOB_KEY, value, "a job key")


def parse_job_key(value: Any) -> JobKey:
    """The parts of a job key. Raises Refused for anything else."""
    match = re.fullmatch(_JOB_KEY, value) if isinstance(value, str) else None
    if match is None:
        raise Refused("bad_request", "not a job key: %.80r" % (value,))
    beam = match["beam"]
    return JobKey(match["run"], match["step"], None if beam is None else int(beam), int(match["attempt"]))


def plain_path(value: Any) -> str:
    """A relative path of our own making (a job's machine file): plain characters only, no way upwards."""
    if isinstance(value, str) and len(value) <= 300:
        parts = value.split("/")
        if all(re.fullmatch(_PLAIN, part) and part.strip(".") for part in parts):
            return value
    raise Refused("bad_request", "not a plain relative path: %.80r" % (value,))


def relative_path(value: Any) -> str:
    """A relative posix path that a job produced: any characters, but no way out of its folder."""
    if isinstance(value, str) and value and "\0" not in value and len(value) <= 4096:
        parts = value.split("/")
        windows = sys.platform == "win32" and ("\\" in value or ":" in value)
        if not windows and all(part not in ("", ".", "..") for part in parts):
            return value
    raise Refused("bad_request", "not a relative path: %.80r" % (value,))


def whole(value: Any, what: str, least: int = 0, most: int = 2**62) -> int:
    """An integer in [least, most]; Python's bool is none."""
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise Refused("bad_request", "%s is not a whole number of at least %d: %.40r" % (what, least, value))
    return value
