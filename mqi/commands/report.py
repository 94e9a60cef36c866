"""report: open the report of a case, print where it lies, or note that somebody has dealt with it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mqi.case import State
from mqi.commands.cases import CASE, REASON
from mqi.commands.invocation import find_case, invocation
from mqi.errors import UsageProblem

if TYPE_CHECKING:
    from mqi.rows import Case
    from mqi.store import Store


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command()(report)


def report(
    context: typer.Context,
    case: CASE,
    print_path: Annotated[
        bool, typer.Option("--print-path", help="Print where the report lies instead of opening it.")
    ] = False,
    pdf: Annotated[bool, typer.Option("--pdf", help="The PDF instead of the HTML page.")] = False,
    all_runs: Annotated[
        bool, typer.Option("--all", help="List the reports of all runs of this case, the newest first.")
    ] = False,
    reviewed: Annotated[
        bool,
        typer.Option("--reviewed", help="Note that the verdict was dealt with; needs --reason."),
    ] = False,
    reason: REASON = "",
) -> None:
    """Open the report of a case, with its verdict."""
    invoked = invocation(context)
    with invoked.store() as store:
        found = find_case(store, case)
        if reviewed:
            said = _review(store, found, reason)
            invoked.print(said, {"case_id": found.case_id, "verdict": found.verdict, "message": said})
            return
    from mqi.verdict import REPORT_HTML, REPORT_PDF

    name = REPORT_PDF if pdf else REPORT_HTML
    if all_runs:
        known = _all(invoked.settings.paths.results, found, name)
        invoked.print("\n".join(f"{each['report']}  {each['verdict']}" for each in known), known)
        return
    path = _newest(found, name)
    if print_path or invoked.as_json:
        invoked.print(str(path), {"case_id": found.case_id, "verdict": found.verdict, "report": str(path)})
        return
    if _open(path):
        invoked.print(f"opened {path}")
    else:
        invoked.print(f"no program to open it with was found; the report is {path}")


def _review(store: Store, case: Case, reason: str) -> str:
    """The verdict stays; the case no longer asks for an operator, and the history says who took it on."""
    if case.status is not State.COMPLETED or not case.verdict:
        raise UsageProblem(
            f"case {case.case_id} has no verdict that could be reviewed",
            f"what it waits for: mqi why {case.case_id}",
        )
    if not reason.strip():
        raise UsageProblem(
            "a review needs a reason, for the record", f'mqi report {case.case_id} --reviewed --reason "…"'
        )
    store.note(case, "reviewed", reason, needs_operator=0, hint="")
    return f"reviewed; the verdict of case {case.case_id} stays {case.verdict}"


def _newest(case: Case, name: str) -> Path:
    """The report among the case's present results. Raises UsageProblem when there is none, saying why."""
    from mqi.verdict import report_files

    why = f"what it waits for: mqi why {case.case_id}"
    older = f"reports of earlier runs: mqi report {case.case_id} --all"
    if not case.results_path:
        raise UsageProblem(f"case {case.case_id} has no results yet: it is {case.status}", why)
    run = Path(case.results_path)
    if not run.is_dir():
        raise UsageProblem(
            f"the results of case {case.case_id} are not at {run} any more",
            "restore the results folder from its backup",
        )
    files = report_files(run, name)
    if case.status is State.FAILED and not files:
        raise UsageProblem(f"case {case.case_id} failed, and no report is made of a part of its beams", why)
    if not files:
        raise UsageProblem(
            f"the results of case {case.case_id} hold no {name}: its workflow makes none", older
        )
    path = run / files[0]
    if not path.is_file():
        raise UsageProblem(f"the report {path} was removed", "restore the results folder from its backup")
    if case.status is not State.COMPLETED:
        raise UsageProblem(f"case {case.case_id} is being computed again: it is {case.status}", older)
    return path


def _all(results: Path, case: Case, name: str) -> list[dict[str, Any]]:
    from mqi.results import PROVENANCE, case_folder, read_json
    from mqi.verdict import report_files, verdict_of_run

    folder = case_folder(results, case)
    known = []
    for run in sorted(folder.iterdir()) if folder.is_dir() else ():
        provenance = read_json(run / PROVENANCE) or {}
        if case.run_key is None or provenance.get("run_key") != case.run_key:
            continue
        said = verdict_of_run(run, case)
        for file in report_files(run, name):
            known.append(
                {
                    "report": str(run / file),
                    "serial": provenance.get("serial"),
                    "verdict": "" if said is None else said.word,
                    "reason": "" if said is None else said.reason,
                }
            )
    if not known:
        raise UsageProblem(
            f"no run of case {case.case_id} has a {name}", f"what it waits for: mqi why {case.case_id}"
        )
    return sorted(known, key=lambda each: int(each["serial"] or 0), reverse=True)


def _open(path: Path) -> bool:
    """Hand the file to the program that the desktop opens such files with; False when there is none."""
    import shutil
    import subprocess
    import sys

    if sys.platform == "win32":
        try:
            os.startfile(path)
        except OSError:
            return False
        return True
    if sys.platform != "darwin" and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        return False  # xdg-open would start a text browser in this terminal, or wait for one
    program = shutil.which("open" if sys.platform == "darwin" else "xdg-open")
    if program is None:
        return False
    # Its folder's name may be a patient's; the arguments of a process are for everybody to see.
    quiet = subprocess.DEVNULL
    done = subprocess.run([program, path.name], cwd=path.parent, stdout=quiet, stderr=quiet, check=False)
    return done.returncode == 0
