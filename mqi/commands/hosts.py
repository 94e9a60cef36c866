"""host: the execution hosts."""

from __future__ import annotations

import typer

from mqi.commands.host_care import add_to_group


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    group = typer.Typer(no_args_is_help=True, help="The execution hosts.")
    add_to_group(group)
    app.add_typer(group, name="host")
