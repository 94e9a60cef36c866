"""A study folder of the clinic's layout, sorted out: the plan's part, and the deliveries. Pure."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from mqi.intake.delivery import is_delivery
from mqi.intake.judge import Judgement, count
from mqi.intake.unit import FileStat, Unit, name_pattern, shown, snapshot_digest
from mqi.settings import WatchFolder

_RECORDS = name_pattern(("*.ptn", "PlanInfo.txt"))


class Study(NamedTuple):
    """`top`: the files outside the deliveries. `deliveries`: name -> its files; paths relative to the study.

    `stamps`: delivery -> mtime_ns of its folder. The files of those in `unit.unopened` are not listed.
    """

    unit: Unit
    top: tuple[FileStat, ...]
    deliveries: Mapping[str, tuple[FileStat, ...]]
    stamps: Mapping[str, int]

    @property
    def top_snapshot(self) -> str:
        """Digest of the listing of `top`."""
        return snapshot_digest(self.top)

    def opened(self, name: str) -> bool:
        """Whether the files of this delivery were listed."""
        return name in self.deliveries and name not in self.unit.unopened

    def files_of(self, names: Iterable[str]) -> tuple[FileStat, ...]:
        """The files of these deliveries."""
        return tuple(file for name in names for file in self.deliveries.get(name, ()))

    def stamps_of(self, names: Iterable[str], known: Mapping[str, Stamp]) -> tuple[Stamp, ...]:
        """What is to be recorded of these deliveries: where not opened, what was `known` of them."""
        return tuple(
            Stamp(name, self.stamps[name], snapshot_digest(self.deliveries[name]))
            if self.opened(name)
            else known[name]
            for name in names
            if self.opened(name) or name in known
        )


class Stamp(NamedTuple):
    """What is recorded of one delivery: its folder's time and the digest of its listing."""

    name: str
    mtime_ns: int
    listing: str


def sort_out(unit: Unit) -> Study:
    """The study that a unit is."""
    stamps = {inner: mtime_ns for inner, mtime_ns in unit.folders if "/" not in inner and is_delivery(inner)}
    deliveries: dict[str, list[FileStat]] = {name: [] for name in stamps}
    top: list[FileStat] = []
    for file in unit.files:
        folder, slash, _ = file.path.partition("/")
        deliveries[folder].append(file) if slash and folder in deliveries else top.append(file)
    return Study(unit, tuple(top), {name: tuple(files) for name, files in deliveries.items()}, stamps)


def fraction_snapshot(stamps: Iterable[Stamp]) -> str:
    """Digest of the listing of a fraction's deliveries."""
    rows = sorted((stamp.name, stamp.listing) for stamp in stamps)
    return hashlib.sha256(json.dumps(rows).encode("ascii")).hexdigest()


def read_stamps(text: str) -> dict[str, Stamp]:
    """The stamps in a fraction's column `folders`."""
    return {str(row[0]): Stamp(str(row[0]), int(row[1]), str(row[2])) for row in json.loads(text)}


def rows_of(stamps: Iterable[Stamp]) -> list[list[object]]:
    """The stamps for that column."""
    return [[stamp.name, stamp.mtime_ns, stamp.listing] for stamp in stamps]


def study_says(study: Study, watch: WatchFolder) -> Judgement | None:
    """What keeps every fraction of a study waiting, whatever its deliveries are; None when nothing does."""
    unit = study.unit
    if unit.problem:
        return Judgement(
            False,
            unit.problem,
            needs_operator=True,
            hint="The next scan looks again; nothing else is needed.",
        )
    if unit.temporary:
        return Judgement(
            False,
            f"still being written: {count(len(unit.temporary), 'temporary name')}",
            hint="If no copy is under way any more, delete what it left behind (names such as *.part or *.tmp).",
        )
    if watch.marker is not None and not unit.marker_found:
        return Judgement(
            False,
            f"waits for the marker {watch.marker}",
            hint="The sending system puts it into the patient's or the study's folder (watch: marker).",
        )
    strays = [file.path for file in study.top if _RECORDS.match(file.path.rpartition("/")[2])]
    if strays:
        return Judgement(
            False,
            f"{count(len(strays), 'delivery record')} outside a delivery folder",
            needs_operator=True,
            hint=f"Delivery folders are named YYYYMMDDHHMMSSff. Put {shown(strays[0])} where it belongs.",
        )
    for pattern in watch.require:
        if not any(name_pattern((pattern,)).match(file.path.rpartition("/")[2]) for file in study.top):
            return Judgement(
                False,
                f"waits for a file {pattern}",
                hint="At least one file must match each required pattern (watch: require).",
            )
    if not study.deliveries:
        return Judgement(
            False,
            "waits for a delivery",
            hint="Deliveries lie in folders named YYYYMMDDHHMMSSff, directly in the study folder.",
        )
    return None
