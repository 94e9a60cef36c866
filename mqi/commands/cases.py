"""retry, cancel, hold, release, priority, skip: what operators say about one case."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

import typer

from mqi.commands.invocation import complete_case, find_case, invocation

if TYPE_CHECKING:
    from mqi.rows import Case
    from mqi.site import Site

CASE = Annotated[
    str,
    typer.Argument(
        metavar="CASE", help="The id, or a unique part of the name.", autocompletion=complete_case
    ),
]
REASON = Annotated[str, typer.Option("--reason", help="Why; kept in the case's history.")]


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    app.command()(retry)
    app.command()(cancel)
    app.command()(hold)
    app.command()(release)
    app.command()(priority)
    app.command()(skip)


def retry(
    context: typer.Context,
    case: CASE,
    from_step: Annotated[
        str | None, typer.Option("--from", metavar="STEP", help="Redo this step and everything after it.")
    ] = None,
    redo_all: Annotated[bool, typer.Option("--all", help="Redo everything.")] = False,
    reason: REASON = "",
) -> None:
    """Compute a case again: what failed or changed; what is good is reused."""
    from mqi.steps import operate

    _act(
        context,
        case,
        lambda site, row: operate.retry(site, row, from_step=from_step, redo_all=redo_all, reason=reason),
    )


def cancel(context: typer.Context, case: CASE, reason: REASON = "") -> None:
    """End what runs for a case, and start no more of it."""
    from mqi.steps import operate

    _act(context, case, lambda site, row: operate.cancel(site, row, reason=reason))


def hold(context: typer.Context, case: CASE, reason: REASON = "") -> None:
    """Keep a case from starting; jobs that run go on."""
    from mqi.steps import operate

    _act(context, case, lambda site, row: operate.hold(site, row, reason=reason))


def release(context: typer.Context, case: CASE, reason: REASON = "") -> None:
    """Let a held case go on."""
    from mqi.steps import operate

    _act(context, case, lambda site, row: operate.release(site, row, reason=reason))


def priority(
    context: typer.Context,
    case: CASE,
    number: Annotated[
        int, typer.Argument(metavar="N", min=-1000, max=1000, help="Higher goes first; 0 is normal.")
    ],
) -> None:
    """Let a case go before or after others. A negative N goes after `--`."""
    from mqi.steps import operate

    _act(context, case, lambda site, row: operate.set_priority(site, row, number))


def skip(context: typer.Context, case: CASE, reason: REASON = "") -> None:
    """Do not compute this case; if its folder changes, that is a new revision."""
    from mqi.steps import operate

    _act(context, case, lambda site, row: operate.skip(site, row, reason=reason))


def _act(context: typer.Context, text: str, action: Callable[[Site, Case], str]) -> None:
    """Find the case and do it; a case that changes under our hands is read again."""
    from mqi.errors import TemporaryProblem
    from mqi.store import StaleCase

    invoked = invocation(context)
    with invoked.site() as site:
        for _attempt in range(3):
            case = find_case(site.store, text)
            try:
                said = action(site, case)
                break
            except StaleCase:
                continue
        else:
            raise TemporaryProblem(f"case {case.case_id} is being changed by another process", "say it again")
        after = site.store.case(case.case_id)
        invoked.print(
            f"case {case.case_id} ({case.name}): {said}",
            {"case_id": case.case_id, "state": str(after.status), "message": said},
        )
