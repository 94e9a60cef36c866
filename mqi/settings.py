"""The settings of one installation, as frozen values. `config.py` reads them from mqi.yaml.

Times are seconds (float), sizes are bytes (int), unless a name says otherwise. Named tuples, as the rows are:
making a frozen dataclass takes six times as long, and every command makes all of them when it starts.
"""

# No `from __future__ import annotations`: a named tuple would compile every one of them, at every start.

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple
from zoneinfo import ZoneInfo

# Names that copying programs use while they write. A file or folder that matches one is not there yet.
TEMPORARY_NAMES = (
    "*.tmp", "*.part", "*.partial", "*.filepart", "*.crdownload", "*.extracting", "*.zip.tmp", "*.swp",
    ".~*", "~$*", ".*.swp", "*.backup.*", "extract_*.tmp", ".DS_Store", "Thumbs.db", "desktop.ini",
    "*~", ".nfs*",
)  # fmt: skip


class WatchFolder(NamedTuple):
    """A folder in which case folders appear; `room` is its label and unique among the watch folders."""

    path: Path
    room: str
    # Case folders lie this many levels below `path`. None: the topmost folders that directly hold a
    # file matching `require`, wherever they lie (`patient/study` nesting).
    depth: int | None = 1
    # A file of this name, in the case folder or a folder above it (below `path`), must exist.
    marker: str | None = None
    # The folder must look the same in two scans at least this far apart.
    quiet_s: float = 60.0
    # At least one file must match each of these patterns (fnmatch on the file's name, any case).
    require: tuple[str, ...] = ("*.dcm",)
    ignore: tuple[str, ...] = TEMPORARY_NAMES
    workflow: str = "default_qa"
    priority: int = 0
    # "generic": a folder is a case. "shi": a study folder with a plan and deliveries; a fraction is a case.
    layout: str = "generic"
    # Only for "shi": deliveries at most this far apart belong to one fraction, and one that lacks beams
    # waits this long for them.
    fraction_window_s: float = 3600.0
    # What becomes of a fraction that still lacks beams then: "run" or "hold".
    partial: str = "run"
    # The plan's TreatmentMachineName must match one of these; none: any name will do.
    machines: tuple[str, ...] = ()
    # What the names of this room's PTN files begin with. None: all of a fraction begin alike.
    ptn_room: str | None = None


class Group(NamedTuple):
    """A queue's group: at most `slots` jobs at once. `gpus`: "none", "auto" (ask nvidia-smi) or UUIDs."""

    name: str
    slots: int = 1
    gpus: str | tuple[str, ...] = "none"
    # No further case is sent when the host would have more jobs of this group under way; None: no limit.
    max_jobs: int | None = None
    # Of sbatch, for this group alone; after the queue's own, so that they win.
    options: tuple[str, ...] = ()


class Pueue(NamedTuple):
    """How Pueue is reached on a host. Paths are the host's; "" is Pueue's own default."""

    program: str = "pueue"
    config: str = ""
    group_prefix: str = "mqi-"
    # One of Pueue's groups for each GPU, instead of one for all GPUs of a group.
    group_per_gpu: bool = False


class Slurm(NamedTuple):
    """How Slurm is reached on a host, and what every job asks of it. "" leaves the choice to Slurm."""

    bin: str = ""
    config: str = ""
    partition: str = ""
    account: str = ""
    time: str = ""
    gres: str = "gpu:1"
    options: tuple[str, ...] = ()


class Queue(NamedTuple):
    """Which queue runs the jobs on a host. `max_queued`: jobs in one group's queue that have not started."""

    type: str = "local"
    groups: tuple[Group, ...] = (Group("cpu", slots=2), Group("gpu", slots=1))
    max_queued: int = 4
    pueue: Pueue = Pueue()
    slurm: Slurm = Slurm()


class GpuRules(NamedTuple):
    """When a job must not get a GPU that its group has."""

    # More of its memory than this in use, and by no job of ours: somebody else works there.
    busy_memory_bytes: int = 2**30
    # Jobs of so many runs in a row failed on it (0: never) -> it is left out for so long.
    quarantine_after: int = 3
    quarantine_s: float = 6 * 3600.0


@dataclass(frozen=True)
class SshLogin:
    """A computer that is reached by SSH, and who we are there."""

    address: str
    user: str
    port: int = 22
    # The private key; None: no key file.
    key: Path | None = None
    # Where the passphrase of the key file, or without one the password, comes from: `env:NAME` or
    # `keyring:SERVICE`. None: there is none.
    secret: str | None = None
    # Whether the keys of a running SSH agent may be used.
    agent: bool = False


@dataclass(frozen=True)
class Ssh(SshLogin):
    """How an SSH host is reached."""

    # A computer on the way, through which the connection to the host goes.
    jump: SshLogin | None = None
    # The pinned host keys, in the format of OpenSSH; written by `mqi host trust`.
    known_hosts: Path = Path("mqi.known_hosts")
    # Runs the agent. The steps have a Python of their own (`HostSettings.python`).
    python: str = "python3"
    # For each of: the TCP connection, the server's banner, the login, the start of the agent.
    connect_timeout_s: float = 15.0
    keepalive_s: float = 15.0


class HostSettings(NamedTuple):
    """An execution host. `type` "local" is this machine; `work_dir` and `python` are paths on the host."""

    name: str
    type: str = "local"
    work_dir: str = ""
    # Runs the steps. The agent itself needs only the standard library.
    python: str = ""
    queue: Queue = Queue()
    gpu_rules: GpuRules = GpuRules()
    # Cases that may be on their way there at once (submitting, queued, running).
    max_cases: int = 20
    # Uploads stop while less than this is free on the host's work disk.
    min_free_bytes: int = 5 * 2**30
    # Without an answer for this long, a request counts as lost.
    timeout_s: float = 120.0
    # Data moves at most this fast, each way, in bytes a second; None: as fast as it goes.
    bandwidth: int | None = None
    environment: Mapping[str, str] = {}
    # For `type` "ssh".
    ssh: Ssh | None = None


class Paths(NamedTuple):
    """Where this side keeps things. All absolute."""

    database: Path
    results: Path
    logs: Path
    locks: Path
    # The installation id: tells this control PC from another that uses the same work directory.
    installation: Path

    @property
    def newest_event(self) -> Path:
        """Beside the installation id: tells a restored database from the one that was used last."""
        return self.installation.with_suffix(".events")


class Logging(NamedTuple):
    format: str = "text"  # or "json": one object per line
    level: str = "INFO"
    keep_days: int = 30
    max_bytes: int = 10 * 2**20


class Transfer(NamedTuple):
    # One command moves data for at most this long, then lets the rest of the cycle happen.
    budget_s: float = 300.0
    min_free_bytes: int = 2 * 2**30  # on the results disk


class Retention(NamedTuple):
    host_runs_s: float = 14 * 86400.0  # a released run stays on the host this long


class Timing(NamedTuple):
    interval_s: float = 60.0  # how often the scheduler runs `mqi cycle`
    lock_stall_s: float = 1800.0  # a step lock without progress for this long is an error (76)
    database_wait_s: float = 10.0
    # Attempts to reach a silent host are spaced by this, doubled each time up to the maximum.
    backoff_first_s: float = 30.0
    backoff_max_s: float = 900.0
    # A host that had no reason to be asked is asked for a sign of life this often.
    probe_s: float = 3600.0
    # Settled folders are compared by folder times at every scan, and file by file this often.
    full_look_s: float = 3600.0


class Settings(NamedTuple):
    source: Path
    timezone: ZoneInfo
    paths: Paths
    watch: tuple[WatchFolder, ...]
    hosts: tuple[HostSettings, ...]
    # Workflow name -> its YAML file (packaged or the site's own).
    workflows: Mapping[str, Path]
    logging: Logging = Logging()
    transfer: Transfer = Transfer()
    retention: Retention = Retention()
    timing: Timing = Timing()
    # Folders whose files a workflow step may name in `files:` (machine models and the like).
    config_dir: Path = Path()

    def room(self, name: str) -> WatchFolder | None:
        """The watch folder labelled `name`, or None when the configuration no longer has it."""
        return next((folder for folder in self.watch if folder.room == name), None)

    def host(self, name: str) -> HostSettings | None:
        """The host called `name`, or None when the configuration no longer has it."""
        return next((host for host in self.hosts if host.name == name), None)
