"""host: the execution hosts. Here trust, wheels, setup: an SSH host on its first day."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mqi.commands.host_care import add_to_group
from mqi.commands.invocation import Invocation, invocation
from mqi.errors import UsageProblem

if TYPE_CHECKING:
    from mqi.settings import HostSettings, Ssh


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    group = typer.Typer(no_args_is_help=True, help="The execution hosts.")
    add_to_group(group)
    group.command()(trust)
    group.command()(wheels)
    group.command()(setup)
    app.add_typer(group, name="host")


Name = Annotated[str, typer.Argument(help="The host's name in mqi.yaml.")]


def _settings(invoked: Invocation, name: str) -> HostSettings:
    found = invoked.settings.host(name)
    if found is None:
        known = ", ".join(host.name for host in invoked.settings.hosts)
        raise UsageProblem(f"the configuration has no host {name!r}", f"known are: {known}")
    return found


def _ssh(invoked: Invocation, name: str) -> Ssh:
    settings = _settings(invoked, name)
    if settings.ssh is None:
        raise UsageProblem(f"host {name} is this computer; there is no key to pin")
    return settings.ssh


def trust(
    context: typer.Context,
    name: Name,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Pin what is shown without asking.")] = False,
    fingerprint: Annotated[
        list[str] | None,
        typer.Option(
            help="Pin only this fingerprint (SHA256:…), and do not ask; with a jump host give both."
        ),
    ] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Also replace a key that is pinned and has changed.")
    ] = False,
) -> None:
    """Show the key of a host's SSH server, and of the jump host on the way there, and pin it."""
    from mqi.host.trust import trust_all

    invoked = invocation(context)
    ssh = _ssh(invoked, name)

    def agreed(question: str) -> bool:
        if yes:
            return True
        if sys.stdin is None or not sys.stdin.isatty():
            raise UsageProblem(
                "there is nobody to ask",
                "say --yes, or better --fingerprint SHA256:… with what the host's own says",
            )
        return typer.confirm(question)

    def tell(line: str) -> None:
        if not invoked.as_json:
            typer.echo(line)

    keys = trust_all(name, ssh, fingerprint or (), replace, agreed, tell)
    _ask_again(invoked, name)
    if invoked.as_json:
        invoked.print("", {"known_hosts": str(ssh.known_hosts), "keys": keys})


def _ask_again(invoked: Invocation, name: str) -> None:
    """The next run asks the host: what it waited for after the refusals has been done."""
    if not invoked.settings.paths.database.exists():
        return  # nothing has been refused yet
    with invoked.store() as store:
        row = store.host(name)
        if row is not None and row.next_try_at is not None:
            store.put_host(name, next_try_at=None)


def wheels(
    context: typer.Context,
    folder: Annotated[Path, typer.Argument(help="The folder that they go to.")],
    python: Annotated[
        str, typer.Option(help="The version of the host's Python; default: that of the one that runs mqi.")
    ] = "",
    platform: Annotated[
        list[str] | None, typer.Option(help="The host's platform in pip's words; default: Linux on x86-64.")
    ] = None,
) -> None:
    """Collect the packages that the steps need, where there is a network, for hosts that have none."""
    from mqi.host.wheels import PLATFORMS, collect

    invoked = invocation(context)
    version = python or f"{sys.version_info.major}.{sys.version_info.minor}"
    names = collect(folder, version, platform or PLATFORMS)
    lines = [
        *names,
        f"{len(names)} wheels for Python {version} in {folder}; next: mqi host setup NAME --wheels {folder}",
    ]
    invoked.print("\n".join(lines), {"folder": str(folder), "python": version, "wheels": names})


def setup(
    context: typer.Context,
    name: Name,
    wheels: Annotated[Path, typer.Option(help="The folder that `mqi host wheels` made.")],
) -> None:
    """Build the Python environment of the steps on a host from a folder of wheels; it needs no network."""
    from mqi.host.wheels import imports_of, read_folder

    invoked = invocation(context)
    settings = _settings(invoked, name)
    found, requirements = read_folder(wheels)
    with invoked.site() as site:
        said = site.host(name).set_up(found, requirements, imports_of(requirements), site.tell)
    packages = sorted((said.get("packages") or {}).items(), key=lambda one: one[0].lower())
    lines = [f"Python {said['python']}", *(f"{package} {version}" for package, version in packages)]
    lines.append(f"host {name}: new jobs use the environment {said['environment']}")
    if settings.python:
        lines.append(
            f"but mqi.yaml names another Python for its steps: {settings.python}; remove that to use it"
        )
    invoked.print("\n".join(lines), said)
