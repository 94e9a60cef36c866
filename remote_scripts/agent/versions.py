"""The versions of the scripts on this host: which may go, and the Python that runs the steps.

A version is needed by the plans that name it, and by everything that was started from it: queued tasks, runners and
jobs keep the path of the agent that made them. Which that is nobody records; so nothing goes while anything is queued
or runs.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import List, Set

from agent import names
from agent.feed import Fed
from agent.files import remove_tree, unique
from agent.locks import is_locked
from agent.plans import load
from agent.problems import Refused
from agent.settings import Settings
from agent.survey import OVER
from agent.work import Work

# A version that a request used within this time (host clock) may be another command's that is under way.
UNUSED_S = 86400.0
# So that not every request writes.
_NOTED_EVERY_S = 3600.0


def drop_unused(work: Work, fed: Fed, now: float) -> List[str]:
    """Removes the versions that nobody needs any more; their names. Call under the agent's lock, after a feed."""
    own = Path(__file__).resolve().parent.parent
    try:
        if own.parent == work.scripts.resolve() and now - own.stat().st_mtime > _NOTED_EVERY_S:
            os.utime(str(own))
        others = [entry for entry in work.scripts.iterdir() if _is_version(entry) and entry.name != own.name]
        old = [entry for entry in others if now - entry.stat().st_mtime > UNUSED_S]
    except OSError:
        return []
    # A problem: the queue is silent, or a run's files are broken and nobody knows what it needs.
    if not old or fed.listing is None or fed.problem or _is_busy(work, fed):
        return []
    needed = _named_by_plans(work)
    dropped = []
    for entry in old:
        if entry.name not in needed:
            # Gone under its name in one moment: nobody starts half of a version.
            hidden = entry.with_name(".%s.%s~" % (entry.name, unique()))
            try:
                os.rename(str(entry), str(hidden))
                remove_tree(hidden)
            except OSError:
                continue  # the next installation clears away what is left
            dropped.append(entry.name)
    return dropped


def _is_version(entry: Path) -> bool:
    try:
        names.scripts(entry.name)
    except Refused:
        return False
    return entry.is_dir()


def _is_busy(work: Work, fed: Fed) -> bool:
    """Whether any process or queued task of ours may still start something."""
    if any(standing.state in ("queued", "running", "missing") for _, standing in fed.standings.values()):
        return True
    for key in fed.listing or {}:
        known = fed.standings.get(key)
        if known is None or known[1].state not in OVER:
            return True
    if any(is_locked(path) for path in (work.queue / "local").glob("*/runner.lock")):
        return True
    # Jobs that their plan does not want any more, and that still run.
    for key in work.run_keys():
        run = work.run(key)
        stored = None if run.released.exists() else load(run)
        if stored is not None and any(is_locked(run.job(job).lock) for job in stored.dropped):
            return True
    return False


def _named_by_plans(work: Work) -> Set[str]:
    found = set()
    for key in work.run_keys():
        run = work.run(key)
        stored = None if run.released.exists() else load(run)
        if stored is not None:
            found.add(str(stored.plan["scripts"]))
    return found


def python_of_steps(work: Work, settings: Settings) -> str:
    """The Python that runs the steps: the configured one; else that of the environment which `mqi host setup`
    made; else our own. A running job keeps the environment that it started with."""
    if settings.python:
        return os.path.expanduser(settings.python)
    made = work.environments / "current"
    if made.is_dir():
        return os.path.join(os.path.realpath(str(made)), "bin", "python")
    return sys.executable
