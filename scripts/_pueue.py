"""Pueue for the tests: built by cargo once, for all checkouts of this user. A test aid: nothing of it is shipped."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

# 4.x for every day; the last 3.x for the slow proofs.
EVERY_DAY, OLD = "4.0.4", "3.4.1"
# What Pueue 4.0.3 and later are written in.
_NEEDED = (1, 88)
_NETWORK = re.compile(
    r"download|network|could not find|resolve host|connect|timed? ?out|timeout|unable to update|failed to fetch|dns",
    re.IGNORECASE,
)


def folder(version: str) -> Path:
    """Where the programs of this version lie, or would."""
    cache = os.environ.get("MQI_CACHE") or Path.home() / ".cache" / "mqi"
    return Path(cache) / f"pueue-{version}"


def is_there(version: str) -> bool:
    """Whether both programs are."""
    return all((folder(version) / "bin" / name).is_file() for name in ("pueue", "pueued"))


def unreachable(version: str) -> str:
    """Why the last attempt to build it came to nothing, when that was the registry of crates; else ''."""
    note = _note(version)
    return note.read_text(encoding="utf-8") if note.is_file() else ""


def _note(version: str) -> Path:
    return folder(version).with_name(folder(version).name + ".unreachable")


def ensure_pueue(*, slow: bool) -> None:
    """Build what is missing, or say why it is not there and that its tests are skipped."""
    for version in (EVERY_DAY, OLD) if slow else (EVERY_DAY,):
        if not is_there(version):
            _build(version)


def _build(version: str) -> None:
    cargo = _cargo()
    if cargo is None:
        print("Pueue is not built: there is no cargo 1.88 or newer; its tests say so", flush=True)
        return
    print(f"building Pueue {version} (some minutes, once) …", flush=True)
    target = folder(version)
    target.mkdir(parents=True, exist_ok=True)
    environment = {
        **os.environ,
        # Half the time, for programs that run for seconds.
        "CARGO_PROFILE_RELEASE_LTO": "off",
        "CARGO_PROFILE_RELEASE_CODEGEN_UNITS": "16",
        "CARGO_TARGET_DIR": str(target / "target"),
    }
    command = [cargo, "install", "pueue", "--locked", "--quiet", "--version", version, "--root", str(target)]
    done = subprocess.run(command, env=environment, stderr=subprocess.PIPE, check=False)
    shutil.rmtree(target / "target", ignore_errors=True)
    note = _note(version)
    note.unlink(missing_ok=True)
    if done.returncode:
        said = done.stderr.decode("utf-8", "replace").strip()
        last = (said.splitlines() or [""])[-1].strip()
        if _NETWORK.search(said):
            note.write_text(f"the registry of crates could not be reached: {last}", encoding="utf-8")
        print(f"Pueue {version} could not be built ({last}); its tests say so", flush=True)


def _cargo() -> str | None:
    """A cargo that is new enough: the one in the PATH, else Debian's newest."""
    if _version() >= _NEEDED:
        return shutil.which("cargo")
    if os.geteuid() == 0 and shutil.which("apt-get"):
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        command = [
            "apt-get",
            "install",
            "-y",
            "-qq",
            "--no-install-recommends",
            "cargo-web",
            "gcc",
            "libc6-dev",
        ]
        subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, check=False)
        # An old one of rustup's may come first in the PATH.
        if _version("/usr/bin/cargo") >= _NEEDED:
            return "/usr/bin/cargo"
    return None


def _version(cargo: str = "cargo") -> tuple[int, ...]:
    try:
        said = subprocess.run([cargo, "--version"], stdout=subprocess.PIPE, check=False).stdout.decode()
    except OSError:
        return (0,)
    found = re.match(r"cargo (\d+)\.(\d+)", said)
    return (int(found[1]), int(found[2])) if found else (0,)
