"""moqui's two dialects as data: which keys its input has, where the spots go, and what it leaves behind.

upstream  MGHPhysicsResearch/moquimc (2024-05): spots and machine from DICOM plan and beam-model file, dose on the CT
clinical  the builds with GantryNum and logFilePath: spots from one CSV per layer, the machine built in, a water
          phantom instead of a CT

An input file is `Key value` lines, split at the first space. Unknown keys are ignored and a misspelt one silently
leaves its default, so nothing is written that is not in `keys`; a blank line, a comment, a tab or a carriage return
breaks the reader, so there are none.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Dict, Mapping, Tuple, Union

from ..report import BadInput

Value = Union[str, int, float, bool]


@dataclass(frozen=True)
class Dialect:
    """`keys`: all that may be written, in this order; `fixed`: those that are always the same.

    `spots_in_logs`: spots come as CSV per layer, not in the plan. `header`: the output has a .mhd beside its .raw.
    `absolute`: a dose is in Gy per simulated history; else it needs a site's calibration.
    """

    name: str
    keys: Tuple[str, ...]
    fixed: Mapping[str, Value]
    spots_in_logs: bool
    header: bool
    absolute: bool


_UPSTREAM = Dialect(
    name="upstream",
    keys=(
        "GPUID",
        "RandomSeed",
        "MaxHistoriesPerBatch",
        "UseAbsolutePath",
        "ParentDir",
        "DicomDir",
        "Machine",
        "Scorer",
        "SimulationType",
        "BeamNumbers",
        "ParticlesPerHistory",
        "RBE",
        "NumberOfFraction",
        "RangeshifterDensity",
        "OutputDir",
        "OutputFormat",
        "OverwriteResults",
    ),
    fixed={
        # The card is chosen by CUDA_VISIBLE_DEVICES, so that it is the only one there.
        "GPUID": 0,
        "MaxHistoriesPerBatch": 10_000_000,
        "UseAbsolutePath": True,
        # A second quantity doubles the dose.
        "Scorer": "Dose",
        "SimulationType": "perBeam",
        "BeamNumbers": 1,
        "ParticlesPerHistory": 1,
        # Both multiply the output, and their defaults are 1.1 and the plan's.
        "RBE": 1.0,
        "NumberOfFraction": 1,
        "RangeshifterDensity": 1.19,
        "OutputFormat": "mhd",
        "OverwriteResults": True,
    },
    spots_in_logs=False,
    header=True,
    absolute=True,
)

_CLINICAL = Dialect(
    name="clinical",
    keys=(
        "GPUID",
        "RandomSeed",
        "UseAbsolutePath",
        "TotalThreads",
        "MaxHistoriesPerBatch",
        "ParentDir",
        "DicomDir",
        "logFilePath",
        "GantryNum",
        "BeamNumbers",
        "UsingPhantomGeo",
        "TwoCentimeterMode",
        "PhantomDimX",
        "PhantomDimY",
        "PhantomDimZ",
        "PhantomUnitX",
        "PhantomUnitY",
        "PhantomUnitZ",
        "PhantomPositionX",
        "PhantomPositionY",
        "PhantomPositionZ",
        "Scorer",
        "SupressStd",
        "ReadStructure",
        "SourceType",
        "SimulationType",
        "ParticlesPerHistory",
        "ScoreToCTGrid",
        "OutputDir",
        "OutputFormat",
        "OverwriteResults",
    ),
    fixed={
        "GPUID": 0,
        # With absolute paths some builds take the log folder for the DICOM folder.
        "UseAbsolutePath": False,
        "TotalThreads": -1,
        "MaxHistoriesPerBatch": 10_000_000,
        "DicomDir": "rtplan",
        "logFilePath": "log",
        "BeamNumbers": 1,
        "UsingPhantomGeo": True,
        # One plane at 2 cm only.
        "TwoCentimeterMode": False,
        "Scorer": "Dose",
        "SupressStd": True,
        "ReadStructure": False,
        "SourceType": "FluenceMap",
        "SimulationType": "perBeam",
        # Multiplies the counts here, and divides them upstream.
        "ParticlesPerHistory": 1,
        "ScoreToCTGrid": True,
        "OutputFormat": "raw",
        "OverwriteResults": True,
    },
    spots_in_logs=True,
    header=False,
    absolute=False,
)

DIALECTS: Dict[str, Dialect] = {dialect.name: dialect for dialect in (_UPSTREAM, _CLINICAL)}


def input_text(dialect: Dialect, values: Mapping[str, Value]) -> str:
    """The input file: the dialect's fixed values and these, every key exactly once.

    BadInput for a value that the reader would misunderstand; ValueError for a key that is missing or unknown.
    """
    given = {**dialect.fixed, **values}
    if set(given) != set(dialect.keys):
        raise ValueError(sorted(set(given) ^ set(dialect.keys)))
    return "".join(f"{key} {_text(key, given[key])}\n" for key in dialect.keys)


def _text(key: str, value: Value) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    text = str(value)
    if not re.fullmatch(r"[!-\"$-~]+", text):
        raise BadInput(
            f"moqui cannot be given {key}: its value has a space, a # or a character that is not ASCII."
        )
    return text
