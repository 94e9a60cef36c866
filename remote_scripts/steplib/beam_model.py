"""A room's machine file: the beam model, range shifters and CT scanners, from which every engine's input is made.

`machines/<room>.yaml` (config/machines/G1.yaml is the commented example):

    treatment_machines: [names]     Treatment Machine Name (300A,00B2) of the plans that this file is for
    beam_model:
      name: text
      reference_plane_mm: 500       sizes, divergences and correlations hold in the plane this far upstream of the
                                    isocentre
      virtual_source_mm: [x, y]     scanning magnets to isocentre; left out: the plan's own (300A,030A)
      columns: [...]                the ten names of COLUMNS
      rows: [[...], ...]            by rising energy; between two rows everything is interpolated linearly
      range_shifters:
        RS_ID: {material: PMMA, density_g_cm3: 1.19, wet_mm: 57, isocentre_distance_mm: 380}
    ct_scanners:                    see steplib/ct_series.py
      - {manufacturer, model, density: [[HU, g/cm³], ...], material: [[HU, name], ...]}

A row is one Gaussian spot: sizes and divergences are standard deviations, a correlation is dimensionless and
positive for a diverging beam (as TOPAS's emittance source and MCsquare have it).

Other keys of the file (such as `delivery_log`) are other steps' business.
"""

from __future__ import annotations

import csv
import hashlib
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any, List, Mapping, Optional, Sequence, Tuple

from .parameters import is_number
from .report import BadInput

COLUMNS = (
    "nominal_MeV",
    "mean_MeV",
    "sigma_MeV",
    "protons_per_MU",
    "size_x_mm",
    "size_y_mm",
    "divergence_x_rad",
    "divergence_y_rad",
    "correlation_x",
    "correlation_y",
)
# Lowest and highest value that makes sense, by column.
_BOUNDS = (
    (40.0, 350.0),
    (40.0, 350.0),
    (0.0, 10.0),
    (1.0, 1e15),
    (0.1, 50.0),
    (0.1, 50.0),
    (1e-6, 0.1),
    (1e-6, 0.1),
    (-0.999, 0.999),
    (-0.999, 0.999),
)


@dataclass(frozen=True)
class Row:
    """The beam at one energy; units as in the names of COLUMNS."""

    nominal_mev: float
    mean_mev: float
    sigma_mev: float
    protons_per_mu: float
    size_x_mm: float
    size_y_mm: float
    divergence_x_rad: float
    divergence_y_rad: float
    correlation_x: float
    correlation_y: float

    def size_at(self, plane_mm: float, z_mm: float) -> Tuple[float, float]:
        """Standard deviations (x, y) in mm at z upstream of the isocentre, in vacuum, from those at `plane_mm`.

        sigma² = s² + 2 c s d L + d² L² with L the way from the plane.
        """
        way = plane_mm - z_mm
        sizes = []
        for size, divergence, correlation in (
            (self.size_x_mm, self.divergence_x_rad, self.correlation_x),
            (self.size_y_mm, self.divergence_y_rad, self.correlation_y),
        ):
            sizes.append(
                (size**2 + 2.0 * correlation * size * divergence * way + (divergence * way) ** 2) ** 0.5
            )
        return sizes[0], sizes[1]


@dataclass(frozen=True)
class Shifter:
    """A range shifter's material (an engine's name for it), density, and what a plan may leave out."""

    material: str
    density_g_cm3: float
    wet_mm: Optional[float]
    isocentre_distance_mm: Optional[float]


@dataclass(frozen=True)
class BeamModel:
    """The beam model of one machine. `rows` by rising energy."""

    name: str
    reference_plane_mm: float
    virtual_source_mm: Optional[Tuple[float, float]]
    rows: Tuple[Row, ...]
    range_shifters: Mapping[str, Shifter]

    def at(self, nominal_mev: float) -> Row:
        """The row of a nominal energy, interpolated. BadInput outside the table: nothing is extrapolated."""
        if not self.rows[0].nominal_mev <= nominal_mev <= self.rows[-1].nominal_mev:
            raise BadInput(
                f"The energy {nominal_mev:g} MeV is outside the beam model, which goes from "
                f"{self.rows[0].nominal_mev:g} to {self.rows[-1].nominal_mev:g} MeV."
            )
        place = next(place for place, row in enumerate(self.rows) if row.nominal_mev >= nominal_mev)
        high = self.rows[place]
        if high.nominal_mev == nominal_mev:
            return high
        low = self.rows[place - 1]
        part = (nominal_mev - low.nominal_mev) / (high.nominal_mev - low.nominal_mev)
        pairs = zip(_values(low), _values(high))
        return Row(*(before + part * (after - before) for before, after in pairs))

    def protons_per_mu(self, nominal_mev: float) -> float:
        """Protons that leave the nozzle per monitor unit at this nominal energy."""
        return self.at(nominal_mev).protons_per_mu


@dataclass(frozen=True)
class Machine:
    """A machine file. `scanners`: the entries of ct_scanners, unread. `sha256`: of the file, as hex."""

    treatment_machines: Tuple[str, ...]
    model: BeamModel
    scanners: Sequence[Any]
    sha256: str

    def demand(self, treatment_machine: str) -> None:
        """BadInput unless this file is for plans of that machine."""
        if treatment_machine not in self.treatment_machines:
            raise BadInput(
                "The machine file is for another machine than the plan's Treatment Machine Name (300A,00B2) says: "
                "add the name to treatment_machines there if the beam model is this machine's."
            )


def find_machine(folder: Path) -> Machine:
    """The machine in the one YAML file below the step's `files`. BadInput: there is none, more than one, a bad one."""
    found = sorted(path for path in folder.rglob("*.yaml") if path.is_file()) if folder.is_dir() else []
    if len(found) != 1:
        raise BadInput(
            f"The step was given {len(found) or 'no'} machine file{'s' if len(found) > 1 else ''}: name exactly one "
            "(machines/{room}.yaml) in the step's `files`."
        )
    return read_machine(found[0].read_bytes())


def read_machine(content: bytes) -> Machine:
    """The machine file with this content. BadInput names the key that is wrong."""
    import yaml

    try:
        root = yaml.safe_load(content.decode("utf-8"))
    except (UnicodeDecodeError, yaml.YAMLError, RecursionError):
        raise BadInput("The machine file is not YAML.") from None
    if not isinstance(root, dict):
        raise BadInput("The machine file is not a mapping.")
    names = root.get("treatment_machines")
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise _wrong("treatment_machines", "must be a list of names")
    scanners = root.get("ct_scanners") or []
    if not isinstance(scanners, list):
        raise _wrong("ct_scanners", "must be a list")
    return Machine(
        tuple(names), _model(root.get("beam_model")), scanners, hashlib.sha256(content).hexdigest()
    )


def _wrong(key: str, what: str) -> BadInput:
    return BadInput(f"In the machine file, {key} {what}.")


def _model(raw: Any) -> BeamModel:
    if not isinstance(raw, dict):
        raise _wrong("beam_model", "is missing")
    name = raw.get("name")
    if not isinstance(name, str) or not name:
        raise _wrong("beam_model.name", "must be a text")
    plane: Any = raw.get("reference_plane_mm")
    if not is_number(plane) or not 0.0 <= plane <= 3000.0:
        raise _wrong("beam_model.reference_plane_mm", "must be a number from 0 to 3000")
    source: Any = raw.get("virtual_source_mm")
    if source is not None and not (
        isinstance(source, list)
        and len(source) == 2
        and all(is_number(each) and each > 500.0 for each in source)
    ):
        raise _wrong("beam_model.virtual_source_mm", "must be two numbers above 500")
    if tuple(raw.get("columns") or ()) != COLUMNS:
        raise _wrong("beam_model.columns", f"must be {', '.join(COLUMNS)}, in this order")
    rows = raw.get("rows")
    if not isinstance(rows, list):
        raise _wrong("beam_model.rows", "must be a list")
    return BeamModel(
        name=name,
        reference_plane_mm=float(plane),
        virtual_source_mm=None if source is None else (float(source[0]), float(source[1])),
        rows=checked_rows(rows),
        range_shifters=_shifters(raw.get("range_shifters") or {}),
    )


def checked_rows(rows: Sequence[Any]) -> Tuple[Row, ...]:
    """Rows of numbers in the order of COLUMNS as Rows. BadInput names the row and column that cannot be."""
    found: List[Row] = []
    for place, values in enumerate(rows, 1):
        where = f"beam_model.rows, row {place},"
        if not isinstance(values, (list, tuple)) or len(values) != len(COLUMNS):
            raise _wrong(where, f"must be {len(COLUMNS)} numbers")
        for column, value, (low, high) in zip(COLUMNS, values, _BOUNDS):
            if not is_number(value) or not low <= value <= high:
                raise _wrong(where, f"has a {column} that is not a number from {low:g} to {high:g}")
        row = Row(*map(float, values))
        if found and (row.nominal_mev <= found[-1].nominal_mev or row.mean_mev <= found[-1].mean_mev):
            raise _wrong(where, "has an energy that is not above the row's before")
        found.append(row)
    if len(found) < 2:
        raise _wrong("beam_model.rows", "must have two rows at least")
    return tuple(found)


def _shifters(raw: Any) -> Mapping[str, Shifter]:
    if not isinstance(raw, dict):
        raise _wrong("beam_model.range_shifters", "must be a mapping")
    found = {}
    for identifier, entry in raw.items():
        where = "beam_model.range_shifters"
        if not isinstance(entry, dict) or not isinstance(entry.get("material"), str):
            raise _wrong(where, "has an entry without material")
        density: Any = entry.get("density_g_cm3")
        if not is_number(density) or not 0.5 <= density <= 20.0:
            raise _wrong(where, "has an entry without density_g_cm3 from 0.5 to 20")
        optional: List[Any] = [entry.get(key) for key in ("wet_mm", "isocentre_distance_mm")]
        if not all(value is None or (is_number(value) and 0.0 <= value <= 1000.0) for value in optional):
            raise _wrong(where, "has a wet_mm or isocentre_distance_mm that is not from 0 to 1000")
        found[str(identifier)] = Shifter(entry["material"], float(density), optional[0], optional[1])
    return found


def rows_of_csv(content: bytes) -> Tuple[Row, ...]:
    """Rows from the CSV form that DCPT publishes: ten columns in the order of COLUMNS, no header; lines that begin
    with # or "# are comments. BadInput for anything else."""
    rows = []
    for line in csv.reader(io.StringIO(content.decode("utf-8", "replace"), newline="")):
        if not line or line[0].lstrip().startswith("#"):
            continue
        try:
            rows.append([float(value) for value in line if value != ""])
        except ValueError:
            raise BadInput("The CSV of the beam model has a line that is no row of numbers.") from None
    return checked_rows(rows)


def _values(row: Row) -> Tuple[float, ...]:
    return (
        row.nominal_mev,
        row.mean_mev,
        row.sigma_mev,
        row.protons_per_mu,
        row.size_x_mm,
        row.size_y_mm,
        row.divergence_x_rad,
        row.divergence_y_rad,
        row.correlation_x,
        row.correlation_y,
    )
