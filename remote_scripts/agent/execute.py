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
from agent.gpus import GpuProblem, NoGpu, take_given, take_gpu
from agent.locks import Lock
from agent.perform import Failure, perform
from agent.plans import StoredPlan, load
from agent.processes import identity
from agent.queues import BUSY
from agent.settings import Settings, kept_settings
from agent.work import JobPaths, RunPaths, Work

DONE, NOT_GOOD = 0, 1
# A full disk must not turn a finished job into a lost one: the exit file is tried again this often.
_EXIT_ATTEMPTS = 120
_EXIT_EVERY_S = 5.0
# A slot or GPU that is taken is looked at again after this, doubled each time up to the maximum.
_WAIT_FIRST_S = 0.25
_WAIT_MAX_S = 8.0


def run_once(root: str, job_key: str, *, slot: bool, wait: bool = False, gpu: str = "") -> int:
    """Runs the job unless it has ended, must not start or is somebody else's.

    Returns DONE (good, or nothing to do), NOT_GOOD (see the exit file), BUSY (a slot or GPU is taken: try
    again later). `wait`: tries again itself, for queues that start a task once. `gpu`: on no other.
    """
    paths = Work(root).job(job_key)
    delay = _WAIT_FIRST_S
    while True:
        code = _try_once(root, job_key, slot, gpu)
        if code != BUSY or not wait or paths.claim.exists():
            return code
        time.sleep(delay)
        delay = min(_WAIT_MAX_S, delay * 2)


def _try_once(root: str, job_key: str, slot: bool, only_gpu: str) -> int:
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
            taken = _take_gpu(work, settings, job, only_gpu)
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
            **_whoever_runs_it(settings),
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


def _whoever_runs_it(settings: Settings) -> Dict[str, Any]:
    """What the host compares with its own processes and its own boot to know an orphan and a lost job."""
    if settings.queue_type == "slurm":
        # Perhaps another computer: only the lock, and the queue's listings, say anything there.
        return {"wrapper": {"pid": os.getpid(), "start": ""}, "boot_id": ""}
    return {"wrapper": identity(os.getpid()), "boot_id": settings.boot_id()}


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


def _take_gpu(
    work: Work, settings: Settings, job: Dict[str, Any], only: str
) -> Optional[Tuple[str, Optional[Lock]]]:
    group = settings.groups.get(job["group"])
    if not job["gpu"] or group is None:
        return "", None
    try:
        if settings.queue_type == "slurm" and group.gpus != "none":
            return take_given(work, os.environ.get("CUDA_VISIBLE_DEVICES", ""), settings.gpu_rules)
        return take_gpu(work, group._replace(gpus=[only]) if only else group, settings.gpu_rules)
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
