"""Starts a process under test with the instrument in it (see boundaries.py). A script, not a module.

    launch.py agent WRAPPER -I -S AGENT-FOLDER WORDS…    in place of `python -I -S AGENT-FOLDER WORDS…`
    launch.py mqi WORDS…                                 in place of `python -m mqi WORDS…`
    launch.py serve FOLDER                               `mqi` from a warm interpreter, again and again

`serve` reads one JSON object per line: {"words", "environment", "output"} forks, lets the child be
`python -m mqi WORDS…` in a session of its own (a process like any other, without the second that importing
takes), and is answered by the child's id; that id is answered by its exit code, negative for a signal, once it
has ended. At the end of its input FOLDER is removed: also when the tests were killed.
"""

from __future__ import annotations

import contextlib
import fcntl
import gc
import importlib
import json
import os
import runpy
import signal
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
LOST_LISTINGS, LOST_AFTER_S = 2, 0.05
WARM = (
    "pydicom", "mqi.cli", "mqi.commands.pipeline", "mqi.commands.progress", "mqi.config", "mqi.host",
    "mqi.intake.plan", "mqi.logs", "mqi.steps.cycle",
)  # fmt: skip


def agent(wrapper: str, words: list[str]) -> None:
    """Become the agent. What it starts by itself (runners, runs) goes through `wrapper` again."""
    while words[0].startswith("-"):
        words = words[1:]
    sys.executable = wrapper
    role = boundaries.agent_role(words[1:])
    if role == "request":
        role = f"{os.environ.get('CRASH_STEP', '?')}/{os.environ.get('CRASH_REQUEST', '?')}"
    instrument = boundaries.Instrument(role)
    if words[1] == "request":
        instrument.hear()
    elif words[1] == "run":
        os.register_at_fork(after_in_child=instrument.become_command)
    instrument.wrap()
    sys.addaudithook(instrument.audit)
    sys.argv = words
    runpy.run_path(words[0], run_name="__main__")


def mqi(words: list[str]) -> None:
    """Become `mqi`. A job that is nowhere to be seen counts as lost at once, not after two minutes."""
    from mqi.host.agent_host import AgentHost

    defaults = AgentHost.__init__.__kwdefaults__
    assert defaults is not None
    assert set(defaults) == {"lost_listings", "lost_after_s"}
    defaults.update(lost_listings=LOST_LISTINGS, lost_after_s=LOST_AFTER_S)
    instrument = boundaries.Instrument(os.environ["CRASH_STEP"])
    instrument.wrap()
    instrument.wrap_sql()
    sys.addaudithook(instrument.audit)
    sys.argv = ["mqi", *words]
    runpy.run_module("mqi", run_name="__main__", alter_sys=True)


def serve(folder: str) -> None:
    """Returns in each child, with what it is to do done; ends the process at the end of the input."""
    for name in WARM:
        importlib.import_module(name)
    gc.freeze()  # else each child would walk through, and so copy, all that is imported here
    started = set()
    for line in sys.stdin.buffer:
        order = json.loads(line)
        if isinstance(order, int):
            answer = os.waitstatus_to_exitcode(os.waitpid(order, 0)[1])
            started.discard(order)
        else:
            answer = os.fork()
            if answer == 0:
                _become(order)
                return
            started.add(answer)
        os.write(1, b"%d\n" % answer)
    _leave_nothing(Path(folder), started)
    os._exit(0)


def _leave_nothing(folder: Path, started: set[int]) -> None:
    """Nobody asks any more: end what is left (little, unless the tests were killed), and remove the folder."""
    import shutil  # not for agents, who start from here, too

    for pid in started:
        os.kill(pid, signal.SIGKILL)
    with contextlib.suppress(OSError):
        (folder / "desk" / "resume").touch()
        (folder / "desk" / "slow").unlink(missing_ok=True)
        with (folder / "desk" / "alive").open("rb") as alive:
            fcntl.flock(alive, fcntl.LOCK_EX)  # until the last of them has ended
    shutil.rmtree(folder, ignore_errors=True)


def _become(order: dict[str, Any]) -> None:
    os.setsid()
    os.environ.update(order["environment"])
    output = os.open(order["output"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.close(output)
    os.close(nothing)
    mqi(order["words"])


sys.path.insert(0, str(HERE))
import boundaries  # type: ignore[import-not-found,unused-ignore]  # noqa: E402

sys.path.remove(str(HERE))

if __name__ == "__main__":
    if sys.argv[1] == "agent":
        agent(sys.argv[2], sys.argv[3:])
    else:
        # The tree that these tests lie in, whatever is installed.
        sys.path.insert(0, str(HERE.parent.parent))
        if sys.argv[1] == "serve":
            serve(sys.argv[2])
        else:
            mqi(sys.argv[2:])
