"""A sample case for demonstrations and tests: an RT Ion Plan of a person who does not exist.

The plan holds, in this order, a setup beam with number 1 and treatment beams with numbers 2 and 3 (and more
on request), each a small spread-out Bragg peak on a grid of spots. It has every attribute of type 1 and 2
that the RT Ion Plan IOD asks for (DICOM PS3.3 A.49), control points in pairs, a BeamMeterset that differs
from the sum of the weights, and a range shifter in the last beam. The same seed writes the same bytes, UIDs
included.
"""

from __future__ import annotations

import hashlib
import math
import random
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pydicom import Dataset

SAMPLE_PATIENT_ID = "MQI-SAMPLE"
MACHINE = "G1 SAMPLE"

_RT_ION_PLAN = "1.2.840.10008.5.1.4.1.1.481.8"
# Geiger's rule, range in water in cm = ALPHA E^P: good enough to space layers.
_ALPHA, _P = 0.0022, 1.77
_RANGE_SHIFTER_WET_MM = 40.0


@dataclass(frozen=True, slots=True)
class SampleLayer:
    """Energy in MeV, spots as (x mm, y mm, MU per fraction)."""

    energy_mev: float
    spots: tuple[tuple[float, float, float], ...]


@dataclass(frozen=True, slots=True)
class SampleBeam:
    """A treatment beam as it is meant: what a reader of the plan should find."""

    number: int
    name: str
    gantry_deg: float
    couch_deg: float
    range_shifter_wet_mm: float
    layers: tuple[SampleLayer, ...]

    @property
    def meterset(self) -> float:
        """MU per fraction."""
        return sum(mu for layer in self.layers for _, _, mu in layer.spots)


def sample_beams(seed: int, *, treatment_beams: int = 2, layers: int = 6) -> tuple[SampleBeam, ...]:
    """The treatment beams of the sample with this seed: numbers 2, 3, …; `layers` energies each."""
    chance = random.Random(seed)
    first_gantry = chance.randrange(0, 360, 5)
    beams = []
    for place in range(treatment_beams):
        gantry = float((first_gantry + 360 * place // treatment_beams) % 360)
        shifted = treatment_beams > 1 and place == treatment_beams - 1
        wet_mm = _RANGE_SHIFTER_WET_MM if shifted else 0.0
        distal_mm = chance.uniform(110.0, 170.0) + 20.0 * place + wet_mm
        beams.append(
            SampleBeam(
                number=place + 2,
                name=f"{place + 1}G{int(gantry):03d}:TX",
                gantry_deg=gantry,
                couch_deg=float(chance.choice((0, 0, 90, 270))),
                range_shifter_wet_mm=wet_mm,
                layers=_spread_out_peak(distal_mm, layers, chance),
            )
        )
    return tuple(beams)


def training_beams(
    seed: int, *, treatment_beams: int = 2, layers: int = 4, spots: int = 49
) -> tuple[SampleBeam, ...]:
    """Treatment beams for a full case (mqi sample): gantry 0, 270, 90, 180, …; couch 0; `spots` per layer.

    They reach about 10 cm into water, with 100 to 130 MeV: a Monte Carlo run of the default size takes two cores a
    minute.
    """
    chance = random.Random(f"training {seed}")
    beams = []
    for place in range(treatment_beams):
        gantry = (0.0, 270.0, 90.0, 180.0)[place % 4]
        shifted = treatment_beams > 1 and place == treatment_beams - 1
        wet_mm = _RANGE_SHIFTER_WET_MM if shifted else 0.0
        distal_mm = chance.uniform(90.0, 110.0) if not shifted else chance.uniform(60.0, 75.0) + wet_mm
        beams.append(
            SampleBeam(
                number=place + 2,
                name=f"{place + 1}G{int(gantry):03d}:TX",
                gantry_deg=gantry,
                couch_deg=0.0,
                range_shifter_wet_mm=wet_mm,
                layers=_spread_out_peak(distal_mm, layers, chance, spots),
            )
        )
    return tuple(beams)


def _spread_out_peak(
    distal_mm: float, layers: int, chance: random.Random, count: int | None = None
) -> tuple[SampleLayer, ...]:
    """Layers up to 4 mm of range apart, weighted after Bortfeld and Schlegel, Phys. Med. Biol. 41 (1996) 1331-1339.

    Their exponent is taken as 1.6, not 1.77 as in Geiger's rule: straggling would let the distal edge droop.
    """
    # However many spots there are, one gets what a spot of a real plan gets.
    total_mu = chance.uniform(150.0, 400.0) * (1.0 if count is None else count / 49.0)
    steps = max(1, layers - 1)
    edges = [0.0, *((place + 0.5) / steps for place in range(layers - 1)), 1.0]
    left = [(1.0 - edge) ** (1.0 - 1.0 / 1.6) for edge in edges]
    # From shallow to deep in the paper, from deep to shallow in a plan.
    weights = [before - after for before, after in pairwise(left)][::-1]
    found = []
    for place, weight in enumerate(weights):
        # Many layers must not reach the surface of the water.
        range_cm = (distal_mm - min(4.0, 0.6 * distal_mm / layers) * place) / 10.0
        radius_mm = 20.0 + 2.5 * (place % 3)
        grid = [5.0 * step for step in range(-5, 6)]
        inside = [(x, y) for y in grid for x in grid if x * x + y * y <= radius_mm**2]
        if count is not None:
            inside = _innermost(count)
        # A scanner goes back and forth.
        inside.sort(key=lambda spot: (spot[1], spot[0] if round(spot[1] / 5.0) % 2 == 0 else -spot[0]))
        shares = [chance.uniform(0.8, 1.2) for _ in inside]
        scale = total_mu * weight / sum(weights) / sum(shares)
        spots = tuple((x, y, share * scale) for (x, y), share in zip(inside, shares, strict=True))
        found.append(SampleLayer(round((range_cm / _ALPHA) ** (1.0 / _P), 3), spots))
    return tuple(found)


def _innermost(spots: int) -> list[tuple[float, float]]:
    """So many points of a 5 mm grid, the innermost."""
    reach = math.isqrt(spots) + 1
    steps = range(-reach, reach + 1)
    points = sorted((x * x + y * y, y, x) for y in steps for x in steps)
    return [(5.0 * x, 5.0 * y) for _, y, x in points[:spots]]


def write_sample(folder: Path, seed: int, *, treatment_beams: int = 2, layers: int = 6) -> Path:
    """Writes a sample case into `folder` (made when missing) and returns the path of its plan.

    Besides the plan there are a note and a table of the treatment room, so that a case is more than one file.
    The plan is written last. Raises OSError when the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    beams = sample_beams(seed, treatment_beams=treatment_beams, layers=layers)
    note = (
        "A sample case of mqi. The person, the plan and the machine are invented: nothing was delivered.\n"
        f"seed {seed}\n"
    )
    (folder / "SAMPLE.txt").write_bytes(note.encode())
    lines = ["DICOM_BEAM_NUMBER,LAYERS,METERSET_MU"]
    lines += [f"{beam.number},{len(beam.layers)},{beam.meterset:.3f}" for beam in beams]
    (folder / "PlanSummary.csv").write_bytes(("\n".join(lines) + "\n").encode())
    plan = sample_plan(seed, beams)
    path = folder / f"RP.{plan.SOPInstanceUID}.dcm"
    plan.save_as(path, enforce_file_format=True)
    return path


def uid(seed: int, what: str) -> str:
    """A UID that follows from seed and purpose (the 2.25 root of ISO/IEC 9834-8, for 128-bit numbers)."""
    digest = hashlib.sha256(f"mqi sample {seed} {what}".encode()).digest()
    return f"2.25.{int.from_bytes(digest[:16], 'big')}"


def sample_plan(seed: int, beams: tuple[SampleBeam, ...]) -> Dataset:
    """The RT Ion Plan of these beams, with the setup beam before them; ready to be saved."""
    from pydicom.dataset import Dataset

    plan = new_file(_RT_ION_PLAN, uid(seed, "plan"))
    fill(
        plan,
        SpecificCharacterSet="ISO_IR 192",
        InstanceCreationDate="20260105",
        InstanceCreationTime="080000",
        StudyDate="20260105",
        StudyTime="080000",
        AccessionNumber="",
        Modality="RTPLAN",
        Manufacturer="mqi sample",
        ReferringPhysicianName="",
        StudyDescription="mqi sample",
        OperatorsName="",
        PatientName="Sample^Never^Treated",
        PatientID=f"{SAMPLE_PATIENT_ID}-{seed}",
        PatientBirthDate="",
        PatientSex="O",
        PatientIdentityRemoved="YES",
        DeidentificationMethod="invented",
        StudyInstanceUID=uid(seed, "study"),
        SeriesInstanceUID=uid(seed, "series"),
        StudyID="1",
        SeriesNumber="1",
        FrameOfReferenceUID=uid(seed, "frame"),
        PositionReferenceIndicator="",
        RTPlanLabel="MQI SAMPLE",
        RTPlanDate="20260105",
        RTPlanTime="080000",
        PlanIntent="RESEARCH",
        RTPlanGeometry="TREATMENT_DEVICE",
        ApprovalStatus="UNAPPROVED",
    )
    patient_setup = fill(Dataset(), PatientSetupNumber=1, PatientPosition="HFS", SetupTechnique="ISOCENTRIC")
    plan.PatientSetupSequence = [patient_setup]
    references = [fill(Dataset(), ReferencedBeamNumber=1)]
    for beam in beams:
        references.append(
            fill(Dataset(), BeamMeterset=decimal(beam.meterset), ReferencedBeamNumber=beam.number)
        )
    group = fill(
        Dataset(),
        FractionGroupNumber=1,
        NumberOfFractionsPlanned=30,
        NumberOfBeams=len(references),
        NumberOfBrachyApplicationSetups=0,
        ReferencedBeamSequence=references,
    )
    plan.FractionGroupSequence = [group]
    plan.IonBeamSequence = [_setup_beam(Dataset()), *(_treatment_beam(beam) for beam in beams)]
    return plan


def new_file(sop_class: str, sop_instance: str) -> Dataset:
    """A data set with the file meta information of a DICOM file and nothing else but its SOP class and instance."""
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import UID, ExplicitVRLittleEndian

    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.FileMetaInformationVersion = b"\x00\x01"
    dataset.file_meta.MediaStorageSOPClassUID = UID(sop_class)
    dataset.file_meta.MediaStorageSOPInstanceUID = UID(sop_instance)
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.ImplementationClassUID = UID(uid(0, "implementation"))
    dataset.file_meta.ImplementationVersionName = "MQI_SAMPLE"
    return fill(dataset, SOPClassUID=sop_class, SOPInstanceUID=sop_instance)


def fill(dataset: Dataset, **values: Any) -> Dataset:
    """The data set with these attributes."""
    for keyword, value in values.items():
        setattr(dataset, keyword, value)
    return dataset


def decimal(value: float) -> str:
    """A number as DS text: at most 16 characters."""
    return f"{value:.10g}"


def _beam(dataset: Dataset, number: int, name: str, delivery: str) -> Dataset:
    return fill(
        dataset,
        Manufacturer="mqi sample",
        TreatmentMachineName=MACHINE,
        PrimaryDosimeterUnit="MU",
        BeamNumber=number,
        BeamName=name,
        BeamDescription="Site Setup" if delivery == "SETUP" else "Sample field",
        BeamType="STATIC",
        TreatmentDeliveryType=delivery,
        NumberOfWedges=0,
        NumberOfCompensators=0,
        NumberOfBoli=0,
        NumberOfBlocks=0,
        NumberOfRangeShifters=0,
        NumberOfLateralSpreadingDevices=0,
        NumberOfRangeModulators=0,
        PatientSupportType="TABLE",
        VirtualSourceAxisDistances=[1900.0, 2300.0],
        ReferencedPatientSetupNumber=1,
    )


def _position(gantry_deg: float, couch_deg: float) -> dict[str, Any]:
    """What the first control point says about where everything stands."""
    return {
        "GantryAngle": decimal(gantry_deg),
        "GantryRotationDirection": "NONE",
        "GantryPitchAngle": 0.0,
        "GantryPitchRotationDirection": "NONE",
        "BeamLimitingDeviceAngle": "0",
        "BeamLimitingDeviceRotationDirection": "NONE",
        "PatientSupportAngle": decimal(couch_deg),
        "PatientSupportRotationDirection": "NONE",
        "TableTopPitchAngle": 0.0,
        "TableTopPitchRotationDirection": "NONE",
        "TableTopRollAngle": 0.0,
        "TableTopRollRotationDirection": "NONE",
        "TableTopVerticalPosition": "",
        "TableTopLongitudinalPosition": "",
        "TableTopLateralPosition": "",
        "IsocenterPosition": ["0", "-80", "12.5"],
        "SnoutPosition": 420.0,
    }


def _setup_beam(dataset: Dataset) -> Dataset:
    from pydicom.dataset import Dataset as Point

    points = [
        fill(Point(), ControlPointIndex=index, CumulativeMetersetWeight="", KVP="100") for index in (0, 1)
    ]
    fill(points[0], **_position(0.0, 0.0))
    beam = _beam(dataset, 1, "SETUP", "SETUP")
    return fill(
        beam, RadiationType="PHOTON", ScanMode="NONE", NumberOfControlPoints=2, IonControlPointSequence=points
    )


def _treatment_beam(meant: SampleBeam) -> Dataset:
    from pydicom.dataset import Dataset

    beam = _beam(Dataset(), meant.number, meant.name, "TREATMENT")
    if meant.range_shifter_wet_mm > 0.0:
        shifter = fill(
            Dataset(),
            AccessoryCode="RS_4CM",
            RangeShifterNumber=1,
            RangeShifterID="RS_4CM",
            RangeShifterType="BINARY",
        )
        fill(beam, NumberOfRangeShifters=1, RangeShifterSequence=[shifter])
    # Weights count differently from MU, as in plans of real systems: a reader has to scale.
    weight_per_mu = 0.625
    points: list[Dataset] = []
    cumulative = 0.0
    for layer in meant.layers:
        flat = [coordinate for x, y, _ in layer.spots for coordinate in (x, y)]
        weights = [mu * weight_per_mu for _, _, mu in layer.spots]
        for pair, carried in ((0, weights), (1, [0.0] * len(weights))):
            cumulative += sum(weights) if pair else 0.0
            point = fill(
                Dataset(),
                ControlPointIndex=len(points),
                CumulativeMetersetWeight=decimal(cumulative),
                NominalBeamEnergy=decimal(layer.energy_mev),
                ScanSpotTuneID="4.0",
                NumberOfScanSpotPositions=len(weights),
                ScanSpotPositionMap=flat,
                ScanSpotMetersetWeights=carried,
                ScanningSpotSize=[9.0, 9.0],
                NumberOfPaintings=1,
            )
            points.append(point)
    fill(points[0], **_position(meant.gantry_deg, meant.couch_deg))
    if meant.range_shifter_wet_mm > 0.0:
        setting = fill(
            Dataset(),
            RangeShifterSetting="IN",
            IsocenterToRangeShifterDistance=380.0,
            RangeShifterWaterEquivalentThickness=meant.range_shifter_wet_mm,
            ReferencedRangeShifterNumber=1,
        )
        points[0].RangeShifterSettingsSequence = [setting]
    return fill(
        beam,
        RadiationType="PROTON",
        ScanMode="MODULATED",
        FinalCumulativeMetersetWeight=decimal(cumulative),
        NumberOfControlPoints=len(points),
        IonControlPointSequence=points,
    )
