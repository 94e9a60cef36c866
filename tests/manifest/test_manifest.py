"""Manifest: one digest for the same work, another for any other; hashing believes nothing that moves."""

from __future__ import annotations

import hashlib
import json
import os
import random
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mqi.errors import IntakeProblem, TemporaryProblem
from mqi.intake.files import file_stat
from mqi.intake.unit import FileStat
from mqi.manifest import Entry, FilesChanged, Manifest, hash_files, run_key

SHA = hashlib.sha256(b"x").hexdigest()
ENTRIES = (Entry("b/RP.dcm", 1, SHA), Entry("a.ptn", 2, SHA))


def test_entries_are_in_one_order() -> None:
    assert [entry.path for entry in Manifest(ENTRIES).entries] == ["a.ptn", "b/RP.dcm"]
    assert Manifest(ENTRIES) == Manifest(ENTRIES[::-1])
    assert Manifest(ENTRIES).size == 3
    assert len(Manifest(ENTRIES)) == 2


def test_the_digest_is_pinned() -> None:
    """A changed encoding would make every finished case look new, and compute it again."""
    digest = Manifest(ENTRIES).digest("G1", "P001/1.2.3")
    rows = f'[["a.ptn",2,"{SHA}"],["b/RP.dcm",1,"{SHA}"]]'
    text = f'["mqi run 1","G1","P001/1.2.3","",{rows}]'
    assert digest == hashlib.sha256(text.encode("ascii")).hexdigest()
    assert digest == "8308fa695fc6da08b2892db4bc5221ff52c51d319aed604da1f54817dffd5eee"
    assert run_key(digest) == digest[:12]
    assert Manifest(ENTRIES).digest("G1", "P001/1.2.3", "") == digest, "no fraction: the whole folder"
    assert Manifest(ENTRIES).digest("G1", "P001/1.2.3", "20260101") != digest


DIFFERENT = [
    ("room", ("G2", "P/S", None, ENTRIES)),
    ("place", ("G1", "P/T", None, ENTRIES)),
    ("fraction", ("G1", "P/S", "1", ENTRIES)),
    ("fields do not run together", ("G1P", "/S", None, ENTRIES)),
    ("path", ("G1", "P/S", None, (ENTRIES[0], replace(ENTRIES[1], path="a.ptm")))),
    ("case of a path", ("G1", "P/S", None, (ENTRIES[0], replace(ENTRIES[1], path="A.ptn")))),
    ("size", ("G1", "P/S", None, (ENTRIES[0], replace(ENTRIES[1], size=3)))),
    ("contents", ("G1", "P/S", None, (ENTRIES[0], replace(ENTRIES[1], sha256="0" * 64)))),
    ("a file more", ("G1", "P/S", None, (*ENTRIES, Entry("c", 0, SHA)))),
    ("a file less", ("G1", "P/S", None, ENTRIES[:1])),
]


@pytest.mark.parametrize(("remark", "work"), DIFFERENT, ids=[row[0] for row in DIFFERENT])
def test_other_work_has_another_digest(remark: str, work: tuple) -> None:
    room, path, fraction, entries = work
    assert Manifest(entries).digest(room, path, fraction) != Manifest(ENTRIES).digest("G1", "P/S")


# Characters that would make a careless encoding ambiguous.
texts = st.text(st.sampled_from('ab"\\,[]/|\n\0 0é\udcff'), max_size=5)
names = st.text(st.sampled_from('ab"\\,[]|\n 0é\udcff'), min_size=1, max_size=4)
entries = st.lists(
    st.builds(Entry, names, st.integers(0, 20), st.sampled_from([SHA, "0" * 64])),
    max_size=3,
    unique_by=lambda entry: entry.path,
)
works = st.tuples(texts, texts, texts, entries)


@settings(deadline=None)
@given(works, works)
def test_the_digest_changes_exactly_when_the_work_does(one: tuple, other: tuple) -> None:
    def digest(work: tuple) -> str:
        return Manifest(tuple(work[3])).digest(*work[:3])

    def meaning(work: tuple) -> tuple:
        return (*work[:3], frozenset(work[3]))

    assert (digest(one) == digest(other)) == (meaning(one) == meaning(other))


@settings(deadline=None)
@given(entries, st.randoms())
def test_json_and_back(listed: list[Entry], shuffler: random.Random) -> None:
    manifest = Manifest(tuple(listed))
    assert Manifest.from_json(manifest.to_json()) == manifest
    manifest.to_json().encode("ascii")
    shuffler.shuffle(listed)
    assert Manifest(tuple(listed)).to_json() == manifest.to_json()


BAD_PATHS = ["", "/a", "a/", "a//b", ".", "..", "a/../b", "./a", "a\0b"]


@pytest.mark.parametrize("path", BAD_PATHS)
def test_paths_that_are_none(path: str) -> None:
    with pytest.raises(ValueError, match="not a relative path"):
        Entry(path, 1, SHA)


@pytest.mark.parametrize(
    ("size", "sha256"), [(-1, SHA), (1, SHA.upper()), (1, SHA[:-1]), (1, SHA + "\n"), (1, "")]
)
def test_sizes_and_digests_that_are_none(size: int, sha256: str) -> None:
    with pytest.raises(ValueError, match="not a size"):
        Entry("a", size, sha256)


def test_a_path_twice() -> None:
    with pytest.raises(ValueError, match="twice"):
        Manifest((ENTRIES[0], ENTRIES[0]))


BAD_JSON = [
    "", "[]", "null", "{}", '{"format":2,"entries":[]}', '{"format":1,"entries":{}}', '{"entries":[["a",1]]}',
    json.dumps({"entries": [["a", "1", SHA]]}), json.dumps({"entries": [["a", True, SHA]]}),
    json.dumps({"entries": [["a", 1, SHA, 4]]}), json.dumps({"entries": [["../a", 1, SHA]]}),
    json.dumps({"entries": [{"a": 1}]}), "[" * 100_000,
]  # fmt: skip


@pytest.mark.parametrize("text", BAD_JSON, ids=range(len(BAD_JSON)))
def test_json_that_is_no_manifest(text: str) -> None:
    with pytest.raises(ValueError):
        Manifest.from_json(text)


@pytest.mark.parametrize("digest", ["", "abc", SHA.upper(), SHA + "\n", "g" * 64])
def test_run_keys_come_from_digests_only(digest: str) -> None:
    with pytest.raises(ValueError, match="not a digest"):
        run_key(digest)


# --- hashing ---------------------------------------------------------------------------------------------


class Cache:
    """What the database does, in memory."""

    def __init__(self) -> None:
        self.known: dict[tuple[str, int, int, int], str] = {}
        self.put: list[str] = []

    def get(self, path: str, size: int, mtime_ns: int, file_id: int) -> str | None:
        return self.known.get((path, size, mtime_ns, file_id))

    def add(self, path: str, size: int, mtime_ns: int, file_id: int, sha256: str) -> None:
        self.known[path, size, mtime_ns, file_id] = sha256
        self.put.append(path)


@pytest.fixture
def cache() -> Cache:
    return Cache()


def listed(folder: Path, *names: str) -> list[FileStat]:
    return [file_stat(name, (folder / name).lstat()) for name in names]


def test_hashes_are_those_of_the_files(tmp_path: Path, cache: Cache) -> None:
    contents = {"empty": b"", "RP.dcm": b"plan", "sub/big": random.Random(0).randbytes(3 * 2**20 + 7)}
    (tmp_path / "sub").mkdir()
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    files = listed(tmp_path, *contents)
    manifest = hash_files(tmp_path, files, cache.get, cache.add)
    assert {entry.path: (entry.size, entry.sha256) for entry in manifest.entries} == {
        name: (len(content), hashlib.sha256(content).hexdigest()) for name, content in contents.items()
    }
    assert cache.put == [(tmp_path / name).as_posix() for name in contents]
    cache.put.clear()
    assert hash_files(tmp_path, files, cache.get, cache.add) == manifest
    assert cache.put == [], "nothing was read again"


def test_the_same_name_in_another_case_is_another_file(tmp_path: Path, cache: Cache) -> None:
    for case, content in (("P1", b"one"), ("P2", b"two")):
        (tmp_path / case).mkdir()
        (tmp_path / case / "RP.dcm").write_bytes(content)
        os.utime(tmp_path / case / "RP.dcm", ns=(5, 5))
    one, two = (
        hash_files(
            tmp_path / case,
            # Another disk may give the same id.
            listed(tmp_path / case, "RP.dcm"),
            lambda path, size, mtime_ns, file_id: cache.get(path, size, mtime_ns, 0),
            lambda path, size, mtime_ns, file_id, sha256: cache.add(path, size, mtime_ns, 0, sha256),
        )
        for case in ("P1", "P2")
    )
    assert one != two


def test_a_cached_hash_is_not_believed_when_the_file_has_changed(tmp_path: Path, cache: Cache) -> None:
    (tmp_path / "a").write_bytes(b"one")
    files = listed(tmp_path, "a")
    hash_files(tmp_path, files, cache.get, cache.add)
    os.utime(tmp_path / "a", ns=(1, 1))
    with pytest.raises(FilesChanged):
        hash_files(tmp_path, files, cache.get, cache.add)


def test_nonsense_in_the_cache_is_not_believed(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"one")
    manifest = hash_files(tmp_path, listed(tmp_path, "a"), lambda *key: "nonsense", lambda *row: None)
    assert manifest.entries[0].sha256 == hashlib.sha256(b"one").hexdigest()


def replaced(path: Path) -> None:
    other = path.with_name("other")
    other.write_bytes(path.read_bytes())
    os.utime(other, ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns))
    other.replace(path)


def as_link(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    path.symlink_to(path.with_name("elsewhere"))


SINCE_LISTED = {
    "it grew": lambda path: path.write_bytes(b"longer than before"),
    "another time": lambda path: os.utime(path, ns=(1, 1)),
    "another file of the same size and time": replaced,
    "gone": lambda path: path.unlink(),
    "a folder now": lambda path: (path.unlink(), path.mkdir()),
    "a link now": as_link,
}
if sys.platform != "win32":
    SINCE_LISTED["a pipe now"] = lambda path: (path.unlink(), os.mkfifo(path))


@pytest.mark.parametrize("change", SINCE_LISTED.values(), ids=SINCE_LISTED)
def test_a_file_that_changed_since_it_was_listed(tmp_path: Path, change, cache: Cache) -> None:
    (tmp_path / "Canary.dcm").write_bytes(b"before")
    files = listed(tmp_path, "Canary.dcm")
    change(tmp_path / "Canary.dcm")
    with pytest.raises(FilesChanged) as caught:
        hash_files(tmp_path, files, cache.get, cache.add)
    assert isinstance(caught.value, TemporaryProblem)
    assert "Canary" not in str(caught.value)
    assert "'Canary.dcm'" in caught.value.hint
    assert cache.put == []


def test_a_file_that_changes_while_it_is_read(tmp_path: Path, cache: Cache) -> None:
    """The writer works from the first to the last byte; whatever is reported is what was listed."""
    path = tmp_path / "a"
    path.write_bytes(bytes(8 * 2**20))
    stop = threading.Event()

    def write() -> None:
        with path.open("r+b") as stream:
            while not stop.is_set():
                stream.seek(random.randrange(8 * 2**20))
                stream.write(b"x")
                stream.flush()

    files = listed(tmp_path, "a")
    thread = threading.Thread(target=write)
    thread.start()
    try:
        with pytest.raises(FilesChanged):
            for _ in range(50):
                hash_files(tmp_path, files, lambda *key: None, cache.add)
    finally:
        stop.set()
        thread.join()


def test_a_change_between_the_looks_is_noticed(tmp_path: Path, cache: Cache) -> None:
    """The cache is asked after the first look: there the file changes, to other bytes of the same number."""
    path = tmp_path / "a"
    path.write_bytes(b"before")
    with pytest.raises(FilesChanged):
        hash_files(
            tmp_path, listed(tmp_path, "a"), lambda *key: path.write_bytes(b"after!") and None, cache.add
        )
    assert cache.put == []


@pytest.mark.skipif(sys.platform == "win32", reason="NTFS would really take the space")
def test_a_file_that_never_ends_is_not_read_for_ever(tmp_path: Path, cache: Cache) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"x")

    def grow(*key: object) -> None:
        with path.open("ab") as stream:
            stream.truncate(2**40)  # sparse, but it would take an hour to read

    with pytest.raises(FilesChanged):
        hash_files(tmp_path, listed(tmp_path, "a"), grow, cache.add)


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX permissions")
def test_a_file_that_cannot_be_read(tmp_path: Path, cache: Cache) -> None:
    name = "Canary.dcm"
    folder = tmp_path
    if (
        os.geteuid() == 0
    ):  # root reads everything but this: a file with a mode is readable, a process' memory is not
        folder, name = Path("/proc/self"), "mem"
    else:
        (folder / name).write_bytes(b"x")
        (folder / name).chmod(0)
    with pytest.raises(IntakeProblem) as caught:
        hash_files(folder, listed(folder, name), cache.get, cache.add)
    assert "cannot be read" in str(caught.value)
    assert name not in str(caught.value)


def test_what_was_hashed_before_an_error_is_kept(tmp_path: Path, cache: Cache) -> None:
    for name in ("a", "b"):
        (tmp_path / name).write_bytes(name.encode())
    files = listed(tmp_path, "a", "b")
    (tmp_path / "b").unlink()
    with pytest.raises(FilesChanged):
        hash_files(tmp_path, files, cache.get, cache.add)
    assert cache.put == [(tmp_path / "a").as_posix()]


class Status:
    """An os.stat_result with numbers as some file systems give them."""

    def __init__(self, mtime_ns: int, ino: int) -> None:
        self.st_size, self.st_mtime_ns, self.st_ino = 1, mtime_ns, ino


@pytest.mark.parametrize("ino", [0, 2**63, 2**64 - 1, 2**128 - 1])
@pytest.mark.parametrize("mtime_ns", [0, -(2**70), 2**70])
def test_ids_and_times_fit_the_database(ino: int, mtime_ns: int) -> None:
    stat = file_stat("a", Status(mtime_ns, ino))  # type: ignore[arg-type]
    assert -(2**63) <= stat.mtime_ns < 2**63
    assert 0 <= stat.file_id < 2**63
