"""sample: full cases of persons who do not exist, for training and load tests."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from mqi.commands.invocation import invocation
from mqi.errors import DiskProblem, UsageProblem


class Layout(StrEnum):
    """The layouts of mqi/sample_case.py."""

    shi = "shi"
    record = "record"
    csv = "csv"


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command()(sample)


def sample(
    context: typer.Context,
    folder: Annotated[Path, typer.Argument(help="The folder in which the case folders are made.")],
    layout: Annotated[
        Layout, typer.Option(help="Delivery records as PTN logs (shi), DICOM treatment records, or CSV.")
    ] = Layout.shi,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same bytes.")] = 1,
    cases: Annotated[int, typer.Option(min=1, help="So many cases, with the seeds from --seed on.")] = 1,
    fractions: Annotated[int, typer.Option(min=1, help="So many delivered fractions per case.")] = 1,
    beams: Annotated[int, typer.Option(min=1, help="Treatment beams per plan.")] = 2,
    layers: Annotated[int, typer.Option(min=1, help="Energy layers per beam.")] = 4,
    spots: Annotated[int, typer.Option(min=1, help="Spots per layer.")] = 49,
    rows: Annotated[int, typer.Option(min=4, help="Rows of the PTN log per spot.")] = 60,
    paintings: Annotated[
        int, typer.Option(min=1, max=100, help="Each layer is delivered so many times.")
    ] = 1,
    interlock: Annotated[bool, typer.Option(help="Interrupt the first beam once.")] = True,
    ready: Annotated[bool, typer.Option(help="Write the marker _CASE_READY (layout shi).")] = True,
    machine: Annotated[
        Path | None,
        typer.Option(help="Machine file whose calibration the log has; default: the shipped example."),
    ] = None,
) -> None:
    """Make sample cases: an RT Ion Plan and what a machine would have recorded of its delivery, with noise.

    The person, the plan and the machine are invented. The first beam has an interlock, and the beams are delivered in
    another order than the plan has them.
    """
    from mqi.resources import packaged_config
    from mqi.sample_case import Size, write_cases
    from mqi.sample_delivery import read_calibration

    invoked = invocation(context)
    path = machine or packaged_config() / "machines" / "G1.yaml"
    try:
        calibration = read_calibration(path)
    except (OSError, ValueError) as error:
        raise UsageProblem(
            str(error), "name a machine file with --machine, as config/machines/G1.yaml"
        ) from error
    size = Size(beams, layers, spots, rows, paintings, fractions, interlock=interlock)
    written = []
    try:
        for each in write_cases(folder, layout.value, seed, cases, size, calibration, ready=ready):
            written.append(str(each))
    except FileExistsError as error:
        raise UsageProblem(
            f"{error.filename} exists and was left as it is", "take another --seed, or another folder"
        ) from error
    except OSError as error:
        raise DiskProblem(f"{folder} cannot be written: {error.strerror or error}") from error
    invoked.print("\n".join(f"made {each}" for each in written), {"cases": written})
