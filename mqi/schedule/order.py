"""What was asked for: which scheduler runs which commands of mqi, how often, and as whom. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from mqi.errors import ConfigurationProblem, UsageProblem
from mqi.units import parse_duration, show_duration

SCHTASKS, SYSTEMD, SYSTEMD_USER, CRON = "schtasks", "systemd", "systemd-user", "cron"
BACKENDS = (SCHTASKS, SYSTEMD, SYSTEMD_USER, CRON)
AUTO = "auto"
LOGONS = ("gmsa", "password", "s4u", "interactive")
CYCLE = "cycle"
STEPS = ("scan", "submit", "sync", "fetch")
# Everything that an installation of ours may have put into a scheduler, under these names.
COMMANDS = (CYCLE, *STEPS)

# What the schedulers themselves can repeat. Task Scheduler and cron know no seconds.
_SHORTEST_S = {SCHTASKS: 60, SYSTEMD: 10, SYSTEMD_USER: 10, CRON: 60}
_DAY_S = 86400
# cron starts its count anew each hour and each day, so only these give equal distances.
_CRON_S = tuple(60 * n for n in range(1, 61) if 60 % n == 0) + tuple(
    3600 * n for n in range(2, 25) if 24 % n == 0
)
# Accounts that may do everything: a mistake in a watch folder must not meet one.
_ALMIGHTY = {
    "root", "system", "localsystem", "nt authority\\system", "s-1-5-18",
    "nt authority\\localsystem", ".\\system",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Order:
    """The options of `mqi schedule install`, complete. `user` "": whoever's schedule it is (cron, systemd-user)."""

    backend: str
    every_s: int
    user: str = ""
    # Task Scheduler only.
    logon: str = ""
    # A job for each step instead of one for `mqi cycle`.
    steps: bool = False
    # systemd only: a unit of the site's own that is started when a run fails.
    on_failure: str = ""

    @property
    def commands(self) -> tuple[str, ...]:
        """The commands of mqi that are run, each by a job of its own."""
        return STEPS if self.steps else (CYCLE,)


@dataclass(frozen=True, slots=True)
class Computer:
    """What decides about an order on this computer. `user`: who runs this command."""

    windows: bool
    administrator: bool
    user: str
    # The backends whose programs are here and answer.
    backends: tuple[str, ...]


def choose_backend(backend: str, computer: Computer) -> str:
    """The backend that `backend` ("auto" or a name) means here. Raises UsageProblem."""
    if backend != AUTO:
        if backend not in BACKENDS:
            raise UsageProblem(
                f"{backend!r} is not a scheduler", f"schedulers: {', '.join((AUTO, *BACKENDS))}"
            )
        return backend
    if computer.windows:
        return SCHTASKS
    preferred = (SYSTEMD, CRON) if computer.administrator else (SYSTEMD_USER, CRON)
    for name in preferred:
        if name in computer.backends:
            return name
    raise UsageProblem(
        "no scheduler was found on this computer: neither systemd nor cron",
        "install one, or run `mqi cycle` every minute by what you have",
    )


def complete_order(
    computer: Computer,
    *,
    backend: str,
    every: str | None,
    interval_s: float,
    user: str,
    logon: str | None,
    steps: bool,
    on_failure: str,
) -> Order:
    """The order that these options mean. `interval_s`: `timing: interval:`, for want of `every`.

    Raises UsageProblem for options that do not go together.
    """
    chosen = choose_backend(backend, computer)
    every_s = interval_s if every is None else parse_every(every)
    source = "`timing: interval:` in the configuration" if every is None else "--every"
    account, how = _account(chosen, user, logon, computer)
    if on_failure and chosen not in (SYSTEMD, SYSTEMD_USER):
        raise UsageProblem("--on-failure names a unit of systemd", f"{chosen} knows none; leave it out")
    if on_failure and not re.fullmatch(r"[A-Za-z0-9:_.@%\\-]+\.[a-z]+", on_failure):
        raise UsageProblem(
            f"--on-failure: {on_failure!r} is not a unit",
            "for example --on-failure mail-the-physicist.service",
        )
    return Order(chosen, check_every(every_s, chosen, source), account, how, steps, on_failure)


def parse_every(text: str) -> float:
    """The seconds of `--every`. Raises UsageProblem.

    Elsewhere a bare `m` is refused, since it might mean months; here nobody means months.
    """
    try:
        return parse_duration(re.sub(r"(?<=[0-9])(\s*)m\b", r"\1min", text))
    except ValueError as error:
        raise UsageProblem(f"--every: {error}", "for example 1m, 5 min, 1h") from None


def check_every(every_s: float, backend: str, source: str) -> int:
    """`every_s` as whole seconds, when this scheduler can repeat at that distance. Raises UsageProblem."""
    shown = show_duration(every_s)
    shortest = _SHORTEST_S[backend]
    if not shortest <= every_s <= _DAY_S or every_s != int(every_s):
        raise UsageProblem(
            f"{source} says {shown}; {backend} can run mqi every {show_duration(shortest)} to 1d",
            "choose the distance with --every",
        )
    if backend == SCHTASKS and every_s % 60:
        raise UsageProblem(
            f"{source} says {shown}; Task Scheduler counts in whole minutes", "for example --every 1m"
        )
    if backend == CRON and every_s not in _CRON_S:
        near = sorted(_CRON_S, key=lambda one: abs(one - every_s))[:2]
        raise UsageProblem(
            f"{source} says {shown}, which cron cannot repeat evenly",
            f"nearest: {' or '.join(show_duration(one) for one in sorted(near))}; systemd can do it",
        )
    return int(every_s)


def _account(backend: str, user: str, logon: str | None, computer: Computer) -> tuple[str, str]:
    """(user, logon) as this backend needs them. Raises UsageProblem."""
    if any(not one.isprintable() for one in user):
        raise UsageProblem("--user holds a character that cannot be printed")
    if user.casefold() in _ALMIGHTY:
        raise UsageProblem(
            f"mqi does not run as {user}: it needs no rights of an administrator",
            "name an ordinary account that may read the cases and write the results",
        )
    if backend == SCHTASKS:
        return _windows_account(user, logon, computer)
    if logon is not None:
        raise UsageProblem("--logon belongs to Windows Task Scheduler", f"leave it out for {backend}")
    if user and not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.@-]*\$?", user):
        raise UsageProblem(f"{user!r} cannot be the name of an account here")
    if backend == SYSTEMD and not user:
        raise UsageProblem(
            "a unit of the system needs an account to run as", "name it: --user mqi (not root)"
        )
    if backend == SYSTEMD_USER and user not in ("", computer.user):
        raise UsageProblem(
            f"units of a user are installed by that user, and you are {computer.user}",
            f"run this as {user}, or choose --backend systemd",
        )
    own = backend == SYSTEMD_USER or (backend == CRON and user == computer.user)
    return "" if own else user, ""


def _windows_account(user: str, logon: str | None, computer: Computer) -> tuple[str, str]:
    how = logon or ("gmsa" if user.endswith("$") else "password")
    if how not in LOGONS:
        raise UsageProblem(f"--logon: {how!r} is not a way to log on", f"ways: {', '.join(LOGONS)}")
    if how == "gmsa" and not user.endswith("$"):
        raise UsageProblem(
            "a group managed service account ends with $", "for example --logon gmsa --user HOSP\\mqi$"
        )
    if how != "gmsa" and user.endswith("$"):
        raise UsageProblem(
            f"{user} is a group managed service account, which logs on as one", "say --logon gmsa"
        )
    return user or computer.user, how


def notes(order: Order, computer: Computer, interval_s: float, paths: Iterable[str]) -> list[str]:
    """What somebody who gives this order should know. `paths`: all that a run reads and writes."""
    lines = []
    if order.backend != SCHTASKS and not order.user and computer.user.casefold() in _ALMIGHTY:
        lines.append(
            f"it runs as {computer.user}, which may do everything; better name an account with --user"
        )
    if order.every_s != interval_s:
        lines.append(
            f"mqi status warns by `timing: interval:`, which is {show_duration(interval_s)}: "
            f"set it to {show_duration(order.every_s)} in the configuration"
        )
    if order.logon in ("s4u", "interactive") and order.backend == SCHTASKS:
        far = [path for path in paths if path.startswith("\\\\")]
        if order.logon == "s4u" and far:
            lines.append(f"a logon without a password (s4u) reaches no network share: {far[0]}")
        if order.logon == "interactive":
            lines.append(f"it runs only while {order.user} is logged on")
    if order.logon in ("gmsa", "password", "s4u"):
        lines.append(f'{order.user} needs the right "Log on as a batch job" on this computer')
    if order.backend == SYSTEMD_USER:
        lines.append(
            "it runs only while you are logged in, unless an administrator says: sudo loginctl enable-linger $USER"
        )
    return lines


def check_printable(*texts: str) -> None:
    """Raises ConfigurationProblem for a path that no scheduler's file can hold on one line."""
    for text in texts:
        if any(ord(one) < 32 or ord(one) == 127 or 0xD800 <= ord(one) <= 0xDFFF for one in text):
            raise ConfigurationProblem(
                f"the path {text!r} holds a control character, which no scheduler can be told",
                "rename that folder",
            )
