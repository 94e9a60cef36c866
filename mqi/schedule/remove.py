"""remove: take away what was installed for one configuration, wherever it is."""

from __future__ import annotations

from pathlib import Path

from mqi.schedule.computer import SCHEDULERS
from mqi.schedule.order import AUTO, Computer, choose_backend
from mqi.schedule.programs import SchedulerProblem, remove_file
from mqi.schedule.record import read_order, record_path


def remove(computer: Computer, config: Path, *, backend: str, force: bool, dry_run: bool) -> list[str]:
    """One line for each thing that was (with `dry_run`: would be) removed. `config`: absolute.

    `backend` "auto": from every scheduler of this computer. `force`: also what other configurations have
    there. Raises UsageProblem, SchedulerProblem, NotAllowed, DiskProblem.
    """
    order = read_order(record_path(config))
    named = None if backend == AUTO else choose_backend(backend, computer)
    lines = []
    for name in computer.backends if named is None else (named,):
        given = order is not None and order.backend == name
        scheduler = SCHEDULERS[name](order.user if order and given else "", str(config))
        try:
            held = scheduler.held()
        except SchedulerProblem:
            if named is not None or given:
                raise
            continue  # nobody asked about this one
        ours = [one for one in held if one.owner == str(config) or (force and one.owner is not None)]
        if not dry_run:
            scheduler.remove(ours)
        lines += [f"{'would remove' if dry_run else 'removed'} {one.name} ({name})" for one in ours]
    if not dry_run and (named is None or (order is not None and order.backend == named)):
        remove_file(record_path(config))
    return lines
