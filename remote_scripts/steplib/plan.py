"""RT Ion Plan -> treatment beams, their layers and spots with monitor units.

What is read (DICOM PS3.3, C.8.8.25 RT Ion Beams, C.8.8.13 RT Fraction Scheme):

- A spot's MU = ScanSpotMetersetWeight (300A,0396) x BeamMeterset (300A,0086) / FinalCumulativeMetersetWeight
  (300A,010E). The ratio differs from 1 in real plans. The MU of a beam must sum to its BeamMeterset within
  0.1 %.
- Attributes hold until a later control point (300A,03A8) changes them. Weights are the exception: they belong
  to the one control point that carries them. Control points usually come in pairs, the second with zero
  weights; whatever the pairing, a control point whose weights sum to zero delivers nothing and is skipped.
- Positions (300A,0394) are x, y pairs in mm at the isocentre, in the IEC gantry system.
- Beams are known by BeamNumber (300A,00C0), never by position. A treatment beam says TREATMENT as its
  TreatmentDeliveryType (300A,00CE); where a plan says nothing there, the name SETUP or the description
  SITE SETUP marks a setup beam. The intake on the control PC (mqi/intake/plan.py) follows the same rule.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Dict, List, Mapping, Optional, Sequence, Tuple, TypeVar

from .dicom import Item
from .range_shifter import RangeShifter, RangeShifters
from .report import BadInput

if TYPE_CHECKING:
    from pydicom import Dataset

ENERGY_LOW_MEV, ENERGY_HIGH_MEV = 50.0, 300.0
METERSET_TOLERANCE = 1e-3
# Farther from the axis than any scanning magnet reaches, mm.
POSITION_LIMIT_MM = 1000.0
# More than any beam delivers; beyond it the energy would not fit into a number.
METERSET_LIMIT = 1e9

_Value = TypeVar("_Value")


@dataclass(frozen=True)
class Spot:
    """Position at the isocentre, mm, and monitor units per fraction."""

    x_mm: float
    y_mm: float
    mu: float


@dataclass(frozen=True)
class Layer:
    """A control point that delivers. `control_point`: its index. `wet_mm`: range shifters in the beam."""

    control_point: int
    energy_mev: float
    wet_mm: float
    spot_size_mm: Optional[Tuple[float, ...]]
    spots: Tuple[Spot, ...]


@dataclass(frozen=True)
class Beam:
    """A treatment beam. Angles in degrees (IEC 61217), isocentre in mm (patient coordinates)."""

    number: int
    name: str
    machine: str
    meterset: float
    gantry_deg: Optional[float]
    couch_deg: Optional[float]
    isocentre_mm: Optional[Tuple[float, ...]]
    snout_mm: Optional[float]
    source_axis_mm: Optional[Tuple[float, ...]]
    apertures: int
    range_shifters: Tuple[RangeShifter, ...]
    layers: Tuple[Layer, ...]

    @property
    def mu(self) -> float:
        """Sum of the spots' monitor units."""
        return sum(spot.mu for layer in self.layers for spot in layer.spots)


@dataclass(frozen=True)
class Plan:
    """`beams`: the treatment beams, by number; `other_beams`: the numbers of the others. The IDs are for comparison
    with delivery records, and go into no output."""

    sop_instance_uid: str
    fractions: Optional[int]
    beams: Tuple[Beam, ...]
    other_beams: Tuple[int, ...] = ()
    patient_id: str = ""
    study_uid: str = ""


def read_plan(dataset: Dataset, site_wet_mm: Mapping[str, float], energies_mev: Tuple[float, float]) -> Plan:
    """The treatment beams of an RT Ion Plan. BadInput with one sentence when any of them cannot be trusted.

    `site_wet_mm`: water equivalent thickness by range shifter ID, used where the plan is silent.
    `energies_mev`: lowest and highest energy that this machine can deliver.
    """
    plan = Item(dataset, "The RT Ion Plan")
    uid = plan.text("SOPInstanceUID")
    if not re.fullmatch(r"[0-9.]{1,64}", uid):
        raise plan.problem("SOPInstanceUID", "has no valid")
    metersets, fractions = _metersets(plan)
    beams: Dict[int, Optional[Beam]] = {}
    for item in plan.items("IonBeamSequence", "The plan's beam in place {}"):
        number = item.integer("BeamNumber")
        if number is None or not 0 <= number < 2**31:
            raise item.problem("BeamNumber", "has no possible")
        if number in beams:
            raise BadInput(f"The RT Ion Plan has two beams with number {number}.")
        beam = item.called(f"Beam {number}")
        beams[number] = None
        if is_treatment(beam):
            beams[number] = _read_beam(beam, number, metersets, site_wet_mm, energies_mev)
    missing = sorted(set(metersets) - set(beams))
    if missing:
        raise BadInput(
            f"The RT Ion Plan's fraction group names beam {missing[0]}, which the plan does not hold."
        )
    treatment = [beam for _, beam in sorted(beams.items()) if beam is not None]
    if not treatment:
        raise BadInput(f"None of the {len(beams)} beams of the RT Ion Plan is a treatment beam.")
    if len({beam.machine for beam in treatment}) > 1:
        raise BadInput("The treatment beams of the RT Ion Plan are for different machines.")
    return Plan(
        sop_instance_uid=uid,
        fractions=fractions,
        beams=tuple(treatment),
        other_beams=tuple(sorted(number for number, beam in beams.items() if beam is None)),
        patient_id=plan.text("PatientID"),
        study_uid=plan.text("StudyInstanceUID"),
    )


def is_treatment(beam: Item) -> bool:
    """Whether a beam treats, rather than being there for imaging and positioning."""
    delivery = beam.text("TreatmentDeliveryType").upper()
    if delivery:
        return delivery == "TREATMENT"
    return beam.text("BeamName").upper() != "SETUP" and beam.text("BeamDescription").upper() != "SITE SETUP"


def _metersets(plan: Item) -> Tuple[Dict[int, Optional[float]], Optional[int]]:
    """BeamMeterset by beam number, and the planned fractions. A beam in two groups must agree."""
    found: Dict[int, Optional[float]] = {}
    fractions = None
    for group in plan.items("FractionGroupSequence", "Fraction group {}"):
        fractions = group.integer("NumberOfFractionsPlanned")
        for reference in group.items("ReferencedBeamSequence", group.where + ", referenced beam {},"):
            number = reference.integer("ReferencedBeamNumber")
            if number is None:
                raise reference.problem("ReferencedBeamNumber", "has no")
            meterset = reference.number("BeamMeterset")
            if found.get(number, meterset) != meterset:
                raise BadInput(
                    f"Beam {number} has two different BeamMeterset (300A,0086) in the fraction groups."
                )
            found[number] = meterset
    return found, fractions


def _read_beam(
    beam: Item,
    number: int,
    metersets: Mapping[int, Optional[float]],
    site_wet_mm: Mapping[str, float],
    energies_mev: Tuple[float, float],
) -> Beam:
    _check_kind(beam)
    meterset = metersets.get(number)
    if meterset is None or not 0.0 < meterset <= METERSET_LIMIT:
        raise beam.problem("BeamMeterset", "has no positive and possible")
    final = beam.number("FinalCumulativeMetersetWeight")
    if final is None or final <= 0.0:
        raise beam.problem("FinalCumulativeMetersetWeight", "has no positive")
    points = beam.items("IonControlPointSequence", beam.where + ", control point {},")
    if not points:
        raise beam.problem("IonControlPointSequence", "has no")
    if beam.integer("NumberOfControlPoints") not in (None, len(points)):
        raise beam.problem(
            "NumberOfControlPoints", f"holds {len(points)} control points and says otherwise in"
        )
    range_shifters = RangeShifters(beam, site_wet_mm)
    layers = _read_layers(points, meterset / final, final, range_shifters, energies_mev)
    first = points[0]
    isocentre = first.numbers("IsocenterPosition")
    if isocentre is not None and len(isocentre) != 3:
        raise first.problem("IsocenterPosition", "has not three values in")
    result = Beam(
        number=number,
        name=beam.text("BeamName"),
        machine=beam.text("TreatmentMachineName"),
        meterset=meterset,
        gantry_deg=_constant(points, "GantryAngle"),
        couch_deg=_constant(points, "PatientSupportAngle"),
        isocentre_mm=isocentre,
        snout_mm=first.number("SnoutPosition"),
        source_axis_mm=beam.numbers("VirtualSourceAxisDistances"),
        apertures=beam.integer("NumberOfBlocks") or 0,
        range_shifters=tuple(range_shifters.all()),
        layers=layers,
    )
    if abs(result.mu - meterset) > METERSET_TOLERANCE * meterset:
        raise BadInput(
            f"{beam.where}: the spots sum to {result.mu:.6g} MU and BeamMeterset (300A,0086) says "
            f"{meterset:.6g} MU."
        )
    return result


def _check_kind(beam: Item) -> None:
    """Refuses what this reader would misunderstand."""
    if beam.text("RadiationType").upper() != "PROTON":
        raise beam.problem("RadiationType", "does not say PROTON as")
    scan, kind = beam.text("ScanMode").upper(), beam.text("ModulatedScanModeType").upper()
    if scan != "MODULATED" and (scan != "MODULATED_SPEC" or kind != "STATIONARY"):
        raise beam.problem("ScanMode", "is not scanned spot by spot according to")
    if beam.text("PrimaryDosimeterUnit").upper() not in ("MU", ""):
        raise beam.problem("PrimaryDosimeterUnit", "is not counted in MU according to")
    for keyword in ("NumberOfCompensators", "NumberOfBoli", "NumberOfRangeModulators", "NumberOfWedges"):
        if (beam.integer(keyword) or 0) > 0:
            raise beam.problem(keyword, "has a device that is not supported according to")


def _constant(points: Sequence[Item], keyword: str) -> Optional[float]:
    """The value that all control points share; None when none gives it."""
    values = [value for value in (point.number(keyword) for point in points) if value is not None]
    if any(value != values[0] for value in values):
        raise points[0].problem(keyword, "is in a beam that moves while it delivers, according to")
    return values[0] if values else None


def _read_layers(
    points: Sequence[Item],
    mu_per_weight: float,
    final: float,
    range_shifters: RangeShifters,
    energies_mev: Tuple[float, float],
) -> Tuple[Layer, ...]:
    layers: List[Layer] = []
    energy: Optional[float] = None
    positions: Optional[Tuple[float, ...]] = None
    size: Optional[Tuple[float, ...]] = None
    for place, point in enumerate(points):
        before, energy = energy, _newer(point.number("NominalBeamEnergy"), energy)
        positions = _newer(point.numbers("ScanSpotPositionMap"), positions if energy == before else None)
        size = _newer(point.numbers("ScanningSpotSize"), size)
        range_shifters.follow(point)
        weights = point.numbers("ScanSpotMetersetWeights")
        if weights is None:
            if _delivers(points, place, final):
                raise point.problem("ScanSpotMetersetWeights", "delivers and has no")
            continue
        if min(weights) < 0.0:
            raise point.problem("ScanSpotMetersetWeights", "has a negative weight in")
        if sum(weights) == 0.0:
            continue
        if positions is None:
            raise point.problem("ScanSpotPositionMap", "has no")
        if len(positions) != 2 * len(weights):
            raise point.problem(
                "ScanSpotPositionMap", f"has {len(weights)} weights and {len(positions)} values in"
            )
        if point.integer("NumberOfScanSpotPositions") not in (None, len(weights)):
            raise point.problem("NumberOfScanSpotPositions", f"has {len(weights)} weights, which contradicts")
        if max(map(abs, positions)) > POSITION_LIMIT_MM:
            raise point.problem("ScanSpotPositionMap", "has a spot more than a metre off the axis in")
        if energy is None or not energies_mev[0] <= energy <= energies_mev[1]:
            raise point.problem(
                "NominalBeamEnergy",
                f"is not within {energies_mev[0]:g} to {energies_mev[1]:g} MeV according to",
            )
        spots = tuple(
            Spot(positions[2 * spot], positions[2 * spot + 1], weight * mu_per_weight)
            for spot, weight in enumerate(weights)
        )
        index = point.integer("ControlPointIndex")
        layers.append(Layer(place if index is None else index, energy, range_shifters.wet_mm(), size, spots))
    if not layers:
        raise points[0].problem("ScanSpotMetersetWeights", "and those after it deliver nothing according to")
    return tuple(layers)


def _delivers(points: Sequence[Item], place: int, final: float) -> bool:
    """Whether the cumulative meterset grows after this control point. Unknown counts as yes."""
    if place + 1 == len(points):
        return False
    now, then = (points[each].number("CumulativeMetersetWeight") for each in (place, place + 1))
    return now is None or then is None or then - now > 1e-6 * final


def _newer(value: Optional[_Value], old: Optional[_Value]) -> Optional[_Value]:
    return old if value is None else value
