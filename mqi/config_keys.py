"""Every key of mqi.yaml, declared once: name, shape, sentence. Defaults come from `settings.py`.

A new setting is one field there and one Entry here; `python scripts/write_config.py` then renews the
example and the schema in `config/`, and a test fails until that was done.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mqi.config_queue_keys import PLAIN_NAME, QUEUE
from mqi.config_shape import Choice, Duration, FilePath, Flag, OrNull, Size, Text, Whole
from mqi.config_table import Entry, Many, Named, Table
from mqi.names import safe_name
from mqi.settings import (
    GpuRules,
    HostSettings,
    Logging,
    Retention,
    Ssh,
    SshLogin,
    Timing,
    Transfer,
    WatchFolder,
)

DEFAULT_TIMEZONE = "Asia/Seoul"
WORKFLOW_NAME = r"^[a-z][a-z0-9_]{0,31}$"
LAYOUTS = ("generic", "shi")
# What these keys are in a layout where the file does not give them.
LAYOUT_DEFAULTS: Mapping[str, Mapping[str, Any]] = {"shi": {"depth": None, "marker": "_CASE_READY"}}
LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")


@dataclass(repr=False, eq=False)
class HostType:
    """What the type of a host means for its keys."""

    # `work_dir` and `python` are paths on this computer, so they may be relative to mqi.yaml.
    on_this_computer: bool


HOST_TYPES = {
    "local": HostType(on_this_computer=True),
    "ssh": HostType(on_this_computer=False),
}


def folder_name_problem(name: str) -> str | None:
    """Why `name` cannot be a folder's name on Windows and Linux alike, or None when it can."""
    safe = safe_name(name)
    return None if safe == name else f"`{name}` cannot name a folder on every system; `{safe}` can"


def _file_name_problem(name: str) -> str | None:
    return f"`{name}` is not the name of a file; leave the folders out" if re.search(r"[/\\]", name) else None


_PATTERN = Text("a pattern of file names such as `*.dcm`", check=_file_name_problem)

WATCH = Table(
    Entry("path", FilePath(), "The folder in which case folders appear."),
    Entry(
        "room",
        Text("the room's label", check=folder_name_problem, numbers=True),
        "The treatment room: the label that people see; unique, and the name of the folder of its results.",
    ),
    Entry(
        "layout",
        Choice(LAYOUTS),
        "`generic`: each case folder is a case. `shi`: case folders are patient/study folders that hold one RT "
        "Ion Plan and the deliveries in folders named YYYYMMDDHHMMSSff; each fraction is a case.",
    ),
    Entry(
        "depth",
        Whole(1, 20, words=(("any", None),)),
        "Case folders lie this many levels below `path`; `any`: the topmost folders that directly hold a "
        "file matching `require`, as in patient/study folders. With `layout: shi` it is `any` unless written.",
    ),
    Entry(
        "marker",
        OrNull(Text("the name of a file", check=_file_name_problem)),
        "A file of this name in the case folder, or in a folder above it, must exist; null: none is needed. "
        "With `layout: shi` it is _CASE_READY unless written.",
    ),
    Entry(
        "quiet",
        Duration(0, 7 * 86400),
        "A case folder is complete when it looks the same in two scans at least this far apart.",
        field="quiet_s",
    ),
    Entry(
        "require",
        Many(_PATTERN, noun="pattern"),
        "At least one file must match each of these patterns (upper and lower case are the same).",
    ),
    Entry(
        "ignore",
        Many(_PATTERN, noun="pattern"),
        "Names that copying programs use while they write: a matching file or folder is not there yet.",
    ),
    Entry(
        "workflow",
        Text("the name of a workflow", pattern=WORKFLOW_NAME, fixed=True),
        "The steps that a case from this folder goes through: a name under `workflows`, or `default_qa`.",
    ),
    Entry("priority", Whole(-1000, 1000), "Cases with a higher number are computed earlier."),
    Entry(
        "fraction_window",
        Duration(60, 12 * 3600),
        "`layout: shi`: deliveries at most this far apart belong to one fraction; a fraction that lacks beams "
        "waits this long for the next.",
        field="fraction_window_s",
    ),
    Entry(
        "partial",
        Choice(("run", "hold")),
        "`layout: shi`: a fraction that still lacks beams then is computed and labelled, or held for an operator.",
    ),
    Entry(
        "machines",
        Many(Text("a pattern of machine names such as `G1*`"), noun="pattern"),
        "`layout: shi`: the plan's TreatmentMachineName must match one of these; empty: any name will do.",
    ),
    Entry(
        "ptn_room",
        OrNull(Text("a room's number in file names", pattern=r"^[0-9A-Za-z-]+$", numbers=True)),
        "`layout: shi`: the names of this room's PTN files begin with this and `_`; null: with anything, but "
        "all of a fraction alike.",
    ),
    target=WatchFolder,
)

GPU_RULES = Table(
    Entry(
        "busy_memory",
        Size(),
        "A GPU is in use by somebody else when more of its memory than this is used, or a program computes on "
        "it, and it has no job of mqi; no job starts there until it is free.",
        field="busy_memory_bytes",
    ),
    Entry(
        "quarantine_after",
        Whole(0, 1000),
        "A GPU on which jobs of so many runs in a row failed is left out; 0: never.",
    ),
    Entry(
        "quarantine",
        Duration(60, 365 * 86400),
        "It is left out for so long; `mqi host release NAME --gpu UUID` ends it earlier.",
        field="quarantine_s",
    ),
    target=GpuRules,
)

LOGIN = (
    Entry(
        "address",
        Text("a host name or an address", pattern=r"^[A-Za-z0-9][A-Za-z0-9._:%-]*$"),
        "Its name or address in the network.",
    ),
    Entry("user", Text("a user's name", pattern=r"^[^\s@:/-][^\s@:/]*$"), "The user to log in as."),
    Entry("port", Whole(1, 65535), "The port of its SSH server."),
    Entry("key", OrNull(FilePath()), "The private key file to log in with; null: no key file."),
    Entry(
        "secret",
        OrNull(
            Text("`env:VARIABLE` or `keyring:SERVICE`", pattern=r"^(env|keyring):[^\s:]+$", fixed=True),
        ),
        "Where the passphrase of the key file, or without a key file the password, comes from: an "
        "environment variable (`env:NAME`) or the keyring of this computer (`keyring:SERVICE`, needs "
        "mqi[keyring]); null: there is none.",
    ),
    Entry("agent", Flag(), "Whether the keys of a running SSH agent may be used too."),
)
JUMP = Table(*LOGIN, target=SshLogin)
SSH = Table(
    *LOGIN,
    Entry(
        "jump", OrNull(JUMP), "A computer through which the host is reached; null: directly.", default=None
    ),
    Entry(
        "known_hosts",
        FilePath(),
        "The file of the pinned host keys, which `mqi host trust` writes; the user's own is never read.",
        default="mqi.known_hosts",
    ),
    Entry("python", Text("a program"), "The Python on the host (3.8 or later) that runs mqi's agent."),
    Entry(
        "connect_timeout",
        Duration(1, 600),
        "A host that does not let us in, or start the agent, within this time is silent.",
        field="connect_timeout_s",
    ),
    Entry(
        "keepalive",
        Duration(0, 3600),
        "A sign of life is sent on a connection this often, for firewalls that forget quiet ones; 0: never.",
        field="keepalive_s",
    ),
    target=Ssh,
)

HOST = Table(
    Entry(
        "name",
        Text("a name of a-z, 0-9, _ and -", pattern=PLAIN_NAME, fixed=True),
        "The host's name, as `mqi status` shows it; it stays with its cases, so do not change it later.",
    ),
    Entry("type", Choice(tuple(HOST_TYPES)), "`local` is this computer, `ssh` one that is reached by SSH."),
    Entry(
        "work_dir",
        Text("a folder on the host"),
        "The folder on the host for scripts, inputs and running jobs, on a local disk of the host. On an SSH "
        "host it begins with / or with ~/, the home folder there (default: ~/mqi-work).",
        default="data/work",
    ),
    Entry(
        "python",
        Text("a program", may_be_empty=True),
        "The Python on the host that runs the steps; empty: the one that runs mqi, on an SSH host the one that "
        "`mqi host setup` made.",
    ),
    Entry(
        "ssh",
        OrNull(SSH),
        "How a host of `type: ssh` is reached, such as {address: qa-gpu, user: mqi, key: id_mqi}; the schema has "
        "all keys: port, secret, agent, jump, known_hosts, python, connect_timeout, keepalive.",
        default=None,
    ),
    Entry("queue", QUEUE, "The queue that starts the jobs."),
    Entry("gpu_rules", GPU_RULES, "When a job must not get a GPU.", default=None),
    Entry(
        "max_cases",
        Whole(1, 10_000),
        "So many cases may be under way on this host at once (submitting, queued or running).",
    ),
    Entry(
        "min_free",
        Size(),
        "Nothing more is sent while the host's disk has less free space than this.",
        field="min_free_bytes",
    ),
    Entry(
        "timeout",
        Duration(1, 86400),
        "A host that is silent for this long has not answered; it is asked again later.",
        field="timeout_s",
    ),
    Entry(
        "bandwidth",
        OrNull(Size(16 * 2**10)),
        "Data moves to and from this host at most this fast, in bytes a second, such as 20 MB; null: no limit.",
    ),
    Entry(
        "environment",
        Named(
            Text("text", may_be_empty=True, numbers=True),
            r"^(?!MQI_)[A-Za-z_][A-Za-z0-9_]*$",
            "a variable's name (names with MQI_ are mqi's own)",
        ),
        "Environment variables of the jobs, in addition to a minimal set.",
    ),
    target=HostSettings,
)

PATHS = Table(
    Entry("database", FilePath(), "The database file; it must lie on a local disk.", default="data/mqi.db"),
    Entry(
        "results",
        FilePath(),
        "The folder of the results; mqi writes nothing else there.",
        default="data/results",
    ),
    Entry("logs", FilePath(), "The folder of the log files, one or more a day.", default="data/logs"),
)

LOGGING = Table(
    Entry("format", Choice(("text", "json")), "text for people; json for programs: one object per line."),
    Entry("level", Choice(LEVELS), "Less important messages than this are left out."),
    Entry("keep_days", Whole(1, 36500), "Log files are deleted after so many days."),
    Entry(
        "max_size",
        Size(64 * 2**10),
        "A log file that reaches this size is continued in a new one.",
        field="max_bytes",
    ),
    target=Logging,
)

TRANSFER = Table(
    Entry(
        "budget",
        Duration(1, 86400),
        "One `mqi cycle` moves data for at most this long, and goes on in the next.",
        field="budget_s",
    ),
    Entry(
        "min_free",
        Size(),
        "Nothing is fetched while the disk of the results has less free space than this.",
        field="min_free_bytes",
    ),
    target=Transfer,
)

RETENTION = Table(
    Entry(
        "host_runs",
        Duration(0),
        "Runs whose results were fetched stay on the host for this long.",
        field="host_runs_s",
    ),
    target=Retention,
)

TIMING = Table(
    Entry(
        "interval",
        Duration(10, 86400),
        "How often the scheduler runs `mqi cycle`.",
        field="interval_s",
    ),
    Entry(
        "lock_stall",
        Duration(60, 7 * 86400),
        "A step that makes no progress for this long hangs: others stop with exit code 76.",
        field="lock_stall_s",
    ),
    Entry(
        "database_wait",
        Duration(0, 600),
        "A command waits so long for another that writes to the database.",
        field="database_wait_s",
    ),
    Entry(
        "backoff_first",
        Duration(1, 86400),
        "A silent host is asked again after this time, which doubles with each failure …",
        field="backoff_first_s",
    ),
    Entry("backoff_max", Duration(1, 86400), "… up to this.", field="backoff_max_s"),
    Entry(
        "probe",
        Duration(60, 7 * 86400),
        "A host with nothing to do is asked for a sign of life this often.",
        field="probe_s",
    ),
    Entry(
        "full_look",
        Duration(0, 7 * 86400),
        "Folders that have settled are compared by their times at each scan, and file by file this often.",
        field="full_look_s",
    ),
    target=Timing,
)

FILE = Table(
    Entry(
        "timezone",
        Text("a time zone", fixed=True),
        "The time zone of all times that people see, by its IANA name.",
        default=DEFAULT_TIMEZONE,
    ),
    Entry("paths", PATHS, "Where this computer keeps its data, on a local disk.", default=None),
    Entry("watch", Many(WATCH, 1, "watch folder"), "The folders in which cases appear, one for each room."),
    Entry("hosts", Many(HOST, 1, "host"), "The computers that run the jobs."),
    Entry(
        "workflows",
        Named(FilePath(), WORKFLOW_NAME, "a name of a-z, 0-9 and _"),
        "The site's own workflows, name and file, such as {our_qa: our_qa.yaml}. `default_qa` comes "
        "with mqi; another file under this name replaces it.",
        default={},
    ),
    Entry("logging", LOGGING, "mqi's own log files; they contain no patient data.", default=None),
    Entry("transfer", TRANSFER, "How data moves between this computer and the hosts.", default=None),
    Entry("retention", RETENTION, "How long data is kept.", default=None),
    Entry("timing", TIMING, "How often and how long; the defaults suit most sites.", default=None),
)


def schema() -> dict[str, Any]:
    """The JSON schema of mqi.yaml, as it lies in config/mqi.schema.json."""
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "mqi.yaml, the configuration of mqi",
        "description": "Written by scripts/write_config.py from mqi/config_keys.py.",
        **FILE.schema(),
    }
