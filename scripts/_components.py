"""The real programs that tests run beside mqi: installed on Debian as root, named elsewhere."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from _pueue import ensure_pueue
from _venv import ROOT

# Program -> Debian package.
PROGRAMS = {
    "dciodvfy": "dicom3tools",
    "systemd-analyze": "systemd",
    "dbus-daemon": "dbus",
    "crontab": "cron",
    "unshare": "util-linux",
    "xmllint": "libxml2-utils",
    "sshd": "openssh-server",
    "ssh-keygen": "openssh-client",
    "slurmctld": "slurmctld",
    "slurmd": "slurmd",
    "sbatch": "slurm-client",
    "faketime": "faketime",
}
# Slurm's accounting: for the slow proofs.
ACCOUNTING = {
    "mariadbd": "mariadb-server-core",
    "my_print_defaults": "mariadb-client-core",
    "slurmdbd": "slurmdbd",
}


# The CPU dose engine of the shipped workflow; kept between runs.
MCSQUARE = ROOT / ".cache" / f"mcsquare-{sys.platform}"


def install_mcsquare(python: Path, system: str = sys.platform) -> None:
    """Get MCsquare (an 83 MB download the first time), or say that it could not be had."""
    folder = MCSQUARE.with_name(f"mcsquare-{system}")
    if (folder / "Materials").is_dir():
        return
    print("getting the dose engine MCsquare (83 MB) …", flush=True)
    command = [
        str(python),
        str(ROOT / "remote_scripts" / "get_mcsquare.py"),
        "--to",
        str(folder),
        "--system",
        system,
    ]
    if subprocess.run(command, check=False).returncode:
        print("it could not be had; the tests that need it say so", flush=True)


def install_components(*, slow: bool) -> None:
    """Install what is missing, or say what is and that its tests are skipped."""
    if os.name == "nt":
        return
    _install_packages({**PROGRAMS, **(ACCOUNTING if slow else {})})
    ensure_pueue(slow=slow)


def _install_packages(programs: Mapping[str, str]) -> None:
    path = os.pathsep.join(
        (os.environ.get("PATH", ""), "/usr/sbin")
    )  # where daemons are, and users do not look
    missing = sorted(
        {package for program, package in programs.items() if shutil.which(program, path=path) is None}
    )
    if not missing:
        return
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        print(f"missing, so that their tests are skipped: {', '.join(missing)}", flush=True)
        return
    print(f"installing {', '.join(missing)} …", flush=True)
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    subprocess.run(["apt-get", "update", "-qq"], env=environment, check=False)
    command = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *missing]
    if subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, check=False).returncode:
        print("they could not be installed; their tests say so", flush=True)
