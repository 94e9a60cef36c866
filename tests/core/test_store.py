"""The database: guarded transitions, the audit trail, migrations, damage, many processes at once."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from mqi.case import TRANSITIONS, Event, State
from mqi.database import APPLICATION_ID, MIGRATIONS, Database
from mqi.errors import DatabaseBusy, DatabaseProblem
from mqi.job import Job, JobState
from mqi.rows import Case
from mqi.store import StaleCase, Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "mqi.db", wait_s=1.0)


def add(store: Store, path: str = "P1", **columns: object) -> Case:
    return store.add_case(
        room="G1", path=path, case_path=f"/cases/{path}", results_name=path, workflow="default_qa", **columns
    )


def test_record_moves_the_case_and_writes_the_event(store: Store) -> None:
    case = store.record(add(store), Event.COMPLETE_FOLDER, "complete", ready_at=1.0)
    assert (case.status, case.reason, case.ready_at) == (State.NEW, "complete", 1.0)
    events = store.events(case.case_id)
    assert [(e.event, e.before, e.after) for e in events] == [
        ("seen", "", "waiting"),
        ("complete folder", "waiting", "new"),
    ]
    assert events[-1].actor


def test_of_two_decisions_about_one_case_only_the_first_counts(store: Store) -> None:
    case = add(store)
    store.record(case, Event.COMPLETE_FOLDER)
    with pytest.raises(StaleCase):
        store.record(case, Event.SKIP)
    assert len(store.events(case.case_id)) == 2


def test_a_decision_about_an_older_plan_does_not_count(store: Store) -> None:
    case = add(store)
    store.update(case, plan_serial=3)
    with pytest.raises(StaleCase):
        store.update(case, reason="from an older plan")


def test_every_event_that_the_table_lacks_is_refused(store: Store) -> None:
    case = add(store)
    for event in Event:
        if (State.WAITING, event) not in TRANSITIONS:
            with pytest.raises(ValueError, match="cannot happen"):
                store.record(case, event)
    assert store.case(case.case_id) == case


def test_a_transaction_is_all_or_nothing(store: Store) -> None:
    case = add(store)
    with pytest.raises(RuntimeError), store.together():
        store.record(case, Event.COMPLETE_FOLDER)
        raise RuntimeError("killed here")
    assert store.case(case.case_id).status is State.WAITING
    assert len(store.events(case.case_id)) == 1


def test_the_audit_trail_cannot_be_altered(store: Store) -> None:
    add(store)
    for statement in ("DELETE FROM events", "UPDATE events SET reason = 'nothing happened'"):
        with pytest.raises(sqlite3.IntegrityError), store.database.write() as connection:
            connection.execute(statement)


def test_one_row_per_unit_and_revision(store: Store) -> None:
    add(store)
    with pytest.raises(StaleCase):
        add(store)
    assert add(store, revision=2).revision == 2
    assert store.newest_revision("G1", "P1") == add_newest(store)


def add_newest(store: Store) -> Case:
    return store.select("revision = 2")[0]


def test_results_names_are_taken_whatever_the_case(store: Store) -> None:
    add(store, "Abc")
    assert store.results_name_taken("G1", "aBC", "other")
    assert not store.results_name_taken("G1", "aBC", "Abc")
    assert not store.results_name_taken("G2", "Abc", "other")


def test_jobs_keep_their_order_and_the_newest_attempt_is_shown(store: Store) -> None:
    case = add(store)
    first = Job("k.a-a1", case.case_id, "a", None, 1, JobState.FAILED, "d")
    second = Job("k.b.b2-a1", case.case_id, "b", 2, 1, JobState.PLANNED, "d")
    store.put_jobs([first, second])
    again = first._replace(job_key="k.a-a2", attempt=2, state=JobState.PLANNED)
    store.put_jobs([again])
    assert store.jobs(case.case_id) == [again, second]
    assert store.jobs(case.case_id, all_attempts=True) == [first, second, again]
    store.put_jobs([again._replace(state=JobState.DONE, group="cpu")])
    assert store.jobs(case.case_id)[0].state is JobState.DONE


def test_the_same_attempt_cannot_have_two_keys(store: Store) -> None:
    case = add(store)
    store.put_jobs([Job("k.a-a1", case.case_id, "a", None, 1, JobState.PLANNED, "d")])
    with pytest.raises(sqlite3.IntegrityError):
        store.put_jobs([Job("other", case.case_id, "a", None, 1, JobState.PLANNED, "d")])


def test_durable_settings(store: Store) -> None:
    connection = store.database.connection
    assert connection.execute("PRAGMA journal_mode").fetchone()[0] == "wal"
    assert connection.execute("PRAGMA synchronous").fetchone()[0] == 2  # FULL
    assert connection.execute("PRAGMA foreign_keys").fetchone()[0] == 1


def test_last_success_and_last_attempt_are_apart(tmp_path: Path) -> None:
    clock = [100.0]
    store = Store(tmp_path / "mqi.db", now=lambda: clock[0])
    store.step_attempted("sync", None)
    clock[0] = 200.0
    store.step_attempted("sync", "host is silent")
    assert store.steps()["sync"] == (200.0, 100.0, "host is silent")


# --- opening -------------------------------------------------------------------------------------------


def test_a_newer_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "mqi.db"
    Database(path).close()
    connection = sqlite3.connect(path)
    connection.execute(f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
    connection.close()
    with pytest.raises(DatabaseProblem, match="version"):
        Database(path)


@pytest.mark.parametrize("content", [b"not a database at all" * 100, b"SQLite format 3\0" + b"\xff" * 4096])
def test_a_damaged_file_is_explained(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "mqi.db"
    path.write_bytes(content)
    with pytest.raises(DatabaseProblem) as caught:
        Database(path)
    assert caught.value.exit_code == 78
    assert path.read_bytes() == content  # nothing was "repaired"


def test_somebody_elses_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "mqi.db"
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE patients (name)")
    connection.commit()
    connection.close()
    with pytest.raises(DatabaseProblem, match="not one of mqi"):
        Database(path)


def test_a_migration_makes_a_backup_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "mqi.db"
    store = Store(path)
    add(store)
    store.close()

    def second(connection: sqlite3.Connection) -> None:
        connection.execute("ALTER TABLE cases ADD COLUMN colour TEXT NOT NULL DEFAULT ''")

    monkeypatch.setattr("mqi.database.MIGRATIONS", (*MIGRATIONS, second))
    migrated = Database(path)
    assert migrated.read("SELECT colour FROM cases")[0]["colour"] == ""
    migrated.close()
    (backup,) = tmp_path.glob(f"mqi.db.v{len(MIGRATIONS)}.*.bak")
    old = sqlite3.connect(backup)
    assert old.execute("PRAGMA user_version").fetchone()[0] == len(MIGRATIONS)
    assert old.execute("PRAGMA application_id").fetchone()[0] == APPLICATION_ID
    assert old.execute("SELECT count(*) FROM cases").fetchone()[0] == 1
    old.close()


def test_a_failed_migration_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "mqi.db"
    Database(path).close()

    def broken(connection: sqlite3.Connection) -> None:
        connection.execute("CREATE TABLE half (x)")
        raise RuntimeError("power cut")

    with monkeypatch.context() as patch:
        patch.setattr("mqi.database.MIGRATIONS", (*MIGRATIONS, broken))
        with pytest.raises(RuntimeError):
            Database(path)
    assert Database(path).read("SELECT name FROM sqlite_master WHERE name = 'half'") == []


def test_a_database_that_another_program_holds_is_busy(tmp_path: Path) -> None:
    path = tmp_path / "mqi.db"
    store = Store(path, wait_s=0.2)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    with pytest.raises(DatabaseBusy) as caught:
        add(store)
    assert caught.value.exit_code == 75
    other.execute("ROLLBACK")
    assert add(store).status is State.WAITING


_WRITER = """
import sys
from pathlib import Path
from mqi.store import Store
store = Store(Path(sys.argv[1]), wait_s=30)
for number in range(25):
    store.add_case(room="G1", path=f"{sys.argv[2]}-{number}", case_path="/x", results_name="x", workflow="w")
"""


def test_many_writers_at_once_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "mqi.db"  # created by whichever comes first
    writers = [subprocess.Popen([sys.executable, "-c", _WRITER, str(path), str(n)]) for n in range(4)]
    assert [writer.wait(60) for writer in writers] == [0, 0, 0, 0]
    assert Database(path).read("SELECT count(*) FROM cases")[0][0] == 100


def test_a_killed_writer_leaves_no_lock(tmp_path: Path) -> None:
    path = tmp_path / "mqi.db"
    code = (
        _WRITER + "\nimport time\nwith store.together():\n    print('in', flush=True)\n    time.sleep(60)\n"
    )
    writer = subprocess.Popen([sys.executable, "-c", code, str(path), "a"], stdout=subprocess.PIPE)
    assert writer.stdout is not None
    assert writer.stdout.readline().strip() == b"in"
    writer.kill()
    writer.wait()
    store = Store(path, wait_s=2.0)
    assert add(store).case_id == 26
