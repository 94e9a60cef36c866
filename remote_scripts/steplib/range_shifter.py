"""Range shifters of a beam: which of them are in at a control point, and how much water each stands for.

Range Shifter Sequence (300A,0314) says what the beam owns; Range Shifter Settings Sequence (300A,0360) says,
from control point to control point, which are in. The water equivalent thickness (300A,0366) is optional in
DICOM, so a site may give it by range shifter ID; nothing is assumed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Dict, List, Mapping, Optional, Sequence, Tuple

from .dicom import Item
from .report import BadInput


@dataclass(frozen=True)
class RangeShifter:
    """`wet_mm`: water equivalent thickness; None when it is never in. Distance: from the isocentre, mm."""

    number: int
    identifier: str
    type: str
    wet_mm: Optional[float]
    isocentre_distance_mm: Optional[float]


@dataclass(frozen=True)
class _State:
    inside: bool
    wet_mm: Optional[float]
    distance_mm: Optional[float]


class RangeShifters:
    """Follows the settings through the control points of one beam."""

    _LIMIT_MM = 500.0

    def __init__(self, beam: Item, site_wet_mm: Mapping[str, float]) -> None:
        self._beam = beam
        self._site_wet_mm = site_wet_mm
        self._owned: Dict[int, Tuple[str, str]] = {}
        self._now: Dict[int, _State] = {}
        self._seen_in: Dict[int, _State] = {}
        for each in beam.items("RangeShifterSequence", beam.where + ", range shifter {},"):
            number = each.integer("RangeShifterNumber")
            if number is None or number in self._owned:
                raise each.problem("RangeShifterNumber", "has no unique")
            self._owned[number] = (each.text("RangeShifterID"), each.text("RangeShifterType").upper())

    def follow(self, control_point: Item) -> None:
        """Takes over the settings of a control point; those that it does not mention stay."""
        where = control_point.where + ", range shifter setting {},"
        for setting in control_point.items("RangeShifterSettingsSequence", where):
            number = setting.integer("ReferencedRangeShifterNumber")
            if number not in self._owned:
                raise setting.problem(
                    "ReferencedRangeShifterNumber", "names a range shifter the beam does not own in"
                )
            inside = self._is_inside(setting, self._owned[number][1])
            wet_mm = setting.number("RangeShifterWaterEquivalentThickness")
            if wet_mm is None:
                wet_mm = self._site_wet_mm.get(self._owned[number][0])
            if inside and wet_mm is None:
                raise BadInput(
                    f"{setting.where} is in the beam and the plan does not tell its water equivalent "
                    "thickness: give it in parameter range_shifter_wet_mm by range shifter ID."
                )
            if wet_mm is not None and not 0.0 <= wet_mm <= self._LIMIT_MM:
                raise setting.problem("RangeShifterWaterEquivalentThickness", "has an impossible")
            state = _State(inside, wet_mm, setting.number("IsocenterToRangeShifterDistance"))
            self._now[number] = state
            if inside:
                self._seen_in[number] = state

    @staticmethod
    def _is_inside(setting: Item, kind: str) -> bool:
        text = setting.text("RangeShifterSetting").upper()
        if text in ("IN", "OUT"):
            return text == "IN"
        if kind == "ANALOG" and text:
            # The setting is the machine's own number; the water equivalent thickness says what it means.
            return True
        raise setting.problem("RangeShifterSetting", "has neither IN nor OUT as")

    def wet_mm(self) -> float:
        """Water equivalent thickness in the beam now, mm."""
        if len(self._now) < len(self._owned):
            raise self._beam.problem(
                "RangeShifterSettingsSequence", "owns a range shifter and does not set it in"
            )
        return sum((state.wet_mm or 0.0) for state in self._now.values() if state.inside)

    def all(self) -> Sequence[RangeShifter]:
        """Every range shifter that the beam owns, by number."""
        found: List[RangeShifter] = []
        for number, (identifier, kind) in sorted(self._owned.items()):
            state = self._seen_in.get(number)
            wet_mm, distance_mm = (state.wet_mm, state.distance_mm) if state is not None else (None, None)
            found.append(RangeShifter(number, identifier, kind, wet_mm, distance_mm))
        return found
