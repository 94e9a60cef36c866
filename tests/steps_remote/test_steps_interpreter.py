"""interpreter.py as a process: what it writes, what it understands, what it refuses."""

from __future__ import annotations

import copy
import hashlib
import json
import os
import re
import stat
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pydicom
import pytest
from delivery_runs import MACHINE_FILE, case, lay_out
from pydicom.dataset import Dataset
from step_runs import (
    dicom_bytes,
    fresh_plan,
    interpret,
    interpret_here,
    interpret_prepared,
    interpret_prepared_here,
    prepare,
    run_step,
    spots_of,
)

from mqi.errors import IntakeProblem
from mqi.intake.plan import read_plan
from mqi.intake.unit import FileStat
from mqi.resources import remote_scripts
from mqi.sample import SAMPLE_PATIENT_ID, sample_beams, sample_plan, write_sample


def points(plan: Any, beam: int = 2) -> Any:
    return by_number(plan, beam).IonControlPointSequence


def by_number(plan: Any, number: int) -> Any:
    return next(beam for beam in plan.IonBeamSequence if beam.BeamNumber == number)


def reference(plan: Any, number: int) -> Any:
    group = plan.FractionGroupSequence[0].ReferencedBeamSequence
    return next(each for each in group if each.ReferencedBeamNumber == number)


def test_sample_becomes_one_table_per_treatment_beam(tmp_path: Path) -> None:
    folder = tmp_path / "case"
    plan_path = write_sample(folder, 7)
    files = sorted(folder.iterdir())
    run = interpret(tmp_path, files)
    assert (run.code, run.stderr, run.error) == (0, "", "")
    assert sorted(each.name for each in run.out.iterdir()) == ["beam_2.csv", "beam_3.csv", "beams.json", "spot_check.json"]
    index = run.json("beams.json")
    assert index["format"] == 2
    assert index["plan"]["sop_instance_uid"] == str(pydicom.dcmread(plan_path).SOPInstanceUID)
    assert index["plan"]["sha256"] == hashlib.sha256(plan_path.read_bytes()).hexdigest()
    assert index["plan"]["input"] == f"{files.index(plan_path) + 1:06d}"
    assert index["machine"] == "G1 SAMPLE"
    for meant, beam in zip(sample_beams(7), index["beams"], strict=True):
        assert (beam["number"], beam["name"]) == (meant.number, meant.name)
        assert (beam["gantry_deg"], beam["couch_deg"]) == (meant.gantry_deg, meant.couch_deg)
        assert beam["isocentre_mm"] == [0.0, -80.0, 12.5]
        assert beam["energies_MeV"] == [layer.energy_mev for layer in meant.layers]
        assert beam["layers"] == len(meant.layers)
        assert beam["spots"] == sum(len(layer.spots) for layer in meant.layers)
        assert beam["total_mu"] == pytest.approx(meant.meterset, rel=1e-6)
        shifters = [(each["id"], each["wet_mm"]) for each in beam["range_shifters"]]
        assert shifters == ([("RS_4CM", 40.0)] if meant.range_shifter_wet_mm else [])
        content = (run.out / beam["file"]).read_bytes()
        assert hashlib.sha256(content).hexdigest() == beam["sha256"]
        assert b"\r" not in content
        rows = spots_of(run.out, meant.number)
        expected = [
            (layer_number, spot_number, layer.energy_mev, x, y, mu)
            for layer_number, layer in enumerate(meant.layers, 1)
            for spot_number, (x, y, mu) in enumerate(layer.spots, 1)
        ]
        assert [row[:5] for row in rows] == [row[:5] for row in expected]
        assert [row[5] for row in rows] == pytest.approx([row[5] for row in expected], rel=1e-6)
        assert {each["range_shifter_wet_mm"] for each in beam["layer_table"]} == {meant.range_shifter_wet_mm}
    assert run.progress == {"fraction": 1.0, "message": "2 treatment beams, 0 with a delivery record"}


def test_same_plan_gives_same_bytes(tmp_path: Path) -> None:
    runs = [start(tmp_path, [dicom_bytes(fresh_plan())]) for start in (interpret, interpret_here)]
    first, second = ({each.name: each.read_bytes() for each in run.out.iterdir()} for run in runs)
    assert first == second


# ---- plans that look unusual and are right


def unpaired(plan: Any) -> None:
    """One control point per layer, and the closing one."""
    beam = by_number(plan, 2)
    kept = [point for point in beam.IonControlPointSequence if point.ControlPointIndex % 2 == 0]
    closing = beam.IonControlPointSequence[-1]
    closing.ControlPointIndex = len(kept)
    beam.IonControlPointSequence = [*kept, closing]
    beam.NumberOfControlPoints = len(kept) + 1


def unpaired_without_closing_point(plan: Any) -> None:
    unpaired(plan)
    beam = by_number(plan, 2)
    beam.IonControlPointSequence = beam.IonControlPointSequence[:-1]
    beam.NumberOfControlPoints = len(beam.IonControlPointSequence)


def second_points_say_little(plan: Any) -> None:
    """Attributes that do not change are left out."""
    for point in points(plan)[1::2]:
        for keyword in ("NominalBeamEnergy", "ScanSpotPositionMap", "ScanSpotMetersetWeights", "ScanningSpotSize",
                        "NumberOfScanSpotPositions", "ScanSpotTuneID", "NumberOfPaintings"):  # fmt: skip
            delattr(point, keyword)


def positions_once_per_energy(plan: Any) -> None:
    """Each layer painted twice, at control points of the same energy; positions and energy stand in the first."""
    beam = by_number(plan, 2)
    found: list[Any] = []
    for point in beam.IonControlPointSequence[::2]:
        half = [weight / 2.0 for weight in point.ScanSpotMetersetWeights]
        point.ScanSpotMetersetWeights = half
        again = copy.deepcopy(point)
        del again.ScanSpotPositionMap, again.NominalBeamEnergy
        found += [point, again]
    for index, point in enumerate(found):
        point.ControlPointIndex = index
    beam.IonControlPointSequence = found
    beam.NumberOfControlPoints = len(found)


def treatment_first(plan: Any) -> None:
    plan.IonBeamSequence = list(reversed(list(plan.IonBeamSequence)))


def setup_by_name_only(plan: Any) -> None:
    setup = by_number(plan, 1)
    setup.TreatmentDeliveryType = ""
    setup.BeamDescription = ""


def setup_by_description_only(plan: Any) -> None:
    setup = by_number(plan, 1)
    del setup.TreatmentDeliveryType
    setup.BeamName = "kV AP"
    setup.BeamDescription = "Site setup"


def setup_with_meterset(plan: Any) -> None:
    reference(plan, 1).BeamMeterset = "12"


def specified_scan_mode(plan: Any) -> None:
    beam = by_number(plan, 2)
    beam.ScanMode, beam.ModulatedScanModeType = "MODULATED_SPEC", "STATIONARY"


def zero_spots_within_layer(plan: Any) -> None:
    """A spot without weight stays in the table: later spots keep their place."""
    point = points(plan)[0]
    weights = list(point.ScanSpotMetersetWeights)
    weights[1] += weights[0]
    weights[0] = 0.0
    point.ScanSpotMetersetWeights = weights


def two_fraction_groups(plan: Any) -> None:
    plan.FractionGroupSequence.append(copy.deepcopy(plan.FractionGroupSequence[0]))


@pytest.mark.parametrize(
    "change",
    [
        unpaired,
        unpaired_without_closing_point,
        second_points_say_little,
        treatment_first,
        setup_by_name_only,
        setup_by_description_only,
        setup_with_meterset,
        specified_scan_mode,
        two_fraction_groups,
    ],
)
def test_unusual_plan_means_the_same(change: Callable[[Any], None], tmp_path: Path) -> None:
    plain = interpret_here(tmp_path, [dicom_bytes(fresh_plan())])
    plan = fresh_plan()
    change(plan)
    run = interpret_here(tmp_path, [dicom_bytes(plan)])
    assert (run.code, run.error) == (0, "")
    for beam in (2, 3):
        assert spots_of(run.out, beam) == spots_of(plain.out, beam)


def test_repainting_keeps_positions_within_an_energy(tmp_path: Path) -> None:
    plan = fresh_plan()
    positions_once_per_energy(plan)
    run = interpret_here(tmp_path, [dicom_bytes(plan)])
    assert (run.code, run.error) == (0, "")
    beam = run.json("beams.json")["beams"][0]
    assert beam["layers"] == 6
    assert beam["energies_MeV"][0] == beam["energies_MeV"][1]
    rows = spots_of(run.out, 2)
    assert [row[2:] for row in rows if row[0] == 1] == [row[2:] for row in rows if row[0] == 2]


def test_spot_without_weight_keeps_its_place(tmp_path: Path) -> None:
    plain = spots_of(interpret_here(tmp_path, [dicom_bytes(fresh_plan())]).out, 2)
    plan = fresh_plan()
    zero_spots_within_layer(plan)
    rows = spots_of(interpret_here(tmp_path, [dicom_bytes(plan)]).out, 2)
    assert rows[0][5] == 0.0
    assert rows[1][5] == pytest.approx(plain[0][5] + plain[1][5], rel=1e-6)
    assert [row[:5] for row in rows] == [row[:5] for row in plain]


def test_layer_with_a_single_spot(tmp_path: Path) -> None:
    """pydicom returns one value without a list."""
    plan = fresh_plan()
    beam = by_number(plan, 2)
    first, second = beam.IonControlPointSequence[:2]
    for point, weight in ((first, 5.0), (second, 0.0)):
        point.ScanSpotPositionMap, point.ScanSpotMetersetWeights = [3.0, -4.0], [weight]
        point.NumberOfScanSpotPositions = 1
    beam.IonControlPointSequence = [first, second]
    beam.NumberOfControlPoints, beam.FinalCumulativeMetersetWeight = 2, "5"
    reference(plan, 2).BeamMeterset = "8.5"
    run = interpret_here(tmp_path, [dicom_bytes(plan)])
    assert (run.code, run.error) == (0, "")
    assert spots_of(run.out, 2) == [(1, 1, float(first.NominalBeamEnergy), 3.0, -4.0, 8.5)]


@pytest.mark.parametrize(
    ("settings", "wet_mm"),
    [
        pytest.param([("IN", 40.0)], [40.0, 40.0, 40.0], id="in from the first point on"),
        pytest.param([("OUT", 40.0)], [0.0, 0.0, 0.0], id="out"),
        pytest.param([("OUT", None)], [0.0, 0.0, 0.0], id="out, thickness not told"),
        pytest.param([("IN", None)], [41.5, 41.5, 41.5], id="in, thickness from the parameters"),
        pytest.param([("IN", 40.0), ("OUT", 40.0)], [40.0, 0.0, 0.0], id="moved out for the second layer"),
    ],
)
def test_range_shifter_settings(
    settings: list[tuple[str, float | None]], wet_mm: list[float], tmp_path: Path
) -> None:
    plan = fresh_plan()
    for place, (state, thickness) in enumerate(settings):
        setting = Dataset()
        setting.ReferencedRangeShifterNumber, setting.RangeShifterSetting = 1, state
        if thickness is not None:
            setting.RangeShifterWaterEquivalentThickness = thickness
        points(plan, 3)[2 * place].RangeShifterSettingsSequence = [setting]
    run = interpret_here(tmp_path, [dicom_bytes(plan)], {"range_shifter_wet_mm": {"RS_4CM": 41.5}})
    assert (run.code, run.error) == (0, "")
    beam = run.json("beams.json")["beams"][1]
    assert [each["range_shifter_wet_mm"] for each in beam["layer_table"]] == wet_mm


# ---- plans that are refused


def removed(keyword: str, place: int = 0) -> Callable[[Any], None]:
    return lambda plan: delattr(points(plan)[place], keyword)


def at_point(keyword: str, value: Any, place: int = 0) -> Callable[[Any], None]:
    return lambda plan: setattr(points(plan)[place], keyword, value)


def at_beam(keyword: str, value: Any, number: int = 2) -> Callable[[Any], None]:
    return lambda plan: setattr(by_number(plan, number), keyword, value)


def at_reference(keyword: str, value: Any) -> Callable[[Any], None]:
    return lambda plan: setattr(reference(plan, 2), keyword, value)


def first_weight(value: float) -> Callable[[Any], None]:
    def change(plan: Any) -> None:
        weights = list(points(plan)[0].ScanSpotMetersetWeights)
        points(plan)[0].ScanSpotMetersetWeights = [value, *weights[1:]]

    return change


def first_position(value: float) -> Callable[[Any], None]:
    def change(plan: Any) -> None:
        flat = list(points(plan)[0].ScanSpotPositionMap)
        points(plan)[0].ScanSpotPositionMap = [value, *flat[1:]]

    return change


def all_weights_scaled(factor: float) -> Callable[[Any], None]:
    def change(plan: Any) -> None:
        for point in points(plan)[::2]:
            point.ScanSpotMetersetWeights = [factor * weight for weight in point.ScanSpotMetersetWeights]

    return change


def no_treatment(plan: Any) -> None:
    for beam in plan.IonBeamSequence:
        beam.TreatmentDeliveryType = "SETUP"


def delete(plan: Any, keyword: str) -> None:
    delattr(plan, keyword)


def range_shifter_unset(plan: Any) -> None:
    del points(plan, 3)[0].RangeShifterSettingsSequence


def range_shifter_changed(keyword: str, value: Any) -> Callable[[Any], None]:
    return lambda plan: setattr(points(plan, 3)[0].RangeShifterSettingsSequence[0], keyword, value)


def range_shifter_thickness_missing(plan: Any) -> None:
    del points(plan, 3)[0].RangeShifterSettingsSequence[0].RangeShifterWaterEquivalentThickness


def gantry_moves(plan: Any) -> None:
    points(plan)[2].GantryAngle = "12.5"


def other_machine(plan: Any) -> None:
    by_number(plan, 3).TreatmentMachineName = "G2"


def metersets_disagree(plan: Any) -> None:
    two_fraction_groups(plan)
    reference(plan, 2).BeamMeterset = "1"


NAN = float("nan")
REFUSED: list[Any] = [
    pytest.param(no_treatment, "None of the 3 beams of the RT Ion Plan is a treatment beam.", id="setup only"),
    pytest.param(lambda p: delete(p, "IonBeamSequence"), "names beam 1, which the plan does not", id="no beams"),
    pytest.param(lambda p: delete(p, "FractionGroupSequence"), "Beam 2 has no positive and possible BeamMeterset"
                 " (300A,0086).", id="no fraction group"),
    pytest.param(lambda p: delete(p, "SOPInstanceUID"), "no valid SOPInstanceUID (0008,0018)", id="no UID"),
    pytest.param(lambda p: delete(p, "Modality"), "Modality (0008,0060)", id="no modality"),
    pytest.param(lambda p: setattr(p, "Modality", "RT ION PLAN IOD"), "does not say RTPLAN", id="odd modality"),
    pytest.param(lambda p: delattr(reference(p, 2), "BeamMeterset"), "Beam 2 has no positive", id="no meterset"),
    pytest.param(at_reference("BeamMeterset", "0"), "BeamMeterset (300A,0086)", id="meterset 0"),
    pytest.param(at_reference("BeamMeterset", "-5"), "BeamMeterset (300A,0086)", id="meterset negative"),
    pytest.param(at_reference("BeamMeterset", "nan"), "BeamMeterset (300A,0086)", id="meterset NaN"),
    pytest.param(at_reference("BeamMeterset", "1e300"), "BeamMeterset (300A,0086)", id="meterset absurd"),
    pytest.param(at_reference("BeamMeterset", ["1", "2"]), "has 2 values instead of one", id="two metersets"),
    pytest.param(lambda p: setattr(reference(p, 1), "ReferencedBeamNumber", 9), "names beam 9, which", id="other beam"),
    pytest.param(metersets_disagree, "Beam 2 has two different BeamMeterset", id="metersets disagree"),
    pytest.param(at_beam("FinalCumulativeMetersetWeight", ""), "FinalCumulativeMetersetWeight (300A,010E)",
                 id="no final weight"),
    pytest.param(at_beam("FinalCumulativeMetersetWeight", "0"), "FinalCumulativeMetersetWeight", id="final 0"),
    pytest.param(all_weights_scaled(1.002), "the spots sum to", id="sum 0.2 % high"),
    pytest.param(all_weights_scaled(0.998), "the spots sum to", id="sum 0.2 % low"),
    pytest.param(at_beam("BeamNumber", 3), "two beams with number 3", id="same number twice"),
    pytest.param(at_beam("BeamNumber", None), "has no possible BeamNumber (300A,00C0)", id="no number"),
    pytest.param(at_beam("RadiationType", "ION"), "RadiationType (300A,00C6)", id="carbon"),
    pytest.param(at_beam("ScanMode", "UNIFORM"), "ScanMode (300A,0308)", id="passive"),
    pytest.param(at_beam("PrimaryDosimeterUnit", "NP"), "PrimaryDosimeterUnit (300A,00B3)", id="particles"),
    pytest.param(at_beam("NumberOfCompensators", 1), "NumberOfCompensators (300A,00E0)", id="compensator"),
    pytest.param(at_beam("NumberOfControlPoints", 4), "NumberOfControlPoints (300A,0110)", id="point count"),
    pytest.param(at_beam("IonControlPointSequence", []), "IonControlPointSequence (300A,03A8)", id="no points"),
    pytest.param(other_machine, "for different machines", id="two machines"),
    pytest.param(gantry_moves, "GantryAngle (300A,011E)", id="arc"),
    pytest.param(removed("ScanSpotPositionMap"), "control point 1, has no ScanSpotPositionMap (300A,0394).",
                 id="no positions"),
    pytest.param(removed("ScanSpotPositionMap", 2), "control point 3, has no ScanSpotPositionMap",
                 id="no positions for the second energy"),
    pytest.param(removed("ScanSpotMetersetWeights"), "control point 1, delivers and has no"
                 " ScanSpotMetersetWeights (300A,0396).", id="no weights"),
    pytest.param(removed("NominalBeamEnergy"), "NominalBeamEnergy (300A,0114)", id="no energy at first"),
    pytest.param(at_point("NominalBeamEnergy", "49.9"), "is not within 50 to 300 MeV", id="energy low"),
    pytest.param(at_point("NominalBeamEnergy", "300.1"), "is not within 50 to 300 MeV", id="energy high"),
    pytest.param(at_point("NominalBeamEnergy", "nan"), "NominalBeamEnergy (300A,0114)", id="energy NaN"),
    pytest.param(at_point("ScanSpotMetersetWeights", [1.0, 2.0]), "ScanSpotPositionMap (300A,0394)",
                 id="fewer weights"),
    pytest.param(at_point("NumberOfScanSpotPositions", 5), "NumberOfScanSpotPositions (300A,0392)", id="count"),
    pytest.param(first_weight(NAN), "has NaN or infinity in ScanSpotMetersetWeights", id="weight NaN"),
    pytest.param(first_weight(float("inf")), "has NaN or infinity in", id="weight infinite"),
    pytest.param(first_weight(-1.0), "has a negative weight in ScanSpotMetersetWeights", id="weight negative"),
    pytest.param(first_position(NAN), "has NaN or infinity in ScanSpotPositionMap", id="position NaN"),
    pytest.param(first_position(1e6), "more than a metre off the axis", id="position absurd"),
    pytest.param(at_point("IsocenterPosition", ["1", "2"]), "IsocenterPosition (300A,012C)", id="isocentre"),
    pytest.param(range_shifter_unset, "owns a range shifter and does not set it", id="shifter not set"),
    pytest.param(range_shifter_thickness_missing, "give it in parameter range_shifter_wet_mm", id="no WET"),
    pytest.param(range_shifter_changed("RangeShifterSetting", "MAYBE"), "neither IN nor OUT", id="shifter?"),
    pytest.param(range_shifter_changed("ReferencedRangeShifterNumber", 4), "does not own", id="other shifter"),
    pytest.param(range_shifter_changed("RangeShifterWaterEquivalentThickness", -3.0), "impossible", id="WET < 0"),
    pytest.param(range_shifter_changed("RangeShifterWaterEquivalentThickness", NAN), "has NaN", id="WET NaN"),
]  # fmt: skip


@pytest.mark.filterwarnings("ignore")  # pydicom, about the spoilt values
@pytest.mark.parametrize(("change", "sentence"), REFUSED)
def test_refused_with_one_sentence(
    change: Callable[[Any], None], sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pydicom.config.settings, "writing_validation_mode", pydicom.config.IGNORE)
    plan = fresh_plan()
    change(plan)
    run = interpret_here(tmp_path, [dicom_bytes(plan)])
    assert run.code == 2
    assert sentence in run.error
    assert run.stderr == run.error + "\n"
    assert run.stdout == ""
    assert list(run.out.iterdir()) == []
    assert_one_sentence(run.error)


def assert_one_sentence(text: str) -> None:
    assert "\n" not in text
    assert text[0].isupper()
    assert text.endswith(".")


# ---- which input is the plan

CT = "1.2.840.10008.5.1.4.1.1.2"
PHOTON = "1.2.840.10008.5.1.4.1.1.481.5"


def other_dicom(sop_class: str) -> bytes:
    """A DICOM file of another class, made from the plan so that everything else looks right."""
    plan = fresh_plan(9)
    plan.SOPClassUID = plan.file_meta.MediaStorageSOPClassUID = pydicom.uid.UID(sop_class)
    return dicom_bytes(plan)


def test_plan_is_found_by_content(tmp_path: Path) -> None:
    ptn_like = struct.pack(">8H", 0x0800, 0x0500, 1, 2, 3, 4, 5, 6) * 50
    files = [other_dicom(CT), b"", b"KEY,value\r\n", ptn_like, dicom_bytes(fresh_plan()), other_dicom(PHOTON)]
    run = interpret(tmp_path, files)
    assert (run.code, run.error) == (0, "")
    assert run.json("beams.json")["plan"]["input"] == "000005"


def test_plan_without_preamble_and_with_implicit_types(tmp_path: Path) -> None:
    plan = fresh_plan()
    plain = interpret_here(tmp_path, [dicom_bytes(plan)])
    plan.file_meta.TransferSyntaxUID = pydicom.uid.ImplicitVRLittleEndian
    implicit = dicom_bytes(plan)
    bare = implicit[implicit.index(b"\x08\x00\x05\x00") :]
    for content in (implicit, bare):
        run = interpret_here(tmp_path, [content])
        assert (run.code, run.error) == (0, "")
        assert spots_of(run.out, 3) == spots_of(plain.out, 3)


@pytest.mark.parametrize(
    ("files", "sentence"),
    [
        pytest.param(lambda: [b"text"], "None of the 1 inputs is an RT Ion Plan.", id="no DICOM"),
        pytest.param(lambda: [other_dicom(CT)] * 3, "None of the 3 inputs is an RT Ion Plan.", id="CT only"),
        pytest.param(lambda: [other_dicom(PHOTON)], "a photon RT Plan (input 000001)", id="photon"),
        pytest.param(lambda: [dicom_bytes(fresh_plan(1)), b"", dicom_bytes(fresh_plan(2))],
                     "2 RT Ion Plans (inputs 000001, 000003)", id="two"),
        pytest.param(lambda: [dicom_bytes(fresh_plan(1))] * 2, "2 RT Ion Plans", id="the same twice"),
        pytest.param(lambda: [b"\0" * 128 + b"DICM" + b"garbage"], "Input 000001 is a damaged", id="damaged"),
    ],
)  # fmt: skip
def test_no_single_plan(files: Callable[[], list[bytes]], sentence: str, tmp_path: Path) -> None:
    run = interpret_here(tmp_path, files())
    assert run.code == 2
    assert sentence in run.error
    assert_one_sentence(run.error)


@pytest.mark.parametrize("undefined_length", [False, True])
def test_plan_cut_short_is_refused_or_whole(undefined_length: bool, tmp_path: Path) -> None:
    """A file that ends early never yields a different set of spots."""
    from steplib import find_plan, plan, report

    dataset = sample_plan(3, sample_beams(3, layers=1))
    dataset.IonBeamSequence = dataset.IonBeamSequence
    for keyword in ("IonBeamSequence", "FractionGroupSequence"):
        dataset[keyword].is_undefined_length = undefined_length
        for item in dataset[keyword].value:
            item.is_undefined_length_sequence_item = undefined_length
    whole = dicom_bytes(dataset)

    def read(content: bytes) -> Any:
        source = find_plan.Input("000001", len(content), hashlib.sha256(content).hexdigest())
        (tmp_path / source.number).write_bytes(content)
        found = find_plan.find_plan([source], tmp_path, report.Progress())
        return plan.read_plan(found.dataset, {}, (50.0, 300.0))

    expected = read(whole)
    refused = 0
    for length in range(0, len(whole), 37):
        try:
            assert read(whole[:length]) == expected
        except report.BadInput as problem:
            assert_one_sentence(str(problem))
            refused += 1
    assert refused > 0.95 * len(range(0, len(whole), 37))


# ---- the same beams as on the control PC


@pytest.mark.parametrize(
    "change",
    [
        lambda plan: None,
        treatment_first,
        setup_by_name_only,
        setup_by_description_only,
        no_treatment,
        other_machine,
        at_beam("BeamNumber", 3),
        at_beam("TreatmentDeliveryType", "CONTINUATION"),
        at_beam("TreatmentDeliveryType", "OPEN_PORTFILM"),
        at_beam("BeamName", "SETUP"),
        at_beam("BeamName", "Setup 2"),
    ],
)
def test_same_beams_as_intake(change: Callable[[Any], None], tmp_path: Path) -> None:
    plan = fresh_plan()
    change(plan)
    content = dicom_bytes(plan)
    (tmp_path / "RP.dcm").write_bytes(content)
    try:
        facts = read_plan(tmp_path, [FileStat("RP.dcm", len(content), 0, 0)])
        taken_in: list[Any] | None = [(beam.number, beam.name) for beam in facts.beams]
    except IntakeProblem:
        taken_in = None
    run = interpret_here(tmp_path, [content])
    found = None
    if run.code == 0:
        found = [(beam["number"], beam["name"]) for beam in run.json("beams.json")["beams"]]
    assert found == taken_in


# ---- the surroundings


@pytest.mark.parametrize(
    ("parameters", "sentence"),
    [
        ({"energy_min_Mev": 70}, "Parameter energy_min_Mev is unknown: did you mean energy_min_MeV?"),
        ({"colour": 1}, "Parameter colour is unknown: known are count_action_percent, count_tolerance_percent, energy_max_MeV"),
        ({"energy_min_MeV": 40}, "energy_min_MeV must be a number from 50 to 300."),
        ({"energy_min_MeV": "70"}, "energy_min_MeV must be a number"),
        ('{"energy_max_MeV": 1' + "0" * 400 + "}", "energy_max_MeV must be a number"),
        ({"energy_min_MeV": True}, "energy_min_MeV must be a number"),
        ('{"energy_max_MeV": NaN}', "energy_max_MeV must be a number"),
        ({"energy_min_MeV": 200, "energy_max_MeV": 100}, "must be below energy_max_MeV"),
        ({"energy_max_MeV": 60}, "is not within 50 to 60 MeV"),
        ({"range_shifter_wet_mm": [1]}, "range_shifter_wet_mm must map names to numbers"),
        ({"range_shifter_wet_mm": {"RS": -1}}, "range_shifter_wet_mm.RS must be a number"),
        ("[]", "The parameters file is not a JSON object."),
        ("{", "The parameters file is not JSON."),
    ],
)
def test_parameters_are_checked(parameters: Any, sentence: str, tmp_path: Path) -> None:
    run = interpret_here(tmp_path, [dicom_bytes(fresh_plan())], parameters)
    assert run.code == 2
    assert sentence in run.error


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda entries: entries.clear(), "The list of inputs names no file."),
        (lambda entries: entries[0].update(n="../1"), "an entry without number, size or SHA-256"),
        (lambda entries: entries[0].update(size=-1.5), "an entry without number, size or SHA-256"),
        (lambda entries: entries[0].pop("sha256"), "an entry without number, size or SHA-256"),
        (lambda entries: entries.append("x"), "an entry without number, size or SHA-256"),
        (lambda entries: entries[0].update(size=1), "and 1 in the list of inputs"),
        (lambda entries: entries[0].update(n="000002"), "Input 000002 is missing on this host."),
        (lambda entries: entries[0].update(sha256="0" * 64), "is not the file that was sent"),
    ],
)
def test_list_of_inputs_is_checked(
    change: Callable[[list[Any]], None], sentence: str, tmp_path: Path
) -> None:
    work = prepare(tmp_path, [dicom_bytes(fresh_plan())])
    path = work / "inputs.json"
    inputs = json.loads(path.read_text(encoding="utf-8"))
    change(inputs["inputs"])
    path.write_text(json.dumps(inputs), encoding="utf-8")
    run = interpret_prepared_here(work)
    assert run.code == 2
    assert sentence in run.error


def test_wrong_arguments_are_bad_input(tmp_path: Path) -> None:
    run = run_step("interpreter.py", tmp_path, ["--out", "x"])
    assert run.code == 2
    assert run.error.startswith("The step was started with wrong arguments: ")


def test_python_without_packages_says_so(tmp_path: Path) -> None:
    script = remote_scripts() / "interpreter.py"
    work = prepare(tmp_path, [b"x"])
    places = [
        "--inputs",
        str(work / "inputs.json"),
        "--input-dir",
        str(work / "in"),
        "--out",
        str(work / "out"),
    ]
    done = subprocess.run(
        [sys.executable, "-I", "-S", str(script), *places],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 78
    assert "The Python of this host has no pydicom" in done.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="needs /dev/full, which Linux has")
def test_full_disk_is_temporary(tmp_path: Path) -> None:
    work = prepare(tmp_path, [dicom_bytes(fresh_plan())])
    (work / "out").mkdir()
    (work / "out" / "beam_2.csv").symlink_to("/dev/full")
    run = interpret_prepared(work)
    assert run.code == 75
    assert "No space left" in run.error


@pytest.mark.filterwarnings("ignore")  # pydicom, about the spoilt values
def test_no_patient_data_leaves_the_plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = fresh_plan()
    plan.PatientName, plan.PatientID = "Canary^Mary", "CANARY-77"
    plan.PatientBirthDate = "19330303"
    plan.StudyDescription = plan.RTPlanLabel = plan.RTPlanName = "Canary label"
    good = dicom_bytes(plan)
    points(plan)[0].NominalBeamEnergy = "10"
    bad = dicom_bytes(plan)
    # pydicom quotes values that do not fit their type, when they are read.
    monkeypatch.setattr(pydicom.config.settings, "writing_validation_mode", pydicom.config.IGNORE)
    by_number(plan, 2).RadiationType = "Canary^Mary"
    odd = dicom_bytes(plan)
    for content, code in ((good, 0), (bad, 2), (odd, 2), (good[: len(good) // 2], 2)):
        run = interpret(tmp_path, [content])
        assert run.code == code
        assert run.stderr == (run.error + "\n" if code else "")
        written = [each.read_text(encoding="utf-8") for each in run.out.iterdir()]
        names = [each.name for each in run.out.iterdir()]
        told = [run.stdout, run.stderr, run.error, json.dumps(run.progress)]
        everything = "\n".join([*written, *names, *told]).casefold()
        for canary in ("canary", "mary", "19330303", "doe_jane", SAMPLE_PATIENT_ID.casefold()):
            assert canary not in everything


def test_odd_names_of_beams_stay_inside_the_index(tmp_path: Path) -> None:
    plan = fresh_plan()
    names = {2: "../../../etc/x\ny", 3: "빔 ½ {beam} $(id)"}
    for number, name in names.items():
        by_number(plan, number).BeamName = name
    run = interpret(tmp_path, [dicom_bytes(plan)])
    assert (run.code, run.error) == (0, "")
    assert {each.name for each in run.out.iterdir()} == {"beam_2.csv", "beam_3.csv", "beams.json", "spot_check.json"}
    assert {beam["number"]: beam["name"] for beam in run.json("beams.json")["beams"]} == names
    assert re.fullmatch(r"[\x20-\x7e\n]*", run.stdout)


def test_deployed_folder_stays_as_it_is(tmp_path: Path) -> None:
    """The folder is named by its content: a cache in it would make it another one. It may be read-only."""
    import shutil

    deployed = tmp_path / "scripts"
    shutil.copytree(remote_scripts(), deployed, ignore=shutil.ignore_patterns("__pycache__"))
    before = sorted(deployed.rglob("*"))
    for script in ("interpreter.py", "moquisim.py"):
        subprocess.run([sys.executable, str(deployed / script)], capture_output=True, check=False)
    work = lay_out(tmp_path / "work", case(), MACHINE_FILE.read_bytes())
    places = {"--inputs": "inputs.json", "--input-dir": "in", "--files": "files", "--out": "out"}
    arguments = [word for option, name in places.items() for word in (option, str(work / name))]
    subprocess.run(
        [sys.executable, str(deployed / "interpreter.py"), *arguments], check=True, capture_output=True
    )
    assert (work / "out" / "spot_map_2.png").is_file()
    assert sorted(deployed.rglob("*")) == before


# ---- real plans

REAL = [
    (
        "dcpt-headphantom/RN.*.dcm",
        {1: (659, 24, 5199.03), 2: (624, 19, 5532.589989), 3: (624, 19, 4726.129995)},
    ),
    ("dcpt-let-plans/plan01_sobp/RN.*.dcm", {1: (3468, 12, 17571.2003322833)}),
    ("dcpt-let-plans/plan02_mono/RN.*.dcm", {1: (323, 1, 58414.5492229546)}),
    ("dcpt-let-plans/plan05_sobp_3d/RP*.dcm", {1: (5929, 13, 52188.75)}),
    ("dcpt-let-plans/plan06_sobp_4d/R*.dcm", {1: (5775, 15, 60606.05)}),
]


@pytest.mark.parametrize(("pattern", "beams"), REAL)
def test_real_plan(
    pattern: str, beams: dict[int, tuple[int, int, float]], real_data: Path, tmp_path: Path
) -> None:
    run = interpret_here(tmp_path, sorted(real_data.glob(pattern)))
    assert (run.code, run.error, run.stderr) == (0, "", "")
    found = {beam["number"]: beam for beam in run.json("beams.json")["beams"]}
    assert {number: (beam["spots"], beam["layers"]) for number, beam in found.items()} == {
        number: expected[:2] for number, expected in beams.items()
    }
    for number, (spots, _, meterset) in beams.items():
        rows = spots_of(run.out, number)
        assert len(rows) == spots
        assert sum(row[5] for row in rows) == pytest.approx(meterset, rel=1e-6)


def test_real_range_shifters(real_data: Path, tmp_path: Path) -> None:
    """A whole folder with a CT as input; and a real field behind 34.3 mm of water."""
    files = sorted(path for path in (real_data / "dcpt-headphantom").iterdir() if path.is_file())
    head = interpret(tmp_path, [*files[:40], *(path for path in files if path.name.startswith("R"))])
    assert [beam["range_shifters"][0]["wet_mm"] for beam in head.json("beams.json")["beams"]] == [57.0] * 3
    field = interpret(tmp_path, sorted((real_data / "dcpt-let-plans/plan06_sobp_4d").glob("RP*.dcm")))
    assert field.json("beams.json")["beams"][0]["range_shifters"][0]["wet_mm"] == pytest.approx(
        34.3, abs=1e-4
    )


def test_unreadable_input_is_not_the_case_s_fault(tmp_path: Path) -> None:
    if os.name == "nt" or os.geteuid() == 0:
        pytest.skip("this account reads everything")
    work = prepare(tmp_path, [dicom_bytes(fresh_plan())])
    (work / "in" / "000001").chmod(0)
    run = interpret_prepared(work)
    (work / "in" / "000001").chmod(stat.S_IRUSR | stat.S_IWUSR)
    assert run.code == 1
    assert "Permission denied" in run.error
