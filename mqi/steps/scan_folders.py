"""One look at case folders: what is decided about each, with the slow reading that a decision asks for."""

from __future__ import annotations

from mqi.errors import IntakeProblem, MqiError
from mqi.intake.decide import Decision, Look, decide
from mqi.intake.plan import read_plan
from mqi.intake.unit import Unit
from mqi.intake.writers import open_for_writing
from mqi.manifest import Manifest, hash_files
from mqi.rows import Case, dumps
from mqi.settings import WatchFolder
from mqi.site import Site
from mqi.steps import StepReport
from mqi.steps.findings import Finding, identity_of, record
from mqi.store import Store


def look_at_folders(site: Site, watch: WatchFolder, units: list[Unit], report: StepReport) -> None:
    """Decide for each unit, do the slow reading outside the transaction, then write all of it at once."""
    work: list[Finding] = []
    for unit in units:
        case = site.store.newest_revision(watch.room, unit.path)
        decision = decide(case, unit, watch, site.now(), _promised_sizes(site.store, case))
        if decision.look is Look.RECHECK and case is not None:
            decision = _read_plan(site, watch, unit, case, decision)
        elif decision.look is Look.COMPARE and case is not None:
            decision = _compare(site.store, unit, case, decision)
        if decision.look is not Look.NOTHING:
            added = decision.look in (Look.INSERT, Look.REVISE)
            identity = identity_of(watch, unit.path, unit.folder) if added else {}
            work.append(Finding(case, decision, identity))
    if not work:
        return
    with site.store.together():
        for finding in work:
            record(site.store, finding, report)


def _promised_sizes(store: Store, case: Case | None) -> frozenset[tuple[str, int]] | None:
    if case is None or not case.promised:
        return None
    text = store.manifest(case.case_id)
    if text is None:
        return None
    return frozenset((entry.path, entry.size) for entry in Manifest.from_json(text).entries)


def _read_plan(site: Site, watch: WatchFolder, unit: Unit, case: Case, decision: Decision) -> Decision:
    """Read the beams of a complete folder; a folder that cannot be computed waits, and says why."""
    writer = open_for_writing(unit.folder, unit.files)
    if writer is not None:
        reason = f"another program still has {writer} open for writing"
        return Decision(
            Look.UPDATE, {**decision.columns, "reason": reason, "hint": "wait until it is closed"}
        )
    try:
        facts = read_plan(unit.folder, unit.files)
    except IntakeProblem as problem:
        site.met(_for_case(problem, case))
        columns = {
            "reason": str(problem),
            "hint": problem.hint or "correct the folder; mqi looks again when it changes",
            "needs_operator": 1,
            "judged_snapshot": decision.columns["snapshot"],
        }
        return Decision(Look.UPDATE, {**decision.columns, **columns})
    columns = {
        "beams": dumps([[beam.number, beam.name] for beam in facts.beams]),
        "plan_uid": facts.sop_instance_uid,
        "judged_snapshot": decision.columns["snapshot"],
        "workflow": watch.workflow,
        "ready_at": site.now(),
        "reason": "complete; waits for a place on a host",
        "hint": "",
        "needs_operator": 0,
    }
    return Decision(Look.RECHECK, {**decision.columns, **columns})


def _for_case(problem: IntakeProblem, case: Case) -> IntakeProblem:
    """The same problem with the case's number in front: logs carry no folder names."""
    return IntakeProblem(f"case {case.case_id}: {problem}", problem.hint)


def _compare(store: Store, unit: Unit, case: Case, decision: Decision) -> Decision:
    """Same names and sizes as the frozen inputs: the bytes tell whether anything changed."""
    text = store.manifest(case.case_id)
    try:
        seen = hash_files(unit.folder, unit.files, store.cached_hash, lambda *row: store.cache_hashes([row]))
    except (MqiError, OSError):
        return Decision(Look.NOTHING)  # it changes under our hands; the next scan looks again
    if text is not None and Manifest.from_json(text).entries == seen.entries:
        return Decision(Look.UPDATE, {**decision.columns, "folder_note": ""})
    return Decision(Look.REVISE, {"snapshot": decision.columns["snapshot"], "snapshot_at": store.now()})
