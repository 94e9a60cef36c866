"""mqi's own log files: `mqi-YYYY-MM-DD[.n].log` in one folder, written by several processes at once.

A file is never renamed, because Windows refuses to rename what another process has open: a full file is
continued in the next number, and the day is part of the name. Each record is appended whole, under a
lock. Logging must never stop a step: what goes wrong here is said once on stderr and otherwise ignored.

No patient data may be logged: no original file or folder names, no patient ids.
"""

from __future__ import annotations

import json
import logging
import os
import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import IO, TYPE_CHECKING
from zoneinfo import ZoneInfo

from mqi.settings import Logging

if TYPE_CHECKING:
    from filelock import BaseFileLock

# Their warnings explain connections. pydicom is not among them: its warnings quote what a plan contains.
_LIBRARIES = ("paramiko", "fabric", "invoke")
_FILE_NAME = r"mqi-(\d{4}-\d{2}-\d{2})(?:\.(\d{1,6}))?\.log"
_LOCK_NAME = "mqi-logs.lock"
_LOCK_WAIT_S = 2.0
# After a wait in vain, records are appended without the lock for this long: a suspended process that
# holds it must not slow every other one down.
_LOCK_PAUSE_S = 60.0
# Everything that could begin a new line, or move the cursor of the terminal that shows the file.
# Compiled when the first record is written: most runs write none.
_CONTROLS = "[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029]"

_correlation: ContextVar[str] = ContextVar("mqi_correlation", default="")


@contextmanager
def correlation(key: str) -> Iterator[None]:
    """Mark what is logged inside with `key`, such as a run key. A new thread starts without a mark."""
    token = _correlation.set(key)
    try:
        yield
    finally:
        _correlation.reset(token)


def start_logging(folder: Path, settings: Logging, zone: ZoneInfo) -> None:
    """Write what mqi logs to `folder` from now on, with times in `zone`. Calling it again replaces the first.

    Nothing is opened, made or deleted before the first record is written.
    """
    stop_logging()
    handler = DailyFiles(folder, settings, zone)
    mqi = logging.getLogger("mqi")
    mqi.setLevel(settings.level)
    mqi.addHandler(handler)
    for name in _LIBRARIES:
        library = logging.getLogger(name)
        library.setLevel(logging.WARNING)
        library.addHandler(handler)


def stop_logging() -> None:
    """Undo `start_logging`."""
    for name in ("mqi", *_LIBRARIES):
        logger = logging.getLogger(name)
        for handler in [one for one in logger.handlers if isinstance(one, DailyFiles)]:
            logger.removeHandler(handler)


class TextLines(logging.Formatter):
    """`2026-01-31T08:15:00.123+09:00 INFO    mqi.steps.submit [a1b2c3] message`; more lines are indented."""

    def __init__(self, zone: ZoneInfo) -> None:
        super().__init__()
        self._zone = zone

    def format(self, record: logging.LogRecord) -> str:
        """The record's line or lines, without a line break at the end."""
        mark = _correlation.get()
        mark = f" [{mark}]" if mark else ""
        # Continuations are indented, so that text from elsewhere cannot pass for a record of its own.
        message = _message(self, record).replace("\n", "\n    ")
        return f"{_timestamp(record, self._zone)} {record.levelname:<7} {record.name}{mark} {message}"


class JsonLines(logging.Formatter):
    """One JSON object per line: timestamp, level, module, correlation_id (null for none), message."""

    def __init__(self, zone: ZoneInfo) -> None:
        super().__init__()
        self._zone = zone

    def format(self, record: logging.LogRecord) -> str:
        """The record's line, without a line break at the end."""
        line = {
            "timestamp": _timestamp(record, self._zone),
            "level": record.levelname,
            "module": record.name,
            "correlation_id": _correlation.get() or None,
            "message": _message(self, record),
        }
        return json.dumps(line, ensure_ascii=False)


def _timestamp(record: logging.LogRecord, zone: ZoneInfo) -> str:
    return datetime.fromtimestamp(record.created, zone).isoformat(timespec="milliseconds")


def _message(formatter: logging.Formatter, record: logging.LogRecord) -> str:
    """The message with its traceback; what could damage a line or a terminal is shown as an escape."""
    try:
        text = record.getMessage()
    except Exception as error:  # noqa: BLE001  arguments that do not fit their message must not stop a step
        text = f"{record.msg} (its arguments could not be filled in: {type(error).__name__})"
    if record.exc_info and record.exc_info[0] is not None:
        text += "\n" + formatter.formatException(record.exc_info)
    if record.stack_info:
        text += "\n" + record.stack_info
    text = text.replace("\r\n", "\n")
    return re.sub(_CONTROLS, lambda match: match[0].encode("unicode_escape").decode("ascii"), text)


class DailyFiles(logging.Handler):
    """Appends each record to today's file, in whichever process; removes files that are too old."""

    def __init__(self, folder: Path, settings: Logging, zone: ZoneInfo) -> None:
        super().__init__()
        self._folder = folder
        self._zone = zone
        self._max_bytes = settings.max_bytes
        self._keep_days = settings.keep_days
        self.setFormatter(JsonLines(zone) if settings.format == "json" else TextLines(zone))
        self._day: date | None = None
        self._number = 0
        self._lock: BaseFileLock | None = None
        self._lock_again_at = 0.0
        self._complained = False

    def emit(self, record: logging.LogRecord) -> None:
        """Append `record`. Never raises; the first failure of a process is said on stderr."""
        try:
            # Names from the disk may hold bytes that are no characters (surrogates).
            line = (self.format(record) + "\n").encode("utf-8", errors="backslashreplace")
            self._append(line, datetime.fromtimestamp(record.created, self._zone).date())
        except Exception as error:  # noqa: BLE001  a full disk, or anything else, must not stop a step
            self._day = None  # the folder may have gone: look again
            self._complain(error)

    def _append(self, line: bytes, day: date) -> None:
        if day != self._day:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._number = self._start_day(day)
            self._day = day
        locked = self._acquire()
        try:
            with self._open(line, day) as stream:
                _write_whole(stream, line)
        finally:
            if locked and self._lock is not None:
                self._lock.release()

    def _open(self, line: bytes, day: date) -> IO[bytes]:
        """The day's file that has room for `line`, or is empty."""
        while True:
            number = f".{self._number}" if self._number else ""
            path = self._folder / f"mqi-{day.isoformat()}{number}.log"
            stream = path.open("ab+", buffering=0)
            size = os.fstat(stream.fileno()).st_size
            if size == 0 or size + len(line) <= self._max_bytes:
                return stream
            stream.close()
            self._number += 1

    def _acquire(self) -> bool:
        """Take the folder's lock, or go on without: then lines of two processes may mix, at worst."""
        if time.monotonic() < self._lock_again_at:
            return False
        from filelock import FileLock  # costs a command that logs nothing 50 ms

        try:
            if self._lock is None:
                self._lock = FileLock(self._folder / _LOCK_NAME, timeout=_LOCK_WAIT_S, poll_interval=0.005)
            self._lock.acquire()
        except (OSError, RuntimeError):  # Timeout is an OSError
            self._lock_again_at = time.monotonic() + _LOCK_PAUSE_S
            return False
        return True

    def _start_day(self, today: date) -> int:
        """Delete the files that are too old; the highest number that today's files have."""
        highest = 0
        oldest = today - timedelta(days=self._keep_days)
        for name in os.listdir(self._folder):
            match = re.fullmatch(_FILE_NAME, name)
            if match is None:
                continue
            try:
                day = date.fromisoformat(match[1])
                if day < oldest:
                    (self._folder / name).unlink()
            except (ValueError, OSError):
                continue  # not one of ours after all, or open elsewhere: tomorrow it goes
            if day == today:
                highest = max(highest, int(match[2] or 0))
        return highest

    def _complain(self, error: Exception) -> None:
        if self._complained:
            return
        self._complained = True
        try:
            # Without a console (pythonw) there is no stderr.
            if sys.stderr is not None:
                reason = getattr(error, "strerror", None) or error
                sys.stderr.write(f"mqi: nothing can be written to the log folder {self._folder}: {reason}\n")
        except (OSError, ValueError):
            pass  # stderr is closed or full; there is nobody left to tell


def _write_whole(stream: IO[bytes], line: bytes) -> None:
    """Append `line`; on a line of its own, should a killed process or a full disk have left half a one."""
    if stream.seek(0, os.SEEK_END):
        stream.seek(-1, os.SEEK_END)
        if stream.read(1) != b"\n":
            line = b"\n" + line
    rest = memoryview(line)
    while rest:
        rest = rest[stream.write(rest) :]
