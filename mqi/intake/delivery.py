"""One delivery of the clinic's layout: a folder named by its irradiation time, holding the machine's records.

    2026030517550001/                  YYYYMMDDHHMMSSff: hundredths of a second, the local time of the site
        02_<number>_001_002_001.ptn    what was delivered, one file per energy layer, the layer's number last
        02_<number>_001_002_001.mgn    what was planned (not needed here)
        PlanInfo.txt                   lines of KEY,value
        PlanRange.txt or .csv          the current ranges of each layer

A PTN file is rows of eight big-endian 16-bit numbers, so its size is a multiple of 16 bytes
(facts: `LOGFILE_SPEC.md` of jokh38/ptn_checker). Sentences name no folder and no patient; hints do.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple
from zoneinfo import ZoneInfo

from mqi.errors import IntakeProblem
from mqi.intake.files import open_plain, reason_of
from mqi.intake.unit import FileStat, shown

PTN_ROW_BYTES = 16
_MAX_INFO_BYTES = 64 * 2**10  # real ones have 345
_NAME = re.compile(r"[0-9]{16}", re.ASCII)
_PTN_NAME = re.compile(r"(.+)_([0-9]{1,6})\.ptn", re.ASCII | re.IGNORECASE)
_INFO, _RANGES = "planinfo.txt", ("planrange.txt", "planrange.csv")
_AGAIN = "Copy the delivery folder {} again."


class PlanInfo(NamedTuple):
    """What PlanInfo.txt says of a delivery. Layers are numbered from 1."""

    patient_id: str
    study_uid: str
    beam: int
    irradiated: str  # YYYYMMDDHHMMSSff
    start_layer: int
    stop_layer: int


class Record(NamedTuple):
    """What lies in one delivery folder. With `problem` the rest says little; `lacking` is not there (yet)."""

    name: str
    info: PlanInfo | None = None
    layers: frozenset[int] = frozenset()
    room_code: str = ""  # the first part of the PTN files' names
    lacking: tuple[str, ...] = ()
    problem: IntakeProblem | None = None


def is_delivery(name: str) -> bool:
    """Whether a folder's name is an irradiation time, that is, whether the folder holds a delivery."""
    if _NAME.fullmatch(name) is None:
        return False
    try:
        _moment(name, datetime.UTC)
    except ValueError:
        return False
    return True


def delivered_at(name: str, zone: ZoneInfo) -> float:
    """The Unix time that a delivery's name means at the site, whose local time it gives.

    Of the hour that comes twice in autumn the first is meant: the order of two deliveries may then be
    wrong by an hour, and never their being near each other. Raises ValueError for another name.
    """
    return _moment(name, zone).timestamp()


def _moment(name: str, zone: datetime.tzinfo) -> datetime.datetime:
    moment = datetime.datetime.strptime(name[:14], "%Y%m%d%H%M%S").replace(tzinfo=zone)
    if moment.year < 1990:  # no time but something else that has 16 digits
        raise ValueError("not the name of a delivery")
    return moment.replace(microsecond=int(name[14:16]) * 10_000)


def parse_plan_info(data: bytes) -> PlanInfo:
    """The facts in PlanInfo.txt. Raises IntakeProblem: not text, a key missing, twice or without a value."""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        # Comments and paths of the machine may be in its own code page; what is read here is ASCII.
        text = data.decode("latin-1")
    values: dict[str, str] = {}
    for line in text.splitlines():
        key, comma, value = line.partition(",")
        key = key.strip()
        if not comma or not key:
            continue
        if values.get(key, value.strip()) != value.strip():
            raise IntakeProblem(f"PlanInfo.txt of a delivery gives {_key(key)} twice, and not the same.")
        values[key] = value.strip()

    def value_of(key: str) -> str:
        value = values.get(key, "")
        if not value or not value.isprintable():
            raise IntakeProblem(f"PlanInfo.txt of a delivery does not give {key}.")
        return value

    def number(key: str) -> int:
        value = value_of(key)
        if not re.fullmatch(r"[0-9]{1,9}", value, re.ASCII):
            raise IntakeProblem(f"PlanInfo.txt of a delivery does not give a number as {key}.")
        return int(value)

    return PlanInfo(
        patient_id=value_of("DICOM_PATIENT_ID"),
        study_uid=value_of("DICOM_STUDY_INS_UID"),
        beam=number("DICOM_BEAM_NUMBER"),
        irradiated=value_of("TCSC_IRRAD_DATETIME"),
        start_layer=number("START_LAYER_NUMBER"),
        stop_layer=number("STOP_LAYER_NUMBER"),
    )


def _key(key: str) -> str:
    """A key for a sentence: one of the machine's words, or nothing that somebody else wrote there."""
    return key if re.fullmatch(r"[A-Z0-9_]{1,40}", key, re.ASCII) else "a key"


def read_record(study: Path, name: str, files: Sequence[FileStat]) -> Record:
    """What the delivery folder `name` of a study holds; `files` are its files, relative to the study."""
    try:
        return _read_record(study, name, files)
    except IntakeProblem as problem:
        hint = " ".join(part for part in (problem.hint, _AGAIN.format(shown(name))) if part)
        return Record(name, problem=IntakeProblem(str(problem), hint))


def _read_record(study: Path, name: str, files: Sequence[FileStat]) -> Record:
    layers: dict[int, str] = {}
    prefixes: set[str] = set()
    info: PlanInfo | None = None
    lacking = {"PlanInfo.txt", "PlanRange.txt", "a PTN file"}
    for file in files:
        inner = file.path[len(name) + 1 :]
        lower = inner.lower()
        if lower.endswith(".ptn"):
            layer, prefix = _layer(file, inner)
            if layer in layers:
                raise IntakeProblem(f"A delivery has two PTN files for layer {layer}.")
            layers[layer] = inner
            prefixes.add(prefix)
            lacking.discard("a PTN file")
        elif lower == _INFO:
            info = parse_plan_info(_read(study / file.path))
            lacking.discard("PlanInfo.txt")
        elif lower in _RANGES and file.size > 0:
            lacking.discard("PlanRange.txt")
    if len(prefixes) > 1:
        raise IntakeProblem("The PTN files of a delivery have names of different deliveries.")
    return Record(
        name=name,
        info=info,
        layers=frozenset(layers),
        room_code=next(iter(prefixes), "").partition("_")[0],
        lacking=tuple(sorted(lacking)),
    )


def _layer(file: FileStat, inner: str) -> tuple[int, str]:
    """The layer's number of a PTN file, and the part of its name that all files of a delivery share."""
    found = _PTN_NAME.fullmatch(inner)
    if found is None or "/" in inner or int(found[2]) < 1:
        raise IntakeProblem("A PTN file of a delivery has a name without the number of its layer.")
    if file.size == 0 or file.size % PTN_ROW_BYTES:
        raise IntakeProblem(
            f"The PTN file of layer {int(found[2])} of a delivery is cut off: its size is no multiple of "
            f"{PTN_ROW_BYTES} bytes."
            if file.size
            else f"The PTN file of layer {int(found[2])} of a delivery is empty."
        )
    return int(found[2]), found[1].casefold()


def _read(path: Path) -> bytes:
    try:
        with open_plain(path) as stream:
            data = stream.read(_MAX_INFO_BYTES + 1)
    except OSError as error:
        raise IntakeProblem(
            f"PlanInfo.txt of a delivery cannot be read: {reason_of(error)}.",
            "Let the account that runs mqi read it.",
        ) from error
    if len(data) > _MAX_INFO_BYTES:
        raise IntakeProblem("PlanInfo.txt of a delivery is larger than any such file.")
    return data
