"""Any plan -> DICOM -> interpreter.py -> the same spots, whatever the numbers, the pairing and the weight scale."""

from __future__ import annotations

import copy
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from step_runs import Run, dicom_bytes, interpret, interpret_here, spots_of

from mqi.sample import SampleBeam, SampleLayer, sample_plan

_COORDINATE = st.floats(-300.0, 300.0, width=32)
_SPOTS = st.lists(
    st.tuples(_COORDINATE, _COORDINATE, st.floats(0.015625, 500.0, width=32)), min_size=1, max_size=12
)


@dataclass(frozen=True)
class Case:
    """What is meant, and how the plan says it."""

    beams: tuple[SampleBeam, ...]
    paired: bool
    repeated: bool  # the second of a pair repeats what has not changed
    scale: float  # FinalCumulativeMetersetWeight for one MU, next to the sample's own
    order: tuple[int, ...]


@st.composite
def cases(draw: st.DrawFn) -> Case:
    numbers = draw(st.lists(st.integers(2, 999), min_size=1, max_size=3, unique=True))
    beams = []
    for number in numbers:
        energies = draw(st.lists(st.integers(50_000, 300_000), min_size=1, max_size=5, unique=True))
        layers = tuple(SampleLayer(energy / 1000.0, tuple(draw(_SPOTS))) for energy in energies)
        wet_mm = draw(st.sampled_from((0.0, 40.0)))
        gantry = float(draw(st.integers(0, 359)))
        beams.append(SampleBeam(number, draw(st.sampled_from(("a", "빔", ""))), gantry, 0.0, wet_mm, layers))
    return Case(
        beams=tuple(beams),
        paired=draw(st.booleans()),
        repeated=draw(st.booleans()),
        scale=draw(st.sampled_from((1.0, 0.5, 8.53, 1e-3))),
        order=tuple(draw(st.permutations(range(len(numbers) + 1)))),
    )


def plan_of(case: Case) -> Any:
    plan = sample_plan(5, case.beams)
    for beam in plan.IonBeamSequence[1:]:
        kept = []
        for place, point in enumerate(beam.IonControlPointSequence):
            if place % 2 and not case.paired:
                continue
            if place % 2 and not case.repeated:
                del point.NominalBeamEnergy, point.ScanSpotPositionMap
            # As floats of 32 bits, so that the numbers below are what the file holds.
            weights = point.ScanSpotMetersetWeights
            weights = [weights] if isinstance(weights, float) else list(weights)
            point.ScanSpotMetersetWeights = [single(weight * case.scale) for weight in weights]
            point.ControlPointIndex = len(kept)
            kept.append(point)
        beam.IonControlPointSequence, beam.NumberOfControlPoints = kept, len(kept)
        final = float(beam.FinalCumulativeMetersetWeight) * case.scale
        beam.FinalCumulativeMetersetWeight = f"{final:.10g}"
        for point in kept:
            point.CumulativeMetersetWeight = f"{float(point.CumulativeMetersetWeight) * case.scale:.10g}"
    plan.IonBeamSequence = [plan.IonBeamSequence[place] for place in case.order]
    return plan


def single(value: float) -> float:
    import struct

    result: float = struct.unpack("<f", struct.pack("<f", value))[0]
    return result


def check(case: Case, run: Run) -> None:
    assert (run.code, run.error) == (0, "")
    index = {beam["number"]: beam for beam in run.json("beams.json")["beams"]}
    assert list(index) == sorted(beam.number for beam in case.beams)
    for beam in case.beams:
        rows = spots_of(run.out, beam.number)
        expected = [
            (layer_number, spot_number, layer.energy_mev, x, y, mu)
            for layer_number, layer in enumerate(beam.layers, 1)
            for spot_number, (x, y, mu) in enumerate(layer.spots, 1)
        ]
        # Positions come back as they were; MU to the precision of 32-bit weights.
        assert [row[:5] for row in rows] == [row[:5] for row in expected]
        assert [row[5] for row in rows] == pytest.approx([row[5] for row in expected], rel=1e-6)
        assert sum(row[5] for row in rows) == pytest.approx(beam.meterset, rel=1e-6)
        assert index[beam.number]["gantry_deg"] == beam.gantry_deg
        wets = {each["range_shifter_wet_mm"] for each in index[beam.number]["layer_table"]}
        assert wets == {beam.range_shifter_wet_mm}


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(cases())
def test_spots_survive_the_way_through_dicom(case: Case) -> None:
    with tempfile.TemporaryDirectory() as folder:
        check(case, interpret_here(Path(folder), [dicom_bytes(plan_of(case))]))


@settings(max_examples=3, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(cases())
def test_spots_survive_the_way_through_a_process(case: Case) -> None:
    with tempfile.TemporaryDirectory() as folder:
        check(case, interpret(Path(folder), [dicom_bytes(plan_of(case))]))


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(cases(), st.data())
def test_garbled_bytes_never_crash_it(case: Case, data: st.DataObject) -> None:
    """Flipped bytes: a sentence and exit code 2, or tables; never a traceback and never another code."""
    content = bytearray(dicom_bytes(plan_of(replace(case, beams=copy.copy(case.beams)))))
    for _ in range(data.draw(st.integers(1, 8))):
        content[data.draw(st.integers(132, len(content) - 1))] = data.draw(st.integers(0, 255))
    with tempfile.TemporaryDirectory() as folder:
        run = interpret_here(Path(folder), [bytes(content)])
    assert run.code in (0, 2), run.error
    assert (run.error == "") == (run.code == 0)
    assert "Traceback" not in run.stderr
