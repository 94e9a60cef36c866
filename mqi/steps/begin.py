"""begin: freeze what a case is made of and what will run, and commit that before any effect."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mqi.case import Event
from mqi.errors import ConfigurationProblem, MqiError, TemporaryProblem
from mqi.host.deploy import content_hash
from mqi.intake.listing import list_unit
from mqi.intake.unit import FileStat, snapshot_digest
from mqi.manifest import Manifest, hash_files, run_key
from mqi.planning import Attachment, Frozen, digest_of_scripts, freeze, read_attachments
from mqi.resources import remote_scripts
from mqi.rows import Case, dumps
from mqi.settings import WatchFolder
from mqi.site import Site
from mqi.steps import StepReport
from mqi.steps.fraction_inputs import fraction_files
from mqi.store import StaleCase
from mqi.workflow import Workflow, load_workflow

log = logging.getLogger("mqi.submit")


class FolderChanged(TemporaryProblem):
    """The folder is not the one that was judged complete."""


def begin(site: Site, case: Case, host: str, report: StepReport) -> None:
    """Freeze a `new` case for `host` and record the intent; nothing outside has happened yet.

    Contents that another case already stands for are not computed twice: the case is skipped with a
    reason that names the other one.
    """
    try:
        manifest = frozen_manifest(site, case) or _manifest_of_folder(site, case)
    except FolderChanged as change:
        if case.run_key is None:
            record_change(site, case, str(change))
        else:
            _cannot_repeat(site, case, str(change))
        report.add("changed", f"case {case.case_id}: {change}")
        return
    digest = manifest.digest(case.room, case.path, case.work)
    key = run_key(digest)
    if case.run_key is not None and case.run_key != key:
        _cannot_repeat(site, case, "its folder changed")
        return
    twin = site.store.case_with_key(key)
    if twin is not None and twin.case_id != case.case_id:
        reason = (
            f"the same contents as case {twin.case_id} (revision {twin.revision}), which is {twin.status}"
        )
        site.store.record(case, Event.SUPERSEDE, reason, who="mqi")
        report.add("same contents", f"case {case.case_id}: {reason}")
        return
    # A run that a host already holds (a lost database) is adopted there and nowhere else.
    host = site.store.host_that_has(key) or host
    retry = json.loads(case.retry) if case.retry else {}
    frozen = freeze_case(
        site,
        case,
        manifest,
        digest,
        key,
        from_step=retry.get("from"),
        # What was purged from the host cannot be consumed by a later step.
        redo_all=bool(retry.get("all")) or case.purged_at is not None,
    )
    with site.store.together():
        _check_wishes(site, case)
        site.store.put_manifest(case.case_id, manifest.to_json())
        site.store.put_jobs(frozen.jobs)
        site.store.record(
            case,
            Event.BEGIN,
            f"goes to {host}",
            run_key=key,
            run_digest=digest,
            host=host,
            plan=dumps(frozen.plan),
            plan_serial=int(frozen.plan["serial"]),
            cancel_requested_at=None,
            released_at=None,
            purged_at=None,
            completed_at=None,
            progress=0.0,
            **_first_job(frozen),
        )
    report.add("begun")
    log.info("case %d is run %s", case.case_id, key)


def _check_wishes(site: Site, case: Case) -> None:
    """Hashing takes minutes, and an operator who says something meanwhile is not to be overheard. Raises StaleCase."""
    now = site.store.case(case.case_id)
    if (now.held, now.priority, now.retry) != (case.held, case.priority, case.retry):
        raise StaleCase(f"case {case.case_id} was held, released or given a priority meanwhile")


def _cannot_repeat(site: Site, case: Case, what: str) -> None:
    """A retry whose inputs are neither here nor on the host any more."""
    reason = f"{what} since it was computed, and the host no longer keeps its inputs"
    site.store.record(case, Event.SUPERSEDE, reason, who="mqi", needs_operator=1, retry=None)


def _first_job(frozen: Frozen) -> dict[str, Any]:
    todo = [choice.plan.step for choice in frozen.choices if not choice.keep]
    groups = {job["step"]: job["group"] for job in frozen.plan["jobs"]}
    step = todo[0] if todo else frozen.choices[-1].plan.step
    return {"current_step": step, "pueue_group": groups[step]}


def refreeze(site: Site, case: Case, why: str, *, redo_all: bool = False) -> Case:
    """Freeze anew a case whose plan names scripts or configuration files that are no longer here, or jobs
    whose outputs the host does not have (`redo_all`).

    The host never got the old plan; the serial goes up, so a late copy of it changes nothing.
    """
    manifest = frozen_manifest(site, case)
    assert manifest is not None and case.run_digest is not None and case.run_key is not None
    retry = json.loads(case.retry) if case.retry else {}
    frozen = freeze_case(
        site,
        case,
        manifest,
        case.run_digest,
        case.run_key,
        from_step=retry.get("from"),
        redo_all=redo_all or bool(retry.get("all")),
    )
    with site.store.together():
        site.store.put_jobs(frozen.jobs)
        return site.store.note(
            case,
            "freeze again",
            why,
            plan=dumps(frozen.plan),
            plan_serial=int(frozen.plan["serial"]),
        )


def freeze_case(
    site: Site,
    case: Case,
    manifest: Manifest,
    digest: str,
    key: str,
    *,
    from_step: str | None,
    redo_all: bool,
) -> Frozen:
    """The plan of the case with today's workflow, scripts and configuration files."""
    workflow = workflow_of(site, case)
    if from_step is not None and workflow.find(from_step) is None:
        raise ConfigurationProblem(f"workflow {workflow.name} has no step {from_step!r} any more")
    folder = remote_scripts()
    return freeze(
        case,
        manifest,
        digest,
        key,
        workflow,
        scripts=site.once("scripts", lambda: content_hash(folder)),
        scripts_digest=lambda step: site.once(
            ("scripts", case.workflow, step.name), lambda: digest_of_scripts(folder, step)
        ),
        attachments=attachments_of(site, case),
        history=site.store.jobs(case.case_id, all_attempts=True),
        from_step=from_step,
        redo_all=redo_all,
    )


def workflow_of(site: Site, case: Case) -> Workflow:
    """The workflow that a case follows. Raises ConfigurationProblem when the configuration lost it."""
    path = site.settings.workflows.get(case.workflow)
    if path is None:
        raise ConfigurationProblem(
            f"case {case.case_id} follows the workflow {case.workflow!r}, which the configuration does not have",
            "put it back below `workflows:`",
        )
    return site.once(path, lambda: load_workflow(path))


def attachments_of(site: Site, case: Case) -> Mapping[str, tuple[Attachment, ...]]:
    """Step name -> the configuration files that travel with it."""
    workflow = workflow_of(site, case)
    return {
        step.name: read_attachments(step, site.settings.config_dir, case.room)
        for step in workflow.steps
        if step.files
    }


def frozen_manifest(site: Site, case: Case) -> Manifest | None:
    """The inputs as frozen by an earlier `begin`, if there was one."""
    text = site.store.manifest(case.case_id)
    return None if text is None or case.run_key is None else Manifest.from_json(text)


def _manifest_of_folder(site: Site, case: Case) -> Manifest:
    """Hash the folder, provided that it still looks as it did when it was judged complete."""
    watch = site.settings.room(case.room)
    if watch is None:
        raise ConfigurationProblem(
            f"the configuration no longer has the room {case.room!r} of case {case.case_id}",
            f"put it back below `watch:`, or: mqi skip {case.case_id}",
        )
    files = _files(site, watch, case)
    fresh: list[tuple[str, int, int, int, str]] = []

    def remember(path: str, size: int, mtime_ns: int, file_id: int, sha256: str) -> None:
        site.alive()
        fresh.append((path, size, mtime_ns, file_id, sha256))

    try:
        return hash_files(Path(case.case_path), files, site.store.cached_hash, remember)
    except MqiError as error:
        raise FolderChanged(str(error)) from error
    finally:
        # Whatever was read needs no second reading, even when another file spoiled this attempt.
        site.store.cache_hashes(fresh)


def _files(site: Site, watch: WatchFolder, case: Case) -> tuple[FileStat, ...]:
    """The files of the case, still as they were judged. Raises FolderChanged."""
    if case.fraction:
        files, problem = fraction_files(site, watch, case)
        if problem:
            raise FolderChanged(problem)
        return files
    unit = list_unit(watch, case.path)
    if unit is None or unit.problem:
        raise FolderChanged("its folder has vanished" if unit is None else unit.problem or "")
    if case.run_key is None and snapshot_digest(unit.files) != case.snapshot:
        raise FolderChanged("its folder changed after it was complete")
    return unit.files


def record_change(site: Site, case: Case, reason: str) -> None:
    """Back to waiting: whatever the folder holds now is judged from the start.

    Only for cases whose run the host does not have: the run key goes, since other bytes are another run.
    """
    with site.store.together():
        site.store.record(
            case,
            Event.FOLDER_CHANGED,
            reason,
            snapshot="",
            judged_snapshot="",
            run_key=None,
            run_digest=None,
            plan=None,
            host="",
            retry=None,
        )
        site.store.drop_manifest(case.case_id)
        site.store.drop_jobs(case.case_id)
