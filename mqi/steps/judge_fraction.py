"""Whether an open fraction may be computed, and if not, what it waits for. Reads its plan and text files."""

from __future__ import annotations

import datetime
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from mqi.case import State
from mqi.errors import IntakeProblem
from mqi.intake.decide import Decision, Look
from mqi.intake.delivery import read_record
from mqi.intake.fractions import Group, Standing, Verdict, judge_fraction
from mqi.intake.judge import Judgement, first_seen
from mqi.intake.plan import PlanFacts, read_plan
from mqi.intake.study import Stamp, Study, fraction_snapshot, rows_of
from mqi.intake.unit import name_pattern
from mqi.intake.writers import open_for_writing
from mqi.manifest import FilesChanged, hash_files
from mqi.rows import Case, dumps
from mqi.settings import WatchFolder
from mqi.site import Site

OTHER_PLAN = IntakeProblem(
    "The RT Ion Plan is not the one that earlier fractions were computed with.",
    "Put the plan of the earlier fractions back, or the new plan and its deliveries into a study folder of "
    "their own.",
)


@dataclass(frozen=True)
class PlanRead:
    """The one plan of a study: its facts, its file below the study and that file's SHA-256, or why not."""

    facts: PlanFacts | None = None
    path: str = ""
    sha256: str = ""
    problem: IntakeProblem | None = None
    changing: bool = False  # written to while it was read: says nothing


def read_study_plan(site: Site, watch: WatchFolder, study: Study) -> PlanRead:
    """Find and read the plan among the files of the study, those in its deliveries included."""
    folder = study.unit.folder
    inside = [file for file in study.files_of(study.deliveries) if file.path.lower().endswith(".dcm")]
    store = site.store
    try:
        facts = read_plan(folder, [*study.top, *inside])
        listed = [file for file in study.top if file.path == facts.path]
        if not listed:
            raise IntakeProblem(
                "The RT Ion Plan lies in a delivery folder.",
                "Put it into the study folder, beside the deliveries.",
            )
        (entry,) = hash_files(folder, listed, store.cached_hash, lambda *row: store.cache_hashes([row]))
    except IntakeProblem as problem:
        return PlanRead(problem=problem)
    except (FilesChanged, OSError):
        return PlanRead(changing=True)
    if watch.machines and not name_pattern(watch.machines).match(facts.machine):
        return PlanRead(
            problem=IntakeProblem(
                f"The RT Ion Plan is for another machine than those of room {watch.room}.",
                f"It names {facts.machine or 'no machine'} (watch: machines).",
            )
        )
    return PlanRead(facts, entry.path, entry.sha256)


@dataclass(frozen=True)
class Judging:
    """An open fraction, and everything that its judgement depends on. Times are Unix seconds."""

    site: Site
    watch: WatchFolder
    study: Study
    group: Group
    stamps: tuple[Stamp, ...]
    says: Judgement | None  # what keeps every open fraction of the study waiting
    top_since: float  # since when everything outside the deliveries looks as it does
    top_changed: bool
    known_plans: frozenset[str]
    now: float


def judge_open(judging: Judging, row: Case | None, plan: Callable[[], PlanRead]) -> Decision:
    """What this look means for the row of an open fraction (INSERT: for none, or one that was superseded)."""
    known = row if row is not None and not row.promised else None
    snapshot = fraction_snapshot(judging.stamps)
    since = None if known is None else first_seen(snapshot, known.snapshot, known.snapshot_at, judging.now)
    columns: dict[str, Any] = {
        "snapshot": snapshot,
        "folders": dumps(rows_of(judging.stamps)),
        "deliveries": dumps(list(judging.group.deliveries)),
        "folder_note": "",
        "partial": "",
    }
    if since is None:
        columns["snapshot_at"] = judging.now
    waits = _waits(judging, since)
    same = known is not None and all(
        getattr(known, name) == columns[name] for name in ("snapshot", "deliveries")
    )
    if known is not None and known.status is State.NEW:
        if waits is None and same and not judging.top_changed:
            return Decision(Look.NOTHING)
        waits = waits or {
            "reason": "its folder changed",
            "hint": "",
            "needs_operator": 0,
            "next_look_at": None,
        }
        if known.partial and judging.watch.partial == "hold":
            columns["held"] = 0  # the hold was ours, for a fraction that lacked beams
        return Decision(Look.RELAPSE, {**columns, **waits, "judged_snapshot": ""})
    if waits is None and known is not None and since is not None:
        due = known.next_look_at is not None and judging.now >= known.next_look_at
        if same and known.judged and not judging.top_changed and not due:
            return Decision(Look.NOTHING)
        return _by_contents(judging, known, columns, since, plan())
    columns |= {**(waits or _quiet(judging, 0.0)), "judged_snapshot": ""}
    if known is None:
        return Decision(Look.INSERT, columns)
    # When the next look is due moves with the clock; writing it each time would make an idle scan a
    # writing one.
    watched = {name: value for name, value in columns.items() if name != "next_look_at"}
    if all(getattr(known, name) == value for name, value in watched.items()):
        return Decision(Look.NOTHING)
    return Decision(Look.UPDATE, columns)


def _waits(judging: Judging, since: float | None) -> dict[str, Any] | None:
    """What the fraction waits for before its contents count; None when they may be read."""
    says, group = judging.says, judging.group
    if says is not None:
        return _words(says.reason, says.hint, says.needs_operator)
    if group.contested:
        return _words(
            "its deliveries lie near two fractions that were submitted already; mqi does not guess which one "
            "they continue",
            f"The fractions are {' and '.join(group.contested)} (watch: fraction_window).",
            True,
        )
    absent = [name for name in group.deliveries if name not in judging.study.deliveries]
    if absent:
        return _words(
            f"{len(absent)} of its {len(group.deliveries)} delivery folders are gone",
            "Copy them here again; without them the fraction would look as if it lacked beams.",
            True,
        )
    if since is None or judging.top_changed or not all(map(judging.study.opened, group.deliveries)):
        return _quiet(judging, judging.watch.quiet_s)
    remaining_s = judging.watch.quiet_s - (judging.now - max(since, judging.top_since))
    return _quiet(judging, remaining_s) if remaining_s > 0 else None


def _quiet(judging: Judging, remaining_s: float) -> dict[str, Any]:
    # Without the seconds: the row would change at every scan, and the screen shows next_look_at.
    reason = "being copied; must stay unchanged for the quiet time"
    return {**_words(reason, "", False), "next_look_at": judging.now + math.ceil(remaining_s)}


def _words(reason: str, hint: str, needs_operator: bool) -> dict[str, Any]:
    return {"reason": reason, "hint": hint, "needs_operator": int(needs_operator), "next_look_at": None}


def _by_contents(
    judging: Judging, known: Case, columns: dict[str, Any], since: float, plan: PlanRead
) -> Decision:
    """The plan and the records are read: complete, or what is missing, or what is wrong."""
    study, names = judging.study, judging.group.deliveries
    writer = open_for_writing(study.unit.folder, [*study.top, *study.files_of(names)])
    if writer is not None:
        words = _words(
            f"another program still has {writer} open for writing", "wait until it is closed", False
        )
        return Decision(Look.UPDATE, {**columns, **words, "judged_snapshot": ""})
    if plan.changing:
        return Decision(Look.NOTHING)
    judged = {**columns, "judged_snapshot": columns["snapshot"]}
    if plan.problem is not None or plan.facts is None:
        return _refused(judging, known, judged, plan.problem or IntakeProblem("There is no RT Ion Plan."))
    if judging.known_plans and plan.sha256 not in judging.known_plans:
        return _refused(judging, known, judged, OTHER_PLAN)
    records = [read_record(study.unit.folder, name, study.deliveries[name]) for name in names]
    verdict = judge_fraction(plan.facts, records, judging.watch.ptn_room)
    deadline = since + judging.watch.fraction_window_s
    if verdict.standing is Standing.ANOMALOUS:
        return _refused(judging, known, judged, IntakeProblem(verdict.reason, verdict.hint))
    if verdict.standing is not Standing.COMPLETE and judging.now < deadline:
        return Decision(Look.UPDATE, {**judged, **_until(judging, verdict, deadline)})
    if verdict.standing is Standing.UNFINISHED:
        problem = IntakeProblem(f"The fraction is not all there: {verdict.reason}.", verdict.hint)
        return _refused(judging, known, judged, problem)
    return Decision(Look.RECHECK, {**judged, **_taken(judging, verdict, plan, plan.facts)})


def _refused(judging: Judging, known: Case, columns: dict[str, Any], problem: IntakeProblem) -> Decision:
    # Logs carry the case's number and no folder names.
    judging.site.met(IntakeProblem(f"case {known.case_id}: {problem}", problem.hint))
    hint = problem.hint or "correct the folder; mqi looks again when it changes"
    return Decision(Look.UPDATE, {**columns, **_words(str(problem), hint, True)})


def _until(judging: Judging, verdict: Verdict, deadline: float) -> dict[str, Any]:
    zone = judging.site.settings.timezone
    then = datetime.datetime.fromtimestamp(deadline, zone)
    today = datetime.datetime.fromtimestamp(judging.now, zone).date()
    until = f"{then:%H:%M}" if then.date() == today else f"{then:%Y-%m-%d %H:%M}"
    if verdict.standing is Standing.UNFINISHED:
        words = _words(f"waits for the rest of the copy until {until}: {verdict.reason}", verdict.hint, False)
    else:
        then_what = "computed as it is" if judging.watch.partial == "run" else "held for an operator"
        words = _words(
            f"waits for beam {verdict.whole + 1} of {verdict.planned} until {until}",
            f"So far {verdict.reason}. If nothing else comes, the fraction is {then_what} (watch: partial).",
            False,
        )
    return {**words, "next_look_at": deadline}


def _taken(judging: Judging, verdict: Verdict, plan: PlanRead, facts: PlanFacts) -> dict[str, Any]:
    columns: dict[str, Any] = {
        "beams": dumps([[beam.number, beam.name] for beam in verdict.beams]),
        "plan_uid": facts.sop_instance_uid,
        "plan_sha256": plan.sha256,
        "workflow": judging.watch.workflow,
        "ready_at": judging.now,
        "looked_at": judging.now,
        "partial": "",
        **_words("complete; waits for a place on a host", "", False),
    }
    if verdict.standing is Standing.COMPLETE:
        return columns
    partial = f"partial: {verdict.whole} of {verdict.planned} beams ({verdict.reason})"
    columns |= {"partial": partial, "reason": f"{partial}; waits for a place on a host"}
    if judging.watch.partial == "hold":
        columns |= {"held": 1, "needs_operator": 1, "reason": partial}
        columns["hint"] = "Compute it as it is with `mqi release`, or wait: what comes later is added."
    return columns
