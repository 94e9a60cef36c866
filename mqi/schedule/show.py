"""show: what is installed beside what is expected, how the last runs ended, and the signs of life."""

from __future__ import annotations

from collections.abc import Mapping

from mqi.errors import MqiError, UsageProblem
from mqi.schedule.computer import SCHEDULERS
from mqi.schedule.items import MISSING, Outcome, Standing, compare
from mqi.schedule.order import AUTO, SCHTASKS, Computer, Order, complete_order
from mqi.schedule.place import Place
from mqi.schedule.record import read_order, record_path
from mqi.schedule.report import Shown, beats
from mqi.settings import Settings

Steps = Mapping[str, tuple[float | None, float | None, str]]


def show(
    computer: Computer, settings: Settings, place: Place, steps: Steps, now: float, problem: str = ""
) -> Shown:
    """Look, and change nothing.

    `steps`: as `Store.steps()` gives them, `problem`: why there are none; `now`: Unix seconds. What cannot
    be asked is in the answer's `problems`. Raises ConfigurationProblem for a damaged record.
    """
    given = read_order(record_path(settings.source))
    order = given or _default(computer, settings.timing.interval_s)
    standings: list[Standing] = []
    outcomes: list[Outcome] = []
    problems = [problem] if problem else []
    if order is not None and order.backend not in computer.backends:
        problems.append(f"{order.backend} does not run on this computer, or not for {computer.user}")
    elif order is not None:
        scheduler = SCHEDULERS[order.backend](order.user, place.config)
        try:
            items = scheduler.expected(order, place)
            standings = compare(items, scheduler.held(), place.config, scheduler.differences)
            outcomes = scheduler.outcomes(order, place)
        except MqiError as error:
            problems.append(f"{error}{f' ({error.hint})' if error.hint else ''}")
    hidden = order is not None and order.backend == SCHTASKS and not computer.administrator
    if hidden and any(one.state == MISSING for one in standings):
        problems.append("Windows may hide tasks from you: look again in a console opened as administrator")
    every_s = order.every_s if order else int(settings.timing.interval_s)
    return Shown(
        order,
        given is not None,
        place.python,
        place.config,
        standings,
        outcomes,
        beats(steps, every_s, now),
        problems,
    )


def _default(computer: Computer, interval_s: float) -> Order | None:
    """What `install` without options would do; None when it would not know."""
    try:
        return complete_order(
            computer,
            backend=AUTO,
            every=None,
            interval_s=interval_s,
            user="",
            logon=None,
            steps=False,
            on_failure="",
        )
    except UsageProblem:
        return None
