#!/usr/bin/env python3
"""Pins what the tests are run with: asks the package index anew and rewrites the two lists of exact versions.

python3 scripts/pin.py

scripts/constraints.txt        for `.[dev]`, on every system and on Python 3.11 and newer; used by _venv.py
scripts/constraints-wine.txt   the Windows wheels that _wine.py unpacks

Run it when a newer version is wanted, or after a change of the dependencies in pyproject.toml; then run the tests, and
commit both files. What users install stays a range, in pyproject.toml. The versions are chosen by uv, which resolves
for systems and Pythons other than the one that it runs on; like pip it asks the public index, or the one that
UV_DEFAULT_INDEX names.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import tomllib
import venv
from collections.abc import Sequence
from pathlib import Path

from _venv import CONSTRAINTS, ROOT, python_of
from _wine import PACKAGES, wanted_packages

HEADER = """\
# The exact versions that the tests are run with, so that a release made yesterday cannot break them today.
# Written by: python3 scripts/pin.py
"""
# What pip asks for when it makes an editable installation, beside the build backend.
EDITABLE = "editables>=0.5"


def main() -> int:
    """Rewrite both lists; 0."""
    if sys.argv[1:]:
        print(__doc__)
        return 0 if sys.argv[1] in ("-h", "--help") else 2
    with tempfile.TemporaryDirectory(prefix="mqi-pin-") as name:
        print("getting uv …", flush=True)
        venv.create(name, with_pip=True)
        python = python_of(Path(name))
        _run([str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "uv"], "")
        project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
        build = [*project["build-system"]["requires"], EDITABLE]
        oldest = project["project"]["requires-python"].removeprefix(">=")
        everywhere = ["pyproject.toml", "--extra", "dev", "--universal", "--python-version", oldest]
        _resolve(python, everywhere, build, CONSTRAINTS)
        wine = [
            "--python-platform",
            "x86_64-pc-windows-msvc",
            "--python-version",
            "3.12",
            "--only-binary",
            ":all:",
        ]
        _resolve(python, wine, wanted_packages(), PACKAGES)
    return 0


def _resolve(python: Path, how: Sequence[str], requirements: Sequence[str], into: Path) -> None:
    """The newest versions that fit together, as a constraints file of pip."""
    compile_ = [str(python), "-m", "uv", "--quiet", "pip", "compile", "-", *how]
    text = _run([*compile_, "--no-header", "--annotation-style", "line"], "\n".join(requirements))
    into.write_text(f"{HEADER}{text}", encoding="utf-8", newline="\n")
    print(f"{into.relative_to(ROOT)}: {len(text.splitlines())} packages", flush=True)


def _run(command: Sequence[str], stdin: str) -> str:
    done = subprocess.run(
        command, cwd=ROOT, input=stdin, stdout=subprocess.PIPE, text=True, encoding="utf-8", check=False
    )
    if done.returncode:
        sys.exit("the versions cannot be chosen: see above; is the package index reachable?")
    return done.stdout


if __name__ == "__main__":
    sys.exit(main())
