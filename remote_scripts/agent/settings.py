"""What the control PC's configuration says about this host. It comes with every request and is kept for
the feed at the end of a run, when no request is at hand."""

from __future__ import annotations

from typing import Any, Dict, List, NamedTuple, Optional, Union

from agent import names
from agent.files import read_json_object, write_json
from agent.problems import Refused
from agent.work import Work


class Group(NamedTuple):
    """At most `slots` jobs at once; `gpus`: "none", "auto" (all that nvidia-smi shows) or UUIDs. `options`: for
    the queue's driver."""

    name: str
    slots: int
    gpus: Union[str, List[str]]
    options: List[str]


class GpuRules(NamedTuple):
    """When a job must not get a card (see gpu_care): more memory than this in use by somebody else, or jobs
    of so many runs in a row that failed on it (0: never), which leaves it out for so long."""

    busy_memory_mb: float = 1024.0
    quarantine_after: int = 3
    quarantine_s: float = 6 * 3600.0


class Settings(NamedTuple):
    """See the fields' remarks; times in seconds."""

    queue_type: str
    # Further keys of the queue's own, for its driver.
    queue: Dict[str, Any]
    groups: Dict[str, Group]
    max_queued: int  # jobs in one group's queue that have not started
    python: str  # runs the steps; "" is the Python that runs the agent
    environment: Dict[str, str]
    lost_listings: int
    lost_after_s: float
    kill_grace_s: float  # between SIGTERM and SIGKILL
    # Names the boot of this host; a file so that nothing but its content matters.
    boot_id_file: str
    gpu_rules: GpuRules = GpuRules()

    def boot_id(self) -> str:
        """What tells this boot from others; "" where the system does not say."""
        try:
            with open(self.boot_id_file, encoding="ascii") as stream:
                return stream.read(100).strip()
        except (OSError, ValueError):
            return ""


def parse_settings(raw: Any) -> Settings:
    """The settings of a request. Raises Refused when a value is not what it should be."""
    if not isinstance(raw, dict) or not isinstance(raw.get("queue"), dict):
        raise Refused("bad_request", "the request has no settings of the queue")
    queue = raw["queue"]
    groups = {}
    for entry in _list(queue.get("groups"), "groups"):
        if not isinstance(entry, dict):
            raise Refused("bad_request", "a group is not an object")
        name = names.group(entry.get("name"))
        groups[name] = Group(
            name,
            names.whole(entry.get("slots", 1), "slots", 1, 1000),
            _gpus(entry.get("gpus", "none")),
            _list(entry.get("options") or [], "options"),
        )
    environment = raw.get("environment") or {}
    if not isinstance(environment, dict) or not all(
        isinstance(key, str) and isinstance(value, str) and key and "=" not in key and "\0" not in key + value
        for key, value in environment.items()
    ):
        raise Refused("bad_request", "the environment is not a table of strings")
    return Settings(
        queue_type=_text(queue.get("type", "local"), "the queue's type"),
        queue=queue,
        groups=groups,
        max_queued=names.whole(queue.get("max_queued", 4), "max_queued", 1, 100000),
        python=_text(raw.get("python") or "", "python"),
        environment=environment,
        lost_listings=names.whole(raw.get("lost_listings", 3), "lost_listings", 1, 1000),
        lost_after_s=_amount(raw.get("lost_after_s", 120.0), "lost_after_s"),
        kill_grace_s=_amount(raw.get("kill_grace_s", 10.0), "kill_grace_s"),
        boot_id_file=_text(raw.get("boot_id_file") or "/proc/sys/kernel/random/boot_id", "boot_id_file"),
        gpu_rules=_gpu_rules(raw.get("gpu_rules") or {}),
    )


def _gpu_rules(raw: Any) -> GpuRules:
    if not isinstance(raw, dict):
        raise Refused("bad_request", "gpu_rules is not an object")
    usual = GpuRules()
    return GpuRules(
        busy_memory_mb=_amount(raw.get("busy_memory_mb", usual.busy_memory_mb), "busy_memory_mb"),
        quarantine_after=names.whole(raw.get("quarantine_after", usual.quarantine_after), "quarantine_after"),
        quarantine_s=_amount(raw.get("quarantine_s", usual.quarantine_s), "quarantine_s"),
    )


def keep_settings(work: Work, raw: Any) -> None:
    if read_json_object(work.settings) != raw:
        write_json(work.settings, raw)


def kept_settings(work: Work) -> Optional[Settings]:
    """The settings of the last request; None before the first. Raises ValueError or Refused when broken."""
    raw = read_json_object(work.settings)
    return None if raw is None else parse_settings(raw)


def _gpus(value: Any) -> Union[str, List[str]]:
    if isinstance(value, str) and value in ("none", "auto"):
        return value
    return [names.gpu(entry) for entry in _list(value, "gpus")]


def _list(value: Any, what: str) -> List[Any]:
    if not isinstance(value, list):
        raise Refused("bad_request", "%s is not a list" % what)
    return value


def _text(value: Any, what: str) -> str:
    if not isinstance(value, str) or "\0" in value:
        raise Refused("bad_request", "%s is not a text" % what)
    return value


def _amount(value: Any, what: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 1e9:
        raise Refused("bad_request", "%s is not a number from 0 on" % what)
    return float(value)
