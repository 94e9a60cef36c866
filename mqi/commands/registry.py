"""Which module has which command. A module is imported when its command is used, or help is wanted: with all
of them imported at every start, `mqi status` would take half as long again."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

import typer
from typer.core import TyperGroup
from typer.main import get_group

if TYPE_CHECKING:
    from collections.abc import Mapping

# In the order of the help.
MODULE_OF: Mapping[str, str] = {
    "scan": "pipeline",
    "submit": "pipeline",
    "sync": "pipeline",
    "fetch": "pipeline",
    "cycle": "pipeline",
    "status": "status",
    "why": "look",
    "logs": "look",
    "report": "report",
    "retry": "cases",
    "cancel": "cases",
    "hold": "cases",
    "release": "cases",
    "priority": "cases",
    "skip": "cases",
    "purge": "pipeline",
    "init": "setup",
    "config": "setup",
    "schedule": "schedule",
    "sample": "sample",
}


class CommandsOnDemand(TyperGroup):
    """The commands of MODULE_OF; each module registers its own with `add_to(app)`."""

    def list_commands(self, ctx: typer.Context) -> list[str]:  # type: ignore[override]
        """The names, in the order of the help."""
        return list(MODULE_OF)

    def get_command(self, ctx: typer.Context, cmd_name: str):  # type: ignore[no-untyped-def, override]
        """The command called `cmd_name`, or None."""
        if cmd_name not in self.commands and cmd_name in MODULE_OF:
            part = typer.Typer()
            import_module(f"mqi.commands.{MODULE_OF[cmd_name]}").add_to(part)
            self.commands.update(get_group(part).commands)
        return self.commands.get(cmd_name)
