"""Rows of the database as frozen values. Named tuples: `settings` says why."""

# No `from __future__ import annotations`: a named tuple would compile every one of them, at every start.

import json
import sqlite3
from typing import Any, NamedTuple

from mqi.case import UNPROMISED, State
from mqi.job import Job, JobState


class Case(NamedTuple):
    """One row of `cases`; see schema.sql for the meaning of each column. Times are Unix seconds."""

    case_id: int
    room: str
    path: str
    case_path: str
    fraction: str
    revision: int
    results_name: str
    workflow: str
    status: State
    status_updated_at: float
    reason: str
    hint: str
    needs_operator: bool
    folder_note: str
    progress: float
    current_step: str
    priority: int
    held: bool
    snapshot: str
    snapshot_at: float
    judged_snapshot: str
    folders: str
    looked_at: float
    next_look_at: float | None
    beams: str
    plan_uid: str
    run_key: str | None
    run_digest: str | None
    host: str
    pueue_group: str
    plan: str | None
    plan_serial: int
    host_serial: int
    cancel_requested_at: float | None
    retry: str | None
    attempts: int
    next_try_at: float | None
    first_seen_at: float
    ready_at: float | None
    submitted_at: float | None
    started_at: float | None
    completed_at: float | None
    released_at: float | None
    purged_at: float | None
    results_path: str
    verdict: str
    deliveries: str = "[]"
    partial: str = ""
    plan_sha256: str = ""

    @property
    def name(self) -> str:
        """What operators call the case; carries patient ids, so never in logs."""
        return self.path if not self.fraction else f"{self.path} {self.fraction}"

    @property
    def promised(self) -> bool:
        """True once something was promised about these very contents: a change is then a new revision.

        A retried case is `new` again, but it stands for the contents of its first run.
        """
        return self.status not in UNPROMISED or self.run_key is not None

    @property
    def judged(self) -> bool:
        """True when its present contents were judged; what they lack may still come."""
        return self.snapshot != "" and self.judged_snapshot == self.snapshot

    @property
    def delivery_names(self) -> tuple[str, ...]:
        """The delivery folders of a fraction, by name; none for other cases."""
        return tuple(json.loads(self.deliveries))

    @property
    def work(self) -> str:
        """What tells the work of this case from that of others of its folder, for the run's digest.

        Of a fraction the first delivery: its label may be a later one when the first arrived late, and a
        database that was lost would label it otherwise.
        """
        return min(self.delivery_names, default=self.fraction)

    @property
    def beam_numbers(self) -> list[int]:
        """DICOM beam numbers of the treatment beams."""
        return [int(number) for number, _name in json.loads(self.beams)]

    @property
    def beam_names(self) -> dict[int, str]:
        """DICOM beam number -> beam name."""
        return {int(number): str(name) for number, name in json.loads(self.beams)}

    @property
    def frozen_plan(self) -> dict[str, Any] | None:
        """The plan as frozen for the host."""
        return None if self.plan is None else dict(json.loads(self.plan))

    @property
    def label(self) -> str:
        """What logs call the case: no patient data."""
        return self.run_key or f"case {self.case_id}"

    @property
    def wants_operator(self) -> bool:
        """True when the case goes no further by itself."""
        return self.status is State.FAILED or self.needs_operator


def case_from(row: sqlite3.Row) -> Case:
    """The value for one row of `SELECT * FROM cases`."""
    values = {key: row[key] for key in Case._fields}
    values["status"] = State(row["status"])
    values["needs_operator"] = bool(row["needs_operator"])
    values["held"] = bool(row["held"])
    return Case(**values)


def job_from(row: sqlite3.Row) -> Job:
    """The value for one row of `SELECT * FROM jobs`."""
    values = {key: row[key] for key in Job._fields if key != "group"}
    return Job(**{**values, "state": JobState(row["state"]), "group": row["group_name"]})


class EventRow(NamedTuple):
    """One row of `events`."""

    event_id: int
    at: float
    case_id: int
    event: str
    before: str
    after: str
    reason: str
    actor: str


class HostRow(NamedTuple):
    """What this side knows of a host; `probe` is the agent's JSON of its last answer."""

    name: str
    work_id: str
    seq: int
    inventoried_at: float | None
    last_attempt_at: float | None
    last_answer_at: float | None
    failures: int
    next_try_at: float | None
    last_error: str
    probe: str
    clock_skew_s: float
    trouble: str = ""
    boot_id: str = ""
    restarted_at: float | None = None
    strikes: int = 0
    strike_reason: str = ""
    no_cases_until: float | None = None
    held: bool = False
    lost_at: float | None = None


def host_from(row: sqlite3.Row) -> HostRow:
    """The value for one row of `SELECT * FROM hosts`."""
    return HostRow(**{**dict(row), "held": bool(row["held"])})


def dumps(value: object) -> str:
    """Compact JSON for a column."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
