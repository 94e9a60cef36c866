"""What exactly-once rests on, taken out of a copy of the tree: the suite here has to notice each.

.venv/bin/python -m tests.crash.mutants [MUTANT…]     says what the everyday selection finds in each
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PARTS = ("mqi", "remote_scripts", "config", "pyproject.toml", "tests/__init__.py", "tests/crash")
NOTHING = "nothing"

EXECUTE, LOCKS = "remote_scripts/agent/execute.py", "remote_scripts/agent/locks.py"
# The second execution meets the folder that the first one made, and the case fails.
NOT_ONCE = r"was executed \d times|case \d+ is failed"


@dataclass(frozen=True)
class Mutant:
    """`edits`: (file, text, text in its place), the first such text in each file. `seen`: what the failing
    tests say then (a pattern), so that no other failure passes for it."""

    edits: Sequence[tuple[str, str, str]]
    seen: str


SUBMIT_AT_ONCE = """\
    with site.store.together():
        return _submit_at_once(site, report)


def _submit_at_once(site: Site, report: StepReport) -> StepReport:
    from mqi.steps.deliver import deliver
    from mqi.steps.place import place_new_cases

    place_new_cases(site, report)
"""

MUTANTS: Mapping[str, Mutant] = {
    NOTHING: Mutant((), ""),
    # No record that a job has begun.
    "the claim": Mutant(
        ((EXECUTE, "    prepared = paths.folder / (", "    return True\n    prepared = paths.folder / ("),),
        NOT_ONCE,
    ),
    # The claim is written, but keeps no second copy of the task out; nor does what looks at it earlier.
    "the claim's exclusion": Mutant(
        (
            (
                EXECUTE,
                "retried(lambda: os.rename(str(prepared), str(paths.claim)))",
                "remove_tree(paths.claim); os.rename(str(prepared), str(paths.claim))",
            ),
            ("remote_scripts/agent/queues/local.py", " or job.claim.exists()", ""),
            ("remote_scripts/agent/feed.py", " or facts.claim is not None", ""),
        ),
        NOT_ONCE,
    ),
    # The lock of a job, which its command inherits: an orphan looks lost.
    "the job's lock": Mutant(
        ((LOCKS, "if _try_lock(fd):", 'if self.path.name == "lock" or _try_lock(fd):'),),
        "began while the attempt before still ran",
    ),
    # The lock of the work directory: requests and runs overtake each other.
    "the agent's lock": Mutant(
        ((LOCKS, "if _try_lock(fd):", 'if self.path.name == "agent.lock" or _try_lock(fd):'),),
        "the host does not know that it need not keep a run",
    ),
    # `begin` becomes durable only together with the host's answer.
    "the intent": Mutant(
        (("mqi/steps/submit.py", "    place_new_cases(site, report)\n", SUBMIT_AT_ONCE),), "runs of no case"
    ),
}


def mutate(mutant: Mutant, tree: Path) -> None:
    """Copy what the everyday selection needs to `tree`, and edit it."""
    for part in PARTS:
        source, target = ROOT / part, tree / part
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy2(source, target)
    for file, text, other in mutant.edits:
        path = tree / file
        path.write_text(edited(path, text, other), encoding="utf-8")


def edited(path: Path, text: str, other: str) -> str:
    """The content of a file with `other` in place of the first `text`."""
    content = path.read_text(encoding="utf-8")
    assert text in content, f"{path.name} has no {text!r} any more"
    return content.replace(text, other, 1)


def everyday(tree: Path) -> subprocess.CompletedProcess[str]:
    """The everyday selection in `tree`, in one process."""
    # This may itself run below pytest, whose workers tell their processes who they are.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "-m", "not slow",
         "tests/crash/test_crash.py"],
        cwd=tree, env={**environment, "PYTHONPATH": str(tree)}, check=False,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, encoding="utf-8",
    )  # fmt: skip


def main(names: Sequence[str]) -> None:
    """Print what the everyday selection finds in each mutant."""
    for name in names or MUTANTS:
        with tempfile.TemporaryDirectory(prefix="mqi-mutant-") as folder:
            mutate(MUTANTS[name], Path(folder))
            done = everyday(Path(folder))
        counts = re.findall(r"^E +AssertionError: (\d+) of (\d+) cases", done.stdout, re.MULTILINE)
        print(f"== {name} taken out: {done.stdout.splitlines()[-1]}")
        print(f"   {sum(int(bad) for bad, _all in counts)} cases wrong in {len(counts)} tests")
        said = re.findall(r"^E {7,}(\S.*)$", done.stdout, re.MULTILINE)
        for line in list(dict.fromkeys(said))[:14]:
            print(f"     {line[:150]}")
        sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1:])
