"""The effects: programs that hang, lie or are not there, and files that cannot be written."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pytest

from mqi.errors import DiskProblem, UsageProblem
from mqi.schedule import programs as effects
from mqi.schedule.programs import NotAllowed, SchedulerProblem
from tests.schedule.conftest import POSIX, FakePrograms


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", ""),
        (b"plain", "plain"),
        ("한글".encode(), "한글"),
        ("한글".encode("utf-16"), "한글"),  # with its mark
        ("한글".encode("utf-8-sig"), "한글"),
        pytest.param(b"caf\xe9", "café", marks=POSIX),  # nothing better is known; Windows has its code page
    ],
)
def test_what_a_program_says(data: bytes, text: str) -> None:
    assert effects.text_of(data) == text


def test_a_program_that_is_not_there() -> None:
    with pytest.raises(SchedulerProblem, match="the program no-such-program was not found"):
        effects.run(["no-such-program"])
    with pytest.raises(SchedulerProblem, match="was not found"):
        effects.run_asking(["no-such-program"])


def test_a_program_that_does_not_end(programs: FakePrograms) -> None:
    programs.add("hangs", "import time; time.sleep(60)")
    started = time.monotonic()
    with pytest.raises(SchedulerProblem, match="did not answer within 1 s"):
        effects.run(["hangs"], timeout_s=1.0)
    assert time.monotonic() - started < 20


def test_a_service_that_keeps_the_output_open_is_not_waited_for(programs: FakePrograms) -> None:
    # As under Wine, where schtasks starts the service and hands its output on.
    programs.add(
        "starts", "import subprocess\nprint('done', flush=True)\nsubprocess.Popen([sys.executable, '-c', 'import time; time.sleep(8)'])"
    )
    started = time.monotonic()
    done = effects.run(["starts"])
    assert (done.code, done.text) == (0, "done\n")
    assert time.monotonic() - started < 7


@POSIX  # a file is no program on Windows without .exe
def test_a_program_that_cannot_be_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "broken"
    script.write_bytes(b"#!/no/such/interpreter\n")
    script.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SchedulerProblem, match="broken cannot be run"):
        effects.run(["broken"])


def test_output_code_and_input(programs: FakePrograms) -> None:
    programs.add("echo-back", "data = sys.stdin.buffer.read()\nsys.stdout.buffer.write(data)\nprint('no', file=sys.stderr)\nsys.exit(3)")
    done = effects.run(["echo-back"], stdin=b"a\xff")
    assert (done.code, done.out, done.err) == (3, b"a\xff", "no")


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "new" / "unit"
    effects.write_file(path, b"one")
    effects.write_file(path, b"two")
    assert path.read_bytes() == b"two"
    assert os.name == "nt" or path.stat().st_mode & 0o777 == 0o644
    assert [one.name for one in path.parent.iterdir()] == ["unit"]
    with pytest.raises(DiskProblem):
        effects.write_file(path / "below", b"")
    (tmp_path / "folder").mkdir()
    with pytest.raises((DiskProblem, NotAllowed)):
        effects.write_file(tmp_path / "folder", b"x")
    assert sorted(one.name for one in tmp_path.iterdir()) == ["folder", "new"]


@pytest.mark.skipif(sys.platform != "linux", reason="needs a place that even root may not write to")
def test_where_nobody_may_write() -> None:
    with pytest.raises(NotAllowed) as caught:
        effects.write_file(Path("/sys/mqi-test"), b"")
    assert caught.value.hint
    with pytest.raises((NotAllowed, DiskProblem)):
        effects.make_folder(Path("/sys/mqi-test"))


def test_reading_and_removing(tmp_path: Path) -> None:
    path = tmp_path / "file"
    assert effects.read_file(path) is None
    assert effects.modified_at(path) is None
    path.write_bytes(b"a\xff")
    assert effects.read_file(path) == "a\ufffd"
    assert effects.modified_at(path) is not None
    effects.remove_file(path)
    effects.remove_file(path)
    with pytest.raises(DiskProblem):
        effects.read_file(tmp_path)
    with pytest.raises((DiskProblem, NotAllowed)):
        effects.remove_file(tmp_path)


def test_folders(tmp_path: Path) -> None:
    effects.make_folder(tmp_path / "a" / "b")
    effects.make_folder(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").is_dir()
    (tmp_path / "file").touch()
    with pytest.raises(DiskProblem):
        effects.make_folder(tmp_path / "file" / "b")
    with pytest.raises(UsageProblem, match="no account"):
        effects.make_folder(tmp_path / "c", "no-such-account")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root gives folders away")
def test_only_new_folders_change_hands(tmp_path: Path) -> None:
    import pwd

    effects.make_folder(tmp_path / "a")
    effects.make_folder(tmp_path / "a" / "b" / "c", "nobody")
    nobody = pwd.getpwnam("nobody").pw_uid
    assert [(tmp_path / name).stat().st_uid for name in ("a", "a/b", "a/b/c")] == [0, nobody, nobody]
