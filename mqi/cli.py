"""The command line: global options, one line per command, and the way from an error to an exit code."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from types import FrameType
from typing import Annotated, NoReturn

import typer

from mqi import __version__
from mqi.commands.invocation import Invocation
from mqi.commands.registry import CommandsOnDemand
from mqi.errors import MqiError

app = typer.Typer(
    name="mqi",
    cls=CommandsOnDemand,
    help="Recomputes the dose that a proton machine delivered: finds case folders, sends them to a GPU host, "
    "brings verified results back, and shows where every case stands and why.",
    epilog="Exit codes: 0 done or nothing to do · 1 a bug · 2 wrong use · 40 a case needs an operator "
    "(status --check) · 75 temporary, tried again by itself · 76 a lock without progress · 77 login or host key "
    "· 78 configuration or database · 130 and 143 stopped by Ctrl-C and SIGTERM.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


class Stopped(BaseException):
    """Ctrl-C, or the scheduler ends us. Not an Exception: no `except` on the way may swallow it."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.exit_code = 128 + number


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"mqi {__version__}")
        raise typer.Exit


@app.callback()
def options(
    context: typer.Context,
    config: Annotated[
        Path | None,
        typer.Option(
            "--config",
            envvar="MQI_CONFIG_PATH",
            show_envvar=True,
            help="The configuration; else config/mqi.yaml below this folder, else the one in your config folder.",
        ),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON for other programs.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Say more, on standard error.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Options that every command has."""
    context.obj = Invocation(config, as_json=json, verbose=verbose, debug=debug)


def main() -> NoReturn:
    """The `mqi` program. Ends the process with the exit code."""
    for stream in (sys.stdout, sys.stderr):
        # Under Task Scheduler there may be no stream, and a Windows console may not know a character.
        if stream is not None and hasattr(stream, "reconfigure"):
            stream.reconfigure(encoding="utf-8" if not stream.isatty() else None, errors="backslashreplace")
    _stop_cleanly()
    try:
        app(standalone_mode=True)
    except MqiError as error:
        if "--debug" in sys.argv:
            raise
        _show(error)
        sys.exit(error.exit_code)
    except Stopped as stopped:
        typer.echo("mqi: stopped; the next run goes on where this one was", err=True)
        sys.exit(stopped.exit_code)
    except Exception as error:
        if "--debug" in sys.argv:
            raise
        import logging

        logging.getLogger("mqi").exception("a bug in mqi")
        typer.echo(f"mqi: a bug in mqi: {type(error).__name__}: {error}", err=True)
        typer.echo(
            "  nothing is lost, every step can be repeated; run it with --debug and report it", err=True
        )
        sys.exit(1)
    sys.exit(0)


def _show(error: MqiError) -> None:
    typer.echo(f"mqi: {error}", err=True)
    if error.hint:
        typer.echo(f"  {error.hint}", err=True)


def _stop_cleanly() -> None:
    """Let signals unwind the stack: transactions roll back, part files stay for the next run."""

    def stop(number: int, _frame: FrameType | None) -> None:
        # A second signal while unwinding would tear what the first one is cleaning up.
        signal.signal(number, signal.SIG_IGN)
        raise Stopped(number)

    for name in ("SIGINT", "SIGTERM", "SIGBREAK", "SIGHUP"):
        number = getattr(signal, name, None)
        if number is not None:
            signal.signal(number, stop)
