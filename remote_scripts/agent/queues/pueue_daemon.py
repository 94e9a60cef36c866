"""Whether Pueue's daemon is still the one of the last time: it leaves its process id in a file."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any, Dict, Mapping, Optional

from agent.files import read_json_object, write_json
from agent.processes import identity

# Of pueue.yml; its lines are written by Pueue itself, so that no YAML reader is needed for them.
_KEY = re.compile(r"^\s*(pid_path|runtime_directory|pueue_directory):\s*(.*?)\s*$", re.MULTILINE)


class Daemon:
    """The daemon of the configuration file `config` ("": Pueue's own), and what `record` keeps of it."""

    def __init__(self, record: Path, config: str, environment: Mapping[str, str]) -> None:
        self._record = record
        self._config = config
        self._environment = environment

    def restarted(self) -> Optional[bool]:
        """Whether it is another one than when it was last remembered; None when nobody can say."""
        now, known = self._now(), self._known()
        if now is None or known is None:
            return None
        return now != known

    def remember(self) -> None:
        now = self._now()
        if now is not None and now != self._known():
            self._record.parent.mkdir(parents=True, exist_ok=True)
            write_json(self._record, now)

    def _known(self) -> Optional[Dict[str, Any]]:
        try:
            return read_json_object(self._record)
        except ValueError:
            return None

    def _now(self) -> Optional[Dict[str, Any]]:
        try:
            pid = int(pid_file(self._config, self._environment).read_text(encoding="ascii"))
        except (OSError, ValueError):
            return None
        known = identity(pid)
        return known if known["start"] else None


def pid_file(config: str, environment: Mapping[str, str]) -> Path:
    """Where the daemon leaves its process id (Pueue's pueue-lib, `settings.rs`: `pid_path`, else `pueue.pid` in
    `runtime_directory`, else in XDG_RUNTIME_DIR, else in `pueue_directory`)."""
    home = environment.get("HOME") or "/"
    configuration = config or os.path.join(
        environment.get("XDG_CONFIG_HOME") or os.path.join(home, ".config"), "pueue", "pueue.yml"
    )
    try:
        text = Path(configuration).read_text(encoding="utf-8")
    except (OSError, ValueError):
        text = ""
    given = {name: _path(value, home) for name, value in _KEY.findall(text)}
    if given.get("pid_path"):
        return Path(given["pid_path"])
    data = environment.get("XDG_DATA_HOME") or os.path.join(home, ".local", "share")
    folder = (
        given.get("runtime_directory")
        or environment.get("XDG_RUNTIME_DIR")
        or given.get("pueue_directory")
        or os.path.join(data, "pueue")
    )
    return Path(folder) / "pueue.pid"


def _path(value: str, home: str) -> str:
    value = value.strip("'\"")
    if value in ("", "null", "~"):
        return ""
    return os.path.join(home, value[2:]) if value.startswith("~/") else value
