"""Shared by demo.py and test.py: makes .venv beside this folder and installs what the project declares."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
CONSTRAINTS = ROOT / "scripts" / "constraints.txt"  # exact versions; renewed by pin.py
MINIMUM = (3, 11)


def python_of(folder: Path) -> Path:
    """The interpreter of a virtual environment."""
    return folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def ensure(extra: str) -> Path:
    """The environment's Python, with mqi and its extra `extra` installed from this checkout.

    Installs only when pyproject.toml or the pinned versions changed since the last time, so a second run needs no
    network.
    """
    if sys.version_info < MINIMUM:
        sys.exit(f"mqi needs Python {MINIMUM[0]}.{MINIMUM[1]} or newer; this is {sys.version.split()[0]}")
    python = python_of(VENV)
    stamp = VENV / f".installed-{extra}"
    declared = (ROOT / "pyproject.toml").read_bytes() + CONSTRAINTS.read_bytes()
    wanted = hashlib.sha256(declared + extra.encode()).hexdigest()
    if python.is_file() and stamp.is_file() and stamp.read_text(encoding="utf-8") == wanted:
        return python
    if not python.is_file():
        import venv  # the Python of the Windows tests has none, and needs none

        print("making .venv …", flush=True)
        try:
            venv.create(VENV, with_pip=True)
        except (subprocess.CalledProcessError, OSError) as error:
            sys.exit(
                f"the virtual environment cannot be made ({error}); on Debian: apt-get install python3-venv"
            )
    print(f"installing mqi[{extra}] …", flush=True)
    command = [
        str(python),
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        "-e",
        f".[{extra}]",
    ]
    # By the environment, for it reaches the build backend too (older pip by the first, newer by the second); relative,
    # for pip splits it at spaces.
    constraints = CONSTRAINTS.relative_to(ROOT).as_posix()
    environment = {**os.environ, "PIP_CONSTRAINT": constraints, "PIP_BUILD_CONSTRAINT": constraints}
    if subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode:
        sys.exit(
            "the packages cannot be installed: is the package index reachable? If it no longer has a pinned version, "
            "renew them: python3 scripts/pin.py"
        )
    stamp.write_text(wanted, encoding="utf-8")
    return python
