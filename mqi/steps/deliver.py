"""What submit does at one host: ask what it lacks, upload that in one stream, hand over the plans.

Every effect here may be repeated: the same names carry the same bytes.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mqi.case import Event, State
from mqi.errors import HOST_ERRORS, ConfigurationProblem, HostRefused
from mqi.host.base import Blob
from mqi.job import JobState, can_move
from mqi.manifest import Manifest
from mqi.planning import jobs_of_plan, jobs_of_receipt, needs_of
from mqi.rows import Case
from mqi.site import Site
from mqi.steps import StepReport, about
from mqi.steps.adopt import adopt_plan, adopt_receipt
from mqi.steps.begin import attachments_of, record_change, refreeze
from mqi.steps.place import no_room, reply_of

log = logging.getLogger("mqi.submit")


def deliver(site: Site, host: str, cases: Sequence[Case], report: StepReport) -> None:
    """Upload and enqueue all `submitting` cases of one host: a question, one stream, one hand-over."""
    try:
        ready = _offer(site, host, cases, report)
        ready = _upload(site, host, ready, report)
        _hand_over(site, host, [case for case, _missing in ready], report)
    except HOST_ERRORS as error:
        site.met(error)
        for case in site.store.cases(State.SUBMITTING, host=host):
            with about(case):
                _postpone(site, case, f"{error}; mqi asks again and nothing is sent twice", error.hint)


def _offer(
    site: Site, host: str, cases: Sequence[Case], report: StepReport
) -> list[tuple[Case, list[tuple[str, int]]]]:
    """Ask what the host has: runs it knows already are adopted, the others tell what is missing."""
    scripts = site.host(host).deploy()
    offered: list[Case] = []
    for case in cases:
        with about(case):
            try:
                case = _with_what_is_here(site, case, scripts)
            except ConfigurationProblem as error:
                site.met(error)
                _postpone(site, case, str(error), error.hint)
                continue
            if case.plan is not None:
                offered.append(case)
    if not offered:
        return []
    answer = site.ask(host, [_have(case) for case in offered])
    ready = []
    for case, raw in zip(offered, answer.replies, strict=True):
        with about(case):
            try:
                reply = reply_of(raw)
                known = reply.get("known")
                if known and _adopt(site, case, known, report):
                    continue
                receipt = (known or {}).get("receipt") or {}
                spent = int(receipt.get("serial") or 0) >= case.plan_serial
                if not (known or {}).get("plan") and (spent or _keeps_jobs(site, case)):
                    # What the plan wants to build upon is not there (another work directory, or purged), or
                    # its serial was used before the backup that this database was restored from.
                    case = _freeze_above(site, case, receipt)
                ready.append((case, [(str(sha256), int(offset)) for sha256, offset in reply["missing"]]))
            except HostRefused as refusal:
                _refused(site, case, refusal, report)
            except ConfigurationProblem as error:
                site.met(error)
                _postpone(site, case, str(error), error.hint)
    return ready


def _have(case: Case) -> dict[str, Any]:
    """The question what of a case's files is there. Its plan is frozen."""
    plan = case.frozen_plan
    assert plan is not None
    blobs = {entry["sha256"]: entry["size"] for entry in plan["inputs"]}
    blobs |= {file["sha256"]: file["size"] for job in plan["jobs"] for file in job["files"]}
    wanted = [[sha256, size] for sha256, size in blobs.items()]
    return {"verb": "have", "run_key": case.run_key, "digest": case.run_digest, "blobs": wanted}


def _with_what_is_here(site: Site, case: Case, scripts: str) -> Case:
    """The case, frozen anew when its plan names scripts or configuration files that are no longer here:
    nobody could send them, and it would wait for ever."""
    plan = case.frozen_plan
    if plan is None or case.host_serial >= case.plan_serial:
        return case
    if plan["scripts"] != scripts:
        return refreeze(site, case, "mqi was updated before the host had the plan")
    here = {
        (step, file.name, file.sha256) for step, files in attachments_of(site, case).items() for file in files
    }
    if (
        not {(job["step"], file["name"], file["sha256"]) for job in plan["jobs"] for file in job["files"]}
        <= here
    ):
        return refreeze(site, case, "a configuration file was changed before the host had the plan")
    return case


def _freeze_above(site: Site, case: Case, receipt: Mapping[str, Any]) -> Case:
    """Freeze everything anew, above the serial and the job keys that the host's receipt has."""
    known = site.store.jobs(case.case_id, all_attempts=True)
    keys = {job.job_key for job in known}
    with site.store.together():
        spent = jobs_of_receipt(receipt, case.case_id, known)
        site.store.put_jobs(job for job in spent if job.job_key not in keys)
        serial = max(case.plan_serial, int(receipt.get("serial") or 0))
        case = site.store.update(case, plan_serial=serial)
        return refreeze(site, case, "the host does not have what it would build upon", redo_all=True)


def _keeps_jobs(site: Site, case: Case) -> bool:
    return any(job.state is JobState.DONE for job in site.store.jobs(case.case_id))


def _adopt(site: Site, case: Case, known: dict[str, Any], report: StepReport) -> bool:
    """Take over what the host already knows of this run. True when nothing more is to be sent."""
    plan = known.get("plan")
    if plan:
        if int(plan["serial"]) < case.plan_serial:
            return False  # a retry, a hold or a cancel of ours that the host has not got yet
        if int(plan["serial"]) > case.plan_serial or plan != case.frozen_plan:
            adopt_plan(site, case, plan)
        else:
            _accepted(site, case)
        report.add("adopted")
        log.info("the host already holds this run")
        return True
    receipt = known.get("receipt") or {}
    if case.retry is not None or case.plan_serial > int(receipt.get("serial") or 0) > 0:
        return False  # an operator wants it computed again
    adopt_receipt(site, case, receipt, report)
    return True


def _upload(
    site: Site, host: str, offered: list[tuple[Case, list[tuple[str, int]]]], report: StepReport
) -> list[tuple[Case, list[tuple[str, int]]]]:
    """Send what is missing, each blob once for all cases. Returns the cases whose inputs are complete."""
    wanted: dict[str, tuple[Blob, int]] = {}
    for case, missing in offered:
        local = _local_blobs(site, case) if missing else {}
        wanted |= {sha256: (local[sha256], offset) for sha256, offset in missing if sha256 in local}
    if not wanted:
        return offered
    total = sum(blob.size - offset for blob, offset in wanted.values())
    obstacle = no_room(site, host, total)
    if obstacle:
        for case, missing in offered:
            if missing:
                with about(case):
                    _postpone(site, case, f"{obstacle}; nothing is sent until there is room", "")
        return [(case, missing) for case, missing in offered if not missing]
    site.tell(f"uploading {len(wanted)} files, {total / 2**20:.1f} MiB, to {host}")
    outcome = site.upload(host, list(wanted.values()))
    stored = set(outcome.stored)
    ready = []
    for case, missing in offered:
        lacking = {sha256 for sha256, _offset in missing} - stored
        if not lacking:
            ready.append((case, missing))
            continue
        with about(case):
            _not_uploaded(site, case, lacking, outcome, report)
    return ready


def _local_blobs(site: Site, case: Case) -> dict[str, Blob]:
    manifest = Manifest.from_json(site.store.manifest(case.case_id) or '{"entries": []}')
    folder = Path(case.case_path)
    blobs = {entry.sha256: Blob(entry.sha256, entry.size, folder / entry.path) for entry in manifest.entries}
    for files in attachments_of(site, case).values():
        blobs |= {file.sha256: Blob(file.sha256, file.size, file.path) for file in files}
    return blobs


def _not_uploaded(site: Site, case: Case, lacking: set[str], outcome: Any, report: StepReport) -> None:
    unreadable = {sha256: why for sha256, why in outcome.unreadable if sha256 in lacking}
    changed = lacking & set(outcome.changed)
    if changed or unreadable:
        # The host answered the question of this run with "unknown" or an older plan, and has not got
        # ours: whatever the folder holds now has to be judged anew.
        what = (
            f"{len(changed)} input files changed"
            if changed
            else f"{len(unreadable)} input files cannot be read"
        )
        if case.host_serial:
            site.store.record(
                case,
                Event.REFUSE,
                f"{what} since the case was frozen, and the host no longer has the old ones",
                hint="its folder is looked at as a revision of its own; see mqi status",
            )
        else:
            record_change(site, case, f"{what} while it was submitted; waits until the folder is still again")
        report.add("changed", f"case {case.case_id}: {what}")
    elif outcome.paused:
        _postpone_quietly(site, case, "its upload goes on in the next run")
        report.add("paused")
    else:
        _postpone(site, case, "the host did not accept some files; they are sent again", "")


def _hand_over(site: Site, host: str, cases: Sequence[Case], report: StepReport) -> None:
    cases = [case for case in cases if case.frozen_plan is not None]
    if not cases:
        return
    answer = site.ask(host, [{"verb": "plan", "plan": case.frozen_plan} for case in cases])
    for case, raw in zip(cases, answer.replies, strict=True):
        with about(case):
            try:
                _settle(site, case, reply_of(raw), report)
            except HostRefused as refusal:
                _refused(site, case, refusal, report)


def _settle(site: Site, case: Case, reply: dict[str, Any], report: StepReport) -> None:
    """Record the host's answer to one plan of a `submitting` case."""
    outcome = str(reply.get("outcome"))
    if outcome in ("accepted", "same"):
        _accepted(site, case)
        report.add("submitted", f"case {case.case_id}: handed over to {case.host}")
    elif outcome == "newer" and reply.get("plan"):
        adopt_plan(site, case, reply["plan"])
        report.add("adopted")
    elif outcome == "receipt":
        _adopt(site, case, {"receipt": reply.get("receipt")}, report)
    elif outcome == "inputs_missing":
        _postpone_quietly(site, case, "the host lacks some inputs; they are sent in the next run")
    elif _is_on_its_way(site, case, reply.get("plan")):
        _not_taken(site, case, reply, report)
    else:
        refusal = HostRefused(str(reply.get("reason") or "no reason given"), "refused")
        _refused(site, case, refusal, report, spent=int(reply.get("serial") or 0))


def _is_on_its_way(site: Site, case: Case, plan: Mapping[str, Any] | None) -> bool:
    """Whether the host has a plan of this run of which something can still move, for all that is known here. The one
    before a retry has ended; one whose acceptance was not heard of has not."""
    if plan is None or plan["digest"] != case.run_digest:
        return False
    known = {job.job_key: job for job in site.store.jobs(case.case_id, all_attempts=True)}
    jobs = [known.get(job.job_key, job) for job in jobs_of_plan(plan, case.case_id)]
    return can_move(jobs, needs_of(plan))


def _not_taken(site: Site, case: Case, reply: Mapping[str, Any], report: StepReport) -> None:
    """The run goes on there by an earlier plan: a case that failed now would be one that still computes."""
    reason = str(reply.get("reason") or "no reason given")
    site.met(
        HostRefused(f"{case.host} did not take the newest plan of case {case.case_id}: {reason}", "refused")
    )
    # The serial that was refused is spent: the next wish is newer than both.
    plan = {**reply["plan"], "serial": max(int(reply["plan"]["serial"]), int(reply.get("serial") or 0))}
    adopt_plan(site, case, plan, f"{case.host} goes on with the plan before; of the newest it says: {reason}")
    report.add("refused", f"case {case.case_id}: goes on as before, {reason}")


def _accepted(site: Site, case: Case) -> None:
    site.store.record(
        case,
        Event.ACCEPT,
        f"on {case.host}, waits for its first job",
        host_serial=case.plan_serial,
        submitted_at=site.now(),
        retry=None,
    )
    log.info("handed over")


def _refused(site: Site, case: Case, refusal: HostRefused, report: StepReport, *, spent: int = 0) -> None:
    """`spent`: the highest serial that the host has refused; a restored database may not know it."""
    site.met(refusal)
    site.strike(case.host, f"it refused a case: {refusal}")
    hint = refusal.hint or f"correct the cause, then: mqi retry {case.case_id}"
    words, serial = f"{case.host} refused it: {refusal}", max(case.plan_serial, spent)
    site.store.record(case, Event.REFUSE, words, hint=hint, retry=None, plan_serial=serial)
    report.add("refused", f"case {case.case_id}: refused, {refusal}")


def _postpone(site: Site, case: Case, reason: str, hint: str) -> None:
    site.store.update(case, reason=reason, hint=hint, **site.later(case))


def _postpone_quietly(site: Site, case: Case, reason: str) -> None:
    site.store.update(case, reason=reason, next_try_at=None)
