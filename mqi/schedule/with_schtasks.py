"""Windows Task Scheduler, through schtasks and PowerShell."""

from __future__ import annotations

import re
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from mqi.errors import UsageProblem
from mqi.schedule import codes, programs
from mqi.schedule import task_scheduler as tasks
from mqi.schedule.items import Held, Item, Outcome
from mqi.schedule.order import COMMANDS, Order
from mqi.schedule.place import Place
from mqi.schedule.programs import SchedulerProblem

_AS_ADMINISTRATOR = (
    "open the console as administrator, or give one what `mqi schedule install --output FOLDER` writes"
)


class TaskScheduler:
    """See `items.Scheduler`."""

    def __init__(self, user: str) -> None:
        self._user = user
        self._sid: str | None = None
        self._states: list[tasks.TaskState] | None = None
        # Without PowerShell the tasks can be seen, but not how they fared.
        self._blind = False

    def expected(self, order: Order, place: Place) -> list[Item]:
        items = []
        for command in order.commands:
            text = tasks.task_xml(order, place, command)
            items.append(
                Item(command, tasks.task_name(command), text, tasks.file_name(command), tasks.encode(text))
            )
        return items

    def differences(self, item: Item, held: Held) -> tuple[str, ...]:
        return tasks.differences(item.text, held.text, self._sid)

    def by_hand(self, order: Order, place: Place, items: Sequence[Item], folder: str) -> list[str]:
        lines = ["rem in a console (cmd) that was opened as administrator:"]
        for item in items:
            file = f"{folder}\\{item.file}" if folder else item.file
            lines.append(_for_cmd(tasks.register(order, item.command, file)))
        return lines

    def held(self) -> list[Held]:
        return [
            Held(state.command, tasks.task_name(state.command), state.xml, tasks.owner(state.xml))
            for state in self._look()
        ]

    def install(self, order: Order, place: Place, items: Sequence[Item]) -> None:
        program = tasks.program(order, place)
        if sys.platform == "win32" and not Path(program).is_file():
            raise UsageProblem(
                f"{program} does not exist", "install a complete Python, or choose another --logon"
            )
        if order.logon == "password" and not (sys.stdin is not None and sys.stdin.isatty()):
            raise UsageProblem(
                f"there is nobody to ask for the password of {order.user}",
                "run this in a console, or use a group managed service account (--logon gmsa)",
            )
        with tempfile.TemporaryDirectory(prefix="mqi-schedule-") as folder:
            for item in items:
                file = Path(folder) / item.file
                programs.write_file(file, item.data)
                argv = tasks.register(order, item.command, str(file))
                if order.logon == "password":
                    code, words = programs.run_asking(argv), ""
                else:
                    done = programs.run(argv)
                    code, words = done.code, done.err or done.text.strip()
                if code != 0:
                    raise SchedulerProblem(
                        f"Task Scheduler did not take the task {item.name}{f': {words}' if words else ''}",
                        _AS_ADMINISTRATOR,
                    )
        self._states = None

    def remove(self, held: Sequence[Held]) -> None:
        for one in held:
            done = programs.run(tasks.unregister(one.command))
            if done.code != 0:
                raise SchedulerProblem(
                    f"Task Scheduler did not delete the task {one.name}: {done.err or done.text.strip()}",
                    "open the console as administrator",
                )
        self._states = None

    def outcomes(self, order: Order, place: Place) -> list[Outcome]:
        states = {state.command: state for state in self._look()}
        outcomes = []
        for command in order.commands:
            state = states.get(command)
            if state is None:
                continue
            if self._blind:
                outcomes.append(
                    Outcome(command, remarks=("PowerShell cannot be used here: the last run is not known",))
                )
                continue
            outcomes.append(
                Outcome(
                    command,
                    running=state.running,
                    last_at=state.last_run,
                    next_at=state.next_run,
                    code=state.result,
                    meaning="" if state.result is None else codes.of_windows(state.result),
                    trouble=() if state.enabled else ("the task is switched off",),
                )
            )
        return outcomes

    def _look(self) -> list[tasks.TaskState]:
        if self._states is None:
            try:
                done = programs.run(tasks.powershell(tasks.query_script(self._user)))
                if done.code != 0:
                    raise SchedulerProblem(f"PowerShell failed: {done.err}")
                self._states, self._sid = tasks.parse_query(done.text)
                self._blind = False
            except (SchedulerProblem, ValueError, KeyError, TypeError, AttributeError):
                self._states = self._look_without_powershell()
                self._blind = True
        return self._states

    @staticmethod
    def _look_without_powershell() -> list[tasks.TaskState]:
        """The definitions alone. A task that is not there and one that we may not see look the same."""
        states = []
        for command in COMMANDS:
            done = programs.run(tasks.definition(command))
            if done.code == 0 and "<Task" in done.text:
                states.append(tasks.TaskState(command, done.text))
        return states


def _for_cmd(argv: Sequence[str]) -> str:
    """A command line that can be pasted into cmd. None of our arguments holds a double quote."""
    return " ".join(arg if re.fullmatch(r"[A-Za-z0-9_./:\\$*-]+", arg) else f'"{arg}"' for arg in argv)
