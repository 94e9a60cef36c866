#!/usr/bin/env python3
"""Runs the tests. Makes .venv and installs what is needed.

python3 scripts/test.py                the everyday suite
python3 scripts/test.py --slow         the slow proofs too
python3 scripts/test.py tests/agent    any pytest arguments
"""

from __future__ import annotations

import subprocess
import sys

from _components import install_components
from _venv import ROOT, ensure


def main() -> int:
    """Install, then run pytest with the remaining arguments; its exit code."""
    arguments = sys.argv[1:]
    slow = "--slow" in arguments
    arguments = [argument for argument in arguments if argument != "--slow"]
    install_components()
    python = ensure("dev")
    marker = [] if slow else ["-m", "not slow"]
    # Most tests wait for processes: two workers take half the time.
    command = [str(python), "-m", "pytest", "-n", "auto", "--dist", "worksteal", *marker, *arguments]
    return subprocess.run(command, cwd=ROOT, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
