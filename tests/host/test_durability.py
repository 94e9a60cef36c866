"""A name is given to bytes that are on the disk already: what a power loss would show."""

from __future__ import annotations

import hashlib
import io
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from agent import store
from agent.flushing import Flushing as AgentsFlushing
from agent.work import Work

from mqi.host.base import RemoteFile
from mqi.host.files import Flushing as OurFlushing
from tests.agent.bench import RUN, Bench


class Journal:
    """What was made durable and what was renamed, in this process and in this order."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.names: list[str] = []
        self.early: list[str] = []
        self._durable: dict[int, int] = {}  # inode -> its size when it was made durable
        fsync, replace = os.fsync, os.replace

        def noted_fsync(fd: int) -> None:
            fsync(fd)
            state = os.fstat(fd)
            self._durable[state.st_ino] = state.st_size

        def noted_replace(source: Any, target: Any, **more: Any) -> None:
            state = Path(source).stat()
            if self._durable.get(state.st_ino) != state.st_size:
                self.early.append(str(target))
            replace(source, target, **more)
            self.names.append(Path(target).name)
            # Its folder's entry is not durable any more.
            self._durable.pop(Path(target).parent.stat().st_ino, None)

        monkeypatch.setattr(os, "fsync", noted_fsync)
        monkeypatch.setattr(os, "replace", noted_replace)

    def holds(self, folder: Path) -> bool:
        """Whether the folder's names would be there after a power loss."""
        return folder.stat().st_ino in self._durable


@pytest.fixture
def journal(monkeypatch: pytest.MonkeyPatch) -> Journal:
    return Journal(monkeypatch)


@pytest.mark.skipif(sys.platform == "win32", reason="folders are not made durable there")
def test_uploaded_blobs_are_durable_before_their_names_are(
    tmp_path: Path, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "_PIECE", 1000)
    monkeypatch.setattr(store, "_AT_ONCE", 7)
    datas = [bytes([number]) * (number * 1000 + 1) for number in range(20)]
    work = Work(str(tmp_path))
    blobs = [store.Blob({"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}) for data in datas]
    stream = io.BytesIO(b"".join(b"MQI B %d\n" % len(data) + data for data in datas) + b"MQI E 0\n")
    said = store.receive(work, blobs, io.BufferedReader(stream))  # type: ignore[arg-type]
    assert said == {"stored": [blob.sha256 for blob in blobs], "rejected": []}
    assert sorted(journal.names) == sorted(blob.sha256 for blob in blobs)
    assert journal.early == []
    assert all(journal.holds(work.blob(blob.sha256).parent) for blob in blobs)


@pytest.mark.skipif(sys.platform == "win32", reason="folders are not made durable there")
def test_results_are_durable_before_their_names_are(
    bench: Bench, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mqi.host.download._PIECE", 1000)
    monkeypatch.setattr("mqi.host.download._AT_ONCE", 7)
    code = "for number in range(20): write('f%02d' % number, 'x' * (number * 1000 + 1))"
    bench.submit(bench.plan(bench.code("one-a1", code)))
    assert bench.exit("one-a1")["kind"] == "ok"
    entries = bench.ask({"verb": "outputs", "jobs": [f"{RUN}.one-a1"]})[0]["jobs"][f"{RUN}.one-a1"]["files"]
    folder = bench.folder / "results"
    files = [
        RemoteFile(f"{RUN}.one-a1", one["path"], one["size"], one["sha256"], folder / one["path"]) for one in entries
    ]
    journal.names, journal.early = [], []
    assert bench.host.download(files).done == tuple(files)
    assert journal.names == [one["path"] for one in entries]
    assert journal.early == []
    assert journal.holds(folder)


@pytest.mark.parametrize("kind", [OurFlushing, AgentsFlushing])
@pytest.mark.skipif(sys.platform == "win32", reason="a pipe is a file there")
def test_a_disk_that_fails_is_heard_once(kind: Callable[[], OurFlushing], tmp_path: Path) -> None:
    flushing = kind()
    reader, writer = os.pipe()  # what no disk can hold
    flushing.finish(writer)
    with pytest.raises(OSError):
        flushing.wait()
    os.close(reader)
    for number in range(600):  # more than may be open at once
        flushing.finish(os.open(tmp_path / str(number), os.O_WRONLY | os.O_CREAT))
    flushing.wait()


def test_ssh_is_imported_without_what_nobody_uses() -> None:
    code = (
        "import sys; from mqi.host.lean import import_fabric; import_fabric()\n"
        "for name in ('asyncio', 'unittest', 'yaml', 'email'): assert name not in sys.modules, f'{name} came with it'\n"
        "import importlib.metadata, unittest.mock, invoke.config, paramiko, mqi.host.ssh\n"
        "assert paramiko.__version__ == importlib.metadata.version('paramiko')\n"
        "assert unittest.mock.Mock(return_value=3)() == 3\n"
        "assert invoke.config.yaml.safe_load('a: 1') == {'a': 1}\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_paramiko_that_no_folder_describes_is_asked_for_its_version() -> None:
    """Installed as an egg, or in a program made of one file."""
    code = (
        "from mqi.host import lean; lean.Path = lambda place: type('', (), {'glob': lambda self, words: []})()\n"
        "lean.import_fabric()\n"
        "import importlib.metadata, paramiko\n"
        "assert paramiko.__version__ == importlib.metadata.version('paramiko')\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
