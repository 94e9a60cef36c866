"""cron, through the program crontab."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from mqi.schedule import codes, cron, programs
from mqi.schedule.items import Held, Item, Outcome
from mqi.schedule.order import Order
from mqi.schedule.place import Place
from mqi.schedule.programs import SchedulerProblem


class Cron:
    """See `items.Scheduler`. `user` "": the crontab of whoever runs this; another's needs root.

    Several configurations live in one crontab, so this sees the lines of one alone.
    """

    def __init__(self, user: str, config: str) -> None:
        self._user = user
        self._config = config

    def expected(self, order: Order, place: Place) -> list[Item]:
        items = []
        for command in order.commands:
            text = cron.line(order, place, command)
            items.append(Item(command, _name(command), text, cron.FILE_NAME, f"{text}\n".encode()))
        return items

    def differences(self, item: Item, held: Held) -> tuple[str, ...]:
        return cron.differences(item.text, held.text)

    def by_hand(self, order: Order, place: Place, items: Sequence[Item], folder: str) -> list[str]:
        file = f"{folder}/{cron.FILE_NAME}" if folder else cron.FILE_NAME
        program = shlex.join(self._crontab())
        ours = shlex.quote(cron.own_lines(place.config))
        # -a and C: a byte that is no character makes no line of the crontab disappear.
        return [
            f"({program} -l 2>/dev/null | LC_ALL=C grep -avE {ours}; cat {shlex.quote(file)}) | {program} -"
        ]

    def held(self) -> list[Held]:
        found: list[Held] = []
        for command, config, text in cron.find(self._read()):
            if config == self._config:
                # A copy of a line would start mqi twice.
                copies = sum(one.command == command for one in found)
                name = f"{_name(command)}, copy {copies}" if copies else _name(command)
                found.append(Held(command, name, text, config))
        return found

    def install(self, order: Order, place: Place, items: Sequence[Item]) -> None:
        programs.make_folder(Path(place.notes), self._user)
        before = self._read()
        self._write(cron.merged(before, [item.text for item in items], place.config))

    def remove(self, held: Sequence[Held]) -> None:
        before = self._read()
        after = cron.without(before, {one.text for one in held})
        if after != before:
            self._write(after)

    def outcomes(self, order: Order, place: Place) -> list[Outcome]:
        there = {held.command for held in self.held()}
        outcomes = []
        for command in order.commands:
            if command not in there:
                continue
            path = Path(cron.note(place, command))
            text = programs.read_file(path)
            code = int(text) if text is not None and text.strip().isdecimal() else None
            outcomes.append(
                Outcome(
                    command,
                    last_at=programs.modified_at(path),
                    code=code,
                    meaning="" if code is None else codes.of_shell(code),
                    remarks=() if text is not None else ("cron has not run it to its end yet",),
                )
            )
        return outcomes

    def _read(self) -> str:
        done = programs.run([*self._crontab(), "-l"])
        if done.code != 0:
            # No crontab yet. Anything else must not be taken for an empty one, which we would then write.
            if "no crontab" in done.err.casefold() or "No such file" in done.err:
                return ""
            raise SchedulerProblem(
                f"crontab -l failed: {done.err}", "may this account use cron? see man crontab"
            )
        # Other people's lines may hold any bytes, and must come back as they are.
        return done.out.decode("utf-8", errors="surrogateescape")

    def _write(self, text: str) -> None:
        done = programs.run([*self._crontab(), "-"], stdin=text.encode("utf-8", errors="surrogateescape"))
        if done.code != 0:
            raise SchedulerProblem(
                f"crontab did not take the new lines: {done.err or done.text.strip()}",
                "the old crontab is as it was",
            )
        if self._read() != text:
            raise SchedulerProblem(
                "the crontab is not what was just written to it",
                "look at it with crontab -l; another program may change it",
            )

    def _crontab(self) -> list[str]:
        return ["crontab", *(["-u", self._user] if self._user else [])]


def _name(command: str) -> str:
    return f"the line of {command}"
