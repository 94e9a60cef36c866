"""What this computer has: schedulers, and who runs this command. Effects only."""

from __future__ import annotations

import getpass
import os
import sys
from collections.abc import Callable
from pathlib import Path

from mqi.resources import packaged_config, remote_scripts
from mqi.schedule import programs
from mqi.schedule.items import Scheduler
from mqi.schedule.order import CRON, SCHTASKS, SYSTEMD, SYSTEMD_USER, Computer
from mqi.schedule.with_cron import Cron
from mqi.schedule.with_schtasks import TaskScheduler
from mqi.schedule.with_systemd import Systemd

# A backend is a class like these and a line here. The arguments: the account of the order, and the
# configuration (absolute).
SCHEDULERS: dict[str, Callable[[str, str], Scheduler]] = {
    SCHTASKS: lambda user, config: TaskScheduler(user),
    SYSTEMD: lambda user, config: Systemd(system=True),
    SYSTEMD_USER: lambda user, config: Systemd(system=False),
    CRON: Cron,
}


def look_around() -> Computer:
    """This computer. Nothing is started to find out."""
    if sys.platform == "win32":
        import ctypes

        domain, name = os.environ.get("USERDOMAIN", ""), os.environ.get("USERNAME", "")
        return Computer(
            windows=True,
            administrator=bool(ctypes.windll.shell32.IsUserAnAdmin()),
            user=f"{domain}\\{name}" if domain and name else name,
            backends=(SCHTASKS,) if programs.find_program("schtasks") else (),
        )
    backends = []
    if programs.find_program("systemctl"):
        # As sd_booted(3) says.
        if Path("/run/systemd/system").is_dir():
            backends.append(SYSTEMD)
        runtime = os.environ.get("XDG_RUNTIME_DIR", "")
        if runtime and (Path(runtime) / "systemd").is_dir():
            backends.append(SYSTEMD_USER)
    if programs.find_program("crontab"):
        backends.append(CRON)
    return Computer(False, os.geteuid() == 0, _user(), tuple(backends))


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return str(os.geteuid()) if sys.platform != "win32" else ""


def libraries() -> list[str]:
    """The folders that a run of mqi reads its own code from."""
    package = Path(__file__).resolve().parents[1]
    found = [sys.prefix, sys.base_prefix, os.path.realpath(sys.executable), str(package)]
    return [*found, str(packaged_config()), str(remote_scripts())]
