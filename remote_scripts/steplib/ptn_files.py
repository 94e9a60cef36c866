"""One delivery of a PTN log: a folder with PlanInfo.txt, PlanRange.txt (or .csv) and one .ptn file per layer.

    PlanInfo.txt    lines KEY,value: which patient, study, beam, time, layers
    PlanRange.txt   a header line and a row per PTN file: LAYER_NO, LAYER_ENERGY, DOSE1_RANGE, SCAN_OUT_FL_NM …
    *.ptn           <room>_<TCSC patient>_<plan>_<field>_<layer>.ptn, see steplib/ptn_spots.py

Files belong together by their folder in the case, and everything else must agree with that: every PTN file is
named by exactly one row of PlanRange and bears PlanInfo's TCSC numbers, and the layers are exactly
START_LAYER_NUMBER to STOP_LAYER_NUMBER. A layer may have several files (it was started again). Whatever does
not fit is refused: a file in the wrong folder would put dose on the wrong beam.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Dict, List, Mapping, Sequence, Tuple

from .delivery_log import DeliveryLog, layer_range
from .report import BadInput

_INFO_KEYS = (
    "DICOM_PATIENT_ID",
    "DICOM_STUDY_INS_UID",
    "DICOM_BEAM_NUMBER",
    "TCSC_IRRAD_DATETIME",
    "TCSC_PATIENT_ID",
    "TCSC_PLAN_NUMBER",
    "TCSC_FIELD_NUMBER",
    "START_LAYER_NUMBER",
    "STOP_LAYER_NUMBER",
)
_RANGE_COLUMNS = ("LAYER_NO", "LAYER_ENERGY", "DOSE1_RANGE", "SCAN_OUT_FL_NM")
_PTN_NAME = re.compile(r"([0-9]+)_(.+)_([0-9]+)_([0-9]+)_([0-9]+)\.ptn", re.IGNORECASE)
# A beam has no more layers; a damaged number could ask for a list of millions.
_MOST_LAYERS = 10_000


@dataclass(frozen=True)
class PlanInfo:
    """What PlanInfo.txt says. `started`: YYYYMMDDHHMMSSff. Layers count from 1, both ends included."""

    patient_id: str
    study_uid: str
    beam: int
    started: str
    tcsc: Tuple[str, int, int]
    first_layer: int
    last_layer: int


@dataclass(frozen=True)
class LayerFile:
    """A PTN file: its name in the folder, the plan's layer from 1, nominal energy in MeV, factor of dose1."""

    name: str
    layer: int
    energy_mev: float
    range_factor: float


def read_plan_info(content: bytes, where: str) -> PlanInfo:
    """PlanInfo.txt. BadInput (beginning with `where`) unless every key is there once and has a possible value."""
    values: Dict[str, str] = {}
    # Latin-1 reads any byte; what counts is checked below.
    for line in content.decode("latin-1").splitlines():
        if not line.strip(" \0"):
            continue
        key, comma, value = line.partition(",")
        key = key.strip()
        if not comma or key in values:
            raise BadInput(
                f"{where} has a PlanInfo.txt that is damaged: not one line KEY,value for each key."
            )
        values[key] = value.strip(" \0")
    missing = [key for key in _INFO_KEYS if not values.get(key)]
    if missing:
        raise BadInput(f"{where} has a PlanInfo.txt without {missing[0]}.")
    if not re.fullmatch(r"[0-9]{14,16}", values["TCSC_IRRAD_DATETIME"]):
        raise BadInput(f"{where} has no date and time as TCSC_IRRAD_DATETIME in PlanInfo.txt.")
    numbers = {}
    for key in (
        "DICOM_BEAM_NUMBER",
        "TCSC_PLAN_NUMBER",
        "TCSC_FIELD_NUMBER",
        "START_LAYER_NUMBER",
        "STOP_LAYER_NUMBER",
    ):
        if not re.fullmatch(r"[0-9]{1,9}", values[key]):
            raise BadInput(f"{where} has no whole number as {key} in PlanInfo.txt.")
        numbers[key] = int(values[key])
    first, last = numbers["START_LAYER_NUMBER"], numbers["STOP_LAYER_NUMBER"]
    if not 1 <= first <= last <= _MOST_LAYERS:
        raise BadInput(f"{where} has no possible START_LAYER_NUMBER and STOP_LAYER_NUMBER in PlanInfo.txt.")
    return PlanInfo(
        patient_id=values["DICOM_PATIENT_ID"],
        study_uid=values["DICOM_STUDY_INS_UID"],
        beam=numbers["DICOM_BEAM_NUMBER"],
        started=values["TCSC_IRRAD_DATETIME"].ljust(16, "0"),
        tcsc=(values["TCSC_PATIENT_ID"], numbers["TCSC_PLAN_NUMBER"], numbers["TCSC_FIELD_NUMBER"]),
        first_layer=first,
        last_layer=last,
    )


def read_plan_range(content: bytes, log: DeliveryLog, where: str) -> Tuple[LayerFile, ...]:
    """The rows of PlanRange. BadInput: no such table, an unknown range code, a file that is named twice."""
    lines = [line.strip(" \0") for line in content.decode("latin-1").splitlines()]
    table = [[value.strip() for value in line.split(",")] for line in lines if line]
    damaged = f"{where} has a PlanRange that is damaged"
    if not table or any(table[0].count(column) != 1 for column in _RANGE_COLUMNS):
        raise BadInput(f"{damaged}: its header does not name {', '.join(_RANGE_COLUMNS)} once each.")
    header = table[0]
    if len(table) < 2 or any(len(row) != len(header) for row in table):
        raise BadInput(f"{damaged}: not every row has {len(header)} values.")
    for column in ("PATIENT_ID", "FLD_NO"):
        if column in header and len({row[header.index(column)] for row in table[1:]}) > 1:
            raise BadInput(f"{damaged}: its rows differ in {column}.")
    files = [_layer_file(dict(zip(header, row)), log, place, where) for place, row in enumerate(table[1:], 1)]
    if len({each.name for each in files}) != len(files):
        raise BadInput(f"{damaged}: two of its rows name the same file.")
    return tuple(files)


def _layer_file(row: Mapping[str, str], log: DeliveryLog, place: int, where: str) -> LayerFile:
    where = f"{where}, row {place} of PlanRange,"
    if not re.fullmatch(r"[0-9]{1,5}", row["LAYER_NO"]):
        raise BadInput(f"{where} has no whole number as LAYER_NO.")
    if not re.fullmatch(r"[0-9]{1,4}(\.[0-9]*)?", row["LAYER_ENERGY"]):
        raise BadInput(f"{where} has no number as LAYER_ENERGY.")
    if not re.fullmatch(r"[0-9]{1,9}", row["DOSE1_RANGE"]):
        raise BadInput(f"{where} has no whole number as DOSE1_RANGE.")
    code = int(row["DOSE1_RANGE"])
    if code not in log.range_factors:
        known = ", ".join(map(str, sorted(log.range_factors)))
        raise BadInput(
            f"{where} has the range code {code}, and the room's machine file knows {known} only: the dose of that "
            "layer cannot be known."
        )
    name = re.split(r"[/\\]", row["SCAN_OUT_FL_NM"])[-1].lower()
    if not name.endswith(".ptn"):
        name += ".ptn"
    return LayerFile(name, int(row["LAYER_NO"]), float(row["LAYER_ENERGY"]), log.range_factors[code])


def match_files(
    info: PlanInfo, rows: Sequence[LayerFile], names: Sequence[str], log: DeliveryLog, where: str
) -> Tuple[LayerFile, ...]:
    """The layer files in the order of delivery: by layer, then by name. BadInput unless `names` (the PTN files in
    the folder), PlanRange and PlanInfo agree completely."""
    here = {name.lower() for name in names}
    if len(here) != len(names):
        raise BadInput(f"{where} has two PTN files of the same name.")
    absent = [each for each in rows if each.name not in here]
    if absent:
        raise BadInput(
            f"{where} is incomplete: {len(absent)} of the {len(rows)} PTN files that PlanRange names are not here "
            f"({layer_range(tuple(each.layer for each in absent))})."
        )
    if len(here) > len(rows):
        raise BadInput(f"{where} has {len(here)} PTN files, and PlanRange names {len(rows)} of them.")
    for each in rows:
        parts = _PTN_NAME.fullmatch(each.name)
        if parts is None:
            raise BadInput(
                f"{where} has a PTN file whose name is not <room>_<patient>_<plan>_<field>_<layer>."
            )
        if (parts[2], int(parts[3]), int(parts[4])) != (info.tcsc[0].lower(), *info.tcsc[1:]):
            raise BadInput(f"{where} has a PTN file of another delivery: its name and PlanInfo.txt disagree.")
        if log.room_number is not None and int(parts[1]) != log.room_number:
            raise BadInput(f"{where} has a PTN file of another room than the machine file is for.")
    layers = sorted({each.layer for each in rows})
    expected = list(range(info.first_layer, info.last_layer + 1))
    if layers != expected:
        raise BadInput(
            f"{where} holds {layer_range(tuple(layers))}, and PlanInfo.txt says START_LAYER_NUMBER "
            f"{info.first_layer} and STOP_LAYER_NUMBER {info.last_layer}."
        )
    return tuple(sorted(rows, key=lambda each: (each.layer, each.name)))


def grouped_by_folder(paths: Mapping[str, str]) -> Dict[str, List[str]]:
    """Input numbers by the folder of their path in the case. `paths`: path by number, with / between folders."""
    folders: Dict[str, List[str]] = {}
    for number in sorted(paths):
        folders.setdefault(paths[number].rpartition("/")[0], []).append(number)
    return folders
