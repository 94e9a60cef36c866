#!/usr/bin/env python3
"""Runs the tests. Makes .venv and installs what is needed.

python3 scripts/test.py                the everyday suite
python3 scripts/test.py --slow         the slow proofs too
python3 scripts/test.py tests/agent    any pytest arguments
python3 scripts/test.py --windows      the portable tests, the demo and the schedule on CPython for Windows, under
                                       Wine (Debian; as root it installs Wine, 1 GB; then 1 GB below .cache/wine)
python3 scripts/test.py --windows tests/agent/test_windows.py    any pytest arguments, there
"""

from __future__ import annotations

import os
import subprocess
import sys

from _components import MCSQUARE, install_components, install_mcsquare
from _venv import ROOT, ensure


def main() -> int:
    """Install, then run pytest with the remaining arguments; its exit code."""
    arguments = sys.argv[1:]
    if arguments[:1] in (["-h"], ["--help"]):
        print(__doc__)
        return 0
    slow, windows = "--slow" in arguments, "--windows" in arguments
    arguments = [argument for argument in arguments if argument not in ("--slow", "--windows")]
    if windows:
        if os.name == "nt":
            sys.exit("this is Windows: say it without --windows")
        from _windows import run_windows

        return run_windows(arguments, slow=slow)
    install_components(slow=slow)
    python = ensure("dev")
    install_mcsquare(python)
    marker = [] if slow else ["-m", "not slow"]
    # Tests wait for processes more than half of their time: four workers keep two cores busy.
    workers = 2 * (os.cpu_count() or 1)
    command = [str(python), "-m", "pytest", "-n", str(workers), "--dist", "worksteal", *marker, *arguments]
    environment = {**os.environ, "MCSQUARE_FOLDER": str(MCSQUARE)}
    return subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
