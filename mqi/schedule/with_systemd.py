"""systemd, through unit files and systemctl: the units of the system, or those of one user."""

from __future__ import annotations

import getpass
import os
import shlex
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from mqi.errors import UsageProblem
from mqi.schedule import codes, programs, systemd
from mqi.schedule.items import Held, Item, Outcome
from mqi.schedule.order import COMMANDS, Order
from mqi.schedule.place import Place
from mqi.schedule.programs import NotAllowed, SchedulerProblem

SYSTEM_FOLDER = Path("/etc/systemd/system")


def user_folder() -> Path:
    """Where the units of the user who runs this lie."""
    base = os.environ.get("XDG_CONFIG_HOME", "")
    return (Path(base) if Path(base).is_absolute() else Path.home() / ".config") / "systemd" / "user"


def lingers() -> bool:
    """The user's units run also while the user is not logged in (loginctl enable-linger)."""
    return (Path("/var/lib/systemd/linger") / getpass.getuser()).exists()


class Systemd:
    """See `items.Scheduler`. `folder`: where the unit files lie."""

    def __init__(self, *, system: bool, folder: Path | None = None) -> None:
        self._system = system
        self._folder = folder or (SYSTEM_FOLDER if system else user_folder())

    def expected(self, order: Order, place: Place) -> list[Item]:
        items = []
        for command in order.commands:
            texts = (systemd.service(order, place, command), systemd.timer(order, place, command))
            for name, text in zip(systemd.unit_names(command), texts, strict=True):
                items.append(Item(command, name, text, name, text.encode("utf-8")))
        return items

    def differences(self, item: Item, held: Held) -> tuple[str, ...]:
        return systemd.differences(item.text, held.text)

    def by_hand(self, order: Order, place: Place, items: Sequence[Item], folder: str) -> list[str]:
        sudo = "sudo " if self._system else ""
        base = f"{folder}/" if folder else ""
        files = shlex.join(f"{base}{item.file}" for item in items)
        target = shlex.quote(str(self._folder))
        lines = []
        folders = [path for path in (*place.folders, place.results) if not Path(path).exists()]
        if folders:
            owner = f"-o {shlex.quote(order.user)} " if self._system else ""
            lines.append(f"{sudo}install -d {owner}-m 0750 {shlex.join(folders)}")
        if not self._system:
            lines.append(f"mkdir -p {target}")
        timers = shlex.join(_timers(item.command for item in items))
        return [
            *lines,
            f"{sudo}install -m 0644 {files} {target}/",
            f"{sudo}{shlex.join(self._systemctl('daemon-reload'))}",
            f"{sudo}{shlex.join(self._systemctl('enable', '--now'))} {timers}",
        ]

    def held(self) -> list[Held]:
        found = []
        for command in COMMANDS:
            for name in systemd.unit_names(command):
                text = programs.read_file(self._folder / name)
                if text is not None:
                    found.append(Held(command, name, text, systemd.owner(text)))
        return found

    def install(self, order: Order, place: Place, items: Sequence[Item]) -> None:
        folders = (*place.folders, place.results)
        if self._system:
            self._check_may(order.user)
            _check_access(order.user, [("-x", place.python, "run"), ("-r", place.config, "read")])
        for path in folders:
            # A path that is listed as writable must be there when systemd starts the run.
            programs.make_folder(Path(path), order.user)
        if self._system:
            _check_access(order.user, [("-w", path, "write to") for path in folders])
        for item in items:
            programs.write_file(self._folder / item.name, item.data)
        timers = _timers(item.command for item in items)
        self._run("daemon-reload")
        self._run("enable", *timers)
        # A timer that runs already takes its new times only when it starts anew.
        self._run("restart", *timers)

    def _check_may(self, user: str) -> None:
        import pwd  # POSIX only, as is systemd

        try:
            pwd.getpwnam(user)
        except KeyError:
            raise UsageProblem(
                f"there is no account {user!r} on this computer", f"make one: sudo useradd --system {user}"
            ) from None
        if os.geteuid() != 0:
            raise NotAllowed(
                "units of the system are installed by root",
                "say it with sudo, or give an administrator what `mqi schedule install --output FOLDER` writes",
            )

    def remove(self, held: Sequence[Held]) -> None:
        if not held:
            return
        if self._system and os.geteuid() != 0:
            raise NotAllowed("units of the system are removed by root", "say it with sudo")
        timers = [one.name for one in held if one.name.endswith(".timer")]
        if timers:
            self._run("disable", "--now", *timers)
        for one in held:
            programs.remove_file(self._folder / one.name)
        self._run("daemon-reload")
        # Else a service that failed once stays in systemd's list of failed units.
        programs.run(self._systemctl("reset-failed", *(one.name for one in held)))

    def outcomes(self, order: Order, place: Place) -> list[Outcome]:
        names = [name for command in order.commands for name in systemd.unit_names(command)]
        properties = [f"--property={','.join(systemd.PROPERTIES)}"]
        done = programs.run(self._systemctl("show", "--no-pager", *properties, *names))
        if done.code != 0:
            raise SchedulerProblem(f"systemctl show failed: {done.err}", _hint(self._system))
        units = systemd.parse_show(done.text)
        outcomes = []
        for command in order.commands:
            state = systemd.unit_state(units, command)
            if state is not None:
                outcomes.append(self._outcome(command, state))
        return outcomes

    def _outcome(self, command: str, state: systemd.UnitState) -> Outcome:
        service, timer = systemd.unit_names(command)
        trouble, remarks = [], []
        if not state.active:
            trouble.append(f"{timer} is not started: {shlex.join(self._systemctl('start', timer))}")
        if not state.enabled:
            trouble.append(
                f"{timer} would not start with the computer: {shlex.join(self._systemctl('enable', timer))}"
            )
        if state.needs_reload:
            trouble.append(
                f"systemd has not read the files anew: {shlex.join(self._systemctl('daemon-reload'))}"
            )
        if not self._system and not lingers():
            remarks.append(
                "it runs only while you are logged in: sudo loginctl enable-linger $USER changes that"
            )
        if state.drop_ins:
            remarks.append(f"changed by {', '.join(state.drop_ins)}")
        meaning = codes.of_systemd(state.result, state.ended_by, state.status)
        if state.ended_by == "exited" and state.status not in codes.MEANINGS:
            remarks.append(f"what it said: journalctl {'' if self._system else '--user '}-u {service}")
        return Outcome(
            command,
            running=state.running,
            last_at=_wall_clock(state.ended_at or state.started_at),
            next_at=_wall_clock(state.next_at) if state.active else None,
            code=state.status if state.ended_by else None,
            meaning=meaning,
            trouble=tuple(trouble),
            remarks=tuple(remarks),
        )

    def _systemctl(self, *arguments: str) -> list[str]:
        return ["systemctl", *([] if self._system else ["--user"]), *arguments]

    def _run(self, *arguments: str) -> None:
        done = programs.run(self._systemctl(*arguments))
        if done.code != 0:
            raise SchedulerProblem(
                f"{shlex.join(self._systemctl(*arguments))} failed: {done.err or done.text.strip()}",
                _hint(self._system),
            )


def _check_access(user: str, needs: Iterable[tuple[str, str, str]]) -> None:
    """The account can do what a run does: (test's option, path, verb). Raises UsageProblem for what it cannot."""
    for option, path, verb in needs:
        # As that account, since access lists and network shares decide too.
        if programs.run(["runuser", "-u", user, "--", "test", option, path]).code != 0:
            raise UsageProblem(
                f"{user} may not {verb} {path}",
                "give that account access (chown, setfacl), or choose another --user",
            )


def _timers(commands: Iterable[str]) -> list[str]:
    return [systemd.unit_names(command)[1] for command in dict.fromkeys(commands)]


def _wall_clock(monotonic_s: float | None) -> float | None:
    """Unix seconds of a moment that systemd tells by the clock that starts with the computer."""
    return None if monotonic_s is None else time.time() - (time.monotonic() - monotonic_s)


def _hint(system: bool) -> str:
    if system:
        return "does systemd run on this computer? mqi schedule install --backend cron works without it"
    return "log in as that user (not by su or sudo), so that systemd's instance for the user runs"
