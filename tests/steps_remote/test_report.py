"""report.py on doses from formulas: verdicts, refusals, and what the page, the PDF and qa.json hold."""

from __future__ import annotations

import json
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from doses import field, shifted
from report_runs import ReportCase, make_case, rtdose
from step_runs import Run, dicom_bytes, fresh_plan
from steplib.dose_grid import DoseGrid
from steplib.gamma import Criteria
from steplib.qa import compare

import mqi.verdict

WATER = {"planning_dose_phantom": "water"}


def qa_of(case: ReportCase, parameters: Any = None) -> dict[str, Any]:
    """What qa.json would say: the step's own functions without its drawing, which takes most of its time."""
    return case.judge(parameters)


class Page(HTMLParser):
    """Tags, texts and what a browser would load."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.loads: list[str] = []
        self.texts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.loads += [value or "" for name, value in attrs if name in ("src", "href", "data", "action")]

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> tuple[ReportCase, Run]:
    """A good case, with structures that do not belong to doses in water; its report was made by a process."""
    case = make_case(tmp_path_factory.mktemp("good"), files=[structure_set(fresh_plan())])
    return case, case.run(process=True)


def test_a_good_case_as_a_process(good: tuple[ReportCase, Run]) -> None:
    case, done = good
    assert (done.code, done.error) == (0, ""), done.stderr
    qa = done.json("qa.json")
    assert qa["verdict"] == "pass", qa["reason"]
    assert [beam["number"] for beam in qa["beams"]] == [2, 3]
    assert qa["planning"] is None
    text = (done.out / "report.html").read_text(encoding="utf-8")
    page = Page(text)
    assert page.loads
    assert all(each.startswith("data:image/png;base64,") for each in page.loads)
    assert "url(" not in text
    assert "@import" not in text
    shown = " ".join(page.texts)
    for said in ("RESEARCH TOOL, NOT A MEDICAL DEVICE", str(case.plan.PatientID), str(case.plan.SOPInstanceUID), "99.5"):
        assert said in shown
    assert "1G180:T2 <b>&" in shown, "names are escaped, not obeyed"
    # The patient's ID is for those who read the report; nothing else that is written names the patient.
    others = [path for path in done.out.rglob("*") if path.is_file() and path.suffix in (".json", ".png")]
    assert others
    for secret in (str(case.plan.PatientID), str(case.plan.PatientName)):
        assert not any(secret.encode() in path.read_bytes() for path in others)
        assert secret not in done.stdout + done.stderr + json.dumps(done.progress)
        assert not any(secret in path.name for path in done.out.rglob("*"))


def test_the_pdf_has_pages_with_the_banner(good: tuple[ReportCase, Run]) -> None:
    content = (good[1].out / "report.pdf").read_bytes()
    assert content.startswith(b"%PDF-")
    assert content.count(b"/Type /Page\n") + content.count(b"/Type /Page ") >= 4
    # A4 in points.
    assert b"595.2756 841.8898" in content


def test_the_sum_is_the_sum(tmp_path: Path) -> None:
    case = make_case(tmp_path, scale=1.02)
    qa_of(case)
    for which, scale in (("planned", 1.0), ("delivered", 1.02)):
        total = pydicom.dcmread(case.work / "out" / f"RD_plan_{which}.dcm")
        assert total.DoseSummationType == "PLAN"
        highest = float((total.pixel_array * float(total.DoseGridScaling)).max())
        assert highest == pytest.approx(2 * scale * field(20, 3.0).dose_gy.max(), rel=2e-2)


def test_beams_in_their_own_water_are_not_added_up(tmp_path: Path) -> None:
    case = make_case(tmp_path, angles=(0.0, 90.0))
    qa = qa_of(case)
    assert "share no phantom" in qa["sums"]["reason"]
    assert not list(case.work.glob("out/RD_plan*"))
    assert qa["verdict"] == "pass"


@pytest.mark.parametrize(
    ("changes", "word", "says"),
    [
        ({}, "pass", "gamma"),
        ({"scale": 1.10}, "fail", "is below 90 %"),
        ({"shift_mm": (0.0, 0.0, 6.0)}, "fail", "is below 90 %"),
        ({"delivered": False, "spots": "not comparable"}, "not comparable", "no delivery record"),
        ({"spots": "fail"}, "fail", "is off by 3.10 mm"),
        ({"spots": "conditional"}, "conditional", "is off by 3.10 mm"),
        ({"uncertainty": 7.5}, "conditional", "statistical uncertainty (planned 7.5 % and delivered 7.5 %)"),
    ],
)
def test_verdicts(tmp_path: Path, changes: dict[str, Any], word: str, says: str) -> None:
    case = make_case(tmp_path, **changes)
    qa = qa_of(case)
    assert qa["verdict"] == word
    assert says in qa["reason"]
    # The control PC reads the same from the very file.
    content = json.dumps(qa).encode()
    read = mqi.verdict.verdict_in(content, beams=[2, 3], plan_uid=str(case.plan.SOPInstanceUID))
    assert read.word == word
    if word == "conditional" and "spots" in changes:
        assert qa_of(case, {"tolerance_percent": 90, "gamma_dose_percent": 5})["verdict"] == "conditional"


def test_other_criteria_give_another_verdict(tmp_path: Path) -> None:
    case = make_case(tmp_path, scale=1.10)
    assert qa_of(case)["verdict"] == "fail"
    loose = qa_of(case, {"gamma_dose_percent": 12})
    assert loose["verdict"] == "pass"
    assert "12 %/2 mm global, 10 % threshold" in loose["reason"]


def twice(grid: DoseGrid) -> DoseGrid:
    return DoseGrid(2 * grid.dose_gy, grid.sigma_gy, grid.origin_mm, grid.spacing_mm)


def test_noise_alone_makes_no_dose_ratio() -> None:
    """The same dose with the noise of two simulations of few protons."""
    dose = field(40, 3.0)
    one, other = (shifted(dose, (0.0, 0.0, 0.0), noise=0.1, seed=seed) for seed in (1, 2))
    one, other = (replace(each, sigma_gy=0.1 * each.dose_gy) for each in (one, other))
    few = Criteria(threshold_percent=90.0)
    # Chosen by the reference alone, the points gave 0.948.
    assert compare(one, other, few).ratio == pytest.approx(1.0, abs=0.005)
    assert compare(other, one, few).ratio == pytest.approx(1.0, abs=0.005)


def test_the_planning_dose_is_a_question_of_its_own(tmp_path: Path) -> None:
    total = twice(field(20, 3.0))
    good = make_case(tmp_path, files=[rtdose(fresh_plan(), total)])
    qa = qa_of(good, WATER)
    assert (qa["verdict"], qa["planning"]["verdict"]) == ("pass", "pass")
    assert qa["planning"]["doses"][0]["mean_dose_ratio"] == pytest.approx(1.0, abs=1e-3)
    bad = make_case(tmp_path, files=[rtdose(fresh_plan(), shifted(total, (5.0, 0.0, 0.0)))])
    qa = qa_of(bad, WATER)
    assert [beam["verdict"] for beam in qa["beams"]] == ["pass", "pass"]
    assert (qa["verdict"], qa["planning"]["verdict"]) == ("fail", "fail")
    assert "planning system" in qa["reason"]


def test_an_effective_dose_is_divided_by_rbe(tmp_path: Path) -> None:
    total = field(20, 3.0)
    effective = DoseGrid(2.2 * total.dose_gy, total.sigma_gy, total.origin_mm, total.spacing_mm)
    qa = qa_of(make_case(tmp_path, files=[rtdose(fresh_plan(), effective, DoseType="EFFECTIVE")]), WATER)
    assert qa["planning"]["doses"][0]["mean_dose_ratio"] == pytest.approx(1.0, abs=1e-3)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"DoseUnits": "RELATIVE"}, "DoseUnits (3004,0002)"),
        ({"DoseType": "ERROR"}, "DoseType (3004,0004)"),
        ({"DoseSummationType": "CONTROL_POINT"}, "DoseSummationType (3004,000A)"),
        ({"DoseSummationType": "BEAM"}, "ReferencedBeamSequence"),
        ({"FrameOfReferenceUID": "1.9.9"}, "FrameOfReferenceUID (0020,0052)"),
        ({"ReferencedRTPlanSequence": None}, "ReferencedRTPlanSequence (300C,0002)"),
        ({"ImageOrientationPatient": [0, 1, 0, 1, 0, 0]}, "ImageOrientationPatient (0020,0037)"),
        ({"GridFrameOffsetVector": [0, 3, 7, *range(10, 27)]}, "GridFrameOffsetVector (3004,000C)"),
        ({"GridFrameOffsetVector": [0, 3]}, "GridFrameOffsetVector (3004,000C)"),
        ({"DoseGridScaling": "0"}, "DoseGridScaling (3004,000E)"),
        ({"PixelData": bytes(100)}, "PixelData (7FE0,0010)"),
    ],
)
def test_a_planning_dose_that_does_not_fit_is_refused_with_a_sentence(
    tmp_path: Path, changes: dict[str, Any], says: str
) -> None:
    qa = qa_of(make_case(tmp_path, files=[rtdose(fresh_plan(), twice(field(20, 3.0)), **changes)]), WATER)
    assert qa["planning"]["verdict"] == "not comparable"
    assert qa["planning"]["doses"] == []
    assert says in qa["planning"]["refused"][0]
    # A dose that is there and cannot be compared keeps the case from passing.
    assert qa["verdict"] == "conditional"


def test_doses_in_water_and_in_the_patient_are_not_compared(tmp_path: Path) -> None:
    qa = qa_of(make_case(tmp_path, files=[rtdose(fresh_plan(), twice(field(20, 3.0)))]))
    assert qa["planning"]["verdict"] == "not comparable"
    assert "planning_dose_phantom" in qa["planning"]["reason"]


def test_two_plan_doses_are_ambiguous(tmp_path: Path) -> None:
    total = twice(field(20, 3.0))
    files = [rtdose(fresh_plan(), total), rtdose(fresh_plan(), total, SOPInstanceUID="1.2.3.4.6")]
    qa = qa_of(make_case(tmp_path, files=files), WATER)
    assert "which one counts cannot be known" in qa["planning"]["refused"][0]


def structure_set(plan: Any, *, frame: str | None = None) -> bytes:
    """A box of 20 x 20 x 18 mm around the origin with a hole of 8 x 8 mm."""
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian

    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.SOPClassUID, data.SOPInstanceUID, data.Modality = "1.2.840.10008.5.1.4.1.1.481.3", "1.2.3.7", "RTSTRUCT"
    data.file_meta.MediaStorageSOPClassUID, data.file_meta.MediaStorageSOPInstanceUID = data.SOPClassUID, "1.2.3.7"
    roi, contours = Dataset(), Dataset()
    roi.ROINumber, roi.ROIName, roi.ReferencedFrameOfReferenceUID = 1, "Target", frame or plan.FrameOfReferenceUID
    contours.ReferencedROINumber, contours.ContourSequence = 1, []
    for z in range(-9, 10, 3):
        for half in (10.0, 4.0):
            one = Dataset()
            one.ContourGeometricType = "CLOSED_PLANAR"
            corners = [(-half, -half), (half, -half), (half, half), (-half, half)]
            one.ContourData = [value for x, y in corners for value in (x, y, float(z))]
            one.NumberOfContourPoints = 4
            contours.ContourSequence.append(one)
    data.StructureSetROISequence, data.ROIContourSequence = [roi], [contours]
    return dicom_bytes(data)


def test_structures_are_drawn_and_counted(tmp_path: Path) -> None:
    case = make_case(tmp_path, files=[structure_set(fresh_plan())], kind="ct")
    done = case.run()
    assert done.code == 0, done.stderr
    assert (done.out / "figures" / "dvh.png").is_file()
    texts = Page((done.out / "report.html").read_text(encoding="utf-8")).texts
    at = texts.index("D2") + 1
    row = [each for each in texts[at:] if each.strip()][:4]
    # The voxels' centres lie at ±1.5, ±4.5, ±7.5 mm: 6 x 6 less 2 x 2 of them, each of 27 mm³, in as many planes as
    # there are contours: half way between two, a plane belongs to the one above.
    assert row == ["Target", "planned", "224", f"{224 * 27 / 1000:.1f}"]


def test_structures_of_another_frame_of_reference_are_not_drawn(tmp_path: Path) -> None:
    done = make_case(tmp_path, files=[structure_set(fresh_plan(), frame="1.9")], kind="ct").run()
    assert done.code == 0, done.stderr
    not_drawn(done, "no structure in the plan's frame of reference")


def test_structures_are_not_drawn_over_doses_in_water(good: tuple[ReportCase, Run]) -> None:
    not_drawn(good[1], "The doses are in water")


def not_drawn(done: Run, why: str) -> None:
    assert why in (done.out / "report.html").read_text(encoding="utf-8").replace("&#x27;", "'")
    assert not (done.out / "figures" / "dvh.png").exists()


def other_dose(case: ReportCase) -> None:
    folder = Path(case.needs["moquisim"]["2"])
    path = folder / "dose_delivered.npz"
    path.write_bytes((folder / "dose_planned.npz").read_bytes())


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (other_dose, "The delivered dose of beam 2 is not the one that its summary describes."),
        (lambda c: (Path(c.needs["moquisim"]["3"]) / "dose_planned.npz").unlink(), "The planned dose of beam 3 is missing."),
        (lambda c: c.needs["moquisim"].pop("3"), "Treatment beams are 2, 3, and doses are there of 2."),
        (lambda c: c.needs.pop("interpreter"), "needs.json does not name the interpreter's results."),
        (lambda c: c.needs["moquisim"].update({"3": c.needs["moquisim"]["2"]}), "The summary of beam 3 is of another beam"),
        (
            lambda c: c.change("moquisim_2/summary.json", lambda v: v["doses"]["planned"].update(spots_sha256="9" * 64)),
            "The planned dose of beam 2 was computed from other spots than these.",
        ),
        (
            lambda c: c.change("moquisim_2/summary.json", lambda v: v["doses"]["planned"].update(passed=False)),
            "The planned dose of beam 2 did not pass its own checks.",
        ),
        (lambda c: c.change("interpreter/beams.json", lambda v: v["plan"].update(sop_instance_uid="1.2")), "another plan"),
    ],
)  # fmt: skip
def test_files_that_do_not_fit_together_are_refused(tmp_path: Path, spoil: Any, says: str) -> None:
    case = make_case(tmp_path)
    spoil(case)
    done = case.run()
    assert done.code == 2
    assert says in done.error
    assert not (done.out / "qa.json").exists()


@pytest.mark.parametrize(
    ("parameters", "says"),
    [
        ({"action_percent": 96}, "action_percent must not be above tolerance_percent"),
        ({"gamma_norm": "local"}, "gamma_norm is unknown: did you mean gamma_normalisation?"),
        ({"gamma_dose_percent": 0}, "gamma_dose_percent"),
    ],
)
def test_parameters_that_make_no_sense(tmp_path: Path, parameters: dict[str, Any], says: str) -> None:
    done = make_case(tmp_path).run(parameters)
    assert done.code == 2
    assert says in done.error


def test_the_shipped_parameters_are_the_defaults() -> None:
    import report
    import yaml

    from mqi.resources import packaged_config

    text = (packaged_config() / "workflows" / "default_qa.yaml").read_text(encoding="utf-8")
    step = next(step for step in yaml.safe_load(text)["steps"] if step["name"] == "report")
    assert step["parameters"] == {key: kind.default for key, kind in report.PARAMETERS.items()}


def test_no_dose_above_the_threshold_is_not_comparable(tmp_path: Path) -> None:
    empty = field(20, 3.0)
    empty = DoseGrid(np.zeros_like(empty.dose_gy), empty.sigma_gy, empty.origin_mm, empty.spacing_mm)
    done = make_case(tmp_path, grid=empty).run()
    # A dose of nothing makes no RT Dose either; the step says so instead of judging it.
    assert done.code != 0 or done.json("qa.json")["verdict"] == "not comparable"
