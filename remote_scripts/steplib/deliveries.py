"""The delivery records among a case's inputs: PTN folders, RT Ion Beams Treatment Records, CSVs.

Everything is checked before anything is written. The order of the inputs means nothing.
"""

from __future__ import annotations

from pathlib import Path
from typing import Dict, List, Mapping, Optional, Sequence, Tuple

import numpy as np

from .delivered import DeliveredLayer, Delivery, demand_beam, demand_energy
from .delivered_csv import is_delivery_csv, read_delivery_csv
from .delivery_log import DeliveryLog
from .find_plan import Input, read_dicom, read_input
from .plan import Beam, Plan
from .ptn_files import LayerFile, PlanInfo, grouped_by_folder, match_files, read_plan_info, read_plan_range
from .ptn_spots import Samples, group, read_samples
from .report import BadInput, Progress
from .treatment_record import RT_ION_RECORD, read_record

RT_PHOTON_RECORD = "1.2.840.10008.5.1.4.1.1.481.4"
_INFO, _RANGES = "planinfo.txt", ("planrange.txt", "planrange.csv")
_CALLED = {_INFO: "PlanInfo.txt", _RANGES[0]: "PlanRange.txt", _RANGES[1]: "PlanRange.csv"}


def read_deliveries(
    inputs: Sequence[Input],
    folder: Path,
    classes: Mapping[str, Optional[str]],
    plan: Plan,
    log: Optional[DeliveryLog],
    progress: Progress,
) -> List[Delivery]:
    """Every delivery among the inputs. `classes`: SOP class by input number. `log`: how to read PTN, or None.

    BadInput when a record is damaged, incomplete, another patient's, or contradicts the plan.
    """
    by_number = {each.number: each for each in inputs}
    deliveries: List[Delivery] = []
    for each in inputs:
        if classes[each.number] == RT_PHOTON_RECORD:
            raise BadInput(f"Input {each.number} is a treatment record of photon beams, which is not read.")
        if classes[each.number] == RT_ION_RECORD:
            content = read_input(folder, each)
            record = read_dicom(content, f"The treatment record (input {each.number})", "RTRECORD")
            deliveries += read_record(record, plan, each.number)
    others = {each.number: each.path for each in inputs if classes[each.number] is None}
    for number, path in sorted(others.items()):
        if _is_log(_name(path)):
            continue
        where = f"Input {number}"
        with (folder / number).open("rb") as stream:
            head = stream.read(512)
        if is_delivery_csv(head, where):
            deliveries += read_delivery_csv(
                read_input(folder, by_number[number]), by_number[number].sha256, plan, where
            )
    logs = {number: path for number, path in others.items() if _is_log(_name(path))}
    folders = grouped_by_folder(logs)
    for done, numbers in enumerate(folders[each] for each in sorted(folders)):
        progress(0.1 + 0.6 * done / len(folders), f"reading delivery {done + 1} of {len(folders)}")
        deliveries.append(_read_folder([by_number[number] for number in numbers], folder, plan, log))
    return deliveries


def _name(path: str) -> str:
    return path.rpartition("/")[2].lower()


def _is_log(name: str) -> bool:
    return name.endswith(".ptn") or name == _INFO or name in _RANGES


def _read_folder(files: Sequence[Input], folder: Path, plan: Plan, log: Optional[DeliveryLog]) -> Delivery:
    """The delivery in one folder of the case."""
    where = f"The delivery of input {files[0].number}"
    if log is None:
        raise BadInput(
            f"{where} is a PTN log, and there is no delivery_log in a machine file of this room: put "
            "machines/<room>.yaml beside mqi.yaml (config/machines/G1.yaml is the commented example)."
        )
    info, ranges = _only(files, (_INFO,), folder, where), _only(files, _RANGES, folder, where)
    logs = {_name(each.path): each for each in files if _name(each.path).endswith(".ptn")}
    names = [_name(each.path) for each in files if _name(each.path).endswith(".ptn")]
    plan_info = read_plan_info(info, where)
    _demand_patient(plan_info, plan, where)
    beam = demand_beam(plan, plan_info.beam, where)
    rows = match_files(plan_info, read_plan_range(ranges, log, where), names, log, where)
    for row in rows:
        demand_energy(beam, row.layer, row.energy_mev, log.energy_tolerance_mev, where)
    return Delivery(
        beam=beam.number,
        source="ptn",
        where=where,
        identity=plan_info.started,
        started=plan_info.started,
        layers=tuple(_read_layer(logs[row.name], folder, row, log, beam) for row in rows),
        mu_per_count=log.mu_per_count,
    )


def _only(files: Sequence[Input], names: Sequence[str], folder: Path, where: str) -> bytes:
    """The content of the one file with one of these names; copies of the same content count as one."""
    found = {each.sha256: each for each in files if _name(each.path) in names}
    called = " or ".join(_CALLED[name] for name in names)
    if not found:
        raise BadInput(f"{where} has no {called}.")
    if len(found) > 1:
        raise BadInput(f"{where} has {len(found)} different {called}.")
    return read_input(folder, next(iter(found.values())))


def _demand_patient(info: PlanInfo, plan: Plan, where: str) -> None:
    if info.patient_id != plan.patient_id:
        raise BadInput(
            f"{where} is another patient's than the plan: DICOM_PATIENT_ID in PlanInfo.txt differs."
        )
    if info.study_uid != plan.study_uid:
        raise BadInput(
            f"{where} is of another study than the plan: DICOM_STUDY_INS_UID in PlanInfo.txt differs."
        )


def _read_layer(each: Input, folder: Path, row: LayerFile, log: DeliveryLog, beam: Beam) -> DeliveredLayer:
    """One PTN file: its spots stay in memory, its samples are read again when moqui's log is written."""
    where = f"Input {each.number} (beam {beam.number}, layer {row.layer})"

    def samples() -> Samples:
        return read_samples(read_input(folder, each), row.layer, row.range_factor, log, where)

    def again() -> Tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        found = samples()
        return found.time_ms, found.x_mm, found.y_mm, found.counts

    read = samples()
    spots = group(read, log.spot_radius_mm)
    return DeliveredLayer(
        layer=row.layer,
        x_mm=spots.x_mm,
        y_mm=spots.y_mm,
        amount=spots.counts,
        painting=spots.rescan,
        time_ms=spots.time_ms,
        duration_ms=read.rows * log.time_gain_ms,
        interlocks=read.interlocks,
        samples=again,
    )


def by_beam(deliveries: Sequence[Delivery]) -> Dict[int, List[Delivery]]:
    """Deliveries by beam number."""
    found: Dict[int, List[Delivery]] = {}
    for each in deliveries:
        found.setdefault(each.beam, []).append(each)
    return found
