"""The programs of a queue: asked with little of our environment, for a limited time, and never believed blindly."""

from __future__ import annotations

import os
import re
import subprocess
from typing import Any, Dict, List, Mapping, NamedTuple

from agent.command import one_line
from agent.problems import QueueProblem, Refused
from agent.settings import Settings

# Below the time that other requests wait for the agent's lock.
TIME_LIMIT_S = 20.0
# Queues keep what a task was added with, and show it to every user of theirs. These name places, no secrets;
# without XDG_… a program may look for its daemon elsewhere than the daemon waits.
_KEPT = ("HOME", "USER", "LOGNAME", "XDG_RUNTIME_DIR", "XDG_CONFIG_HOME", "XDG_DATA_HOME")
_ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


class Finished(NamedTuple):
    """How a program ended, and what it said (decoded, without colours)."""

    code: int
    out: str
    err: str

    def complaint(self) -> str:
        """What it said about its failure, as one line: some say it on stdout."""
        return one_line(self.err or self.out) or "it says nothing, and ends with code %d" % self.code


def small_environment(inherited: Mapping[str, str], extra: Mapping[str, str]) -> Dict[str, str]:
    """What a queue's program gets, and with it the tasks that it adds."""
    table = {name: inherited[name] for name in _KEPT if inherited.get(name)}
    table["PATH"] = inherited.get("PATH") or "/usr/local/bin:/usr/bin:/bin"
    table["LANG"] = "C.UTF-8"
    # cron sets no XDG_RUNTIME_DIR, a login does: the daemon that a login started shall be found from both.
    usual = "/run/user/%d" % os.getuid() if hasattr(os, "getuid") else ""
    if usual and "XDG_RUNTIME_DIR" not in table and os.path.isdir(usual):
        table["XDG_RUNTIME_DIR"] = usual
    table.update(extra)
    return table


def ask(argv: List[str], environment: Mapping[str, str], text: str = "") -> Finished:
    """Runs a program to its end with `text` on stdin.

    Raises QueueProblem when it does not start or does not end in time; it may have done its work all the same.
    """
    try:
        done = subprocess.run(
            argv,
            input=text.encode("utf-8"),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=dict(environment),
            timeout=TIME_LIMIT_S,
        )
    except subprocess.TimeoutExpired:
        raise QueueProblem("`%s` did not answer for %g s" % (os.path.basename(argv[0]), TIME_LIMIT_S)) from None
    except OSError as error:
        raise QueueProblem(
            "the program `%s` does not start on this host (%s); install it, or name its place in the "
            "configuration of the queue" % (argv[0], error.strerror)
        ) from error
    return Finished(done.returncode, _plain(done.stdout), _plain(done.stderr))


def _plain(data: bytes) -> str:
    return _ANSI.sub("", data.decode("utf-8", "replace"))


def options_of(settings: Settings, queue_type: str) -> Dict[str, Any]:
    """What the configuration says for queues of this type alone. Raises Refused."""
    options = settings.queue.get(queue_type) or {}
    if not isinstance(options, dict):
        raise Refused("bad_request", "the options of %s are not an object" % queue_type)
    return options


def option(options: Mapping[str, Any], name: str, default: str = "") -> str:
    """One of them, a text. Raises Refused."""
    value = options.get(name, default)
    if not isinstance(value, str) or "\0" in value or "\n" in value:
        raise Refused("bad_request", "the queue's `%s` is not a text of one line" % name)
    return value
