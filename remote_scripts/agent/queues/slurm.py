"""Slurm as the queue: each job is one of its jobs, with the job key as its name and our work directory as its own.

Its list says what waits. It never says what became of a job: after a crash of its controller a job that goes on
may be listed as cancelled, an accepted one be forgotten and its id be given to another. Ids are not identities
here, and a second copy of a job does nothing (see `execute`).

The work directory lies on a file system that all nodes share, with locks that work there (NFS 4 has them).
"""

from __future__ import annotations

import os
import re
import shlex
from typing import Any, Dict, List, NamedTuple, Tuple

from agent import names
from agent.command import one_line
from agent.problems import NotTaken, QueueProblem, Refused
from agent.queues import Task
from agent.queues.local import AGENT, has_started
from agent.queues.programs import Finished, ask, option, options_of, small_environment
from agent.settings import Settings
from agent.work import Work

# squeue(1), "JOB STATE CODES": those of jobs that will not run again by themselves.
_ENDED = (
    "BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED",
    "REVOKED", "TIMEOUT",
)  # fmt: skip
# Of these nobody needs to hear; all others say that a job may wait for ever.
_ORDINARY = ("", "None", "Priority", "Resources", "Cleaning", "Prolog", "BeginTime", "Licenses")
# sbatch's own words when nobody answered it: the job may have been taken all the same.
_SILENCE = re.compile(r"timed out|unable to contact|connection refused|connect failure|zero bytes", re.IGNORECASE)
_FORMAT = "%i|%T|%r|%j|%k|%Z"
_COMMENT = re.compile(r"mqi group=([A-Za-z0-9_-]+) priority=(-?[0-9]+) order=([0-9]+)")
# `sbatch --nice` without a number means 100: room for more urgent ones, which users may not ask for directly.
_NICE = 100


class SlurmJob(NamedTuple):
    """A line of squeue. `group`, `priority` and `order` are what it was added with."""

    id: int
    state: str
    reason: str
    name: str
    group: str
    priority: int
    order: int
    folder: str

    @property
    def ended(self) -> bool:
        return self.state in _ENDED

    @property
    def started(self) -> bool:
        return not self.ended and self.state != "PENDING"


class SlurmQueue:
    """See `queues.Queue`."""

    bounded = False

    def __init__(self, work: Work, settings: Settings) -> None:
        options = options_of(settings, "slurm")
        self._work = work
        self._bin = option(options, "bin")
        config = option(options, "config") or os.environ.get("SLURM_CONF", "")
        self._environment = small_environment(os.environ, {"SLURM_CONF": config} if config else {})
        self._wishes = {name: wishes(settings, options, name) for name in settings.groups}
        self._ends: Dict[str, str] = {}
        self._complaints: List[str] = []

    def list(self) -> List[Task]:
        jobs = self._jobs()
        living, surplus = told_apart([job for job in jobs if not job.ended])
        self._ends = {job.name: one_line("%s, %s" % (job.state, job.reason)) for job in jobs if job.ended}
        self._complaints = self._why_waiting(living) + self._ended_too_early([job for job in jobs if job.ended])
        self._cancel(surplus)
        living.sort(key=lambda job: (-job.priority, job.order))
        return [Task(job.name, job.group, str(job.id), job.priority, job.started) for job in living]

    def add(self, job_key: str, group: str, priority: int, order: int) -> str:
        folder = self._work.job(job_key).folder
        folder.mkdir(parents=True, exist_ok=True)
        argv = [
            "--parsable",
            "--job-name=" + job_key,
            "--comment=mqi group=%s priority=%d order=%d" % (group, priority, order),
            "--chdir=%s" % self._work.root,
            # What the wrapper says about itself; the job's own words are in its log.
            "--output=%s" % (str(folder).replace("%", "%%") + "/slurm.log"),
            "--open-mode=append",
            # Of what sbatch gets, which is little. NIL and NONE let a node's root start a login shell for the
            # user's own, which takes seconds, and holds the job for ever when that shell fails.
            "--export=ALL",
            # A job that is requeued would find its own claim and do nothing; the next attempt has another key.
            "--no-requeue",
            "--nice=%d" % max(0, _NICE - priority),
            "--nodes=1",
            "--ntasks=1",
            *self._wishes[group],
        ]
        try:
            finished = self._ask("sbatch", argv, self._script(job_key))
            if finished.code == 0:
                return str(parse_submitted(finished.out))
            problem = finished.complaint()
            unknown = _SILENCE.search(problem) is not None
        except QueueProblem as error:
            problem, unknown = str(error), True
        return self._taken_after_all(job_key, problem, unknown)

    def remove(self, job_key: str) -> None:
        self._cancel([job.id for job in self._jobs("--name=" + job_key) if job.state == "PENDING"])

    def fate(self, job_key: str) -> str:
        if job_key not in self._ends:
            # The controller forgets after some minutes; accounting, where a site has it, does not.
            # By itself it shows what happened since midnight.
            argv = ["-X", "--parsable2", "--noheader", "--name=" + job_key, "--starttime=now-7days"]
            argv.append("--format=state,exitcode,nodelist")
            try:
                finished = self._ask("sacct", argv)
            except QueueProblem:
                return ""
            lines = finished.out.split("\n") if finished.code == 0 else []
            return one_line(lines[-2].replace("|", ", ")) if len(lines) > 1 else ""
        return self._ends[job_key]

    def check(self) -> None:
        if self._complaints:
            raise QueueProblem("; ".join(self._complaints))

    # --- jobs

    def _jobs(self, *which: str) -> List[SlurmJob]:
        """Ours that Slurm still knows, ended ones too. Raises QueueProblem."""
        argv = ["--noheader", "--all", "--states=all", "--user=%d" % os.getuid(), "--format=" + _FORMAT, *which]
        finished = self._ask("squeue", argv)
        if finished.code != 0:
            raise QueueProblem("Slurm does not answer: %s" % finished.complaint())
        root = os.path.realpath(str(self._work.root))
        return [job for job in parse_squeue(finished.out) if os.path.realpath(job.folder) == root]

    def _taken_after_all(self, job_key: str, problem: str, unknown: bool) -> str:
        """A controller that is slow takes a job and lets sbatch fail. Raises QueueProblem when it did not;
        what it takes later still is found by the next listing."""
        living = [job.id for job in self._jobs("--name=" + job_key) if not job.ended]
        if living:
            return str(min(living))
        if unknown:
            raise QueueProblem("Slurm does not answer: %s" % problem)
        raise NotTaken("Slurm did not take a job: %s" % problem)

    def _cancel(self, ids: List[int]) -> None:
        """Of jobs that have not started. Held first: one that starts this moment shall not be ended."""
        if ids:
            words = [str(one) for one in ids]
            self._ask("scontrol", ["hold", ",".join(words)])
            self._ask("scancel", ["--state=PENDING", *words])

    def _why_waiting(self, living: List[SlurmJob]) -> List[str]:
        reasons: Dict[str, int] = {}
        for job in living:
            if job.state == "PENDING" and job.reason not in _ORDINARY:
                reasons[job.reason] = reasons.get(job.reason, 0) + 1
        return ["Slurm holds %d of our jobs back (%s)" % (n, one_line(why)) for why, n in sorted(reasons.items())]

    def _ended_too_early(self, ended: List[SlurmJob]) -> List[str]:
        """A word about the newest that ended before our job began: its next copy may not come further."""
        for job in sorted(ended, key=lambda job: -job.id):
            paths = self._work.job(job.name)
            if job.state in ("CANCELLED", "COMPLETED") or job.reason == "BadConstraints":
                continue  # ours to withdraw, nothing left to do, or never taken (as sbatch has said)
            if paths.folder.exists() and not has_started(paths):
                how = "%s, %s" % (job.state, one_line(job.reason))
                return ["Slurm's job %d ended before %s began (%s): see its slurm.log" % (job.id, job.name, how)]
        return []

    # --- programs

    def _script(self, job_key: str) -> str:
        words = [*AGENT, "run", job_key, "--work", str(self._work.root), "--wait"]
        return "#!/bin/sh\nexec %s\n" % shlex.join(words)

    def _ask(self, program: str, arguments: List[str], text: str = "") -> Finished:
        return ask([os.path.join(self._bin, program), *arguments], self._environment, text)


def wishes(settings: Settings, options: Dict[str, Any], group: str) -> List[str]:
    """sbatch's options for the jobs of one group; of equal ones the last counts. Raises Refused. Pure."""
    words = []
    for name in ("partition", "account", "time"):
        if option(options, name):
            words.append("--%s=%s" % (name, option(options, name)))
    gres = option(options, "gres", "gpu:1")
    if gres and settings.groups[group].gpus != "none":
        words.append("--gres=" + gres)
    return words + _options(options.get("options")) + _options(settings.groups[group].options)


def _options(value: Any) -> List[str]:
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(word, str) and word.startswith("--") for word in value):
        raise Refused("bad_request", "options of sbatch are a list of texts that begin with --")
    return list(value)


def parse_squeue(text: str) -> List[SlurmJob]:
    """The lines of `squeue --format=%i|%T|%r|%j|%k|%Z` that are jobs of ours; others are nobody's business here."""
    jobs = []
    for line in text.splitlines():
        fields = line.split("|", 5)
        if len(fields) != 6 or not (fields[0].isascii() and fields[0].isdigit()):
            continue
        comment = _COMMENT.fullmatch(fields[4])
        try:
            names.job_key(fields[3])
        except Refused:
            continue
        group, priority, order = comment.groups() if comment else ("", "0", "0")
        jobs.append(
            SlurmJob(
                int(fields[0]), fields[1], fields[2], fields[3], group, int(priority), int(order), fields[5]
            )
        )
    return jobs


def parse_submitted(text: str) -> int:
    """The id that `sbatch --parsable` printed: `ID` or `ID;cluster`, after whatever a site's plugin says.
    Raises QueueProblem."""
    lines = text.split("\n")
    found = re.fullmatch(r"([0-9]+)(;.*)?", lines[-2] if len(lines) > 1 else "")
    if found is None:
        raise QueueProblem("sbatch gave no id: %s" % one_line(text))
    return int(found[1])


def told_apart(jobs: List[SlurmJob]) -> Tuple[List[SlurmJob], List[int]]:
    """One job for each name, and the ids of others that have not started. Pure."""
    chosen: Dict[str, SlurmJob] = {}
    surplus = []
    for job in sorted(jobs, key=lambda job: (not job.started, job.id)):
        if job.name not in chosen:
            chosen[job.name] = job
        elif not job.started:
            surplus.append(job.id)
    return list(chosen.values()), surplus
