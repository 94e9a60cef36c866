"""One run of the program: its global options, and what commands open because of them."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from mqi.errors import MqiError, UsageProblem, exit_code_of, is_of_a_case

if TYPE_CHECKING:
    from mqi.rows import Case
    from mqi.settings import Settings
    from mqi.site import Site
    from mqi.steps import StepReport
    from mqi.store import Store


class Invocation:
    """Opens configuration, database and logs when a command first asks for them."""

    def __init__(self, config: Path | None, *, as_json: bool, verbose: bool, debug: bool) -> None:
        self.config = config
        self.as_json = as_json
        self.verbose = verbose
        self.debug = debug
        self._settings: Settings | None = None

    @property
    def settings(self) -> Settings:
        """The configuration. Raises ConfigurationProblem."""
        return self._read(keep=False)

    def _read(self, *, keep: bool) -> Settings:
        if self._settings is None:
            from mqi.config_place import find_config
            from mqi.remembered import load_remembered

            path = find_config(self.config, os.environ, Path.cwd())
            self._settings = load_remembered(path, os.environ, keep=keep)
        return self._settings

    @contextmanager
    def store(self) -> Iterator[Store]:
        """The database."""
        from mqi.store import Store

        store = Store(self.settings.paths.database, wait_s=self.settings.timing.database_wait_s)
        try:
            yield store
        finally:
            store.close()

    @contextmanager
    def site(self) -> Iterator[Site]:
        """Everything a step needs, with logs going to their files."""
        from mqi.commands.progress import ProgressBar
        from mqi.logs import start_logging, stop_logging
        from mqi.site import Site

        # What only looks, and a dry run, leave no file behind.
        self._read(keep=True)
        start_logging(self.settings.paths.logs, self.settings.logging, self.settings.timezone)
        if self.verbose:
            self._log_to_screen()
        bar = ProgressBar(sys.stderr)
        try:
            with self.store() as store:
                site = Site(self.settings, store, tell=self._tell, progress=bar.show)
                try:
                    yield site
                finally:
                    site.close()
        finally:
            bar.close()
            stop_logging()

    @staticmethod
    def _log_to_screen() -> None:
        import logging

        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(name)s: %(message)s"))
        logging.getLogger("mqi").addHandler(handler)

    def _tell(self, line: str) -> None:
        if not self.as_json and (self.verbose or _is_watched()):
            typer.echo(line, err=True)

    def print(self, text: str, value: object = None) -> None:
        """Print `text`, or with --json `value` instead."""
        if self.as_json:
            typer.echo(json.dumps(value, ensure_ascii=False, indent=2))
        elif text:
            typer.echo(text)

    def finish(self, site: Site, reports: Sequence[StepReport]) -> None:
        """Print what steps did, and end with the exit code of what they met."""
        value: dict[str, Any] = {
            "steps": [{"step": r.step, "counts": r.counts, "lines": r.lines} for r in reports],
            "errors": [
                {"message": str(error), "hint": error.hint, "exit_code": error.exit_code}
                for error in site.errors
            ],
        }
        lines = [f"{report.step}: {line}" for report in reports for line in report.lines]
        self.print("\n".join(lines), value)
        for error in () if self.as_json else site.errors:
            typer.echo(f"mqi: {error}", err=True)
            if error.hint:
                typer.echo(f"  {error.hint}", err=True)
        code = exit_code_of(error for error in site.errors if not is_of_a_case(error))
        if code:
            raise typer.Exit(code)


def invocation(context: typer.Context) -> Invocation:
    """The invocation of a command's context."""
    found = context.find_object(Invocation)
    assert found is not None
    return found


def _is_watched() -> bool:
    return sys.stderr is not None and sys.stderr.isatty()


def find_case(store: Store, text: str) -> Case:
    """The case that `text` means: its id, its run key, its name, or a unique part of the name.

    Of several revisions the newest is meant. Raises UsageProblem for none and for several.
    """
    if text.isdigit():
        try:
            return store.case(int(text))
        except KeyError:
            pass  # a folder may have a number for a name
    exact = store.select("run_key = ? OR path = ?", (text, text))
    found = exact or store.select("instr(lower(path || ' ' || fraction), lower(?)) > 0", (text,))
    units: dict[tuple[str, str, str], Case] = {}
    for case in found:
        key = (case.room, case.path, case.fraction)
        if key not in units or units[key].revision < case.revision:
            units[key] = case
    if len(units) == 1:
        return next(iter(units.values()))
    if not units:
        raise UsageProblem(f"no case is called {text!r}", "all cases: mqi status --all")
    names = "; ".join(f"{case.case_id} ({case.room} {case.name})" for case in list(units.values())[:8])
    raise UsageProblem(f"{text!r} may mean {len(units)} cases", f"say which, by its id: {names}")


def complete_case(context: typer.Context, incomplete: str) -> list[str]:
    """Case names for the shell. Says nothing when something is wrong: the command itself will."""
    try:
        parent = context.find_root().params.get("config")
        with Invocation(parent, as_json=False, verbose=False, debug=False).store() as store:
            rows = store.database.read(
                "SELECT DISTINCT path FROM cases WHERE status NOT IN ('completed', 'skipped') OR status_updated_at > ? "
                "ORDER BY path LIMIT 500",
                (store.now() - 30 * 86400,),
            )
            return [
                str(row["path"]) for row in rows if str(row["path"]).lower().startswith(incomplete.lower())
            ]
    except (MqiError, OSError):
        return []
