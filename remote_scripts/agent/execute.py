"""`run JOBKEY`: one job, at most once ever.

The order is the argument. A second copy of the task, a late start after a cancel and a start while the
first still runs all meet something that stops them: exit and tombstone, the slot, the GPU, the job's lock,
and finally the claim, a folder that only one process can rename into place.
"""

from __future__ import annotations

import os
import time
from contextlib import ExitStack
from typing import Any, Dict, Optional, Tuple

from agent import names
from agent.feed import feed_after_run
from agent.files import fsync_folder, remove_tree, retried, unique, write_json
from agent.gpu_care import note_job
from agent.gpus import GpuProblem, NoGpu, take_gpu
from agent.locks import Lock
from agent.perform import Failure, perform
from agent.plans import StoredPlan, load
from agent.processes import identity
from agent.settings import Settings, kept_settings
from agent.work import JobPaths, RunPaths, Work

DONE, NOT_GOOD, BUSY = 0, 1, 75
# A full disk must not turn a finished job into a lost one: the exit file is tried again this often.
_EXIT_ATTEMPTS = 120
_EXIT_EVERY_S = 5.0


def run_once(root: str, job_key: str, *, slot: bool) -> int:
    """Runs the job unless it has ended, must not start or is somebody else's.

    Returns DONE (good, or nothing to do), NOT_GOOD (see the exit file), BUSY (a slot or GPU is taken: try
    again later).
    """
    key = names.parse_job_key(job_key)
    work = Work(root)
    run = work.run(key.run_key)
    paths = run.job(job_key)
    settings = kept_settings(work)
    wanted = _wanted(run, paths)
    if wanted is None or settings is None:
        return DONE
    _, job = wanted
    with ExitStack() as locks:
        slot_lock = _take_slot(work, settings, job["group"]) if slot else None
        if slot and slot_lock is None:
            return BUSY
        if slot_lock is not None:
            locks.callback(slot_lock.release)
        failure: Optional[Failure] = None
        gpu: str = ""
        gpu_lock: Optional[Lock] = None
        try:
            taken = _take_gpu(work, settings, job)
            if taken is None:
                return BUSY
            gpu, gpu_lock = taken
        except NoGpu as error:
            failure = Failure("gpu", "no GPU for this job: %s" % error)
        if gpu_lock is not None:
            locks.callback(gpu_lock.release)
        job_lock = Lock(paths.lock)
        if not job_lock.acquire():
            return BUSY
        locks.callback(job_lock.release)
        # Once more under the lock: since the first look another copy may have run the job, and the run may have
        # been purged. From here on a purge takes the job's folder away, and the claim fails.
        wanted = _wanted(run, paths)
        if wanted is None:
            return DONE
        stored, job = wanted
        claim = {
            "wrapper": identity(os.getpid()),
            "boot_id": settings.boot_id(),
            "started_at": time.time(),
            "gpu": gpu,
            "group": job["group"],
            "time_limit_s": job["time_limit_s"],
        }
        if not _claim(paths, claim):
            return DONE
        held = [lock.fd for lock in (slot_lock, gpu_lock, job_lock) if lock is not None]
        exit_ = perform(work, run, stored, job, settings, claim, held, failure)
        _write_exit(paths, exit_)
        if gpu_lock is not None:
            note_job(work, gpu, key.run_key, exit_, settings.gpu_rules, time.time())
    feed_after_run(work)
    return DONE if exit_["kind"] == "ok" else NOT_GOOD


def _wanted(run: RunPaths, paths: JobPaths) -> Optional[Tuple[StoredPlan, Dict[str, Any]]]:
    """The plan and the job in it; None when the job was withdrawn, has ended or must not start."""
    stored = load(run)
    job = stored.job(paths.key) if stored else None
    if stored is None or job is None or stored.plan["held"] or stored.plan["cancel"]:
        return None
    if paths.exit.exists() or paths.tombstone.exists():
        return None
    return stored, job


def _take_slot(work: Work, settings: Settings, group: str) -> Optional[Lock]:
    slots = settings.groups[group].slots if group in settings.groups else 0
    for number in range(slots):
        lock = Lock(work.slot_lock(group, number))
        if lock.acquire():
            return lock
    return None


def _take_gpu(work: Work, settings: Settings, job: Dict[str, Any]) -> Optional[Tuple[str, Optional[Lock]]]:
    group = settings.groups.get(job["group"])
    if not job["gpu"] or group is None:
        return "", None
    try:
        return take_gpu(work, group, os.environ.get("CUDA_VISIBLE_DEVICES", ""), settings.gpu_rules)
    except GpuProblem:
        return None


def _claim(paths: JobPaths, info: Dict[str, Any]) -> bool:
    """True for exactly one caller, ever; durable before it returns."""
    prepared = paths.folder / ("claim.%s~" % unique())
    prepared.mkdir()
    write_json(prepared / "info.json", info)
    try:
        # Onto a folder that is not empty (and a claim never is) no system renames.
        retried(lambda: os.rename(str(prepared), str(paths.claim)))
    except OSError:
        remove_tree(prepared)
        if not paths.claim.exists():
            raise
        return False
    fsync_folder(paths.folder)
    return True


def _write_exit(paths: JobPaths, exit_: Dict[str, Any]) -> None:
    for attempt in range(_EXIT_ATTEMPTS):
        try:
            return write_json(paths.exit, exit_)
        except OSError:
            if attempt == _EXIT_ATTEMPTS - 1:
                raise
            time.sleep(_EXIT_EVERY_S)
    return None
