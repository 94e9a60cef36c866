"""Inside a process under test: names each effect boundary that the process crosses, and kills it at one.

An effect boundary is the moment before an effect on the installation's folder: a file opened for writing (and
the moment when it is there and still empty), renamed, linked, made, removed, locked, made durable; a
transaction committed; a process started or signalled; a part of a request or reply that goes out. Audit hooks
tell most of them; what they do not tell (fsync, pipes, SQL) is wrapped here. No module of mqi knows of this.

A boundary is known by its name and by how often the process crossed it before: `rename work/seq #2`. Names
are the same in every run; the number of a boundary in a process that polls would not be.

What to do comes by environment, which agents, runners and jobs inherit:

    CRASH_ROOT      the installation's folder
    CRASH_DESK      a folder outside it: traces, recorded requests, a note of what was killed, a lock of the living
    CRASH_AT        `role|boundary`: what happens, happens there, once. A role with * at its end: all that begin so
    CRASH_HOW       `kill`: SIGKILL; `hold`: the process stays there until CRASH_DESK/resume exists
    CRASH_STEP      the mqi command that is running
    CRASH_REQUEST   the how manieth request of that command
"""

from __future__ import annotations

import builtins
import fcntl
import io
import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
MAKING = os.O_CREAT | os.O_TRUNC
# Of what happens any number of times (a lock that is waited for, a sign of life every two seconds) or to many
# files alike, the first few are told.
TOLD = (
    ("lock ", 2),
    ("unlock ", 2),
    *((f"{word} mqi.db.locks/", 1) for word in ("open", "opened")),
    *((f"{word} work/scripts/", 2) for word in ("open", "opened", "fsync")),
)
# What is random or a matter of the day in a path.
VARIABLE = (
    (re.compile(r"\b[0-9a-f]{64}\b"), "SHA256"),
    (re.compile(r"\b[0-9a-f]{32}\b"), "SCRIPTS"),
    (re.compile(r"(?<=\.)[0-9a-f]{8,16}(?=~|$)|(?<=SCRIPTS\.)[0-9a-f]{8}(?=~)"), "X"),
    (re.compile(r"\.\d+\.X~"), ".X~"),
    (re.compile(r"(?<![^/])#\d+$"), "UNNAMED"),  # a file without a name, by inode: filelock 4.3 tries locks on one
    (re.compile(r"\b[0-9a-f]{12}\b"), "RUN"),
    (re.compile(r"^work/scripts/\.SCRIPTS\.X~/.*\.\w+$"), "work/scripts/.SCRIPTS.X~/FILE"),
)
NOT_TOLD = re.compile(r"^logs(/|$)|__pycache__|\.pyc|runner\.log$")
EVENT_WORD = re.compile(r"INSERT INTO events .*?VALUES \([^,]*,\s*[^,]*,\s*'([^']+)'", re.DOTALL)
TABLE_WORD = re.compile(r"\s*(?:INSERT (?:OR \w+ )?INTO|UPDATE|DELETE FROM|CREATE TABLE) (\w+)")


class Instrument:
    """Counts for one process; `install` once. `role` says which process this is."""

    def __init__(self, role: str) -> None:
        self.role = role
        self.root = os.environ["CRASH_ROOT"]
        self.desk = os.environ["CRASH_DESK"]
        at_role, _, self._wanted = os.environ.get("CRASH_AT", "").partition("|")
        self._at_role, self._how = at_role, os.environ.get("CRASH_HOW", "kill")
        self._requests = 0
        # Held for as long as we live, whatever becomes of us: how the test sees that nobody works any more.
        self._alive = os.open(f"{self.desk}/alive", os.O_RDONLY)
        fcntl.flock(self._alive, fcntl.LOCK_SH)
        # What the transaction is about: an event of a case, else the first table that it writes.
        self._event = self._table = ""
        self._begin()

    def _begin(self) -> None:
        """The state of one process: also called in a child, where another thread's lock is locked for ever."""
        self._lock = threading.Lock()
        self._inside = threading.local()
        self._crossed: dict[str, int] = {}
        self._trace = -1
        wanted = self._at_role
        self._mine = bool(wanted) and (
            self.role.startswith(wanted[:-1]) if wanted.endswith("*") else self.role == wanted
        )
        with self._quietly():
            # The first process of a role has the trace that counts; of the others it only shows that they move.
            for name in (self.role.replace("/", ":"), f"others/{os.getpid()}"):
                try:
                    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND
                    self._trace = os.open(f"{self.desk}/trace/{name}", flags, 0o600)
                    break
                except OSError:
                    continue

    def _quietly(self) -> _Quietly:
        return _Quietly(self._inside)

    # --- boundaries

    def cross(self, name: str) -> None:
        """The process is at the boundary `name`."""
        if getattr(self._inside, "now", False):
            return
        with self._lock, self._quietly():
            count = self._crossed[name] = self._crossed.get(name, 0) + 1
            if any(count > most and name.startswith(begin) for begin, most in TOLD):
                return
            boundary = f"{name} #{count}"
            if self._trace >= 0:
                os.write(self._trace, (boundary + "\n").encode())
            if self._mine and boundary == self._wanted:
                self._stop(boundary)

    def _stop(self, boundary: str) -> None:
        try:
            note = os.open(f"{self.desk}/stopped", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            return  # another process of this role was stopped here
        os.write(note, f"{self.role}|{boundary}".encode())
        os.close(note)
        if self._how == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        while not os.access(f"{self.desk}/resume", os.F_OK):
            time.sleep(0.01)

    def place(self, path: Any, folder_fd: int = -1) -> str:
        """`path` as boundaries name it: relative to the installation; '' for what is not in it."""
        if isinstance(path, int):
            return self._place_of(path)
        text = os.fsdecode(path)
        if folder_fd >= 0 and not text.startswith("/"):
            text = f"{self._link(folder_fd)}/{text}"
        text = os.path.abspath(text)  # noqa: PTH100  # a link is to be named, not followed
        if not text.startswith(self.root + "/"):
            return ""
        text = text[len(self.root) + 1 :]
        if NOT_TOLD.search(text):
            return ""
        for pattern, word in VARIABLE:
            text = pattern.sub(word, text)
        return text

    def _place_of(self, fd: int) -> str:
        target = self._link(fd)
        return self.place(target.removesuffix(" (deleted)")) if target.startswith("/") else ""

    @staticmethod
    def _link(fd: int) -> str:
        try:
            return os.readlink(f"/proc/self/fd/{fd}")  # noqa: PTH115  # agents start without pathlib
        except OSError:
            return ""

    # --- what Python's audit hooks tell

    def audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        told = self._EVENTS.get(event)
        if told is None or getattr(self._inside, "now", False):
            return
        with self._quietly():
            name = told(self, *arguments)
        if name:
            self.cross(name)

    def _opens(self, path: Any, _mode: Any, flags: Any) -> str:
        if path is None or isinstance(path, int) or not isinstance(flags, int) or not flags & WRITING:
            return ""
        place = self.place(path)
        # A lock's file: taking it is the effect.
        return "" if not place or _is_lock(place) else f"open {place}"

    def _renames(self, source: Any, target: Any, source_fd: int, target_fd: int) -> str:
        place = self.place(target, target_fd)
        return f"rename {place}" if place else ""

    def _links(self, source: Any, target: Any, source_fd: int, target_fd: int) -> str:
        place = self.place(target, target_fd)
        return f"link {place}" if place else ""

    def _makes(self, path: Any, _mode: int, folder_fd: int) -> str:
        place = self.place(path, folder_fd)
        # pathlib tries the deepest folder first: no effect while the one above it is missing.
        above = self._there(os.fsdecode(path).rpartition("/")[0] or ".", folder_fd)
        return f"mkdir {place}" if place and above and not self._there(path, folder_fd) else ""

    def _removes(self, path: Any, folder_fd: int) -> str:
        place = self.place(path, folder_fd)
        return f"remove {place}" if place and self._there(path, folder_fd) else ""

    @staticmethod
    def _there(path: Any, folder_fd: int) -> bool:
        try:
            os.lstat(path, dir_fd=folder_fd if folder_fd >= 0 else None)
        except OSError:
            return False
        return True

    def _changes_mode(self, path: Any, _mode: int, folder_fd: int) -> str:
        place = self.place(path, folder_fd)
        return f"chmod {place}" if place else ""

    def _flocks(self, file: Any, operation: int) -> str:
        place = self._place_of(file if isinstance(file, int) else file.fileno())
        return f"{'unlock' if operation & 8 else 'lock'} {place}" if place else ""

    def _starts(self, _program: Any, arguments: Any, _folder: Any, _environment: Any) -> str:
        what = self.started(arguments)
        if what == "request":
            # The agent that is about to start learns from its environment which one it is.
            self._requests += 1
            os.environ["CRASH_REQUEST"] = str(self._requests)
        return f"start {what}" if what else ""

    def _signals(self, _pid: int, _number: int) -> str:
        return "kill a process"

    def _signals_group(self, _pid: int, _number: int) -> str:
        return "kill a group"

    def _executes(self, statement: str) -> None:
        words = statement.lstrip()[:40].upper()
        if words.startswith("BEGIN"):
            self._event = self._table = ""
        elif words.startswith("COMMIT"):
            self.cross(f"commit {self._event or self._table or 'nothing'}")
        elif words.startswith("PRAGMA JOURNAL_MODE ="):
            self.cross("journal mode")
        elif not self._event and (found := EVENT_WORD.search(statement)):
            self._event = found[1]
        elif not self._table and (found := TABLE_WORD.match(statement)):
            self._table = found[1]

    _EVENTS: ClassVar[dict[str, Callable[..., str]]] = {
        "open": _opens,
        "os.rename": _renames,
        "os.link": _links,
        "os.symlink": _links,
        "os.mkdir": _makes,
        "os.rmdir": _removes,
        "os.remove": _removes,
        "os.chmod": _changes_mode,
        "os.kill": _signals,
        "os.killpg": _signals_group,
        "fcntl.flock": _flocks,
        "subprocess.Popen": _starts,
    }

    @staticmethod
    def started(arguments: Any) -> str:
        """What a process is that is started with these arguments: 'request', 'runner cpu', 'run step-a1',
        or '' for one that is none of ours."""
        words = [os.fsdecode(word) for word in arguments] if isinstance(arguments, Sequence) else []
        for index, word in enumerate(words):
            if word.endswith("/agent"):
                return agent_role(words[index + 1 :])
        return "the command" if any("step.sh" in word for word in words) else ""

    # --- what they do not tell

    def wrap(self) -> None:
        """Puts ourselves in front of fsync, of opening and of starting processes."""
        real_open, real_fd_open, real_fsync = builtins.open, os.open, os.fsync
        real_start = subprocess.Popen.__init__

        def opens(file: Any, mode: str = "r", *rest: Any, **named: Any) -> Any:
            stream = real_open(file, mode, *rest, **named)
            if ("w" in mode or "x" in mode) and not isinstance(file, int):
                self._made(file)
            return stream

        def fd_opens(path: Any, flags: int, *rest: Any, **named: Any) -> int:
            fd = real_fd_open(path, flags, *rest, **named)
            if flags & MAKING and not getattr(self._inside, "now", False):
                self._made(path)
            return fd

        def fsync(fd: Any) -> None:
            with self._quietly():
                place = self._place_of(fd if isinstance(fd, int) else fd.fileno())
            if place:
                self.cross(f"fsync {place}")
            real_fsync(fd)

        def start(process: Any, arguments: Any, *rest: Any, **named: Any) -> None:
            real_start(process, arguments, *rest, **named)
            what = self.started(arguments)
            if what:
                self.cross(f"started {what}")
            if what == "request" and process.stdin is not None:
                process.stdin = Spoken(self, process.stdin, f"request {self._requests}")

        builtins.open = io.open = opens
        os.open, os.fsync = fd_opens, fsync
        os.supports_dir_fd.add(os.open)
        subprocess.Popen.__init__ = start  # type: ignore[method-assign,assignment]

    def wrap_sql(self) -> None:
        """For mqi: connections tell what they commit. (An audit hook gets them before they are usable.)"""
        import sqlite3

        real_connect = sqlite3.connect

        def connect(*arguments: Any, **named: Any) -> Any:
            connection = real_connect(*arguments, **named)
            connection.set_trace_callback(self._executes)
            return connection

        sqlite3.connect = connect

    def _made(self, path: Any) -> None:
        if getattr(self._inside, "now", False):
            return
        with self._quietly():
            place = self.place(path)
        if place and not _is_lock(place):
            self.cross(f"opened {place}")

    def hear(self) -> None:
        """For an agent that serves a request: records what arrives, and minds what it answers."""
        real_read, real_fdopen = os.readv, os.fdopen
        record = -1
        with self._quietly():
            name = f"{self.desk}/requests/{time.time_ns():020d}.{self.role.replace('/', ':')}"
            try:
                record = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            except OSError:
                pass  # nobody wants to know

        def read(fd: int, buffers: Any) -> int:
            count = real_read(fd, buffers)
            if record >= 0 and fd == 0:
                os.write(record, memoryview(buffers[0])[:count])
            return count

        def fdopen(fd: int, *rest: Any, **named: Any) -> Any:
            return Spoken(self, real_fdopen(fd, *rest, **named), "reply")

        os.readv, os.fdopen = read, fdopen

    def become_command(self) -> None:
        """In the child of a `run`, before it becomes the job's command."""
        self.role = self.role.replace("run ", "command ", 1)
        self._begin()


class _Quietly:
    """What we do ourselves is no effect of the process."""

    def __init__(self, inside: threading.local) -> None:
        self._inside = inside

    def __enter__(self) -> None:
        self._before = getattr(self._inside, "now", False)
        self._inside.now = True

    def __exit__(self, *_: object) -> None:
        self._inside.now = self._before


class Spoken:
    """A stream to another process: each write is a boundary, and what was written before it has gone."""

    def __init__(self, instrument: Instrument, stream: Any, name: str) -> None:
        self._instrument, self._stream, self._name = instrument, stream, name

    def write(self, data: Any) -> int:
        self._stream.flush()
        self._instrument.cross(self._name)
        return int(self._stream.write(data))

    def flush(self) -> None:
        self._stream.flush()
        self._instrument.cross(f"sent {self._name}")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _is_lock(place: str) -> bool:
    return place.endswith((".lock", "/lock"))


def agent_role(words: Sequence[str]) -> str:
    """'request', 'runner cpu' or 'run step-a1' for the words behind the agent's folder."""
    if words[0] == "run":
        return "run " + words[1].partition(".")[2]
    return " ".join(words[:2]) if words[0] == "runner" else words[0]
