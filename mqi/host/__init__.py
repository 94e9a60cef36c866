"""Execution hosts. A new type is one class and one line in `TYPES`."""

from __future__ import annotations

from collections.abc import Callable

from mqi.errors import ConfigurationProblem
from mqi.host.base import Host
from mqi.settings import HostSettings


def _local(settings: HostSettings, installation: str) -> Host:
    # Imported when a host is opened: most runs of mqi have nothing to say to one.
    from mqi.host.local import LocalHost

    return LocalHost(settings, installation)


def _ssh(settings: HostSettings, installation: str) -> Host:
    from mqi.host.ssh import SshHost

    return SshHost(settings, installation)


TYPES: dict[str, Callable[[HostSettings, str], Host]] = {
    "local": _local,
    "ssh": _ssh,
}


def open_host(settings: HostSettings, installation: str) -> Host:
    """The host of these settings, spoken to in the name of `installation`. Opens no connection yet.

    Raises ConfigurationProblem for a type that there is not.
    """
    if settings.type not in TYPES:
        raise ConfigurationProblem(
            f"host {settings.name}: there is no type {settings.type!r}",
            f"known are: {', '.join(sorted(TYPES))}",
        )
    return TYPES[settings.type](settings, installation)
