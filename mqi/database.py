"""The SQLite file: opening, migrating, writing under one lock. What the rows mean is in store.py."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from mqi.errors import DatabaseBusy, DatabaseProblem, DiskProblem

# "mqi1": tells our file from any other SQLite file that somebody points us at.
APPLICATION_ID = 0x6D716931
_SCHEMA = Path(__file__).with_name("schema.sql")


def _create(connection: sqlite3.Connection) -> None:
    for statement in _statements(_SCHEMA.read_text(encoding="utf-8")):
        connection.execute(statement)


def _add_fractions(connection: sqlite3.Connection) -> None:
    for statement in _statements(_SCHEMA.with_name("schema_2.sql").read_text(encoding="utf-8")):
        connection.execute(statement)


def _add_host_state(connection: sqlite3.Connection) -> None:
    for statement in _statements(_SCHEMA.with_name("schema_3.sql").read_text(encoding="utf-8")):
        connection.execute(statement)


# Position n brings a database from version n to n + 1. Released migrations are never edited.
MIGRATIONS: tuple[Callable[[sqlite3.Connection], None], ...] = (_create, _add_fractions, _add_host_state)


class Database:
    """One connection to mqi.db. Reads see a consistent state; `write()` is the only way to change it."""

    def __init__(self, path: Path, *, wait_s: float = 10.0) -> None:
        """Open or create `path`.

        Raises DatabaseProblem for a corrupt, foreign or newer file, DatabaseBusy when another process
        holds it for more than `wait_s`, DiskProblem when the disk says no.
        """
        self.path = path
        self._wait_s = wait_s
        self._depth = 0
        self._lock_path = path.with_name(path.name + ".lock")
        with self._explained():
            path.parent.mkdir(parents=True, exist_ok=True)
            new = not path.exists()
            if new:
                # Patients' folder names are in here; on Windows the folder's ACL has to do this.
                os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
            self.connection = sqlite3.connect(path, timeout=wait_s, isolation_level=None)
            try:
                self._prepare()
            except BaseException:
                self.connection.close()
                raise

    def close(self) -> None:
        """Close the file; on Windows an open handle would block a restore or a backup's rename."""
        self.connection.close()

    def read(self, sql: str, parameters: tuple[object, ...] = ()) -> list[sqlite3.Row]:
        """All rows of one query."""
        with self._explained():
            return self.connection.execute(sql, parameters).fetchall()

    @contextmanager
    def write(self) -> Iterator[sqlite3.Connection]:
        """One `BEGIN IMMEDIATE` transaction under mqi.db.lock; inside another one, a part of it.

        A deferred transaction that reads and then writes fails at once with SQLITE_BUSY_SNAPSHOT
        whatever the time-out (measured, windows-and-schedulers.md); the file lock queues writers fairly.
        """
        if self._depth:
            yield self.connection
            return
        from filelock import FileLock, Timeout

        with self._explained():
            lock = FileLock(self._lock_path)
            try:
                lock.acquire(timeout=self._wait_s, poll_interval=0.01)
            except Timeout:
                raise DatabaseBusy(
                    f"another mqi process has been writing the database for more than {self._wait_s:.0f} s",
                    "nothing to do: the next run tries again; if it stays so, look for a hanging mqi process",
                ) from None
            try:
                self.connection.execute("BEGIN IMMEDIATE")
                self._depth += 1
                try:
                    yield self.connection
                    self.connection.execute("COMMIT")
                except BaseException:
                    # When the disk is full SQLite has rolled back by itself, and says no to a second time.
                    if self.connection.in_transaction:
                        self.connection.execute("ROLLBACK")
                    raise
                finally:
                    self._depth -= 1
            finally:
                lock.release()

    def backup(self, target: Path) -> None:
        """A consistent copy of the database at `target`, checked, written under a temporary name."""
        part = target.with_name(target.name + ".part")
        part.unlink(missing_ok=True)
        copy = sqlite3.connect(part)
        try:
            self.connection.backup(copy)
            if copy.execute("PRAGMA integrity_check").fetchone()[0] != "ok":
                raise DatabaseProblem(f"the copy of the database is damaged: {part}")
        finally:
            copy.close()
        part.replace(target)

    def _prepare(self) -> None:
        connection = self.connection
        connection.row_factory = sqlite3.Row
        connection.execute(f"PRAGMA busy_timeout = {int(self._wait_s * 1000)}")
        connection.execute("PRAGMA foreign_keys = ON")
        version = self._version()
        if connection.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
            connection.execute("PRAGMA journal_mode = WAL")
        # A state that mqi told somebody about must survive a power cut.
        connection.execute("PRAGMA synchronous = FULL")
        if version < len(MIGRATIONS):
            self._migrate()

    def _version(self) -> int:
        version = int(self.connection.execute("PRAGMA user_version").fetchone()[0])
        application = int(self.connection.execute("PRAGMA application_id").fetchone()[0])
        if application not in (0, APPLICATION_ID) or (version and application != APPLICATION_ID):
            raise DatabaseProblem(
                f"{self.path} is a database of another program",
                "check `paths: database:` in the configuration",
            )
        if not version and self.connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
            raise DatabaseProblem(
                f"{self.path} is an SQLite database, but not one of mqi",
                "check `paths: database:` in the configuration",
            )
        if version > len(MIGRATIONS):
            raise DatabaseProblem(
                f"the database {self.path} is of version {version}; this mqi knows versions up to {len(MIGRATIONS)}",
                "use the newer mqi that wrote it, or restore the backup that lies beside it",
            )
        return version

    def _migrate(self) -> None:
        with self.write() as connection:
            # Read again under the lock: another process may have migrated meanwhile.
            version = self._version()
            pending = list(enumerate(MIGRATIONS))[version:]
        if version and pending:
            stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime())
            self.backup(self.path.with_name(f"{self.path.name}.v{version}.{stamp}.bak"))
        for number, migration in pending:
            with self.write() as connection:
                if self._version() != number:
                    continue
                migration(connection)
                connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
                connection.execute(f"PRAGMA user_version = {number + 1}")

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Turn SQLite's and the disk's errors into ours."""
        try:
            yield
        except sqlite3.Error as error:
            raise explain(error, self.path) from error
        except OSError as error:
            raise DiskProblem(
                f"the database {self.path} cannot be reached: {error.strerror or error}"
            ) from error


def explain(error: sqlite3.Error, path: Path) -> Exception:
    """The error that an operator understands, for one of SQLite's; `error` itself when it is our bug."""
    name = getattr(error, "sqlite_errorname", "") or ""
    if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
        return DatabaseBusy(
            f"the database {path} is locked by another program",
            "nothing to do: the next run tries again; if it stays so, close the program that has it open",
        )
    if name.startswith(("SQLITE_FULL", "SQLITE_READONLY", "SQLITE_CANTOPEN", "SQLITE_IOERR")):
        return DiskProblem(
            f"the database {path} cannot be written or read: {error}",
            "check free space and permissions of its folder; mqi goes on by itself afterwards",
        )
    if name.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB")):
        return DatabaseProblem(
            f"the database {path} is damaged ({error})",
            "move it away and run mqi: it rebuilds its state from the hosts and results (only history is "
            "lost), or restore a backup",
        )
    return error


def _statements(script: str) -> Iterator[str]:
    """The statements of a script; triggers hold semicolons, so SQLite itself says where one ends."""
    pending = ""
    for line in script.splitlines(keepends=True):
        pending += line
        if sqlite3.complete_statement(pending):
            yield pending
            pending = ""
