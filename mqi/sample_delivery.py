"""What a machine would have delivered of a sample plan, and its log: PTN files, PlanInfo.txt, PlanRange.txt.

The format and the meaning of its numbers are those that steplib/ptn_files.py and steplib/ptn_spots.py read; the
calibration is that of a machine file (config/machines/G1.yaml). Standard library only, so that a training case can
be made on any control PC. The same seed gives the same bytes.
"""

from __future__ import annotations

import random
import sys
from array import array
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from mqi.sample import SampleBeam

_FIRST_FRACTION = datetime(2026, 1, 6, 9, 30)  # noqa: DTZ001 - machines write local time without a zone
_PLAN_ON, _ACTUAL_ON = 0x8000, 0x4000
_LEAD_ROWS, _TRANSIT_ROWS, _INTERLOCK_ROWS = 40, 8, 500
_HIGHEST_COUNT = 50_000


@dataclass(frozen=True, slots=True)
class Noise:
    """Standard deviations: of one sample's position, of a spot's position (mm per axis), of a spot's MU (%)."""

    sample_mm: float = 0.25
    spot_mm: float = 0.2
    mu_percent: float = 0.5


@dataclass(frozen=True, slots=True)
class DeliveredSpot:
    """A visit of a spot. `place`: its number in the plan's layer, from 0."""

    place: int
    x_mm: float
    y_mm: float
    mu: float
    painting: int


@dataclass(frozen=True, slots=True)
class DeliveredLayer:
    """`number`: the plan's layer from 1. `interlock_in`: the visit in whose middle the beam stopped, or None."""

    number: int
    energy_mev: float
    spots: tuple[DeliveredSpot, ...]
    interlock_in: int | None


@dataclass(frozen=True, slots=True)
class SampleDelivery:
    """One beam of one fraction."""

    beam: SampleBeam
    started: datetime
    layers: tuple[DeliveredLayer, ...]

    @property
    def stamp(self) -> str:
        """YYYYMMDDHHMMSSff"""
        return f"{self.started:%Y%m%d%H%M%S}{self.started.microsecond // 10_000:02d}"


def deliver(
    beams: tuple[SampleBeam, ...],
    seed: int,
    *,
    fraction: int = 1,
    noise: Noise = Noise(),
    paintings: int = 1,
    interlock: bool = True,
) -> tuple[SampleDelivery, ...]:
    """The deliveries of one fraction in the order of time, which is not the plan's: the last beam comes first.

    The first beam has an interlock in its middle layer. Beams come three to five minutes apart.
    """
    chance = random.Random(f"delivery {seed} {fraction}")
    started = _FIRST_FRACTION + timedelta(days=fraction - 1, minutes=chance.randrange(60))
    found = []
    for beam in reversed(beams):
        stop = len(beam.layers) // 2 if interlock and beam is beams[0] else None
        layers = []
        for place, layer in enumerate(beam.layers):
            spots = []
            for painting in range(paintings):
                for number, (x_mm, y_mm, mu) in enumerate(layer.spots):
                    spots.append(
                        DeliveredSpot(
                            place=number,
                            x_mm=x_mm + chance.gauss(0.0, noise.spot_mm),
                            y_mm=y_mm + chance.gauss(0.0, noise.spot_mm),
                            mu=mu / paintings * (1.0 + chance.gauss(0.0, noise.mu_percent) / 100.0),
                            painting=painting,
                        )
                    )
            broken = len(spots) // 2 if place == stop else None
            layers.append(DeliveredLayer(place + 1, layer.energy_mev, tuple(spots), broken))
        found.append(SampleDelivery(beam, started, tuple(layers)))
        started += timedelta(minutes=chance.uniform(3.0, 5.0))
    return tuple(found)


@dataclass(frozen=True, slots=True)
class Calibration:
    """The numbers of `delivery_log` that a log is written with; units as in steplib/delivery_log.py."""

    x: tuple[float, float]
    y: tuple[float, float]
    range_factors: Mapping[int, float]
    mu_per_count: float
    first_layer: int
    room_number: int


def read_calibration(machine_file: Path) -> Calibration:
    """The calibration of a machine file. Raises ValueError when it has none that a log can be written with."""
    import yaml

    try:
        log: Any = yaml.safe_load(machine_file.read_text(encoding="utf-8"))["delivery_log"]
        return Calibration(
            x=(float(log["x"]["centre"]), float(log["x"]["mm_per_count"])),
            y=(float(log["y"]["centre"]), float(log["y"]["mm_per_count"])),
            range_factors={int(code): float(factor) for code, factor in log["range_factors"].items()},
            mu_per_count=float(log["mu_per_count"]),
            first_layer=int(log.get("first_layer", 1)),
            room_number=int(log.get("room_number", 1)),
        )
    except (KeyError, TypeError, AttributeError, ValueError, yaml.YAMLError) as error:
        raise ValueError(
            f"{machine_file} has no delivery_log with x, y, range_factors and mu_per_count"
        ) from error


def write_log(
    folder: Path,
    delivery: SampleDelivery,
    calibration: Calibration,
    *,
    patient_id: str,
    study_uid: str,
    tcsc_patient: int,
    seed: int,
    sample_mm: float,
    rows_per_spot: int = 60,
) -> None:
    """Writes the delivery's folder: per layer a .ptn and a .mgn, PlanRange.txt, PlanInfo.txt. May raise OSError."""
    folder.mkdir(parents=True)
    number = delivery.beam.number
    chance = random.Random(f"log {seed} {delivery.stamp} {number}")
    rows = [
        "RESULT_ID,LAYER_NO,LAYER_ENERGY,PATIENT_ID,FLD_NO,DOSE1_RANGE,DOSE2_RANGE,SCAN_OUT_FL_NM,PLAN_SCAN_OUT_FL_NM"
    ]
    for layer in delivery.layers:
        stem = f"{calibration.room_number:02d}_{tcsc_patient}_001_{number:03d}_{layer.number:03d}"
        code, content = ptn(layer, calibration, chance, sample_mm, rows_per_spot)
        (folder / f"{stem}.ptn").write_bytes(content)
        # What a .mgn holds is not known here; mqi does not read it.
        (folder / f"{stem}.mgn").write_bytes(bytes(64))
        energy = f"{layer.energy_mev:.3f}"
        rows.append(
            f"{layer.number},{layer.number},{energy},{tcsc_patient},{number},{code},{code},{stem}.ptn,{stem}.mgn"
        )
    (folder / "PlanRange.txt").write_bytes(("\r\n".join(rows) + "\r\n").encode())
    info = {
        "DICOM_PATIENT_ID": patient_id,
        "DICOM_STUDY_INS_UID": study_uid,
        "DICOM_BEAM_NUMBER": number,
        "TCSC_IRRAD_DATETIME": delivery.stamp,
        "TCSC_PATIENT_ID": tcsc_patient,
        "TCSC_PLAN_NUMBER": 1,
        "TCSC_FIELD_NUMBER": number,
        "START_LAYER_NUMBER": delivery.layers[0].number,
        "STOP_LAYER_NUMBER": delivery.layers[-1].number,
        "SHARE_DIR": "sample",
        "ACTUAL_DIR": "sample",
    }
    lines = [f"{key},{value}" for key, value in info.items()]
    (folder / "PlanInfo.txt").write_bytes(("\r\n".join(lines) + "\r\n").encode())


def ptn(
    layer: DeliveredLayer,
    calibration: Calibration,
    chance: random.Random,
    sample_mm: float,
    rows_per_spot: int,
) -> tuple[int, bytes]:
    """Range code and content of a layer's PTN file.

    The mean spot takes `rows_per_spot` rows with beam. Between spots the beam is off and the magnets move. At an
    interlock everything is off for a while; then the machine goes through the layer again without beam (plan on,
    actual off) up to where it stopped.
    """
    mu_per_row = sum(spot.mu for spot in layer.spots) / len(layer.spots) / rows_per_spot
    # The most sensitive range that still takes the strongest row, with room for noise; if there is none, more rows.
    codes = sorted(calibration.range_factors, key=lambda code: calibration.range_factors[code])
    most_mu = {
        code: 0.5 * _HIGHEST_COUNT * calibration.mu_per_count * calibration.range_factors[code]
        for code in codes
    }
    code = next((code for code in codes if mu_per_row <= most_mu[code]), codes[-1])
    mu_per_row = min(mu_per_row, most_mu[code])
    writer = _Writer(
        calibration,
        chance,
        sample_mm,
        layer.number - 1 + calibration.first_layer,
        calibration.range_factors[code],
    )
    first = layer.spots[0]
    writer.idle(first, _LEAD_ROWS, 0)
    for place, spot in enumerate(layer.spots):
        count = max(4, round(spot.mu / mu_per_row))
        if place:
            writer.move(layer.spots[place - 1], spot)
        if place == layer.interlock_in:
            half = count // 2
            writer.beam(spot, half, 0.5)
            writer.idle(spot, _INTERLOCK_ROWS, 0)
            for before in layer.spots[:place]:
                writer.idle(before, max(4, round(before.mu / mu_per_row)), _PLAN_ON)
            writer.idle(spot, half, _PLAN_ON)
            writer.beam(spot, count - half, 0.5)
        else:
            writer.beam(spot, count, 1.0)
    writer.idle(layer.spots[-1], _LEAD_ROWS, 0)
    return code, writer.content()


class _Writer:
    """Appends rows of eight numbers."""

    def __init__(
        self, calibration: Calibration, chance: random.Random, sample_mm: float, layer: int, factor: float
    ) -> None:
        self._rows = array("H")
        self._calibration = calibration
        self._chance = chance
        self._sample_mm = sample_mm
        self._layer = layer
        self._counts_per_mu = 1.0 / calibration.mu_per_count / factor

    def content(self) -> bytes:
        """Big-endian."""
        if sys.byteorder == "little":
            self._rows.byteswap()
        return self._rows.tobytes()

    def beam(self, spot: DeliveredSpot, rows: int, share: float) -> None:
        """So many rows with beam that hold this share of the spot's MU, to the nearest count."""
        weights = [1.0 + 0.03 * self._chance.uniform(-1.0, 1.0) for _ in range(rows)]
        per_weight = spot.mu * share * self._counts_per_mu / sum(weights)
        status, exact, written = _PLAN_ON | _ACTUAL_ON | spot.painting, 0.0, 0
        for weight in weights:
            exact += weight * per_weight
            dose = round(exact) - written
            written += dose
            self._row(spot.x_mm, spot.y_mm, dose, status)

    def idle(self, spot: DeliveredSpot, rows: int, status: int) -> None:
        """Rows without beam, with the background that a counter shows."""
        for _ in range(rows):
            self._row(spot.x_mm, spot.y_mm, self._chance.randrange(4), status | spot.painting)

    def move(self, begin: DeliveredSpot, end: DeliveredSpot) -> None:
        """From one spot to the next, without beam."""
        for step in range(1, _TRANSIT_ROWS + 1):
            part = step / (_TRANSIT_ROWS + 1)
            x_mm = begin.x_mm + part * (end.x_mm - begin.x_mm)
            y_mm = begin.y_mm + part * (end.y_mm - begin.y_mm)
            self._row(x_mm, y_mm, self._chance.randrange(4), _PLAN_ON | end.painting)

    def _row(self, x_mm: float, y_mm: float, dose: int, status: int) -> None:
        gauss, sigma = self._chance.gauss, self._sample_mm
        (x_centre, x_gain), (y_centre, y_gain) = self._calibration.x, self._calibration.y
        x = round(x_centre + (x_mm + gauss(0.0, sigma)) / x_gain)
        y = round(y_centre + (y_mm + gauss(0.0, sigma)) / y_gain)
        self._rows.extend((x, y, 900, 900, dose, dose, self._layer, status))
