"""mqi's own log files: one record is one line, whatever happens, and nothing that happens stops a step."""

from __future__ import annotations

import json
import logging
import os
import re
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from datetime import date, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from filelock import FileLock
from hypothesis import given
from hypothesis import strategies as st

from mqi import logs
from mqi.logs import DailyFiles, JsonLines, TextLines, correlation, start_logging, stop_logging
from mqi.settings import Logging

SEOUL = ZoneInfo("Asia/Seoul")
log = logging.getLogger("mqi.steps.submit")


@pytest.fixture(autouse=True)
def _afterwards() -> Iterator[None]:
    yield
    stop_logging()


def lines(folder: Path) -> list[str]:
    """All the lines of all the log files, in order."""

    def order(path: Path) -> tuple[str, int]:
        name, _, number = path.name.removesuffix(".log").partition(".")
        return name, int(number or 0)

    files = sorted(folder.glob("*.log"), key=order)
    return [line for file in files for line in file.read_text(encoding="utf-8").splitlines()]


def record(message: str, *arguments: object, created: float | None = None) -> logging.LogRecord:
    made = logging.LogRecord("mqi.steps.submit", logging.INFO, __file__, 1, message, arguments, None)
    if created is not None:
        made.created = created
    return made


# --- what a line says -----------------------------------------------------------------------------------


def test_a_text_line(tmp_path: Path) -> None:
    start_logging(tmp_path, Logging(), SEOUL)
    with correlation("a1b2c3d4e5f6"):
        log.info("uploaded %d files", 3)
    log.warning("plain")
    first, second = lines(tmp_path)
    stamp = r"\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}\.\d{3}\+09:00"
    assert re.fullmatch(stamp + r" INFO    mqi\.steps\.submit \[a1b2c3d4e5f6\] uploaded 3 files", first)
    assert re.fullmatch(stamp + r" WARNING mqi\.steps\.submit plain", second)


def test_a_json_line(tmp_path: Path) -> None:
    start_logging(tmp_path, Logging(format="json"), SEOUL)
    with correlation("a1b2c3d4e5f6"):
        log.error("방 1 “failed”")
    log.info("plain")
    first, second = (json.loads(line) for line in lines(tmp_path))
    assert list(first) == ["timestamp", "level", "module", "correlation_id", "message"]
    moment = datetime.fromisoformat(first.pop("timestamp"))
    assert abs(moment.timestamp() - time.time()) < 60 and moment.utcoffset() == timedelta(hours=9)
    assert first == {
        "level": "ERROR", "module": "mqi.steps.submit", "correlation_id": "a1b2c3d4e5f6", "message": "방 1 “failed”",
    }  # fmt: skip
    assert second["correlation_id"] is None


def test_correlations_nest_and_do_not_leak_into_other_threads(tmp_path: Path) -> None:
    start_logging(tmp_path, Logging(format="json"), SEOUL)
    with correlation("outer"):
        with correlation("inner"):
            log.info("a")
        thread = threading.Thread(target=log.info, args=("b",))
        thread.start()
        thread.join()
        with pytest.raises(ZeroDivisionError), correlation("broken"):
            raise ZeroDivisionError
        log.info("c")
    log.info("d")
    found = [json.loads(line)["correlation_id"] for line in lines(tmp_path)]
    assert found == ["inner", None, "outer", None]


def test_a_traceback_stays_with_its_record(tmp_path: Path) -> None:
    for form in ("text", "json"):
        folder = tmp_path / form
        start_logging(folder, Logging(format=form), SEOUL)
        try:
            raise ValueError("boom")
        except ValueError:
            log.exception("it broke")
    text = lines(tmp_path / "text")
    assert text[0].endswith("it broke") and all(line.startswith("    ") for line in text[1:])
    assert text[-1].strip() == "ValueError: boom"
    (line,) = lines(tmp_path / "json")
    assert json.loads(line)["message"].endswith("ValueError: boom")


HOSTILE = [
    ("a\nb", "a\n    b"),  # a text line cannot forge the next one
    ("a\r\nb", "a\n    b"),
    ("a\rb", "a\\rb"),  # nor overwrite itself on a terminal
    ("\x1b[2Ja", "\\x1b[2Ja"),
    ("a\u2028b\x85c", "a\\u2028b\\x85c"),
    ("tab\tstays", "tab\tstays"),
    ("half \udcff", "half \udcff"),  # escaped when it becomes bytes
]


@pytest.mark.parametrize(("message", "shown"), HOSTILE)
def test_hostile_messages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, message: str, shown: str
) -> None:
    # pytest would put the message into its report, which xdist cannot send on with half a character in it.
    monkeypatch.setattr(logging.getLogger("mqi"), "propagate", False)
    assert TextLines(SEOUL).format(record(message)).split("submit ", 1)[1] == shown
    start_logging(tmp_path, Logging(format="json"), SEOUL)
    log.info("%s", message)
    assert len(lines(tmp_path)) == 1


@given(st.text())
def test_any_message_is_one_line_of_json(message: str) -> None:
    line = JsonLines(SEOUL).format(record("%s", message))
    assert len(line.splitlines()) == 1
    assert isinstance(json.loads(line)["message"], str)


@given(st.text())
def test_only_indented_lines_follow_a_text_line(message: str) -> None:
    _, *more = TextLines(SEOUL).format(record("%s", message)).splitlines()
    assert all(line.startswith("    ") for line in more)


class Nasty:
    """Cannot be shown."""

    def __str__(self) -> str:
        raise RuntimeError("no")


def test_arguments_that_do_not_fit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    handler = DailyFiles(tmp_path, Logging(), SEOUL)  # directly: pytest's own handler raises for these
    handler.handle(record("%d files", "x"))
    handler.handle(record("%s %s", "one"))
    handler.handle(record("it is %s", Nasty()))
    assert [re.sub(".*submit ", "", line) for line in lines(tmp_path)] == [
        "%d files (its arguments could not be filled in: TypeError)",
        "%s %s (its arguments could not be filled in: TypeError)",
        "it is %s (its arguments could not be filled in: RuntimeError)",
    ]
    assert capsys.readouterr().err == ""


def test_levels_and_who_is_heard(tmp_path: Path) -> None:
    start_logging(tmp_path, Logging(level="WARNING"), SEOUL)
    log.info("too quiet")
    log.warning("mqi")
    logging.getLogger("paramiko.transport").info("too quiet")
    logging.getLogger("paramiko.transport").warning("paramiko")
    # Its warnings quote what a plan contains.
    logging.getLogger("pydicom").warning("Invalid value for VR PN: 'Doe^Jane'")
    assert [line.rsplit(" ", 1)[1] for line in lines(tmp_path)] == ["mqi", "paramiko"]


def test_starting_again_replaces_the_first(tmp_path: Path) -> None:
    start_logging(tmp_path / "a", Logging(), SEOUL)
    start_logging(tmp_path / "b", Logging(), SEOUL)
    log.info("once")
    assert not (tmp_path / "a").exists() and len(lines(tmp_path / "b")) == 1
    stop_logging()
    assert not logging.getLogger("mqi").handlers


def test_nothing_is_made_before_something_is_said(tmp_path: Path) -> None:
    start_logging(tmp_path / "logs", Logging(), SEOUL)
    assert not (tmp_path / "logs").exists()


# --- which file -----------------------------------------------------------------------------------------


def noon(day: date) -> float:
    return datetime(day.year, day.month, day.day, 12, tzinfo=SEOUL).timestamp()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("*.log"))


def test_the_day_is_that_of_the_configured_zone(tmp_path: Path) -> None:
    handler = DailyFiles(tmp_path, Logging(), SEOUL)
    late = datetime(2026, 1, 1, 14, 59, 59, tzinfo=ZoneInfo("UTC")).timestamp()
    handler.emit(record("before midnight in Seoul", created=late))
    handler.emit(record("after it", created=late + 1))
    assert names(tmp_path) == ["mqi-2026-01-01.log", "mqi-2026-01-02.log"]


def test_a_full_file_is_continued_in_the_next(tmp_path: Path) -> None:
    day = date(2026, 1, 1)
    handler = DailyFiles(tmp_path, Logging(max_bytes=1000), SEOUL)
    for number in range(40):
        handler.emit(record("message %02d", number, created=noon(day)))
    files = names(tmp_path)
    assert len(files) > 2 and files[0] == "mqi-2026-01-01.1.log"
    assert all((tmp_path / name).stat().st_size <= 1000 for name in files)
    assert [line[-2:] for line in lines(tmp_path)] == [f"{number:02d}" for number in range(40)]
    before = names(tmp_path)
    # Another process finds the last one.
    DailyFiles(tmp_path, Logging(max_bytes=1000), SEOUL).emit(record("message 40", created=noon(day)))
    assert names(tmp_path) == before and lines(tmp_path)[-1].endswith("message 40")


def test_a_record_larger_than_a_file_gets_its_own(tmp_path: Path) -> None:
    handler = DailyFiles(tmp_path, Logging(max_bytes=100), SEOUL)
    for message in ("a", "b" * 500, "c"):
        handler.emit(record(message, created=noon(date(2026, 1, 1))))
    assert [line[-1] for line in lines(tmp_path)] == ["a", "b", "c"]
    assert len(names(tmp_path)) == 3


def test_old_files_go_and_everything_else_stays(tmp_path: Path) -> None:
    today = date(2026, 3, 10)
    for name in ("mqi-2026-03-03.log", "mqi-2026-03-02.log", "mqi-2026-03-02.7.log", "mqi-2025-01-01.log",
                 "mqi-2026-13-01.log", "mqi-2020-01-01.log.bak", "other-2020-01-01.log", "2020-01-01.log"):  # fmt: skip
        (tmp_path / name).write_text("x\n", encoding="utf-8")
    DailyFiles(tmp_path, Logging(keep_days=7), SEOUL).emit(record("a", created=noon(today)))
    left = {"mqi-2026-03-03.log", "mqi-2026-03-10.log", "mqi-2026-13-01.log", "mqi-2020-01-01.log.bak",
            "other-2020-01-01.log", "2020-01-01.log"}  # fmt: skip
    assert {path.name for path in tmp_path.iterdir() if path.suffix != ".lock"} == left


def test_half_a_line_that_a_killed_process_left_does_not_swallow_the_next(tmp_path: Path) -> None:
    day = date(2026, 1, 1)
    (tmp_path / "mqi-2026-01-01.log").write_text('{"timestamp": "2026-', encoding="utf-8")
    DailyFiles(tmp_path, Logging(format="json"), SEOUL).emit(record("whole", created=noon(day)))
    torn, whole = lines(tmp_path)
    assert torn == '{"timestamp": "2026-' and json.loads(whole)["message"] == "whole"


# --- several processes ------------------------------------------------------------------------------------

WRITER = """
import logging, sys
from pathlib import Path
from zoneinfo import ZoneInfo
from mqi import logs
from mqi.logs import start_logging, correlation
from mqi.settings import Logging
logs._LOCK_WAIT_S = 60.0  # on a busy machine: what waited in vain is appended to a file that may be full
start_logging(Path(sys.argv[1]), Logging(format="json", max_bytes=65536), ZoneInfo("Asia/Seoul"))
log = logging.getLogger("mqi.writer")
sys.stdout.write("ready\\n"); sys.stdout.flush()
sys.stdin.readline()
with correlation(sys.argv[2]):
    for number in range(int(sys.argv[3])):
        log.info("%d %s", number, "x" * (number * 37 % 900))
"""


def test_processes_that_write_at_once_lose_and_mix_nothing(tmp_path: Path) -> None:
    count = 150
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path), f"w{number}", str(count)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for number in range(4)
    ]  # fmt: skip
    for writer in writers:
        assert writer.stdout is not None and writer.stdout.readline() == "ready\n"
    for writer in writers:
        assert writer.stdin is not None
        writer.stdin.write("go\n")
        writer.stdin.flush()
    for writer in writers:
        _, errors = writer.communicate(timeout=60)
        assert (writer.returncode, errors) == (0, "")
    seen: dict[str, list[int]] = {}
    for line in lines(tmp_path):
        entry = json.loads(line)  # no line is torn or mixed
        number, _, filling = entry["message"].partition(" ")
        assert filling == "x" * (int(number) * 37 % 900)
        seen.setdefault(entry["correlation_id"], []).append(int(number))
    assert seen == {f"w{number}": list(range(count)) for number in range(4)}
    files = list(tmp_path.glob("*.log"))
    assert len(files) > 2 and all(file.stat().st_size <= 65536 for file in files)


def test_threads_of_one_process(tmp_path: Path) -> None:
    start_logging(tmp_path, Logging(format="json"), SEOUL)

    def write() -> None:
        for _ in range(50):
            log.info("m")

    threads = [threading.Thread(target=write) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len([json.loads(line) for line in lines(tmp_path)]) == 200


def test_a_process_that_holds_the_lock_for_ever_delays_the_others_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(logs, "_LOCK_WAIT_S", 0.2)
    hanging = FileLock(tmp_path / "mqi-logs.lock", thread_local=False)
    code = (
        "import sys; from filelock import FileLock\n"
        "lock = FileLock(sys.argv[1]); lock.acquire(); print('held', flush=True); sys.stdin.read()\n"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code, str(hanging.lock_file)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        start_logging(tmp_path, Logging(), SEOUL)
        start = time.monotonic()
        for number in range(20):
            log.info("%d", number)
        assert 0.2 <= time.monotonic() - start < 2.0
    finally:
        holder.communicate(timeout=10)
    assert len(lines(tmp_path)) == 20
    assert capsys.readouterr().err == ""


# --- what must not stop a step ------------------------------------------------------------------------------


def test_a_folder_that_cannot_be_written_is_said_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    start_logging(tmp_path / "file" / "logs", Logging(), SEOUL)
    for _ in range(3):
        log.error("x")
    (said,) = capsys.readouterr().err.splitlines()
    assert said.startswith(f"mqi: nothing can be written to the log folder {tmp_path / 'file' / 'logs'}: ")


@pytest.mark.skipif(sys.platform != "linux", reason="needs /dev/full, which Linux has")
def test_a_full_disk_is_said_once_and_logging_resumes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    today = datetime.now(SEOUL).date()
    file = tmp_path / f"mqi-{today.isoformat()}.log"
    file.symlink_to("/dev/full")
    start_logging(tmp_path, Logging(), SEOUL)
    log.info("lost")
    log.info("lost")
    assert "No space left on device" in capsys.readouterr().err
    file.unlink()
    log.info("kept")
    assert [line.rsplit(" ", 1)[1] for line in lines(tmp_path)] == ["kept"]
    assert capsys.readouterr().err == ""


def test_a_folder_that_was_deleted_meanwhile_comes_back(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "logs"
    start_logging(folder, Logging(), SEOUL)
    log.info("a")
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()
    log.info("b")
    assert [line[-1] for line in lines(folder)] == ["b"]
    assert capsys.readouterr().err == ""


def test_without_a_console_nothing_breaks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """pythonw has no stderr at all; a closed one raises ValueError."""
    (tmp_path / "file").write_text("", encoding="utf-8")
    for stderr in (None, open(os.devnull, "w", encoding="utf-8")):  # noqa: PTH123, SIM115
        if stderr is not None:
            stderr.close()
        monkeypatch.setattr(sys, "stderr", stderr)
        start_logging(tmp_path / "file" / "logs", Logging(), SEOUL)
        log.error("x")


def test_what_importing_costs() -> None:
    """Every command imports this module; what only logging to a file needs comes with the first record."""
    code = textwrap.dedent(
        """
        import sys
        import mqi.logs
        heavy = {"filelock", "fabric", "paramiko", "pydicom", "numpy", "yaml", "typing_extensions"}
        sys.exit(", ".join(heavy & set(sys.modules)) or 0)
        """
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
