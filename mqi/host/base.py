"""What the steps know of an execution host: a few verbs over values, wherever the host is."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from mqi.settings import HostSettings

# Called now and then with (bytes moved so far, bytes to move in all).
Progress = Callable[[int, int], None]


class Answer(NamedTuple):
    """A host's answer to one request. Times are Unix seconds; `host_now` is the host's clock and
    `clock_skew_s` how far it is ahead of ours. `seq` grows with every answer of one work directory."""

    host: str
    work_id: str
    seq: int
    boot_id: str
    host_now: float
    clock_skew_s: float
    probe: dict[str, Any]
    # One per call: {"ok": true, …} or {"ok": false, "code", "message", "hint"}.
    replies: list[dict[str, Any]]
    # False when a later answer of this work directory has been recorded already; set by who records.
    fresh: bool = True


class Blob(NamedTuple):
    """A local file to send, known by its content. `size` in bytes."""

    sha256: str
    size: int
    path: Path


class Wheel(NamedTuple):
    """A Python package in a local file: the file's name, and its bytes."""

    name: str
    blob: Blob


class RemoteFile(NamedTuple):
    """An output of a job, and the local file that it becomes (final name; its folder need not exist)."""

    job_key: str
    path: str
    size: int
    sha256: str
    target: Path


class UploadOutcome(NamedTuple):
    """What became of an upload. `stored`, `changed`: digests; `unreadable`, `rejected`: (digest, why).

    changed: the local file has other bytes than its digest says. paused: the deadline came first; what is
    in none of the lists was not tried.
    """

    stored: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    unreadable: tuple[tuple[str, str], ...] = ()
    rejected: tuple[tuple[str, str], ...] = ()
    paused: bool = False


class DownloadOutcome(NamedTuple):
    """What became of a download. A `failed` file has left nothing behind under its target's name."""

    done: tuple[RemoteFile, ...] = ()
    failed: tuple[tuple[RemoteFile, str], ...] = ()
    paused: bool = False


class Host(Protocol):
    """An execution host.

    Every method raises HostUnreachable when nothing is known about what the host did (silence, half an
    answer, garbage), HostRefused when it said no for good, TemporaryProblem when it said not now.
    `deadline` is a time.monotonic() value after which no new file starts.
    """

    settings: HostSettings

    def deploy(self) -> str:
        """The hash of the scripts that serve our requests there. Whichever request first finds them missing
        brings them there."""

    def get_ready(self) -> None:
        """A request will follow: prepare for it meanwhile, in the background. Raises nothing: the request will."""

    def ask(self, calls: Sequence[Mapping[str, Any]]) -> Answer:
        """One request with these calls, and its answer."""

    def upload(
        self,
        blobs: Sequence[tuple[Blob, int]],
        *,
        deadline: float | None = None,
        progress: Progress | None = None,
    ) -> UploadOutcome:
        """Sends files, each from the offset that the host named in its answer to `have`."""

    def download(
        self,
        files: Sequence[RemoteFile],
        *,
        deadline: float | None = None,
        progress: Progress | None = None,
    ) -> DownloadOutcome:
        """Fetches files; each appears under its target's name only when its bytes are verified."""

    def set_up(
        self,
        wheels: Sequence[Wheel],
        requirements: Sequence[str],
        imports: Sequence[str],
        tell: Callable[[str], None],
    ) -> dict[str, Any]:
        """Builds the Python environment of the steps there from `wheels`, and tries to import `imports` in it;
        {"environment", "python", "packages"}. Repeatable. Raises HostRefused when it cannot be built."""

    def close(self) -> None:
        """Ends the connection, if there is one."""
