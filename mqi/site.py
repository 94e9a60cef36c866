"""What one command works with: settings, store, hosts, time, and the errors that it met on the way."""

from __future__ import annotations

import json
import logging
import os
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mqi.age import notice_older_database
from mqi.errors import (
    AuthenticationProblem,
    ConfigurationProblem,
    DiskProblem,
    HostRefused,
    HostUnreachable,
    MqiError,
    TemporaryProblem,
)
from mqi.host.base import Answer, Host
from mqi.policy import backoff_s, resource_rows
from mqi.results import replace as replace_file
from mqi.rows import Case
from mqi.settings import HostSettings, Settings
from mqi.store import Store

log = logging.getLogger("mqi.site")

_ID_WAIT_S = 10.0


class Site:
    """One command's view of the installation. Close it: it may hold a connection per host."""

    def __init__(
        self,
        settings: Settings,
        store: Store,
        *,
        now: Callable[[], float] = time.time,
        tell: Callable[[str], None] = lambda line: None,
        progress: Callable[[str, int, int], None] = lambda what, done, total: None,
    ) -> None:
        """`tell` shows a line to a person who watches; `progress` gets (what, bytes done, bytes in all)."""
        self.settings = settings
        self.store = store
        self.now = now
        self.tell = tell
        self.progress = progress
        self.errors: list[MqiError] = []
        # The step lock's sign of life while a step holds it.
        self.alive: Callable[[], None] = lambda: None
        self._hosts: dict[str, Host] = {}
        self._data_deadline: float | None = None
        notice_older_database(store, settings.paths.newest_event)

    def close(self) -> None:
        """Close every connection and the database."""
        for host in self._hosts.values():
            host.close()
        self._hosts.clear()
        self.store.close()

    # --- time for data -----------------------------------------------------------------------------

    def data_deadline(self) -> float:
        """The moment (time.monotonic) at which this command stops moving data; set at the first use."""
        if self._data_deadline is None:
            self._data_deadline = time.monotonic() + self.settings.transfer.budget_s
        return self._data_deadline

    def moved(self, what: str) -> Callable[[int, int], None]:
        """A progress callback for one transfer, which also keeps the step lock's note fresh."""

        def note(done: int, total: int) -> None:
            self.alive()
            self.progress(what, done, total)

        return note

    def later(self, case: Case) -> dict[str, Any]:
        """Columns that postpone a case: the more tries failed, the longer."""
        timing = self.settings.timing
        wait_s = backoff_s(case.attempts + 1, timing.backoff_first_s, timing.backoff_max_s)
        return {"attempts": case.attempts + 1, "next_try_at": self.now() + wait_s}

    # --- errors --------------------------------------------------------------------------------------

    def met(self, error: MqiError) -> None:
        """Remember an error that does not stop the step; it decides the exit code."""
        self.errors.append(error)
        log.warning("%s", error)

    # --- hosts ---------------------------------------------------------------------------------------

    def installation(self) -> str:
        """The id of this installation, made once. Tells this control PC from another one."""
        path = self.settings.paths.installation
        try:
            known = _read_id(path)
            if not known:
                path.parent.mkdir(parents=True, exist_ok=True)
                _write_id_once(path)
                known = _read_id(path)
            return known
        except OSError as error:
            raise DiskProblem(f"the installation id cannot be read or written: {error}") from error

    def host(self, name: str) -> Host:
        """The host with this name, connected on first use and kept for this command."""
        if name not in self._hosts:
            from mqi.host import open_host

            self._hosts[name] = open_host(self.host_settings(name), self.installation())
        return self._hosts[name]

    def host_settings(self, name: str) -> HostSettings:
        """The settings of a host. Raises ConfigurationProblem when the configuration lost it."""
        settings = self.settings.host(name)
        if settings is None:
            raise ConfigurationProblem(
                f"the configuration no longer has the host {name!r}, where cases still are",
                "put it back below `hosts:`, or retry those cases on another host after `mqi cancel`",
            )
        return settings

    def resting(self, name: str) -> str:
        """Why this host is not asked just now, or ''."""
        row = self.store.host(name)
        if row is None or row.next_try_at is None or row.next_try_at <= self.now():
            return ""
        return f"{row.last_error}; next try in {row.next_try_at - self.now():.0f} s"

    def ask(self, name: str, calls: Sequence[Mapping[str, Any]]) -> Answer:
        """Ask a host, and keep what its answer says about itself.

        Raises HostUnreachable and the like after noting the failure and the time of the next try.
        `answer.fresh` is False for an answer that was overtaken by a later one.
        """
        self.alive()
        try:
            answer = self.host(name).ask(calls)
        except (TemporaryProblem, AuthenticationProblem, HostRefused) as error:
            self._note_failure(name, error)
            raise
        return self._note_answer(name, answer)

    def _note_failure(self, name: str, error: MqiError) -> None:
        row = self.store.host(name)
        failures = (row.failures if row else 0) + 1
        timing = self.settings.timing
        wait_s = backoff_s(failures, timing.backoff_first_s, timing.backoff_max_s)
        self.store.put_host(
            name,
            last_attempt_at=self.now(),
            failures=failures,
            next_try_at=self.now() + wait_s,
            last_error=str(error),
        )
        if isinstance(error, HostUnreachable):
            self.store.resources_unknown(name)

    def _note_answer(self, name: str, answer: Answer) -> Answer:
        with self.store.together():
            row = self.store.host(name)
            same = row is not None and row.work_id == answer.work_id
            fresh = not same or row is None or answer.seq > row.seq
            columns: dict[str, object] = {
                "last_attempt_at": self.now(),
                "last_answer_at": self.now(),
                "failures": 0,
                "next_try_at": None,
                "last_error": "",
            }
            if fresh:
                columns |= {
                    "work_id": answer.work_id,
                    "seq": answer.seq,
                    "clock_skew_s": answer.clock_skew_s,
                    "probe": json.dumps(answer.probe),
                }
                if not same:
                    # A work directory this database does not know: ask what it holds before using it.
                    columns["inventoried_at"] = None
                    if row is not None and row.work_id:
                        log.error("host %s has another work directory than before", name)
                        self.store.host_was_emptied(name)
            self.store.put_host(name, **columns)
            if fresh:
                self.store.put_resources(name, resource_rows(answer.probe, self._case_of, self.now()))
        return replace(answer, fresh=fresh)

    def _case_of(self, job_key: str) -> int | None:
        case = self.store.case_with_key(job_key.split(".", 1)[0])
        return case.case_id if case else None


def _read_id(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        return ""


def _write_id_once(path: Path) -> None:
    """Of several first commands one writes the id; a file that was left empty is replaced."""
    from filelock import FileLock  # only the first command of an installation comes here

    part = path.with_name(path.name + ".part")
    # Under a lock the temporary has one name, so a killed command's is used again and none is left over.
    with FileLock(path.with_name(path.name + ".lock"), timeout=_ID_WAIT_S):
        if _read_id(path):
            return  # another command was first; its id counts
        with part.open("w", encoding="utf-8") as file:
            file.write(secrets.token_hex(16) + "\n")
            file.flush()
            os.fsync(file.fileno())
        replace_file(part, path)
