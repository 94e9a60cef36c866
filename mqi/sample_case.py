"""Full sample cases in the layouts that mqi reads: a plan with its delivery records, for training and load tests.

    shi      <patient>/<study>/RP.<uid>.dcm, <patient>/<study>/<YYYYMMDDHHMMSSff>/ per delivery, <patient>/_CASE_READY
    record   <patient>-F<fraction>/RP.<uid>.dcm and RI.<uid>.dcm per treatment record
    csv      <patient>-F<fraction>/RP.<uid>.dcm and delivered.csv

The persons do not exist, and nothing was delivered.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from mqi.sample import SampleBeam, sample_plan, training_beams
from mqi.sample_delivery import Calibration, Noise, SampleDelivery, deliver, write_log
from mqi.sample_record import record_csv, records

LAYOUTS = ("shi", "record", "csv")


@dataclass(frozen=True, slots=True)
class Size:
    """How big: beams of a plan, layers of a beam, spots of a layer, rows of the log per spot."""

    beams: int = 2
    layers: int = 4
    spots: int = 49
    rows_per_spot: int = 60
    paintings: int = 1
    fractions: int = 1
    noise: Noise = field(default_factory=Noise)
    interlock: bool = True


def write_cases(
    root: Path,
    layout: str,
    seed: int,
    cases: int,
    size: Size,
    calibration: Calibration,
    *,
    ready: bool = True,
) -> Iterator[Path]:
    """Writes `cases` cases with the seeds seed, seed + 1, … below `root`; yields each one's folder when it is whole.

    Raises FileExistsError when a case is there already, and OSError when it cannot be written.
    """
    for each in range(seed, seed + cases):
        yield from (
            _write_shi(root, each, size, calibration, ready)
            if layout == "shi"
            else _write_plain(root, layout, each, size)
        )


def _delivered(
    beams: tuple[SampleBeam, ...], seed: int, fraction: int, size: Size
) -> tuple[SampleDelivery, ...]:
    return deliver(
        beams,
        seed,
        fraction=fraction,
        noise=size.noise,
        paintings=size.paintings,
        interlock=size.interlock,
    )


def _write_shi(root: Path, seed: int, size: Size, calibration: Calibration, ready: bool) -> Iterator[Path]:
    beams = training_beams(seed, treatment_beams=size.beams, layers=size.layers, spots=size.spots)
    plan = sample_plan(seed, beams)
    patient = root / str(plan.PatientID)
    study = patient / str(plan.StudyInstanceUID)
    study.mkdir(parents=True)
    plan.save_as(study / f"RP.{plan.SOPInstanceUID}.dcm", enforce_file_format=True)
    for fraction in range(1, size.fractions + 1):
        found = _delivered(beams, seed, fraction, size)
        for place, delivery in enumerate(found):
            write_log(
                study / delivery.stamp,
                delivery,
                calibration,
                patient_id=str(plan.PatientID),
                study_uid=str(plan.StudyInstanceUID),
                # This number changes with every delivery.
                tcsc_patient=10_000 + 100 * fraction + place,
                seed=seed,
                sample_mm=size.noise.sample_mm,
                rows_per_spot=size.rows_per_spot,
            )
    if ready:
        (patient / "_CASE_READY").write_bytes(b"")
    yield patient


def _write_plain(root: Path, layout: str, seed: int, size: Size) -> Iterator[Path]:
    beams = training_beams(seed, treatment_beams=size.beams, layers=size.layers, spots=size.spots)
    plan = sample_plan(seed, beams)
    for fraction in range(1, size.fractions + 1):
        folder = root / f"{plan.PatientID}-F{fraction}"
        folder.mkdir(parents=True)
        found = _delivered(beams, seed, fraction, size)
        if layout == "csv":
            (folder / "delivered.csv").write_bytes(record_csv(found))
        else:
            for record in records(plan, found, seed, fraction):
                record.save_as(folder / f"RI.{record.SOPInstanceUID}.dcm", enforce_file_format=True)
        plan.save_as(folder / f"RP.{plan.SOPInstanceUID}.dcm", enforce_file_format=True)
        yield folder
