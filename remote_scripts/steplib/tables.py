"""The interface between the steps: `beams.json`, and per treatment beam one table of its planned spots and, when
there is a delivery record, one of its delivered spots (steplib/spot_table.py).

beams.json:

    {"format": 2,
     "plan": {"sop_instance_uid", "input": number of the input, "sha256": of the plan file, "fractions"},
     "machine": TreatmentMachineName (of the first beam),
     "machine_file": {"name", "sha256"} of the room's file that was used, or null,
     "beams": [{"number", "name", "machine", "file": "beam_2.csv", "sha256": of that file,
                "spots": count, "layers": count, "energies_MeV": [per layer], "total_mu", "beam_meterset",
                "gantry_deg", "couch_deg", "isocentre_mm": [x, y, z] or null, "snout_mm",
                "virtual_source_axis_mm": [x, y] or null, "apertures": count, "range_shifters": [{"number",
                "id", "type", "wet_mm", "isocentre_distance_mm"}], "layer_table": [{"layer", "control_point",
                "energy_MeV", "spots", "mu", "range_shifter_wet_mm",
                                 "spot_size_fwhm_mm": [x, y] or null}],
                "delivered": null (no delivery record among the inputs), or
                    {"file": "delivered_2.csv", "sha256", "source": "ptn" | "record" | "csv",
                     "spots": rows of the file, "layers": how many of the plan's layers were delivered,
                     "complete": all of them, "total_mu", "interlocks", "deliveries": how many records,
                     "mu_from": a sentence that says where the MU come from,
                     "positions_measured": false when the record repeats the planned positions exactly,
                     "layer_table": [{"layer", "energy_MeV", "spots", "mu", "interlocks", "paintings"}],
                     "log": {"folder": "log/beam_2", "counts_per_mu": for whom reads the counts there}}}]}

Neither holds a patient's name or ID.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict, List, Mapping, Optional, Tuple

from .parameters import is_number, read_object
from .plan import Beam, Plan
from .report import BadInput

if TYPE_CHECKING:
    from .delivered import DeliveredBeam
    from .spot_table import SpotTable

FORMAT = 2
HEADER = ("layer", "spot", "energy_MeV", "x_mm", "y_mm", "mu", "protons", "time_ms")
INDEX = "beams.json"


@dataclass(frozen=True)
class LayerMu:
    """What the depth dose of a layer depends on: MeV, monitor units, mm of water in front of the phantom."""

    energy_mev: float
    mu: float
    wet_mm: float


@dataclass(frozen=True)
class BeamTable:
    """A beam as read back: its entry of beams.json, its layers, the plan's UID, and how many spots."""

    entry: Mapping[str, Any]
    layers: Tuple[LayerMu, ...]
    plan_uid: str
    spots: int


def write_tables(
    out: Path,
    plan: Plan,
    source: Mapping[str, Any],
    machine_file: Optional[Mapping[str, str]],
    planned: Mapping[int, SpotTable],
    delivered: Mapping[int, DeliveredBeam],
) -> None:
    """Writes the tables of every beam, then beams.json.

    `source`: what of the plan's origin goes into "plan". `planned`, `delivered`: by beam number; a beam without a
    delivery record is not in the latter.
    """
    from .moqui_log import counts_per_mu
    from .spot_table import spot_csv

    entries = []
    for beam in plan.beams:
        digest = _write(out / f"beam_{beam.number}.csv", spot_csv(planned[beam.number]))
        entry = _entry(beam, f"beam_{beam.number}.csv", digest)
        entry["delivered"] = None
        found = delivered.get(beam.number)
        if found is not None:
            name = f"delivered_{beam.number}.csv"
            digest = _write(out / name, spot_csv(found.table))
            log = {"folder": f"log/beam_{beam.number}", "counts_per_mu": counts_per_mu(found)}
            entry["delivered"] = {"file": name, "sha256": digest, **found.facts, "log": log}
        entries.append(entry)
    index = {
        "format": FORMAT,
        "plan": {"sop_instance_uid": plan.sop_instance_uid, **source, "fractions": plan.fractions},
        "machine": plan.beams[0].machine,
        "machine_file": machine_file,
        "beams": entries,
    }
    _write(out / INDEX, (json.dumps(index, indent=1, ensure_ascii=False) + "\n").encode("utf-8", "replace"))


def _write(path: Path, content: bytes) -> str:
    """The SHA-256 of what was written."""
    path.write_bytes(content)
    return hashlib.sha256(content).hexdigest()


def _entry(beam: Beam, name: str, digest: str) -> Dict[str, Any]:
    return {
        "number": beam.number,
        "name": beam.name,
        "machine": beam.machine,
        "file": name,
        "sha256": digest,
        "spots": sum(len(layer.spots) for layer in beam.layers),
        "layers": len(beam.layers),
        "energies_MeV": [layer.energy_mev for layer in beam.layers],
        "total_mu": beam.mu,
        "beam_meterset": beam.meterset,
        "gantry_deg": beam.gantry_deg,
        "couch_deg": beam.couch_deg,
        "isocentre_mm": beam.isocentre_mm,
        "snout_mm": beam.snout_mm,
        "virtual_source_axis_mm": beam.source_axis_mm,
        "apertures": beam.apertures,
        "range_shifters": [
            {
                "number": each.number,
                "id": each.identifier,
                "type": each.type,
                "wet_mm": each.wet_mm,
                "isocentre_distance_mm": each.isocentre_distance_mm,
            }
            for each in beam.range_shifters
        ],
        "layer_table": [
            {
                "layer": number,
                "control_point": layer.control_point,
                "energy_MeV": layer.energy_mev,
                "spots": len(layer.spots),
                "mu": sum(spot.mu for spot in layer.spots),
                "range_shifter_wet_mm": layer.wet_mm,
                "spot_size_fwhm_mm": layer.spot_size_mm,
            }
            for number, layer in enumerate(beam.layers, 1)
        ],
    }


def read_beam(folder: Path, number: int) -> BeamTable:
    """Beam `number` from the folder of the interpreter's outputs. BadInput unless index and file agree."""
    index = read_object(folder / INDEX, f"The interpreter's {INDEX}")
    if index.get("format") != FORMAT:
        raise BadInput(f"The interpreter's {INDEX} has another format than {FORMAT}.")
    beams = index.get("beams")
    entries = [each for each in beams if isinstance(each, dict)] if isinstance(beams, list) else []
    found = [each for each in entries if type(each.get("number")) is int and each["number"] == number]
    if len(found) != 1:
        known = ", ".join(str(each.get("number")) for each in entries) or "none"
        raise BadInput(f"Beam {number} is not in the interpreter's {INDEX} (treatment beams there: {known}).")
    entry = found[0]
    name = f"beam_{number}.csv"
    try:
        content = (folder / name).read_bytes()
    except FileNotFoundError:
        raise BadInput(f"The interpreter's {name} is missing.") from None
    if entry.get("file") != name or hashlib.sha256(content).hexdigest() != entry.get("sha256"):
        raise BadInput(f"{name} is not the file that {INDEX} describes: its SHA-256 differs.")
    plan = index.get("plan")
    uid = plan.get("sop_instance_uid") if isinstance(plan, dict) else None
    if not isinstance(uid, str):
        raise BadInput(f"The interpreter's {INDEX} does not name the plan.")
    rows = _rows(content, name)
    return BeamTable(entry, _layers(entry, rows, number), uid, len(rows))


@dataclass(frozen=True)
class _Row:
    layer: int
    energy_mev: float
    mu: float


def _rows(content: bytes, name: str) -> List[_Row]:
    """What is needed of every spot."""
    rows = []
    try:
        lines = csv.reader(io.StringIO(content.decode("utf-8"), newline=""))
        if tuple(next(lines, ())) != HEADER:
            raise ValueError
        for line in lines:
            layer, _, energy_mev, _, _, mu, _, _ = line
            row = _Row(int(layer), float(energy_mev), float(mu))
            if not is_number(row.energy_mev) or not is_number(row.mu) or row.mu < 0.0:
                raise ValueError
            rows.append(row)
    except (ValueError, csv.Error):
        raise BadInput(f"{name} is not a table of {','.join(HEADER)} with finite numbers.") from None
    return rows


def _layers(entry: Mapping[str, Any], rows: List[_Row], number: int) -> Tuple[LayerMu, ...]:
    contradiction = BadInput(f"Beam {number}: {INDEX} and the table of its spots contradict each other.")
    table = entry.get("layer_table")
    if (
        not isinstance(table, list)
        or not table
        or {row.layer for row in rows} != set(range(1, len(table) + 1))
    ):
        raise contradiction
    mu = [0.0] * len(table)
    for row in rows:
        described = table[row.layer - 1]
        if not isinstance(described, dict) or described.get("energy_MeV") != row.energy_mev:
            raise contradiction
        mu[row.layer - 1] += row.mu
    layers = []
    for place, described in enumerate(table):
        wet_mm: Any = described.get("range_shifter_wet_mm")
        if not is_number(wet_mm) or wet_mm < 0.0:
            raise contradiction
        layers.append(LayerMu(float(described["energy_MeV"]), mu[place], float(wet_mm)))
    return tuple(layers)
