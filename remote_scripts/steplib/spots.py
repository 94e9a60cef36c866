"""The interpreter's tables as arrays: the planned spots of a beam, and the delivered ones if there is a record.

`beams.json` and the CSV files are described in steplib/tables.py. Read here, column by column, is what a dose
needs. Every file must have the SHA-256 that beams.json gives it.
"""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Tuple

import numpy as np

from .beam_model import BeamModel
from .parameters import is_number, read_object
from .report import BadInput

INDEX = "beams.json"
_NEEDED = ("layer", "energy_MeV", "x_mm", "y_mm", "mu")
# The interpreter may have worked with another machine file; then the two would disagree by more than rounding.
_PROTONS_TOLERANCE = 1e-3


@dataclass(frozen=True)
class Spots:
    """Spots in the order of delivery, one array per column.

    `layer`: index into the plan's delivering layers, from 1. Energy: nominal, MeV. Position at the isocentre in the
    IEC gantry system, mm. `mu`, `protons`: of one fraction. `wet_mm`: range shifters in the beam.
    """

    layer: Any
    energy_mev: Any
    x_mm: Any
    y_mm: Any
    mu: Any
    protons: Any
    wet_mm: Any
    sha256: str


@dataclass(frozen=True)
class BeamSpots:
    """A beam of beams.json: its entry, its spots, and the plan's SOP Instance UID."""

    number: int
    entry: Mapping[str, Any]
    planned: Spots
    delivered: Optional[Spots]
    plan_uid: str
    machine: str

    def given(self) -> Dict[str, Spots]:
        """ "planned" and, if there is a record, "delivered"."""
        tables = {"planned": self.planned}
        if self.delivered is not None:
            tables["delivered"] = self.delivered
        return tables


def read_beams(folder: Path, model: BeamModel) -> Tuple[BeamSpots, ...]:
    """Every beam of the interpreter's outputs. BadInput unless index, files and beam model agree."""
    index = read_object(folder / INDEX, f"The interpreter's {INDEX}")
    if index.get("format") not in (1, 2):
        raise BadInput(f"The interpreter's {INDEX} has another format than 1 or 2.")
    plan, beams = index.get("plan"), index.get("beams")
    uid = plan.get("sop_instance_uid") if isinstance(plan, dict) else None
    if not isinstance(uid, str) or not isinstance(beams, list) or not beams:
        raise BadInput(f"The interpreter's {INDEX} names no plan or no beam.")
    machine = index.get("machine")
    found = [_beam(folder, entry, uid, str(machine or ""), model) for entry in beams]
    if len({beam.number for beam in found}) != len(found):
        raise BadInput(f"The interpreter's {INDEX} has two beams with one number.")
    return tuple(found)


def _beam(folder: Path, entry: Any, uid: str, machine: str, model: BeamModel) -> BeamSpots:
    number = entry.get("number") if isinstance(entry, dict) else None
    if type(number) is not int:
        raise BadInput(f"The interpreter's {INDEX} has a beam without number.")
    wet_by_layer = _layers(entry, number)
    planned = _read(folder, entry, number, wet_by_layer, model)
    record = entry.get("delivered")
    delivered = None
    if record is not None:
        if not isinstance(record, dict):
            raise BadInput(f"Beam {number}: {INDEX} does not describe the delivered spots.")
        delivered = _read(folder, record, number, wet_by_layer, model)
    return BeamSpots(number, entry, planned, delivered, uid, str(entry.get("machine") or machine))


def _layers(entry: Mapping[str, Any], number: int) -> List[Tuple[float, float]]:
    """(nominal energy MeV, range shifters mm) per delivering layer."""
    layers = []
    for each in entry.get("layer_table") or []:
        energy: Any = each.get("energy_MeV") if isinstance(each, dict) else None
        wet: Any = each.get("range_shifter_wet_mm") if isinstance(each, dict) else None
        if not is_number(energy) or not is_number(wet) or wet < 0.0:
            raise BadInput(f"Beam {number}: {INDEX} has a layer without energy or range shifter thickness.")
        layers.append((float(energy), float(wet)))
    if not layers:
        raise BadInput(f"Beam {number}: {INDEX} lists no layers.")
    return layers


def _read(
    folder: Path,
    described: Mapping[str, Any],
    number: int,
    layers: List[Tuple[float, float]],
    model: BeamModel,
) -> Spots:
    name = described.get("file")
    if not isinstance(name, str) or not name.endswith(".csv") or Path(name).name != name:
        raise BadInput(f"Beam {number}: {INDEX} names no table of spots.")
    try:
        content = (folder / name).read_bytes()
    except FileNotFoundError:
        raise BadInput(f"The interpreter's {name} is missing.") from None
    digest = hashlib.sha256(content).hexdigest()
    if digest != described.get("sha256"):
        raise BadInput(f"{name} is not the file that {INDEX} describes: its SHA-256 differs.")
    columns = _columns(content, name)
    layer = columns["layer"].astype(int)
    energy = columns["energy_MeV"]
    if not np.array_equal(layer, columns["layer"]) or layer.min() < 1 or layer.max() > len(layers):
        raise BadInput(f"{name} has a layer that {INDEX} does not list.")
    table = np.array(layers)
    if np.abs(table[layer - 1, 0] - energy).max() > 1e-6:
        raise BadInput(f"{name} and {INDEX} give a layer two energies.")
    if columns["mu"].min() < 0.0 or columns["mu"].sum() <= 0.0:
        raise BadInput(f"{name} has no monitor units, or negative ones.")
    per_mu = {value: model.protons_per_mu(float(value)) for value in np.unique(energy)}
    protons = columns["mu"] * np.array([per_mu[value] for value in energy])
    given = columns.get("protons")
    if given is not None and not np.allclose(given, protons, rtol=_PROTONS_TOLERANCE, atol=1.0):
        raise BadInput(f"The protons in {name} are not those of this machine file's protons per MU.")
    return Spots(
        layer, energy, columns["x_mm"], columns["y_mm"], columns["mu"], protons, table[layer - 1, 1], digest
    )


def _columns(content: bytes, name: str) -> Dict[str, Any]:
    """The needed columns as float arrays, and `protons` when it is filled in everywhere."""
    damaged = BadInput(f"{name} is not a table of spots with finite numbers.")
    try:
        head, _, body = content.decode("utf-8").partition("\n")
    except UnicodeDecodeError:
        raise damaged from None
    names = head.strip().split(",")
    places = {wanted: names.index(wanted) for wanted in _NEEDED if wanted in names}
    rows = body.splitlines()
    if len(places) < len(_NEEDED) or not rows:
        raise damaged
    filled = "protons" in names and all(_cell(row, names.index("protons")) for row in rows)
    if filled:
        places["protons"] = names.index("protons")
    try:
        table = np.loadtxt(
            io.StringIO(body),
            delimiter=",",
            usecols=tuple(places.values()),
            ndmin=2,
            dtype=float,
            comments=None,
        )
    except (ValueError, IndexError):
        raise damaged from None
    if len(table) != len(rows) or not np.all(np.isfinite(table)):
        raise damaged
    return {wanted: table[:, place] for place, wanted in enumerate(places)}


def _cell(row: str, place: int) -> str:
    cells = row.split(",")
    return cells[place].strip() if place < len(cells) else ""
