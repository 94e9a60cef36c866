"""Plans: what a run is to do on this host. A plan is checked once, when it arrives, and then trusted."""

from __future__ import annotations

import re
import time
from pathlib import PurePosixPath
from typing import Any, Dict, List, NamedTuple, Optional, Set, Tuple

from agent import names
from agent.command import unknown_placeholders
from agent.files import (
    fsync_folder,
    fsync_folders,
    link_or_copy,
    read_json_object,
    remove,
    write_json,
)
from agent.problems import Refused
from agent.settings import Settings
from agent.store import missing_blobs
from agent.work import RunPaths, Work

_NO_WAY_OUT = re.compile(r"(^|/)\.\.(/|$)")


class StoredPlan(NamedTuple):
    """A run's plan as it lies on the host. `order`: earlier accepted runs come first among equals.
    `dropped`: jobs of earlier plans that this one does not want any more."""

    plan: Dict[str, Any]
    order: int
    dropped: List[str]

    @property
    def serial(self) -> int:
        return int(self.plan["serial"])

    @property
    def jobs(self) -> List[Dict[str, Any]]:
        jobs: List[Dict[str, Any]] = self.plan["jobs"]
        return jobs

    def job(self, key: str) -> Optional[Dict[str, Any]]:
        return next((job for job in self.jobs if job["job_key"] == key), None)


def load(run: RunPaths) -> Optional[StoredPlan]:
    """The run's plan; None when none was accepted. Raises ValueError when the file is broken."""
    stored = read_json_object(run.plan)
    return None if stored is None else StoredPlan(
        stored["plan"], int(stored["order"]), list(stored["dropped"])
    )


def check(plan: Any) -> None:
    """Raises Refused unless `plan` has the shape of a plan and names nothing that could become a path
    outside its run."""
    if not isinstance(plan, dict) or plan.get("format") != 1:
        raise Refused("bad_request", "not a plan of format 1")
    run_key = names.run_key(plan.get("run_key"))
    names.digest(plan.get("digest"))
    names.scripts(plan.get("scripts"))
    names.whole(plan.get("serial"), "serial", 1)
    names.whole(plan.get("priority", 0), "priority", -(2**31), 2**31)
    for flag in ("held", "cancel"):
        if not isinstance(plan.get(flag), bool):
            raise Refused("bad_request", "%s is neither true nor false" % flag)
    numbers: Set[str] = set()
    for entry in _objects(plan.get("inputs"), "inputs"):
        _once(numbers, names.input_name(entry.get("n")))
        names.digest(entry.get("sha256"))
        names.whole(entry.get("size"), "size")
        if not isinstance(entry.get("path"), str):
            raise Refused("bad_request", "an input has no path")
    keys: Set[str] = set()
    for job in _objects(plan.get("jobs"), "jobs"):
        _once(keys, _check_job(job, run_key))


def _check_job(job: Dict[str, Any], run_key: str) -> str:
    key = names.parse_job_key(job.get("job_key"))
    if key.run_key != run_key or (job.get("step"), job.get("beam"), job.get("attempt")) != key[1:]:
        raise Refused("bad_request", "the job %s does not say what its key says" % job["job_key"])
    names.group(job.get("group"))
    names.digest(job.get("definition"))
    limit = job.get("time_limit_s")
    if isinstance(limit, bool) or not isinstance(limit, (int, float)) or not 0 < limit < 1e9:
        raise Refused("bad_request", "%s has no time limit" % job["job_key"])
    if not isinstance(job.get("gpu"), bool) or not isinstance(job.get("parameters"), dict):
        raise Refused("bad_request", "%s lacks `gpu` or `parameters`" % job["job_key"])
    argv = _texts(job.get("argv"), "argv")
    if not argv:
        raise Refused("bad_request", "%s has no command" % job["job_key"])
    needs = _texts(job.get("needs"), "needs")
    if any(names.parse_job_key(need).run_key != run_key for need in needs):
        raise Refused("bad_request", "%s needs a job of another run" % job["job_key"])
    for pattern in _texts(job.get("outputs"), "outputs"):
        if not pattern or pattern.startswith("/") or "\\" in pattern or _NO_WAY_OUT.search(pattern):
            raise Refused("bad_request", "not a pattern for outputs: %.80r" % pattern)
    files: Set[str] = set()
    for entry in _objects(job.get("files"), "files"):
        _once(files, names.plain_path(entry.get("name")))
        names.digest(entry.get("sha256"))
        names.whole(entry.get("size"), "size")
    unknown = unknown_placeholders(job)
    if unknown:
        raise Refused("bad_request", "%s: nothing is known for {%s}" % (job["job_key"], "}, {".join(unknown)))
    return str(job["job_key"])


def accept(work: Work, settings: Settings, plan: Any, order: int) -> Dict[str, Any]:
    """The `plan` verb: stores `plan` unless something newer is here. Repeatable; call under the agent's lock.

    The answer's `outcome`: accepted, same, newer (this one is late, or goes back to an earlier attempt: nothing was
    changed, whichever serial is the higher one), inputs_missing,
    refused (which stays so: no plan with this serial or a lower one is taken later, unless it is a cancel), receipt
    (the run was purged; this plan is not newer than what ran).
    """
    check(plan)
    run = work.run(plan["run_key"])
    stored, receipt = load(run), read_json_object(run.receipt)
    known = stored.plan if stored else receipt
    answer: Dict[str, Any] = {"plan": stored.plan if stored else None, "missing": [], "reason": "", "receipt": receipt}
    if known is not None and known["digest"] != plan["digest"]:
        return dict(answer, outcome="refused", plan=None, reason="this run key belongs to other inputs on this host")
    if stored is not None and stored.plan == plan:
        return dict(answer, outcome="same")
    refusal = read_json_object(run.refusal)
    if refusal is not None and plan["serial"] <= refusal["serial"] and not plan["cancel"]:
        # Told once, or lost on its way and late: whoever heard the no goes by it.
        return dict(answer, outcome="refused", reason=refusal["reason"], serial=refusal["serial"])
    if stored is not None and plan["serial"] <= stored.serial:
        return dict(answer, outcome="newer")
    if stored is None and receipt is not None and plan["serial"] <= receipt["serial"]:
        return dict(answer, outcome="receipt")
    if stored is not None and _goes_back(plan, stored.plan):
        return dict(answer, outcome="newer")
    if not plan["cancel"]:
        wanted = [(entry["sha256"], entry["size"]) for entry in _all_files(plan)]
        missing = [sha256 for sha256, _ in missing_blobs(work, wanted)]
        if missing:
            return dict(answer, outcome="inputs_missing", missing=missing)
        reason = _obstacle(work, settings, plan, run, receipt or {})
        if reason:
            run.refusal.parent.mkdir(parents=True, exist_ok=True)
            write_json(run.refusal, {"serial": plan["serial"], "reason": reason})
            return dict(answer, outcome="refused", reason=reason, serial=plan["serial"])
        _build(work, run, plan)
    run.folder.mkdir(parents=True, exist_ok=True)
    # Before the plan is known: killed in between, nobody would send this plan again to a run that has it.
    remove(run.released)
    # Known before the plan is: a plan that is stored can be worked on by any process at any time.
    write_json(
        run.plan,
        {
            "plan": plan,
            "order": stored.order if stored else order,
            "dropped": _dropped(stored, plan),
            "stored_at": time.time(),
        },
    )
    fsync_folder(work.runs)
    remove(run.pin)
    if refusal is not None and refusal["serial"] < plan["serial"]:
        remove(run.refusal)
    return dict(answer, outcome="accepted", plan=plan)


def _goes_back(plan: Dict[str, Any], stored: Dict[str, Any]) -> bool:
    """Whether `plan` wants an earlier attempt of any job than the stored one: it comes from a database that was
    restored from a backup and does not know of the later attempt, which must not be ended for that."""
    attempts = {(job["step"], job["beam"]): job["attempt"] for job in stored["jobs"]}
    return any(job["attempt"] < attempts.get((job["step"], job["beam"]), 0) for job in plan["jobs"])


def _obstacle(
    work: Work, settings: Settings, plan: Dict[str, Any], run: RunPaths, receipt: Dict[str, Any]
) -> str:
    """Why the plan can never run here, or ""."""
    if not (work.scripts / plan["scripts"]).is_dir():
        return "the scripts %s are not on this host" % plan["scripts"]
    keys = {job["job_key"] for job in plan["jobs"]}
    for job in plan["jobs"]:
        # A released run has a receipt already, but its results are still here and may be built upon.
        if job["job_key"] in receipt.get("jobs", {}) and not run.job(job["job_key"]).claim.exists():
            return "%s ran before the run was purged, and no job runs twice" % job["job_key"]
        if job["group"] not in settings.groups:
            return "the queue of this host has no group %s" % job["group"]
        for need in job["needs"]:
            if need not in keys and not run.job(need).exit.exists():
                return "%s needs %s, which is neither planned nor done" % (job["job_key"], need)
    return ""


def _build(work: Work, run: RunPaths, plan: Dict[str, Any]) -> None:
    """Lays out the run's folder: inputs and machine files as links, parameters as files."""
    run.input_dir.mkdir(parents=True, exist_ok=True)
    for entry in plan["inputs"]:
        _place(work, entry, run.input_dir / entry["n"])
    write_json(run.inputs, {"inputs": [dict(entry) for entry in plan["inputs"]]})
    fsync_folder(run.input_dir)
    for job in plan["jobs"]:
        paths = run.job(job["job_key"])
        if paths.claim.exists():
            continue  # it has begun; what it works with does not change any more
        paths.files.mkdir(parents=True, exist_ok=True)
        for entry in job["files"]:
            place = paths.files / PurePosixPath(entry["name"])
            place.parent.mkdir(parents=True, exist_ok=True)
            _place(work, entry, place)
        write_json(paths.parameters, job["parameters"])
        fsync_folders(paths.files)
    fsync_folders(run.jobs)


def _dropped(stored: Optional[StoredPlan], plan: Dict[str, Any]) -> List[str]:
    keys = {job["job_key"] for job in plan["jobs"]}
    before = [] if stored is None else stored.dropped + [job["job_key"] for job in stored.jobs]
    return sorted(set(before) - keys)


def _place(work: Work, entry: Dict[str, Any], place: Any) -> None:
    blob = work.blob(entry["sha256"])
    if not (place.exists() and place.samefile(blob)):
        link_or_copy(blob, place)


def _all_files(plan: Dict[str, Any]) -> List[Dict[str, Any]]:
    return list(plan["inputs"]) + [entry for job in plan["jobs"] for entry in job["files"]]


def all_blobs(raw: Any) -> List[Tuple[str, int]]:
    """The [digest, size] pairs of a `have`, checked."""
    if not isinstance(raw, list):
        raise Refused("bad_request", "blobs is not a list")
    pairs = []
    for entry in raw:
        if not isinstance(entry, list) or len(entry) != 2:
            raise Refused("bad_request", "a blob is not a pair of digest and size")
        pairs.append((names.digest(entry[0]), names.whole(entry[1], "size")))
    return pairs


def _objects(value: Any, what: str) -> List[Dict[str, Any]]:
    if not isinstance(value, list) or not all(isinstance(entry, dict) for entry in value):
        raise Refused("bad_request", "%s is not a list of objects" % what)
    return value


def _texts(value: Any, what: str) -> List[str]:
    if not isinstance(value, list) or not all(isinstance(entry, str) and "\0" not in entry for entry in value):
        raise Refused("bad_request", "%s is not a list of texts" % what)
    return value


def _once(seen: Set[str], value: str) -> None:
    # Names that differ only in case are one file on Windows.
    if value.lower() in seen:
        raise Refused("bad_request", "%s appears twice" % value)
    seen.add(value.lower())
