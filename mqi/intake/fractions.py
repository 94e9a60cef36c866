"""Which fraction a delivery belongs to, and whether a fraction is complete. Pure.

Deliveries that lie at most the window apart belong together, and so do those that are linked by others in
between (single linkage). Seen from the set of deliveries, a later one can only join what it lies near to or
link two groups; it can never move a border. So the order in which they arrive, and how often mqi looks,
make no difference, and what was submitted once stays together whatever comes. A window that counts from
the first delivery has not got this property: an earlier one that arrives late would move every border.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Mapping, Sequence
from enum import StrEnum
from typing import NamedTuple

from mqi.intake.delivery import Record
from mqi.intake.plan import PlanBeam, PlanFacts
from mqi.intake.unit import shown


class Claim(NamedTuple):
    """Deliveries about which something was promised: a fraction that was submitted, or skipped."""

    fraction: str
    deliveries: frozenset[str]


class Group(NamedTuple):
    """One fraction: the deliveries that belong to it, in the order of their times.

    `fraction` is its label: that of the claim it continues, else its first delivery. `contested`: it lies
    near more than one claimed fraction, so nobody can say which one it continues.
    """

    fraction: str
    deliveries: tuple[str, ...]
    claim: Claim | None = None
    contested: tuple[str, ...] = ()

    @property
    def late(self) -> tuple[str, ...]:
        """Those that came after the fraction was claimed."""
        known = self.claim.deliveries if self.claim else frozenset()
        return tuple(name for name in self.deliveries if name not in known)


def group(times: Mapping[str, float], claims: Collection[Claim], window_s: float) -> tuple[Group, ...]:
    """Every delivery in exactly one group, and every claim in exactly one group with all its deliveries.

    `times`: name -> Unix seconds, of the deliveries that are there and of all that are claimed.
    """
    groups: list[Group] = []
    for cluster in _clusters(times, claims, window_s):
        within = sorted(
            (claim for claim in claims if claim.deliveries & cluster), key=lambda one: one.fraction
        )
        if len(within) <= 1:
            claim = within[0] if within else None
            names = _in_order(cluster, times)
            groups.append(Group(claim.fraction if claim else names[0], names, claim))
            continue
        groups += [Group(claim.fraction, _in_order(claim.deliveries, times), claim) for claim in within]
        free = cluster.difference(*(claim.deliveries for claim in within))
        if free:
            names = _in_order(free, times)
            groups.append(Group(names[0], names, contested=tuple(claim.fraction for claim in within)))
    return tuple(sorted(groups, key=lambda one: one.fraction))


def _in_order(names: Iterable[str], times: Mapping[str, float]) -> tuple[str, ...]:
    return tuple(sorted(names, key=lambda name: (times[name], name)))


def _clusters(times: Mapping[str, float], claims: Collection[Claim], window_s: float) -> list[frozenset[str]]:
    clusters: list[set[str]] = []
    before: float | None = None
    for name in _in_order(times, times):
        if before is None or times[name] - before > window_s:
            clusters.append(set())
        clusters[-1].add(name)
        before = times[name]
    # A window that was made shorter does not tear apart what was submitted together.
    for claim in claims:
        parts = [cluster for cluster in clusters if cluster & claim.deliveries]
        if len(parts) > 1:
            clusters = [cluster for cluster in clusters if not cluster & claim.deliveries]
            clusters.append(set().union(*parts))
    return [frozenset(cluster) for cluster in clusters]


class Standing(StrEnum):
    """What the deliveries of a fraction amount to."""

    COMPLETE = "complete"  # every layer of every treatment beam was delivered
    PARTIAL = "partial"  # what is there can be computed, and is not all
    UNFINISHED = "unfinished"  # files are missing that every complete copy has
    ANOMALOUS = "anomalous"  # contradicts the plan or itself


class Verdict(NamedTuple):
    """`reason`: for COMPLETE empty, for PARTIAL what is missing, else what is wrong. `beams`: those that were
    delivered, wholly or in part, by number. `whole` of `planned` treatment beams were delivered wholly."""

    standing: Standing
    reason: str = ""
    hint: str = ""
    beams: tuple[PlanBeam, ...] = ()
    whole: int = 0
    planned: int = 0


def judge_fraction(plan: PlanFacts, records: Sequence[Record], room_code: str | None = None) -> Verdict:
    """What the deliveries of one fraction (in the order of their times) amount to.

    `room_code`: what the names of this room's PTN files begin with; None: whatever it is, all agree.
    """
    beams = {beam.number: beam for beam in plan.beams}
    for record in records:
        wrong = _contradiction(plan, beams, record)
        if wrong:
            return wrong
    codes = {record.room_code for record in records if record.room_code}
    if len(codes) > 1 or (room_code is not None and codes - {room_code}):
        return _anomalous(
            "The PTN files are of another treatment room."
            if len(codes) == 1
            else "The PTN files of the fraction are of different treatment rooms.",
            "The names of PTN files begin with the room's number (watch: ptn_room).",
        )
    parts: dict[int, list[Record]] = {number: [] for number in sorted(beams)}
    unfinished: list[str] = []
    for record in records:
        if record.lacking or record.info is None:
            unfinished.append(f"{shown(record.name)} lacks {', '.join(record.lacking)}")
        else:
            parts[record.info.beam].append(record)
    missing: list[str] = []
    holes: list[str] = []
    whole = 0
    for number, of_beam in parts.items():
        covered: set[int] = set()
        for record in of_beam:
            if not _continues(record, covered, beams[number].layers):
                return _anomalous(
                    f"Beam {number} was delivered more than once in this fraction, and not as the continuation "
                    "of an interrupted beam.",
                    f"Its deliveries: {', '.join(shown(one.name) for one in of_beam)}. Deliveries that are not "
                    "of this fraction belong into another study folder.",
                )
            covered |= record.layers
        gaps = sorted(set(range(1, max(covered, default=0))) - covered)
        if gaps:
            holes.append(f"beam {number} lacks {_layers(gaps)}")
        elif not covered:
            missing.append(f"beam {number} was not delivered")
        elif max(covered) < beams[number].layers:
            missing.append(f"beam {number} ended at layer {max(covered)} of {beams[number].layers}")
        else:
            whole += 1
    delivered = tuple(beams[number] for number, of_beam in parts.items() if of_beam)
    counts = {"whole": whole, "planned": len(beams)}
    if unfinished or holes:
        what = [f"{len(unfinished)} deliveries lack files"] if len(unfinished) > 1 else []
        what = what or (["a delivery lacks files"] if unfinished else [])
        hint = f"{'; '.join(unfinished)}. " if unfinished else ""
        hint += "The sending system has to copy what is missing."
        return Verdict(Standing.UNFINISHED, "; ".join(what + holes), hint, delivered, **counts)
    if missing:
        return Verdict(Standing.PARTIAL, "; ".join(missing), "", delivered, **counts)
    return Verdict(Standing.COMPLETE, "", "", delivered, **counts)


def _contradiction(plan: PlanFacts, beams: Mapping[int, PlanBeam], record: Record) -> Verdict | None:
    """What of one delivery contradicts the plan or itself."""
    if record.problem is not None:
        return _anomalous(str(record.problem), record.problem.hint)
    info = record.info
    if info is None:
        return None
    where = f"See PlanInfo.txt in the delivery folder {shown(record.name)}."
    if info.irradiated != record.name:
        return _anomalous("PlanInfo.txt of a delivery gives another time than its folder's name.", where)
    for ours, theirs, what in (
        (plan.patient_id, info.patient_id, "patient ID"),
        (plan.study_uid, info.study_uid, "study UID"),
    ):
        if ours != theirs:
            return _anomalous(f"The {what} of a delivery is not that of the RT Ion Plan.", where)
    if info.beam not in beams:
        setup = any(beam.number == info.beam for beam in plan.setup_beams)
        what = "which is no treatment beam" if setup else "which the RT Ion Plan does not have"
        return _anomalous(f"A delivery is of beam {info.beam}, {what}.", where)
    planned = beams[info.beam].layers
    if not 1 <= info.start_layer <= info.stop_layer <= planned:
        return _anomalous(
            f"A delivery of beam {info.beam} claims layers {info.start_layer} to {info.stop_layer}; the RT Ion "
            f"Plan has {planned}.",
            where,
        )
    outside = sorted(n for n in record.layers if not info.start_layer <= n <= info.stop_layer)
    if outside:
        return _anomalous(
            f"A delivery of beam {info.beam} has PTN files of {_layers(outside)}, outside the layers "
            f"{info.start_layer} to {info.stop_layer} that PlanInfo.txt gives.",
            where,
        )
    return None


def _continues(record: Record, covered: Collection[int], planned: int) -> bool:
    """Whether a delivery may follow what was delivered of its beam before: nothing, or an interrupted part.

    After an interlock the machine goes on with the layer that was interrupted, or the one after it. Where
    layers in between are missing, their part may still be on its way.
    """
    if not covered or not record.layers:
        return True
    last, first = max(covered), min(record.layers)
    return first >= last and (last < planned or first > 1)


def _layers(numbers: Sequence[int]) -> str:
    """`layer 3`, `layers 3 to 7 and 12`."""
    runs: list[str] = []
    for _, run in itertools.groupby(enumerate(numbers), key=lambda pair: pair[1] - pair[0]):
        members = [number for _, number in run]
        runs.append(f"{members[0]} to {members[-1]}" if len(members) > 1 else str(members[0]))
    text = ", ".join(runs[:-1]) + " and " + runs[-1] if len(runs) > 1 else runs[0]
    return f"layer{'s' if len(numbers) > 1 else ''} {text}"


def _anomalous(reason: str, hint: str) -> Verdict:
    return Verdict(Standing.ANOMALOUS, reason, hint)
