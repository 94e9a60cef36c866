"""mqi.yaml -> frozen settings. Every mistake is reported at once, with its line and key."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from mqi.config_checks import check
from mqi.config_keys import FILE, HOST_TYPES, LAYOUT_DEFAULTS
from mqi.config_shape import local_path
from mqi.errors import ConfigurationProblem
from mqi.resources import packaged_config
from mqi.settings import (
    GpuRules,
    Group,
    HostSettings,
    Logging,
    Paths,
    Pueue,
    Queue,
    Retention,
    Settings,
    Slurm,
    Ssh,
    SshLogin,
    Timing,
    Transfer,
    WatchFolder,
)
from mqi.yaml_reading import Mistake, Reading, parse

PACKAGED_WORKFLOW = "default_qa"
REMOTE_WORK_DIR = "~/mqi-work"


def load_settings(path: Path, environ: Mapping[str, str], read: dict[Path, bytes] | None = None) -> Settings:
    """The settings in the file at `path`, complete with defaults. `read` collects what was read, by file.

    Raises ConfigurationProblem, whose message lists every mistake in the file and in the workflow
    files that it names, one per line with file, line and key.
    """
    reading = Reading(Path(os.path.abspath(path)), environ, read)  # noqa: PTH100  resolve() asks the disk
    node = parse(reading)
    if reading.mistakes:
        raise _problem(reading, reading.mistakes)
    values = FILE.read(node, (), reading)
    if not isinstance(values, dict):
        raise _problem(reading, reading.mistakes)
    values["workflows"] = {
        PACKAGED_WORKFLOW: packaged_config() / "workflows" / f"{PACKAGED_WORKFLOW}.yaml",
        **values.get("workflows", {}),
    }
    for number, host in enumerate(values.get("hosts", ()), start=1):
        if isinstance(host, dict):
            _choose_queue(host, number, reading)
            _resolve_host(host, number, reading)
    for number, watch in enumerate(values.get("watch", ()), start=1):
        if isinstance(watch, dict):
            _fill_layout(watch, number, reading)
    others = check(values, reading)
    if reading.mistakes or others:
        raise _problem(reading, [*reading.mistakes, *others])
    return _settings(values, reading.file)


def _fill_layout(watch: dict[str, Any], number: int, reading: Reading) -> None:
    """Give the keys that the file leaves out what they are in its layout, in place."""
    for name, value in LAYOUT_DEFAULTS.get(watch.get("layout", ""), {}).items():
        if ("watch", number, name) not in reading.lines:
            watch[name] = value


def _choose_queue(host: dict[str, Any], number: int, reading: Reading) -> None:
    """A host elsewhere has Pueue unless its queue is named: it goes on without us, and people can look at it."""
    kind, queue = HOST_TYPES.get(host.get("type", "")), host.get("queue")
    elsewhere = kind is not None and not kind.on_this_computer
    if elsewhere and isinstance(queue, dict) and ("hosts", number, "queue", "type") not in reading.lines:
        queue["type"] = "pueue"


def _resolve_host(host: dict[str, Any], number: int, reading: Reading) -> None:
    """Make the paths of a host on this computer absolute, in place."""
    kind = HOST_TYPES.get(host.get("type", ""))
    if kind is not None and not kind.on_this_computer and ("hosts", number, "work_dir") not in reading.lines:
        host["work_dir"] = REMOTE_WORK_DIR
    if kind is None or not kind.on_this_computer:
        return
    if host.get("python") == "":
        host["python"] = sys.executable
    for name in ("work_dir", "python"):
        text = host.get(name)
        # A bare command such as `python3` is looked up in the PATH.
        if text is None or (name == "python" and not any(mark in text for mark in "/\\~")):
            continue
        try:
            host[name] = str(local_path(text, reading.folder, reading.environ or {}))
        except ValueError as problem:
            reading.wrong(("hosts", number, name), str(problem))


def _settings(values: dict[str, Any], file: Path) -> Settings:
    paths = values["paths"]
    database: Path = paths["database"]
    return Settings(
        source=file,
        config_dir=file.parent,
        timezone=ZoneInfo(values["timezone"]),
        paths=Paths(
            **paths,
            # Named after the database, so that two of them in one folder do not share locks.
            locks=database.with_name(f"{database.name}.locks"),
            # Beside the configuration: it must survive a lost database.
            installation=file.with_name("mqi.installation"),
        ),
        watch=tuple(WatchFolder(**watch) for watch in values["watch"]),
        hosts=tuple(_host(host) for host in values["hosts"]),
        workflows=values["workflows"],
        logging=Logging(**values["logging"]),
        transfer=Transfer(**values["transfer"]),
        retention=Retention(**values["retention"]),
        timing=Timing(**values["timing"]),
    )


def _host(values: dict[str, Any]) -> HostSettings:
    queue = dict(values["queue"])
    queue["groups"] = tuple(
        group if isinstance(group, Group) else Group(**group)  # the default is made of Groups already
        for group in queue["groups"]
    )
    queue["pueue"], queue["slurm"] = Pueue(**queue["pueue"]), Slurm(**queue["slurm"])
    ssh = values.get("ssh")
    if ssh is not None:
        jump = ssh["jump"]
        ssh = Ssh(**{**ssh, "jump": None if jump is None else SshLogin(**jump)})
    rules = GpuRules(**values["gpu_rules"])
    return HostSettings(**{**values, "queue": Queue(**queue), "gpu_rules": rules, "ssh": ssh})


def _problem(reading: Reading, mistakes: list[Mistake]) -> ConfigurationProblem:
    ordered = sorted(set(mistakes), key=lambda one: (one.file != reading.file.name, one))
    count = "1 mistake" if len(ordered) == 1 else f"{len(ordered)} mistakes"
    lines = [f"the configuration {reading.file} has {count}", *(f"  {mistake}" for mistake in ordered)]
    return ConfigurationProblem("\n".join(lines), "correct the file and run the command again")
