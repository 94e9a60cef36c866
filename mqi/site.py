"""What one command works with: settings, store, hosts, time, and the errors that it met on the way."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar, cast

from mqi.age import notice_older_database
from mqi.errors import HOST_ERRORS, ConfigurationProblem, DiskProblem, HostRefused, MqiError
from mqi.installation import name_at, times_lost
from mqi.moved import notice_other_computer
from mqi.rows import Case
from mqi.settings import HostSettings, Settings
from mqi.store import Store

if TYPE_CHECKING:
    from mqi.host.base import Answer, Blob, DownloadOutcome, Host, RemoteFile, UploadOutcome

log = logging.getLogger("mqi.site")
T = TypeVar("T")


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
        self._kept: dict[Hashable, Any] = {}
        self._data_deadline: float | None = None
        notice_older_database(store, settings.paths.newest_event)
        notice_other_computer(store)

    def close(self) -> None:
        """Close every connection and the database."""
        for host in self._hosts.values():
            host.close()
        self._hosts.clear()
        self.store.close()

    def once(self, what: Hashable, read: Callable[[], T]) -> T:
        """What `read` gives, read once for this command: all its cases are frozen from one state of the files."""
        if what not in self._kept:
            self._kept[what] = read()
        return cast(T, self._kept[what])

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
        return {"attempts": case.attempts + 1, "next_try_at": self.now() + self._wait_s(case.attempts + 1)}

    def _wait_s(self, failures: int) -> float:
        from mqi.policy import backoff_s

        return backoff_s(failures, self.settings.timing.backoff_first_s, self.settings.timing.backoff_max_s)

    # --- errors --------------------------------------------------------------------------------------

    def met(self, error: MqiError) -> None:
        """Remember an error that does not stop the step; it decides the exit code."""
        self.errors.append(error)
        log.warning("%s", error)

    # --- hosts ---------------------------------------------------------------------------------------

    def host(self, name: str) -> Host:
        """The host with this name, connected on first use and kept for this command."""
        if name not in self._hosts:
            from mqi.host import open_host

            self._hosts[name] = open_host(
                self.host_settings(name), name_at(self.settings.paths.installation, name)
            )
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
        from mqi.host_state import host_state

        return host_state(row, 0, self.now()).sentence(self.now(), self.settings.timezone)

    def ask(self, name: str, calls: Sequence[Mapping[str, Any]]) -> Answer:
        """Ask a host, and keep what its answer says about itself.

        Raises one of HOST_ERRORS after noting the failure and the time of the next try.
        `answer.fresh` is False for an answer that was overtaken by a later one.
        """
        self.alive()
        with self._failures_noted(name):
            answer = self.host(name).ask(calls)
        return self._note_answer(name, answer)

    def upload(self, name: str, blobs: Sequence[tuple[Blob, int]]) -> UploadOutcome:
        """Send files to a host, within the time for data. Raises one of HOST_ERRORS, after a strike."""
        with self._failures_noted(name, strike="its uploads break off"):
            outcome = self.host(name).upload(
                blobs, deadline=self.data_deadline(), progress=self.moved(f"to {name}")
            )
        if outcome.rejected:
            self.strike(name, f"it does not take files: {outcome.rejected[0][1]}")
        elif outcome.stored:
            self.praise(name)
        return outcome

    def download(self, name: str, files: Sequence[RemoteFile]) -> DownloadOutcome:
        """Fetch files from a host, within the time for data. Raises one of HOST_ERRORS."""
        with self._failures_noted(name, disk_is_ours=True):
            return self.host(name).download(
                files, deadline=self.data_deadline(), progress=self.moved(f"from {name}")
            )

    @contextmanager
    def _failures_noted(self, name: str, strike: str = "", *, disk_is_ours: bool = False) -> Iterator[None]:
        try:
            yield
        except HOST_ERRORS as error:
            if disk_is_ours and isinstance(error, DiskProblem):
                raise  # the results disk: the host has done its part, and is asked as ever
            explained = self._explained(name, error)
            self._note_failure(name, explained)
            if strike:
                self.strike(name, strike)
            if explained is not error:
                raise explained from error
            raise

    def _explained(self, name: str, error: MqiError) -> MqiError:
        foreign = isinstance(error, HostRefused) and error.code == "foreign_installation"
        if not foreign or not times_lost(self.settings.paths.installation, name):
            return error
        return HostRefused(
            f"host {name} has come back with the work directory that was declared lost; its cases went to others",
            "foreign_installation",
            f"make sure that nothing of it runs, and remove {self.host_settings(name).work_dir} there: then it is used",
        )

    def _note_failure(self, name: str, error: MqiError) -> None:
        from mqi.host_state import trouble_of

        row = self.store.host(name)
        failures = (row.failures if row else 0) + 1
        self.store.put_host(
            name,
            last_attempt_at=self.now(),
            failures=failures,
            next_try_at=self.now() + self._wait_s(failures),
            last_error=str(error),
            trouble=trouble_of(error),
        )
        self.store.resources_unknown(name)

    def _note_answer(self, name: str, answer: Answer) -> Answer:
        from mqi.policy import resource_rows

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
                "trouble": "",
                "lost_at": None,
            }
            if fresh:
                columns |= {
                    "work_id": answer.work_id,
                    "seq": answer.seq,
                    "clock_skew_s": answer.clock_skew_s,
                    "probe": json.dumps(answer.probe),
                    "boot_id": answer.boot_id,
                }
                if row is not None and row.boot_id and answer.boot_id not in ("", row.boot_id):
                    log.warning("host %s was restarted", name)
                    columns["restarted_at"] = self.now()
                if not same:
                    # A work directory this database does not know: ask what it holds before using it.
                    columns["inventoried_at"] = None
                    if row is not None and row.work_id:
                        log.error("host %s has another work directory than before", name)
                        self.store.host_was_emptied(name)
            self.store.put_host(name, **columns)
            if fresh:
                rows = resource_rows(answer.probe, self._case_of, self.now(), answer.clock_skew_s)
                self.store.put_resources(name, rows)
        return answer._replace(fresh=fresh)

    # --- a host that answers, and fails all the same ---------------------------------------------------

    def strike(self, name: str, why: str) -> None:
        """The host does not do what it is asked to: no new cases go there for a time that grows. What is
        there already is minded as ever."""
        row = self.store.host(name)
        strikes = (row.strikes if row else 0) + 1
        log.warning("host %s gets no new cases for a while: %s", name, why)
        self.store.put_host(
            name, strikes=strikes, strike_reason=why, no_cases_until=self.now() + self._wait_s(strikes)
        )

    def praise(self, name: str) -> None:
        """The host did what it was asked to."""
        row = self.store.host(name)
        if row is not None and row.strikes:
            self.store.put_host(name, strikes=0, strike_reason="", no_cases_until=None)

    def trial(self, name: str) -> None:
        """A case goes to a host after strikes: one, and no other before this one has told something."""
        row = self.store.host(name)
        if row is not None and row.strikes:
            self.store.put_host(name, no_cases_until=self.now() + self._wait_s(row.strikes))

    def _case_of(self, job_key: str) -> int | None:
        case = self.store.case_with_key(job_key.split(".", 1)[0])
        return case.case_id if case else None
