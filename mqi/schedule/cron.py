"""cron: one marked line for each command, among lines that are not ours. Pure."""

from __future__ import annotations

import re
import shlex
from collections.abc import Collection, Sequence

from mqi.errors import ConfigurationProblem
from mqi.schedule.order import COMMANDS, Order
from mqi.schedule.place import Place, arguments

FILE_NAME = "mqi.crontab"
# cron itself refuses longer commands (1000 in Debian's, a little less in others).
_LONGEST = 990
_MARK = re.compile(rf'# mqi schedule ({"|".join(COMMANDS)}) for "(.*)"\s*$')


def line(order: Order, place: Place, command: str) -> str:
    """The line that runs `command`. Raises ConfigurationProblem for paths that cron cannot hold.

    Without flock: mqi's own locks decide, and flock would add a file that may be missing and an exit code
    that may be anybody's. The last part keeps the exit code for `mqi schedule show`, since cron does not.
    """
    for text in (place.folder, place.config, place.python, place.notes):
        if "\\" in text:
            raise ConfigurationProblem(
                f"crons differ in how they read a backslash, as in {text}", "rename that folder"
            )
    program = shlex.join([place.python, *arguments(place, command)])
    shell = (
        f"cd {shlex.quote(place.folder)} && {program} >/dev/null 2>&1; "
        f"echo $? >{shlex.quote(note(place, command))} {_mark(place.config, command)}"
    )
    # An unescaped % ends the command: the rest would be its standard input.
    whole = f"{_times(order.every_s)} {shell.replace('%', chr(92) + '%')}"
    if len(whole.encode()) > _LONGEST:
        raise ConfigurationProblem(
            f"the line for cron has {len(whole.encode())} bytes, and cron takes {_LONGEST}",
            "move mqi or its configuration to a shorter path, or use systemd",
        )
    return whole


def note(place: Place, command: str) -> str:
    """The file with the exit code of the last run that cron started."""
    return f"{place.notes}/{command}.exit"


def _mark(config: str, command: str) -> str:
    return f'# mqi schedule {command} for "{config}"'


def _times(every_s: int) -> str:
    """The five fields. `every_s` is one of those that divide an hour or a day."""
    minutes = every_s // 60
    if minutes < 60:
        return "* * * * *" if minutes == 1 else f"*/{minutes} * * * *"
    hours = minutes // 60
    if hours == 24:
        return "0 0 * * *"
    return "0 * * * *" if hours == 1 else f"0 */{hours} * * *"


def find(crontab: str) -> list[tuple[str, str, str]]:
    """(command, configuration, line) of every line of ours, whichever configuration it belongs to."""
    found = []
    for text in crontab.split("\n"):
        match = _MARK.search(text)
        if match:
            found.append((match[1], match[2].replace("\\%", "%"), text))
    return found


def without(crontab: str, lines: Collection[str]) -> str:
    """The crontab without these lines; everything else byte for byte."""
    return "\n".join(text for text in crontab.split("\n") if text not in lines)


def merged(crontab: str, lines: Sequence[str], config: str) -> str:
    """The crontab with these lines in place of what this configuration had there."""
    ours = {text for _command, owner, text in find(crontab) if owner == config}
    rest = without(crontab, ours)
    if rest and not rest.endswith("\n"):
        rest += "\n"
    return rest + "".join(f"{text}\n" for text in lines)


def own_lines(config: str) -> str:
    """The pattern by which `grep -E` knows the lines of this configuration."""
    shown = re.sub(r"([\\.\[\]{}()*+?^$|])", r"\\\1", config.replace("%", "\\%"))
    return f'# mqi schedule [a-z]+ for "{shown}"'


def differences(expected: str, found: str) -> tuple[str, ...]:
    """What is otherwise in a line of ours."""
    if expected == found:
        return ()
    if found.lstrip().startswith("#"):
        return ("the line is commented out",)
    want, have = _fields(expected), _fields(found)
    named = zip(("the times are", "the command is"), want, have, strict=True)
    return tuple(f"{name} {right}, expected {left}" for name, left, right in named if left != right)


def _fields(text: str) -> tuple[str, str]:
    """(times, command)."""
    parts = text.split(None, 5)
    if text.lstrip().startswith("@"):  # @hourly and its like
        parts = text.split(None, 1)
        return parts[0], parts[1] if len(parts) > 1 else ""
    return " ".join(parts[:5]), parts[5] if len(parts) > 5 else ""
