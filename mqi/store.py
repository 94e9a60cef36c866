"""Rows in, rows out. `record` alone changes the state of a case; everything else changes columns."""

from __future__ import annotations

import json
import sqlite3
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mqi.actor import actor
from mqi.case import UNPROMISED, Event, State, next_state
from mqi.database import Database
from mqi.job import Job
from mqi.rows import Case, EventRow, case_from, job_from
from mqi.store_hosts import HostRows


class StaleCase(Exception):
    """The case is no longer in the state that the decision was made for; read it again."""


class Store(HostRows):
    """The database of one installation. `now` gives Unix seconds and is a parameter so that tests own time."""

    def __init__(self, path: Path, *, wait_s: float = 10.0, now: Callable[[], float] = time.time) -> None:
        self.database = Database(path, wait_s=wait_s)
        self.now = now

    def close(self) -> None:
        self.database.close()

    @contextmanager
    def together(self) -> Iterator[None]:
        """Everything written inside is one transaction."""
        with self.database.write():
            yield

    # --- cases -------------------------------------------------------------------------------------

    def record(self, case: Case, event: Event, reason: str = "", *, who: str = "", **columns: object) -> Case:
        """Move `case` by `event`, set `columns`, and write the event: one transaction.

        Guarded by state and plan serial: raises StaleCase when another process was first, and ValueError
        for an event that the table does not allow. Returns the case as it stands now.
        """
        after = next_state(case.status, event)
        if after is None:
            raise ValueError(f"{event!r} cannot happen to a case that is {case.status}")
        now = self.now()
        values: dict[str, object] = {
            "status": str(after),
            "status_updated_at": now,
            "reason": reason,
            "hint": "",
            "needs_operator": 0,
            "verdict": "",  # of results that a case which moves on no longer stands for
            "attempts": 0,
            "next_try_at": None,
            **columns,
        }
        with self.database.write() as connection:
            self._guarded_update(connection, case, values)
            connection.execute(
                "INSERT INTO events (at, case_id, event, before, after, reason, actor) VALUES (?,?,?,?,?,?,?)",
                (now, case.case_id, str(event), str(case.status), str(after), reason, who or actor()),
            )
            return self.case(case.case_id)

    def note(self, case: Case, action: str, words: str = "", **columns: object) -> Case:
        """Set columns of a case whose state stays, and write what happened to the audit trail."""
        with self.database.write() as connection:
            self._guarded_update(connection, case, columns)
            connection.execute(
                "INSERT INTO events (at, case_id, event, before, after, reason, actor) VALUES (?,?,?,?,?,?,?)",
                (self.now(), case.case_id, action, str(case.status), str(case.status), words, actor()),
            )
            return self.case(case.case_id)

    def update(self, case: Case, **columns: object) -> Case:
        """Set columns of a case whose state stays (progress, reasons, looks). Raises StaleCase."""
        with self.database.write() as connection:
            self._guarded_update(connection, case, columns)
            return self.case(case.case_id)

    @staticmethod
    def _guarded_update(connection: Any, case: Case, columns: Mapping[str, object]) -> None:
        if not columns:
            return
        assignments = ", ".join(f"{name} = ?" for name in columns)
        done = connection.execute(
            f"UPDATE cases SET {assignments} WHERE case_id = ? AND status = ? AND plan_serial = ?",
            (*columns.values(), case.case_id, str(case.status), case.plan_serial),
        )
        if done.rowcount != 1:
            raise StaleCase(f"case {case.case_id} is no longer {case.status}")

    def add_case(self, **columns: object) -> Case:
        """A new row in state `waiting`, with its first event."""
        now = self.now()
        values = {"status": str(State.WAITING), "status_updated_at": now, "first_seen_at": now, **columns}
        names = ", ".join(values)
        with self.database.write() as connection:
            marks = ", ".join("?" * len(values))
            try:
                cursor = connection.execute(
                    f"INSERT INTO cases ({names}) VALUES ({marks})", (*values.values(),)
                )
            except sqlite3.IntegrityError as error:
                raise StaleCase(f"another process has just added this case: {error}") from error
            case_id = int(cursor.lastrowid or 0)
            connection.execute(
                "INSERT INTO events (at, case_id, event, before, after, reason, actor) VALUES (?,?,?,?,?,?,?)",
                (now, case_id, "seen", "", str(State.WAITING), str(values.get("reason", "")), actor()),
            )
            return self.case(case_id)

    def case(self, case_id: int) -> Case:
        """The case with this id. Raises KeyError."""
        rows = self.database.read("SELECT * FROM cases WHERE case_id = ?", (case_id,))
        if not rows:
            raise KeyError(case_id)
        return case_from(rows[0])

    def cases(self, *states: State, host: str | None = None) -> list[Case]:
        """All cases in these states, the urgent and the old first."""
        marks = ", ".join("?" * len(states))
        sql = f"SELECT * FROM cases WHERE status IN ({marks})"
        parameters: tuple[object, ...] = tuple(str(state) for state in states)
        if host is not None:
            sql += " AND host = ?"
            parameters += (host,)
        rows = self.database.read(sql + " ORDER BY priority DESC, ready_at, case_id", parameters)
        return [case_from(row) for row in rows]

    def select(self, where: str, parameters: tuple[object, ...] = (), order: str = "case_id") -> list[Case]:
        """Cases by a condition in SQL (of ours, never of a user's)."""
        return [
            case_from(row)
            for row in self.database.read(f"SELECT * FROM cases WHERE {where} ORDER BY {order}", parameters)
        ]

    def newest_revision(self, room: str, path: str, fraction: str = "") -> Case | None:
        """The newest revision of one unit, or None when it was never seen."""
        found = self.select(
            "room = ? AND path = ? AND fraction = ?", (room, path, fraction), "revision DESC LIMIT 1"
        )
        return found[0] if found else None

    def settled_stamps(self, room: str, path: str, looked_after: float) -> tuple[tuple[str, int], ...] | None:
        """Folder times of a settled unit whose files were all looked at after `looked_after`.

        None means: look at every file. One indexed look-up per folder present, whatever the number of
        finished cases.
        """
        rows = self.database.read(
            "SELECT status, run_key, folders, looked_at FROM cases WHERE room = ? AND path = ? AND fraction = '' "
            "ORDER BY revision DESC LIMIT 1",
            (room, path),
        )
        if not rows or rows[0]["looked_at"] <= looked_after:
            return None
        if rows[0]["status"] in UNPROMISED and rows[0]["run_key"] is None:
            return None
        return tuple((str(name), int(stamp)) for name, stamp in json.loads(rows[0]["folders"]))

    def results_name_taken(self, room: str, results_name: str, path: str, fraction: str = "") -> bool:
        """True when the cases of another unit already use this name below the results root."""
        rows = self.database.read(
            "SELECT 1 FROM cases WHERE room = ? AND results_name = ? COLLATE NOCASE "
            "AND (path <> ? OR fraction <> ?) LIMIT 1",
            (room, results_name, path, fraction),
        )
        return bool(rows)

    def case_with_key(self, run_key: str) -> Case | None:
        """The case whose run has this key."""
        found = self.select("run_key = ?", (run_key,))
        return found[0] if found else None

    # --- jobs --------------------------------------------------------------------------------------

    def jobs(self, case_id: int, *, all_attempts: bool = False) -> list[Job]:
        """The newest attempt of each job of a case (or all), in the order they were planned."""
        rows = self.database.read("SELECT * FROM jobs WHERE case_id = ? ORDER BY rowid", (case_id,))
        jobs = [job_from(row) for row in rows]
        if all_attempts:
            return jobs
        newest: dict[tuple[str, int | None], Job] = {}
        for job in jobs:
            known = newest.get(job.slot)
            if known is None or known.attempt < job.attempt:
                newest[job.slot] = job
        return list(newest.values())

    def jobs_of(self, case_ids: Sequence[int]) -> dict[int, list[Job]]:
        """case id -> its newest jobs, in one query per 500 cases."""
        found: dict[int, dict[tuple[str, int | None], Job]] = {case_id: {} for case_id in case_ids}
        for start in range(0, len(case_ids), 500):
            part = tuple(case_ids[start : start + 500])
            marks = ", ".join("?" * len(part))
            rows = self.database.read(f"SELECT * FROM jobs WHERE case_id IN ({marks}) ORDER BY rowid", part)
            for job in map(job_from, rows):
                known = found[job.case_id].get(job.slot)
                if known is None or known.attempt < job.attempt:
                    found[job.case_id][job.slot] = job
        return {case_id: list(jobs.values()) for case_id, jobs in found.items()}

    def put_jobs(self, jobs: Iterable[Job]) -> None:
        """Insert or replace jobs by their key, keeping their place in the order."""
        fields = list(Job._fields)
        names = ["group_name" if name == "group" else name for name in fields]
        updates = ", ".join(f"{name} = excluded.{name}" for name in names if name != "job_key")
        sql = (
            f"INSERT INTO jobs ({', '.join(names)}) VALUES ({', '.join('?' * len(names))}) "
            f"ON CONFLICT (job_key) DO UPDATE SET {updates}"
        )
        with self.database.write() as connection:
            for job in jobs:
                values = [getattr(job, name) for name in fields]
                connection.execute(
                    sql, [str(v) if name == "state" else v for name, v in zip(fields, values, strict=True)]
                )

    def forget_jobs(self, keys: Iterable[str]) -> None:
        """Remove attempts that were planned and that no host will ever be asked for."""
        with self.database.write() as connection:
            connection.executemany("DELETE FROM jobs WHERE job_key = ?", [(key,) for key in keys])

    def drop_jobs(self, case_id: int) -> None:
        """Forget the jobs of a plan that never reached a host."""
        with self.database.write() as connection:
            connection.execute("DELETE FROM jobs WHERE case_id = ?", (case_id,))

    # --- manifests, hash cache -----------------------------------------------------------------------

    def put_manifest(self, case_id: int, text: str) -> None:
        with self.database.write() as connection:
            connection.execute(
                "INSERT OR REPLACE INTO manifests VALUES (?, ?)",
                (case_id, zlib.compress(text.encode("utf-8"))),
            )

    def manifest(self, case_id: int) -> str | None:
        """The frozen manifest's JSON, or None when the case has none (not begun, or purged)."""
        rows = self.database.read("SELECT entries FROM manifests WHERE case_id = ?", (case_id,))
        return zlib.decompress(rows[0]["entries"]).decode("utf-8") if rows else None

    def drop_manifest(self, case_id: int) -> None:
        with self.database.write() as connection:
            connection.execute("DELETE FROM manifests WHERE case_id = ?", (case_id,))

    def cached_hash(self, path: str, size: int, mtime_ns: int, file_id: int) -> str | None:
        """The SHA-256 of that file when it was last read with the same size, time and id."""
        rows = self.database.read(
            "SELECT sha256 FROM hash_cache WHERE path = ? AND size = ? AND mtime_ns = ? AND file_id = ?",
            (path, size, mtime_ns, file_id),
        )
        return str(rows[0]["sha256"]) if rows else None

    def cache_hashes(self, rows: Iterable[tuple[str, int, int, int, str]]) -> None:
        """Remember (path, size, mtime_ns, file id, sha256)."""
        with self.database.write() as connection:
            connection.executemany(
                "INSERT OR REPLACE INTO hash_cache VALUES (?,?,?,?,?,?)", [(*row, self.now()) for row in rows]
            )

    def prune_hashes(self, before: float) -> None:
        """Forget hashes of files that were read before this time; the table must not grow for years."""
        with self.database.write() as connection:
            connection.execute("DELETE FROM hash_cache WHERE used_at < ?", (before,))

    # --- history, steps, meta ------------------------------------------------------------------------

    def events(self, case_id: int) -> list[EventRow]:
        """The history of a case, oldest first."""
        rows = self.database.read("SELECT * FROM events WHERE case_id = ? ORDER BY event_id", (case_id,))
        return [EventRow(**dict(row)) for row in rows]

    def newest_event(self) -> int:
        """The id of the last event; 0 without any."""
        return int(self.database.read("SELECT ifnull(max(event_id), 0) FROM events")[0][0])

    def step_attempted(self, name: str, error: str | None) -> None:
        """Note that a step (or the look into a watch folder) was tried; `error` None means it succeeded."""
        now = self.now()
        with self.database.write() as connection:
            connection.execute(
                "INSERT INTO steps (name, last_attempt_at, last_success_at, last_error) VALUES (?, ?, ?, ?) "
                "ON CONFLICT (name) DO UPDATE SET last_attempt_at = excluded.last_attempt_at, last_success_at = "
                "ifnull(excluded.last_success_at, last_success_at), last_error = excluded.last_error",
                (name, now, now if error is None else None, error or ""),
            )

    def steps(self) -> dict[str, tuple[float | None, float | None, str]]:
        """Step -> (last attempt, last success, last error)."""
        return {
            row["name"]: (row["last_attempt_at"], row["last_success_at"], row["last_error"])
            for row in self.database.read("SELECT * FROM steps")
        }

    def meta(self, key: str) -> str:
        """A fact about the whole installation; '' when it was never noted."""
        rows = self.database.read("SELECT value FROM meta WHERE key = ?", (key,))
        return str(rows[0]["value"]) if rows else ""

    def put_meta(self, key: str, value: str) -> None:
        with self.database.write() as connection:
            connection.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, value))

    # --- hosts (their own rows: store_hosts.py) --------------------------------------------------------

    def host_was_emptied(self, name: str) -> None:
        """Nothing that settled or waiting cases computed on this host can be built upon any more."""
        with self.database.write() as connection:
            connection.execute(
                "UPDATE cases SET purged_at = ? WHERE host = ? AND purged_at IS NULL AND plan_serial > 0 "
                "AND status NOT IN ('submitting', 'queued', 'running', 'fetching')",
                (self.now(), name),
            )

    def host_was_lost(self, name: str) -> None:
        """Nothing of settled or waiting cases is on this host, and none of them is bound to it any more."""
        with self.database.write() as connection:
            connection.execute(
                "UPDATE cases SET purged_at = ifnull(purged_at, ?), host = '' WHERE host = ? "
                "AND status NOT IN ('submitting', 'queued', 'running', 'fetching')",
                (self.now(), name),
            )
