"""A work directory in memory, second half: plans, receipts and the agent's verbs. See jobs.py."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from tests.week.jobs import Ending, Job, Json, Run, Shop, files_of

UNUSED_BLOB_S = 86400.0


class Work(Shop):
    """One work directory, from its making to its emptying."""

    def __init__(
        self,
        work_id: str,
        now: Callable[[], float],
        groups: dict[str, int],
        started: Callable[[Run, Json, Job], Ending],
        ended: Callable[[Job], None],
    ) -> None:
        super().__init__(now, groups, started, ended)
        self.work_id = work_id
        self.seq = 0
        self.blobs: dict[str, float] = {}  # digest -> since when
        self.pins: dict[str, set[str]] = {}
        self.refusals: dict[str, tuple[int, str]] = {}
        self.receipts: dict[str, Json] = {}
        self.scripts: set[str] = set()

    def serve(self, calls: Iterable[Json]) -> tuple[int, list[Json]]:
        """dispatch._answer: (sequence number, one reply per call)."""
        calls = list(calls)
        self.seq += 1
        seq = self.seq
        first = {"have": self._have, "plan": self._plan, "log": self._log, "outputs": self._outputs}
        last = {
            "report": self._report, "inventory": self._inventory, "release": self._release, "purge": self._purge,
        }  # fmt: skip
        replies: list[Json] = [{} for _ in calls]
        for index, call in enumerate(calls):
            if call["verb"] in first:
                replies[index] = {"ok": True, **first[call["verb"]](call)}
        self.feed(count=True)
        for index, call in enumerate(calls):
            if call["verb"] in last:
                replies[index] = {"ok": True, **last[call["verb"]](call)}
        assert all(replies), calls
        return seq, replies

    def _have(self, call: Json) -> Json:
        run, receipt = self.runs.get(call["run_key"]), self.receipts.get(call["run_key"])
        known = {"plan": run.plan} if run else {"receipt": receipt} if receipt else None
        if (run.plan if run else receipt or call)["digest"] != call["digest"]:
            return _no("key_conflict", "this run key belongs to other inputs on this host")
        wanted = dict.fromkeys(sha256 for sha256, _size in call["blobs"])
        self.pins.setdefault(call["run_key"], set()).update(wanted)
        return {"known": known, "missing": [[sha256, 0] for sha256 in wanted if sha256 not in self.blobs]}

    def _plan(self, call: Json) -> Json:
        """plans.accept."""
        plan = call["plan"]
        key = plan["run_key"]
        run, receipt = self.runs.get(key), self.receipts.get(key)
        known = run.plan if run else receipt
        answer: Json = {"plan": run.plan if run else None, "missing": [], "reason": "", "receipt": receipt}
        if known is not None and known["digest"] != plan["digest"]:
            return {**answer, "outcome": "refused", "plan": None, "reason": "this run key belongs to other inputs"}
        if run is not None and run.plan == plan:
            return {**answer, "outcome": "same"}
        spent, why = self.refusals.get(key, (0, ""))
        if plan["serial"] <= spent and not plan["cancel"]:
            return {**answer, "outcome": "refused", "reason": why, "serial": spent}
        if run is not None and plan["serial"] <= run.plan["serial"]:
            return {**answer, "outcome": "newer"}
        if run is not None and _goes_back(plan, run.plan):
            return {**answer, "outcome": "newer"}
        if run is None and receipt is not None and plan["serial"] <= receipt["serial"]:
            return {**answer, "outcome": "receipt"}
        if not plan["cancel"]:
            missing = sorted({digest for digest in _blobs(plan) if digest not in self.blobs})
            if missing:
                return {**answer, "outcome": "inputs_missing", "missing": missing}
            reason = self._obstacle(plan, run, receipt or {})
            if reason:
                self.refusals[key] = (plan["serial"], reason)
                return {**answer, "outcome": "refused", "reason": reason, "serial": plan["serial"]}
        keys = {job["job_key"] for job in plan["jobs"]}
        before = [] if run is None else run.dropped + [job["job_key"] for job in run.plan["jobs"]]
        if run is None:
            run = self.runs[key] = Run(key, plan, self.seq, [])
        run.plan, run.dropped, run.released = plan, sorted(set(before) - keys), False
        self.pins.pop(key, None)
        if spent < plan["serial"]:
            self.refusals.pop(key, None)
        return {**answer, "outcome": "accepted", "plan": plan}

    def _obstacle(self, plan: Json, run: Run | None, receipt: Json) -> str:
        def has_exit(key: str) -> bool:
            return run is not None and key in run.jobs and run.jobs[key].exit is not None

        def was_claimed(key: str) -> bool:
            return run is not None and key in run.jobs and run.jobs[key].claim is not None

        if plan["scripts"] not in self.scripts:
            return "the scripts are not on this host"
        keys = {job["job_key"] for job in plan["jobs"]}
        for job in plan["jobs"]:
            if job["job_key"] in receipt.get("jobs", {}) and not was_claimed(job["job_key"]):
                return f"{job['job_key']} ran before the run was purged, and no job runs twice"
            if job["group"] not in self.groups:
                return f"the queue of this host has no group {job['group']}"
            for need in job["needs"]:
                if need not in keys and not has_exit(need):
                    return f"{job['job_key']} needs {need}, which is neither planned nor done"
        return ""

    def _log(self, call: Json) -> Json:
        return {"text": f"log of {call['job_key']}\n", "offset": 0, "next": 0, "size": 0, "ended": True}

    def _outputs(self, call: Json) -> Json:
        table: Json = {}
        for key in call["jobs"]:
            run = self.runs.get(key.partition(".")[0])
            job = run.jobs.get(key) if run else None
            ended = job is not None and job.exit is not None
            table[key] = {"exit": job.exit, "files": files_of(job.outputs)} if job and ended else None
        return {"jobs": table}

    def _report(self, call: Json) -> Json:
        return {"runs": {key: self._report_run(key) for key in call["runs"]}}

    def _report_run(self, key: str) -> Json | None:
        run, receipt = self.runs.get(key), self.receipts.get(key)
        if run is None:
            if receipt is None:
                return None
            known = {"digest": receipt["digest"], "serial": receipt["serial"], "jobs": {}}
            return {**known, "released": True, "receipt": receipt}
        groups = {job["job_key"]: job["group"] for job in run.plan["jobs"]}
        jobs = {one: self._describe(run, run.job(one), groups.get(one, "")) for one in {*groups, *run.jobs}}
        serial, digest = run.plan["serial"], run.plan["digest"]
        return {
            "digest": digest, "serial": serial, "released": run.released, "receipt": receipt, "jobs": jobs,
        }  # fmt: skip

    def _describe(self, run: Run, job: Job, group: str) -> Json:
        standing, claim = self.judge(run, job), {} if job.exit else job.claim or {}
        progress = None
        if standing.state in ("running", "missing"):
            progress = {"fraction": job.fraction(self.now()), "message": ""}
        return {
            "state": standing.state,
            "exit": job.exit,
            "progress": progress,
            "started_at": claim.get("started_at") or (job.exit or {}).get("started_at"),
            "gpu": claim.get("gpu") or (job.exit or {}).get("gpu"),
            "group": claim.get("group") or group,
            "queue_id": job.key if self.queue_answers and job.key in self.queue else None,
            "orphan": standing.orphan,
            "unknown": standing.unknown,
        }

    def _inventory(self, _call: Json) -> Json:
        lines = []
        for key, run in sorted(self.runs.items()):
            state = "released" if run.released else "active" if self.can_move(run) else "ended"
            lines.append(_line(key, run.plan, state))
        lines += [_line(key, one, "receipt") for key, one in sorted(self.receipts.items()) if key not in self.runs]
        return {"runs": lines}

    def _release(self, call: Json) -> Json:
        key = call["run_key"]
        run = self.runs.get(key)
        if run is None:
            return {"released": True} if key in self.receipts else _no("unknown_run", f"no run {key} here")
        if run.plan["serial"] > call["serial"]:
            return _no("newer_plan", "this run has a newer plan")
        if not run.released and self.can_move(run):
            return _no("not_ended", "a job of this run runs or may still start")
        run.released = True
        self._write_receipt(run)
        return {"released": True}

    def _write_receipt(self, run: Run) -> None:
        jobs = dict(self.receipts.get(run.key, {}).get("jobs", {}))
        jobs |= {
            key: job.exit for key, job in run.jobs.items() if job.exit is not None or job.claim is not None
        }
        outputs = {key: exit_["outputs"] for key, exit_ in jobs.items() if exit_ and exit_["outputs"]}
        self.receipts[run.key] = {
            "run_key": run.key,
            "digest": run.plan["digest"],
            "serial": run.plan["serial"],
            "jobs": jobs,
            "outputs": outputs,
        }

    def _purge(self, call: Json) -> Json:
        purged, refused = [], []
        for key in call["run_keys"]:
            run = self.runs.get(key)
            if run is not None and not run.released:
                refused.append([key, "it is not released: its results may not have been fetched"])
                continue
            if run is not None and self.can_move(run):
                refused.append([key, "a job of it still runs"])
                continue
            if run is not None and not call.get("dry_run"):
                self._write_receipt(run)
                del self.runs[key]
            self.pins.pop(key, None)
            self.refusals.pop(key, None)
            purged.append(key)
        self._collect()
        return {"purged": purged, "bytes": 0, "refused": refused}

    def _collect(self) -> None:
        used = {digest for run in self.runs.values() for digest in _blobs(run.plan)}
        used |= {digest for pinned in self.pins.values() for digest in pinned}
        for digest, since in list(self.blobs.items()):
            if digest not in used and self.now() - since > UNUSED_BLOB_S:
                del self.blobs[digest]


def _goes_back(plan: Json, stored: Json) -> bool:
    attempts = {(job["step"], job["beam"]): job["attempt"] for job in stored["jobs"]}
    return any(job["attempt"] < attempts.get((job["step"], job["beam"]), 0) for job in plan["jobs"])


def _blobs(plan: Json) -> list[str]:
    entries = plan["inputs"] + [file for job in plan["jobs"] for file in job["files"]]
    return [str(entry["sha256"]) for entry in entries]


def _line(key: str, known: Json, state: str) -> Json:
    return {"run_key": key, "digest": known["digest"], "serial": known["serial"], "state": state}


def _no(code: str, message: str) -> Json:
    return {"ok": False, "code": code, "message": message, "hint": ""}
