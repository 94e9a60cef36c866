"""The wheels from which a host without a network gets the Python environment of the steps."""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

from mqi.errors import ConfigurationProblem, DiskProblem, TemporaryProblem, UsageProblem
from mqi.host.base import Blob, Wheel

LIST = "requirements.txt"
# The oldest glibc that the wheels of today still support; hosts with a newer one take them too.
PLATFORMS = (
    "manylinux_2_28_x86_64",
    "manylinux_2_27_x86_64",
    "manylinux_2_17_x86_64",
    "manylinux2014_x86_64",
)
_IMPORTED_AS = {"pyyaml": "yaml", "pillow": "PIL"}


def requirements_of_steps() -> list[str]:
    """What the shipped steps need (the extra `steps` of this installation), such as `numpy>=1.26`."""
    wanted = []
    for line in metadata.requires("mqi") or ():
        requirement, _, marker = line.partition(";")
        if re.search(r"""extra\s*==\s*['"]steps['"]""", marker):
            wanted.append(requirement.strip())
    return sorted(wanted)


def imports_of(requirements: Sequence[str]) -> list[str]:
    """The modules that show that the requirements work, such as `numpy`."""
    found = [re.split(r"[^A-Za-z0-9_.-]", one, maxsplit=1)[0].lower() for one in requirements]
    return [_IMPORTED_AS.get(name, name.replace("-", "_")) for name in found]


def collect(folder: Path, python: str, platforms: Sequence[str]) -> list[str]:
    """Download the wheels for a host with this Python (`3.11`) into `folder`; their names.

    pip too: it installs them there. Raises TemporaryProblem with pip's words, ConfigurationProblem without pip.
    """
    wanted = [*requirements_of_steps(), "pip"]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DiskProblem(f"{folder} cannot be made ({error.strerror})") from error
    words = [
        "download",
        "--quiet",
        "--disable-pip-version-check",
        "--dest",
        str(folder),
        "--only-binary",
        ":all:",
    ]
    words += ["--python-version", python, "--implementation", "cp"]
    for platform in platforms:
        words += ["--platform", platform]
    argv = [sys.executable, "-m", "pip", *words, *wanted]
    done = subprocess.run(
        argv, capture_output=True, text=True, encoding="utf-8", errors="replace", check=False
    )
    if "No module named pip" in done.stderr:
        raise ConfigurationProblem("the Python that runs mqi has no pip", f"{sys.executable} -m ensurepip")
    if done.returncode:
        said = " ".join(done.stderr.split())[-400:]
        raise TemporaryProblem(
            f"pip could not collect the wheels: {said}", "check the network, --python and --platform"
        )
    (folder / LIST).write_text("\n".join(wanted[:-1]) + "\n", encoding="utf-8")
    return sorted(path.name for path in folder.glob("*.whl"))


def read_folder(folder: Path) -> tuple[list[Wheel], list[str]]:
    """The wheels of a folder, and what is to be installed from them. Raises UsageProblem or DiskProblem."""
    try:
        names = sorted(path.name for path in folder.glob("*.whl"))
        if not names or not (folder / LIST).is_file():
            raise UsageProblem(
                f"{folder} is no folder of wheels",
                "collect one where there is a network: mqi host wheels DIR",
            )
        lines = (folder / LIST).read_text(encoding="utf-8").splitlines()
        wheels = []
        for name in names:
            path = folder / name
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            wheels.append(Wheel(name, Blob(digest, path.stat().st_size, path)))
    except OSError as error:
        raise DiskProblem(f"the wheels in {folder} cannot be read ({error.strerror})") from error
    return wheels, [line.strip() for line in lines if line.strip() and not line.startswith("#")]
