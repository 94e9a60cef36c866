"""Where the files that come with mqi lie: at the top of a checkout, inside the package once installed."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent


def _folder(name: str) -> Path:
    installed = _PACKAGE / f"_{name}"
    return installed if installed.is_dir() else _PACKAGE.parent / name


def remote_scripts() -> Path:
    """The folder that is deployed to execution hosts."""
    return _folder("remote_scripts")


def packaged_config() -> Path:
    """The folder with the commented example, its JSON schema and the default workflow."""
    return _folder("config")
