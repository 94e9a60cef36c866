"""One look at a study folder of the clinic's layout: what it means for the rows of its fractions.

Reads the plan and the small text files of deliveries; only `look_at_studies` writes. What is submitted or
settled keeps its deliveries for ever: they are claimed, and `mqi.intake.fractions` groups the others around
them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from mqi.case import State
from mqi.errors import MqiError
from mqi.intake.decide import Decision, Look
from mqi.intake.delivery import delivered_at
from mqi.intake.fractions import Claim, Group, group
from mqi.intake.judge import Judgement, first_seen
from mqi.intake.study import Study, fraction_snapshot, read_stamps, rows_of, sort_out, study_says
from mqi.intake.unit import Unit
from mqi.manifest import Entry, Manifest, hash_files
from mqi.rows import Case, dumps
from mqi.settings import WatchFolder
from mqi.site import Site
from mqi.steps import StepReport
from mqi.steps.findings import Finding, identity_of, record
from mqi.steps.judge_fraction import OTHER_PLAN, Judging, PlanRead, judge_open, read_study_plan
from mqi.studies import StudyRow, fractions, is_old, put_study, study

_OF_ITS_OWN = "its fractions are cases of their own"
_GONE = "its delivery folders have vanished"


def look_at_studies(site: Site, watch: WatchFolder, units: list[Unit], report: StepReport) -> None:
    """Look at study folders, whose fractions are cases: read first, then write all of it at once."""
    seen = [look_at_study(site, watch, unit) for unit in units]
    if not any(findings or changed for findings, _row, changed in seen):
        return
    with site.store.together():
        for findings, row, changed in seen:
            for finding in findings:
                record(site.store, finding, report)
            if changed:
                put_study(site.store, row)


def look_at_study(site: Site, watch: WatchFolder, unit: Unit) -> tuple[list[Finding], StudyRow, bool]:
    """What is to be written about a study: findings, its own row, and whether that row changed."""
    look = _Look(site, watch, sort_out(unit), fractions(site.store, watch.room, unit.path))
    open_ = [one for one in look.groups if look.is_open(one)]
    findings = [finding for one in look.groups for finding in look.findings_of(one)]
    findings += look.forgotten()
    shown = look.shown_apart(bool(open_))
    findings += look.about_the_study(shown)
    row = look.study_row(
        at_rest=not open_ and shown is None and not any(f.decision.look is Look.REVISE for f in findings)
    )
    return findings, row, row != look.before


def claims_of(rows: Sequence[Case]) -> tuple[Claim, ...]:
    """What was promised about deliveries: those of every fraction that is submitted or settled."""
    claimed: dict[str, set[str]] = {}
    for case in rows:
        if case.fraction and case.promised and case.delivery_names:
            claimed.setdefault(case.fraction, set()).update(case.delivery_names)
    return tuple(Claim(fraction, frozenset(names)) for fraction, names in claimed.items())


def groups_of(site: Site, watch: WatchFolder, found: Study, claims: Sequence[Claim]) -> tuple[Group, ...]:
    """The fractions of a study: what lies there, grouped around what is claimed."""
    names = set(found.deliveries).union(*(claim.deliveries for claim in claims))
    times = {name: delivered_at(name, site.settings.timezone) for name in names}
    return group(times, claims, watch.fraction_window_s)


def known_plans(rows: Sequence[Case]) -> frozenset[str]:
    """SHA-256 of the plans that fractions of the study were submitted with."""
    return frozenset(
        case.plan_sha256
        for case in rows
        if case.plan_sha256 and case.run_key is not None and case.status is not State.SKIPPED
    )


@dataclass
class _Look:
    site: Site
    watch: WatchFolder
    study: Study
    rows: Sequence[Case]
    now: float = field(init=False)

    def __post_init__(self) -> None:
        self.now = self.site.now()
        self.before = study(self.site.store, self.watch.room, self.study.unit.path)
        since = first_seen(self.study.top_snapshot, self.before.top_snapshot, self.before.top_since, self.now)
        self.top_since = self.now if since is None else since
        self.top_changed = self.study.top_snapshot != self.before.top_snapshot
        # The newest revision of each fraction (rows come in the order of their revisions); one that was
        # superseded only where there is no other.
        self.newest = {case.fraction: case for case in self.rows if is_superseded(case)}
        self.newest |= {case.fraction: case for case in self.rows if not is_superseded(case)}
        self.groups = groups_of(self.site, self.watch, self.study, claims_of(self.rows))

    # --- what holds for all of it --------------------------------------------------------------------

    @property
    def top_is_quiet(self) -> bool:
        return self.now - self.top_since >= self.watch.quiet_s and not self.top_changed

    @cached_property
    def plan(self) -> PlanRead:
        return read_study_plan(self.site, self.watch, self.study)

    @cached_property
    def says(self) -> Judgement | None:
        """What keeps every open fraction waiting, whatever its deliveries are."""
        general = study_says(self.study, self.watch)
        known = known_plans(self.rows)
        if general is not None or not known or not self.top_is_quiet or self.before.plan_sha256 in known:
            return general
        if self.plan.problem is not None:
            return Judgement(False, str(self.plan.problem), needs_operator=True, hint=self.plan.problem.hint)
        if self.plan.changing or self.plan.sha256 in known:
            return None
        return Judgement(False, str(OTHER_PLAN), needs_operator=True, hint=OTHER_PLAN.hint)

    def shown_apart(self, anything_open: bool) -> Judgement | None:
        """What is to be said in a row of the study itself, because no fraction's row can say it."""
        says = self.says
        if not self.groups:
            return says
        if says is None or anything_open:
            return None
        return says if says.needs_operator or self.study.unit.temporary else None

    def study_row(self, at_rest: bool) -> StudyRow:
        """The row to keep. Only when nothing is open may later looks compare folder times alone."""
        plan = self.__dict__.get("plan")  # only if somebody has read it
        row = self.before._replace(
            top_snapshot=self.study.top_snapshot,
            top_since=self.top_since,
            plan_path=self.before.plan_path if plan is None else plan.path,
            plan_sha256="" if self.top_changed else self.before.plan_sha256 if plan is None else plan.sha256,
            folders="[]",
        )
        if not at_rest or not self.top_is_quiet:
            return row
        old = {name for case in self.rows if is_old(case, self.now) for name in case.delivery_names}
        stamps = [stamp for stamp in self.study.unit.folders if stamp[0] not in old]
        return row._replace(folders=dumps([list(stamp) for stamp in stamps]), looked_at=self.now)

    def about_the_study(self, shown: Judgement | None) -> list[Finding]:
        row = self.newest.get("")
        if shown is None:
            if row is None or row.status is not State.WAITING:
                return []
            return [_superseded(row, _OF_ITS_OWN)]
        words = [self.study.top_snapshot, sorted(self.study.deliveries), shown.reason]
        snapshot = hashlib.sha256(json.dumps(words).encode("ascii")).hexdigest()
        columns = {
            "snapshot": snapshot,
            "reason": shown.reason,
            "hint": shown.hint,
            "needs_operator": int(shown.needs_operator),
            "folder_note": "",
        }
        return self._told(row, "", columns)

    def _told(self, row: Case | None, fraction: str, columns: dict[str, Any]) -> list[Finding]:
        """Add, change or take up again a waiting row, as far as anything is new."""
        if row is None:
            identity = identity_of(self.watch, self.study.unit.path, self.study.unit.folder, fraction)
            return [Finding(None, Decision(Look.INSERT, {"snapshot_at": self.now, **columns}), identity)]
        if row.status is State.WAITING:
            # When the next look is due moves with the clock; writing it each time would be no idle scan.
            same = all(
                getattr(row, name) == value for name, value in columns.items() if name != "next_look_at"
            )
            return [] if same else [Finding(row, Decision(Look.UPDATE, columns))]
        if is_superseded(row):
            return [Finding(row, Decision(Look.LOOK_AGAIN, {"snapshot_at": self.now, **columns}))]
        if row.snapshot == columns["snapshot"]:
            return []  # an operator said: not this one
        return [Finding(row, Decision(Look.REVISE, {"snapshot_at": self.now, **columns}), identity)]

    # --- fractions ---------------------------------------------------------------------------------------

    def is_open(self, one: Group) -> bool:
        """Whether nothing was promised yet about this fraction, or about what came to it."""
        row = self.newest.get(one.fraction)
        return one.claim is None or row is None or not row.promised

    def findings_of(self, one: Group) -> list[Finding]:
        if not self.is_open(one):
            return self._of_promised(self.newest[one.fraction], one)
        row = self._row_for(one)
        if one.claim is not None and row is not None and not one.late:
            before = max(
                (case for case in self.rows if case.fraction == one.fraction and claims_of([case])),
                key=lambda case: case.revision,
            )
            stamps = self.study.stamps_of(one.deliveries, read_stamps(row.folders))
            if fraction_snapshot(stamps) == before.snapshot:
                return [_superseded(row, f"its folder is again that of revision {before.revision}")]
        stamps_known = {
            **self._stamps_of_revisions(one.fraction),
            **read_stamps(row.folders if row else "[]"),
        }
        judging = Judging(
            site=self.site,
            watch=self.watch,
            study=self.study,
            group=one,
            stamps=self.study.stamps_of(one.deliveries, stamps_known),
            says=self.says,
            top_since=self.top_since,
            top_changed=self.top_changed,
            known_plans=known_plans(self.rows),
            now=self.now,
        )
        decision = judge_open(judging, row, lambda: self.plan)
        if row is None or decision.look is Look.INSERT:
            columns = {**decision.columns, "deliveries": dumps(list(one.deliveries))}
            return self._told(row, one.fraction, columns)
        if decision.look is Look.NOTHING:
            return []
        return [Finding(row, self._labelled(row, one, decision))]

    def _labelled(self, row: Case, one: Group, decision: Decision) -> Decision:
        """The decision, with the new label of a fraction that got an earlier delivery."""
        if row.fraction == one.fraction:
            return decision
        return Decision(decision.look, {**decision.columns, "fraction": one.fraction})

    def _row_for(self, one: Group) -> Case | None:
        """The row of an open fraction: its label's, or one that had another label before an earlier
        delivery arrived."""
        row = self.newest.get(one.fraction)
        return row if row is not None else next(iter(self._rows_within(one)), None)

    def _rows_within(self, one: Group) -> list[Case]:
        """Open rows about deliveries of this group, the oldest first."""
        names = set(one.deliveries)
        found = [
            case
            for case in self.newest.values()
            if case.fraction and not case.promised and names & {case.fraction, *case.delivery_names}
        ]
        return sorted(found, key=lambda case: case.case_id)

    def forgotten(self) -> list[Finding]:
        """Open rows that no group stands for: merged into another fraction, or their deliveries are gone."""
        used = {row.case_id for one in self.groups if (row := self._row_for(one)) is not None}
        return [
            self._without_group(case)
            for case in self.newest.values()
            if case.fraction and not case.promised and case.case_id not in used
            if self._within_another(case) or case.folder_note != _GONE
        ]

    def _within_another(self, case: Case) -> Group | None:
        return next((one for one in self.groups if case in self._rows_within(one)), None)

    def _without_group(self, case: Case) -> Finding:
        within = self._within_another(case)
        if within is not None:
            return _superseded(case, f"its deliveries belong to the fraction {within.fraction}")
        columns: dict[str, Any] = {
            "reason": _GONE, "folder_note": _GONE, "snapshot": "", "judged_snapshot": "", "next_look_at": None,
            "needs_operator": 0, "hint": f"copy them here again, or: mqi skip {case.case_id}",
        }  # fmt: skip
        return Finding(case, Decision(Look.RELAPSE if case.status is State.NEW else Look.UPDATE, columns))

    def _stamps_of_revisions(self, fraction: str) -> dict[str, Any]:
        stamps: dict[str, Any] = {}
        for case in self.rows:
            if case.fraction == fraction:
                stamps |= read_stamps(case.folders)
        return stamps

    # --- what was submitted or settled ----------------------------------------------------------------------

    def _of_promised(self, row: Case, one: Group) -> list[Finding]:
        names = row.delivery_names
        halfway = row.status is State.SKIPPED and not row.judged_snapshot and not row.ready_at
        if one.late and not halfway:
            return self._revised(row, one, "a delivery came later; the fraction is judged anew")
        gone = [name for name in names if name not in self.study.deliveries]
        if gone:
            note = f"{len(gone)} of its {len(names)} delivery folders are gone"
            return [] if row.folder_note == note else [_update(row, folder_note=note)]
        opened = [name for name in one.deliveries if self.study.opened(name)]
        if not opened:
            return [_update(row, folder_note="")] if row.folder_note.endswith(("gone", "vanished")) else []
        stamps = self.study.stamps_of(one.deliveries, read_stamps(row.folders))
        snapshot = fraction_snapshot(stamps)
        columns: dict[str, Any] = {
            "folders": dumps(rows_of(stamps)), "looked_at": self.now, "folder_note": "", "snapshot": snapshot,
        }  # fmt: skip
        if halfway:  # the rest of the copy belongs to what was skipped
            return [_update(row, **columns, deliveries=dumps(list(one.deliveries)))]
        if snapshot == row.snapshot:
            return [_update(row, **columns)]
        same = self._same_bytes(row, opened)
        if same is None:
            return []  # it changes under our hands; the next scan looks again
        return [_update(row, **columns)] if same else self._revised(row, one, "")

    def _same_bytes(self, row: Case, opened: Sequence[str]) -> bool | None:
        """Whether these deliveries hold what was submitted; None when that cannot be told now."""
        text = self.site.store.manifest(row.case_id)
        if text is None:
            return False
        frozen = [entry for entry in Manifest.from_json(text) if _folder(entry) in opened]
        files = self.study.files_of(opened)
        if {(file.path, file.size) for file in files} != {(entry.path, entry.size) for entry in frozen}:
            return False
        store = self.site.store
        try:
            seen = hash_files(
                self.study.unit.folder, files, store.cached_hash, lambda *known: store.cache_hashes([known])
            )
        except (MqiError, OSError):
            return None
        return list(seen) == frozen

    def _revised(self, row: Case, one: Group, reason: str) -> list[Finding]:
        stamps = self.study.stamps_of(one.deliveries, self._stamps_of_revisions(one.fraction))
        columns: dict[str, Any] = {
            "snapshot": fraction_snapshot(stamps), "snapshot_at": self.now, "deliveries": dumps(list(one.deliveries)),
            "folders": dumps(rows_of(stamps)), "needs_operator": 0,
        }  # fmt: skip
        if reason:
            columns["reason"] = reason
        last = max(
            (case for case in self.rows if case.fraction == one.fraction), key=lambda case: case.revision
        )
        if is_superseded(last):
            columns.setdefault("reason", f"changed since revision {row.revision} was {row.status}")
            return [Finding(last, Decision(Look.LOOK_AGAIN, columns))]
        unit = self.study.unit
        identity = identity_of(self.watch, unit.path, unit.folder, one.fraction)
        return [Finding(row, Decision(Look.REVISE, columns), identity)]


def is_superseded(case: Case) -> bool:
    """Whether mqi took the row out of the way itself; an operator's skip keeps what it was about."""
    return case.status is State.SKIPPED and case.snapshot == "" and not case.delivery_names


def _folder(entry: Entry) -> str:
    return entry.path.partition("/")[0]


def _update(row: Case, **columns: Any) -> Finding:
    return Finding(row, Decision(Look.UPDATE, columns))


def _superseded(row: Case, reason: str) -> Finding:
    """Out of the way; see `is_superseded`."""
    columns = {"reason": reason, "snapshot": "", "judged_snapshot": "", "deliveries": "[]", "folders": "[]"}
    return Finding(row, Decision(Look.SUPERSEDE, columns))
