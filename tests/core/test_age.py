"""Which databases count as the one that was used last."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from mqi.age import OLDER_SINCE, note_newest_event, notice_older_database
from mqi.errors import DiskProblem
from mqi.store import Store
from tests.core.test_store import add


class Installation:
    """A database, its note, and one host that has told what it holds."""

    def __init__(self, root: Path) -> None:
        self.path, self.note = root / "mqi.db", root / "installation.events"

    def events(self, count: int) -> None:
        """So many new cases, each with its first event, and then a submission."""
        store = self.open()
        for _number in range(count):
            add(store, f"P{store.newest_event()}")
        store.put_host("one", inventoried_at=1.0)
        note_newest_event(store, self.note)
        store.close()

    def open(self) -> Store:
        return Store(self.path, wait_s=1.0)

    def look(self) -> bool:
        """A command looks: whether the host has to tell again."""
        store = self.open()
        notice_older_database(store, self.note)
        row = store.host("one")
        store.close()
        return row is None or row.inventoried_at is None

    def copy(self, name: str) -> Path:
        store = self.open()
        store.database.backup(self.path.with_name(name))
        store.close()
        return self.path.with_name(name)

    def put_back(self, copy: Path) -> None:
        for path in self.path.parent.glob("mqi.db*"):
            path.unlink()
        shutil.copy(copy, self.path)


@pytest.fixture
def place(tmp_path: Path) -> Installation:
    place = Installation(tmp_path)
    place.events(2)
    return place


def test_the_same_database_is_never_older(place: Installation) -> None:
    assert not place.look()
    place.events(1)
    assert not place.look()


def test_a_backup_from_before_a_submission_is(place: Installation) -> None:
    backup = place.copy("backup.db")
    place.events(1)
    place.put_back(backup)
    assert place.look()
    place.events(0)
    assert not place.look()


def test_a_backup_with_nothing_missing_is_not(place: Installation) -> None:
    place.put_back(place.copy("backup.db"))
    assert not place.look()


def test_a_backup_that_follows_an_empty_database_is(place: Installation) -> None:
    backup = place.copy("backup.db")
    empty = place.path.with_name("empty.db")
    empty.touch()
    place.put_back(empty)
    assert place.look()
    place.put_back(backup)
    assert place.look()


def test_a_backup_of_the_line_that_was_left_is_however_many_events_it_has(place: Installation) -> None:
    short = place.copy("short.db")
    place.events(5)
    long = place.copy("long.db")
    place.put_back(short)
    assert place.look()
    place.events(1)
    place.put_back(long)
    assert place.look()


@pytest.mark.parametrize(("noted", "older"), [("2\n", False), ("1", False), ("3\n", True)])
def test_a_note_of_an_older_mqi_counts_by_its_number(place: Installation, noted: str, older: bool) -> None:
    place.note.write_text(noted, encoding="utf-8")
    assert place.look() == older


@pytest.mark.parametrize("noted", [b"", b"\xff", b"no number", b"x 358682af7adc72cb"])
def test_a_note_that_cannot_be_read_says_nothing(place: Installation, noted: bytes) -> None:
    place.note.write_bytes(noted)
    assert not place.look()


def test_the_operators_are_told_once(place: Installation) -> None:
    backup = place.copy("backup.db")
    place.events(1)
    place.put_back(backup)
    place.look()
    store = place.open()
    told = store.meta(OLDER_SINCE)
    store.close()
    assert told
    place.look()
    store = place.open()
    assert store.meta(OLDER_SINCE) == told
    store.close()


def test_without_a_note_nothing_may_be_handed_over(place: Installation) -> None:
    place.note.unlink()
    place.note.mkdir()
    store = place.open()
    with pytest.raises(DiskProblem):
        note_newest_event(store, place.note)
    store.close()
