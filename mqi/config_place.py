"""Where mqi.yaml lies: named, in the current folder, or the user's own."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from mqi.errors import ConfigurationProblem

CONFIG_VARIABLE = "MQI_CONFIG_PATH"


def user_config(environ: Mapping[str, str], *, windows: bool = os.name == "nt") -> Path:
    """Where a user's own mqi.yaml lies, whether it exists or not."""
    if windows:
        folder = environ.get("APPDATA") or str(Path.home() / "AppData" / "Roaming")
        return Path(folder) / "mqi" / "mqi.yaml"
    # The XDG specification says to ignore a relative path here.
    folder = environ.get("XDG_CONFIG_HOME", "")
    if not Path(folder).is_absolute():
        folder = str(Path(environ.get("HOME") or Path.home()) / ".config")
    return Path(folder) / "mqi" / "mqi.yaml"


def find_config(explicit: Path | None, environ: Mapping[str, str], cwd: Path) -> Path:
    """The configuration file to use, absolute. A named one wins and must exist; there is no falling back.

    Raises ConfigurationProblem when none is there.
    """
    named = explicit or (Path(environ[CONFIG_VARIABLE]) if environ.get(CONFIG_VARIABLE) else None)
    if named is not None:
        path = cwd / named
        if not os.path.isfile(path):  # noqa: PTH113  Path.is_file raises where we may not look
            by = "--config" if explicit else f"the environment variable {CONFIG_VARIABLE}"
            raise ConfigurationProblem(
                f"the configuration {path}, named by {by}, does not exist or may not be read",
                "correct the path, or write a configuration with `mqi init`",
            )
        return path
    candidates = (cwd / "config" / "mqi.yaml", user_config(environ))
    for path in candidates:
        if os.path.isfile(path):  # noqa: PTH113
            return path
    looked = " and ".join(str(path) for path in candidates)
    raise ConfigurationProblem(
        f"there is no configuration; looked for {looked}",
        "run `mqi init` to write one, or name one with --config",
    )
