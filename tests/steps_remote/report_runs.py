"""Cases for report.py: what interpreter.py and moquisim.py leave behind, written from formulas."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from doses import field as make_field
from doses import shifted
from step_runs import Run, dicom_bytes, fresh_plan, prepare, run_here, run_step
from steplib.dose_grid import DoseGrid, write_grid

PLANNED, DELIVERED = "1" * 64, "2" * 64


@dataclass
class ReportCase:
    """A case in a folder: beams 2 and 3 of the small sample plan. `work`: inputs.json, in/, needs.json."""

    work: Path
    plan: Any
    needs: dict[str, dict[str, str]] = field(default_factory=dict)

    def run(self, parameters: Mapping[str, Any] | None = None, *, process: bool = False) -> Run:
        """Runs report.py, in this process or in one of its own."""
        import report

        (self.work / "needs.json").write_text(json.dumps(self.needs), encoding="utf-8")
        (self.work / "parameters.json").write_text(json.dumps(parameters or {}), encoding="utf-8")
        places = {
            "--needs": "needs.json", "--inputs": "inputs.json", "--input-dir": "in", "--out": "out",
            "--parameters": "parameters.json",
        }  # fmt: skip
        words = [word for option, name in places.items() for word in (option, str(self.work / name))]
        return run_step("report.py", self.work, words) if process else run_here(report.main, self.work, words)

    def judge(self, parameters: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """The content of qa.json, by the functions that report.py calls, without a page."""
        import report
        from steplib import qa
        from steplib.case_dose import read_case
        from steplib.find_plan import find_plan, read_inputs

        (self.work / "needs.json").write_text(json.dumps(self.needs), encoding="utf-8")
        values = {key: kind.default for key, kind in report.PARAMETERS.items()} | dict(parameters or {})
        inputs = read_inputs(self.work / "inputs.json")
        found = find_plan(inputs, self.work / "in", lambda share, text: None)
        case = read_case(self.work / "needs.json")
        result = qa.judge(case, found, inputs, self.work / "in", values, lambda share, text: None)
        (self.work / "out").mkdir(exist_ok=True)
        sums = qa.write_sums(self.work / "out", case, found.dataset)
        told: dict[str, Any] = json.loads(json.dumps(qa.to_json(case, result, sums, values), allow_nan=False))
        return told

    def change(self, path: str, change: Any) -> None:
        """Lets `change` alter a JSON file below the work folder."""
        file = self.work / path
        value = json.loads(file.read_text(encoding="utf-8"))
        change(value)
        file.write_text(json.dumps(value), encoding="utf-8")


def make_case(
    work: Path,
    *,
    files: Sequence[bytes] = (),
    shift_mm: tuple[float, float, float] = (0.1, 0.0, 0.0),
    scale: float = 1.0,
    delivered: bool = True,
    spots: str = "pass",
    uncertainty: float = 1.2,
    kind: str = "water",
    grid: DoseGrid | None = None,
    angles: tuple[float, float] = (0.0, 0.0),
) -> ReportCase:
    """A case whose delivered dose is the planned one moved and scaled."""
    plan = fresh_plan()
    case = ReportCase(prepare(work, [dicom_bytes(plan), *files]), plan)
    interpreter = case.work / "interpreter"
    interpreter.mkdir()
    numbers = (2, 3)
    uid = str(plan.SOPInstanceUID)
    entries = [_entry(number, delivered) for number in numbers]
    index = {
        "format": 2, "plan": {"sop_instance_uid": uid, "sha256": "3" * 64, "fractions": 1},
        "machine": "G1", "beams": entries,
    }  # fmt: skip
    (interpreter / "beams.json").write_text(json.dumps(index), encoding="utf-8")
    checked = {"format": 1, "tolerances": {"position_tolerance_mm": 1.0}, "beams": [_spots(n, spots) for n in numbers]}
    (interpreter / "spot_check.json").write_text(json.dumps(checked), encoding="utf-8")
    case.needs = {"interpreter": {"": str(interpreter)}, "moquisim": {}}
    for number, angle in zip(numbers, angles, strict=True):
        folder = case.work / f"moquisim_{number}"
        folder.mkdir()
        planned = grid or make_field(20, 3.0)
        planned = DoseGrid(planned.dose_gy, 0.01 * planned.dose_gy, planned.origin_mm, planned.spacing_mm)
        doses = {"planned": planned}
        if delivered:
            doses["delivered"] = shifted(planned, shift_mm, scale=scale)
        _simulated(folder, number, uid, doses, uncertainty, kind, angle)
        case.needs["moquisim"][str(number)] = str(folder)
    return case


def _entry(number: int, delivered: bool) -> dict[str, Any]:
    told = {"file": f"delivered_{number}.csv", "sha256": DELIVERED, "source": "ptn", "spots": 27, "layers": 3,
            "total_mu": 99.5, "interlocks": 0}  # fmt: skip
    return {
        "number": number, "name": f"1G180:T{number} <b>&", "file": f"beam_{number}.csv", "sha256": PLANNED,
        "spots": 27, "layers": 3, "total_mu": 100.0, "delivered": told if delivered else None,
    }  # fmt: skip


def _spots(number: int, word: str) -> dict[str, Any]:
    errors = {"n": 27, "mean": 0.2, "sd": 0.1, "p95": 0.4, "max": 0.5}
    reason = "All spots are within the tolerances." if word == "pass" else f"Beam {number} is off by 3.10 mm."
    return {
        "number": number, "verdict": word, "reason": reason, "planned_spots": 27, "delivered_spots": 27, "missing": 0,
        "doubled": 0, "extra": 0, "position_mm": errors, "mu_percent": {"mean": 0.1, "sd": 0.3, "max_abs": 0.9,
        "total": -0.5}, "layers": [], "figures": ["../beams.json", "spot_map_9.png"],
    }  # fmt: skip


def _simulated(
    folder: Path, number: int, uid: str, doses: Mapping[str, DoseGrid], uncertainty: float, kind: str, angle: float
) -> None:
    told = {}
    for which, dose in doses.items():
        path = folder / f"dose_{which}.npz"
        write_grid(path, dose)
        told[which] = {
            "spots_sha256": PLANNED if which == "planned" else DELIVERED, "protons": 1e9, "primaries": 400_000,
            "generated_outside": 40, "uncertainty_percent": uncertainty, "seed": 7, "passed": True, "maximum_Gy": 2.0,
            "npz_sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            "checks": [{"name": "finite", "passed": True, "value": None, "limit": None, "unit": "", "sentence": "Fine."}],
        }  # fmt: skip
    summary = {
        "format": 2, "engine": {"name": "MCsquare", "version": "1.1", "binary_sha256": "4" * 64}, "beam": number,
        "plan_sop_instance_uid": uid, "geometry": {"kind": kind, "isocentre_depth_mm": 100, "angles": "as planned",
        "gantry_deg": angle, "couch_deg": 0.0}, "doses": told, "parameters": {"rbe": 1.0, "primaries": 400_000},
        "machine": {"file_sha256": "5" * 64},
    }  # fmt: skip
    (folder / "summary.json").write_text(json.dumps(summary), encoding="utf-8")


def rtdose(plan: Any, grid: DoseGrid, **changes: Any) -> bytes:
    """A planning system's RT Dose of the whole plan; `changes`: attributes, None removes one."""
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian

    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.SOPClassUID, data.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.481.2", "1.2.3.4.5"
    data.file_meta.MediaStorageSOPClassUID, data.file_meta.MediaStorageSOPInstanceUID = data.SOPClassUID, "1.2.3.4.5"
    data.Modality, data.DoseUnits, data.DoseType, data.DoseSummationType = "RTDOSE", "GY", "PHYSICAL", "PLAN"
    data.FrameOfReferenceUID = plan.FrameOfReferenceUID
    reference = Dataset()
    reference.ReferencedSOPClassUID, reference.ReferencedSOPInstanceUID = plan.SOPClassUID, plan.SOPInstanceUID
    data.ReferencedRTPlanSequence = [reference]
    dose = np.asarray(grid.dose_gy, dtype=np.float64)
    scaling = float(f"{dose.max() / 60000:.9e}")
    stored = np.round(dose / scaling).astype("<u2")
    data.NumberOfFrames, data.Rows, data.Columns = stored.shape
    data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 16, 16, 15, 0
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.ImagePositionPatient = [float(value) for value in grid.origin_mm]
    data.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    data.PixelSpacing = [grid.spacing_mm[1], grid.spacing_mm[0]]
    data.GridFrameOffsetVector = [float(place * grid.spacing_mm[2]) for place in range(stored.shape[0])]
    data.DoseGridScaling = f"{scaling:.9e}"
    data.PixelData = stored.tobytes()
    for name, value in changes.items():
        if value is None:
            delattr(data, name)
        else:
            setattr(data, name, value)
    return dicom_bytes(data)
