"""How a beam stands to the patient and what is in its way: from the plan, the interpreter's index and the machine file.

What no engine here models is refused with a sentence: apertures, a tilted couch, two range shifters at once, a
range shifter that the machine file does not describe, two different ideas of where the scanning magnets are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, List, Optional, Sequence, Tuple

import numpy as np

from .beam_model import Machine
from .depth import deepest_mm
from .dicom import Item
from .engines.base import ShifterInBeam
from .geometry import BeamFrame
from .parameters import is_number
from .phantom import Extent
from .report import BadInput
from .spots import BeamSpots

if TYPE_CHECKING:
    from pydicom import Dataset

# Both name the same magnets; a per cent is rounding.
_SOURCE_TOLERANCE = 0.01
_TILTS = ("TableTopPitchAngle", "TableTopRollAngle", "GantryPitchAngle")


@dataclass(frozen=True)
class Setup:
    """A beam, ready to be simulated. `source_mm`: scanning magnets to isocentre (x, y)."""

    beam: BeamSpots
    frame: BeamFrame
    source_mm: Tuple[float, float]
    shifter: Optional[ShifterInBeam]


def set_up(beam: BeamSpots, plan: Dataset, machine: Machine, *, upright: bool) -> Setup:
    """The setup of one beam. `upright`: gantry and couch at 0, as for a measurement in a phantom on the couch.

    BadInput when the beam cannot be simulated as it is.
    """
    machine.demand(beam.machine)
    if str(plan.get("SOPInstanceUID")) != beam.plan_uid:
        raise BadInput("The RT Ion Plan among the inputs is not the one that the interpreter read.")
    if (beam.entry.get("apertures") or 0) > 0:
        raise BadInput(f"Beam {beam.number} has an aperture, which is not simulated.")
    item = _beam_item(plan, beam.number)
    position = _patient_position(plan, item)
    if position != "HFS":
        raise BadInput(f"Beam {beam.number}: only patients in position HFS (0018,5100) are simulated.")
    _demand_level(item)
    isocentre = beam.entry.get("isocentre_mm")
    if not isinstance(isocentre, (list, tuple)) or len(isocentre) != 3 or not all(map(is_number, isocentre)):
        raise BadInput(f"Beam {beam.number} has no IsocenterPosition (300A,012C).")
    angles = [0.0, 0.0] if upright else [beam.entry.get(key) for key in ("gantry_deg", "couch_deg")]
    if not all(is_number(angle) for angle in angles):
        raise BadInput(
            f"Beam {beam.number} has no GantryAngle (300A,011E) or no PatientSupportAngle (300A,0122)."
        )
    x, y, z = map(float, isocentre)
    gantry, couch = (float(angle or 0.0) for angle in angles)
    frame = BeamFrame.of(gantry, couch, (x, y, z), position)
    return Setup(beam, frame, _source(beam, machine), _shifter(beam, machine))


def extent(setup: Setup, machine: Machine) -> Extent:
    """What the beam can reach in water, planned and delivered spots together."""
    tables = list(setup.beam.given().values())
    x = np.concatenate([table.x_mm for table in tables])
    y = np.concatenate([table.y_mm for table in tables])
    depth = max(deepest_mm(table, machine.model) for table in tables)
    return Extent(
        setup.frame, (float(x.min()), float(x.max())), (float(y.min()), float(y.max())), max(depth, 1.0)
    )


def _beam_item(plan: Dataset, number: int) -> Item:
    for item in Item(plan, "The RT Ion Plan").items("IonBeamSequence", "The plan's beam in place {}"):
        if item.integer("BeamNumber") == number:
            return item.called(f"Beam {number}")
    raise BadInput(f"Beam {number} is not in the RT Ion Plan.")


def _patient_position(plan: Dataset, beam: Item) -> str:
    """The position in the patient setup that the beam refers to; the only one when it refers to none."""
    number = beam.integer("ReferencedPatientSetupNumber")
    setups = Item(plan, "The RT Ion Plan").items("PatientSetupSequence", "Patient setup {}")
    named = [each for each in setups if number is None or each.integer("PatientSetupNumber") == number]
    positions = {each.text("PatientPosition").upper() for each in named}
    if len(positions) != 1:
        raise BadInput(f"{beam.where}: the plan does not say how the patient lies (0018,5100).")
    return positions.pop()


def _demand_level(beam: Item) -> None:
    for point in beam.items("IonControlPointSequence", beam.where + ", control point {},"):
        for keyword in _TILTS:
            if point.number(keyword):
                raise point.problem(keyword, "is tilted, which is not simulated, according to")


def _source(beam: BeamSpots, machine: Machine) -> Tuple[float, float]:
    planned: Any = beam.entry.get("virtual_source_axis_mm")
    known = machine.model.virtual_source_mm
    if planned is None and known is None:
        raise BadInput(
            f"Neither beam {beam.number} (300A,030A) nor the machine file says where the scanning magnets are."
        )
    if planned is None or known is None:
        return known or (float(planned[0]), float(planned[1]))
    if any(abs(a / b - 1.0) > _SOURCE_TOLERANCE for a, b in zip(planned, known)):
        raise BadInput(
            f"Beam {beam.number}: VirtualSourceAxisDistances (300A,030A) are not those of the machine file."
        )
    return known


def _shifter(beam: BeamSpots, machine: Machine) -> Optional[ShifterInBeam]:
    """The one range shifter that is in the beam in some layers; None when none is in any."""
    thick = {
        float(value) for table in beam.given().values() for value in np.unique(table.wet_mm) if value > 0.0
    }
    if not thick:
        return None
    owned: Sequence[Any] = beam.entry.get("range_shifters") or []
    inside: List[Any] = [
        each for each in owned if isinstance(each, dict) and (each.get("wet_mm") or 0.0) > 0.0
    ]
    if len(thick) != 1 or len(inside) != 1:
        raise BadInput(f"Beam {beam.number} uses more than one range shifter, which is not simulated.")
    identifier = str(inside[0].get("id") or "")
    known = machine.model.range_shifters.get(identifier)
    if known is None:
        raise BadInput(
            f"Beam {beam.number} has a range shifter whose ID (300A,0318) is not in the machine file's range_shifters."
        )
    distance = inside[0].get("isocentre_distance_mm")
    if distance is None:
        distance = known.isocentre_distance_mm
    if not is_number(distance):
        raise BadInput(
            f"Beam {beam.number}: neither plan (300A,0364) nor machine file says where the range shifter is."
        )
    return ShifterInBeam(identifier, known, thick.pop(), float(distance))
