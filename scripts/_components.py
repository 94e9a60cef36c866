"""The real programs that tests run beside mqi: installed on Debian as root, named elsewhere."""

from __future__ import annotations

import os
import shutil
import subprocess

# Program -> Debian package.
PROGRAMS = {
    "systemd-analyze": "systemd",
    "dbus-daemon": "dbus",
    "crontab": "cron",
    "unshare": "util-linux",
    "xmllint": "libxml2-utils",
    "sshd": "openssh-server",
}


def install_components() -> None:
    """Install what is missing, or say what is and that its tests are skipped."""
    if os.name == "nt":
        return
    missing = sorted({package for program, package in PROGRAMS.items() if shutil.which(program) is None})
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
