"""What no single value of mqi.yaml can show: how its parts fit together. Reports all, with lines."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo, available_timezones

from mqi.config_keys import HOST_TYPES
from mqi.config_shape import choices
from mqi.settings import Group, Pueue, Slurm
from mqi.workflow import Workflow, read_workflow
from mqi.yaml_reading import INVALID, Key, Mistake, Reading

Values = dict[str, Any]


def check(values: Values, reading: Reading) -> list[Mistake]:
    """Note what does not fit together in `values`, where wrong values are missing.

    Returns the mistakes in the workflow files, whose lines are not this file's.
    """
    _check_timezone(values, reading)
    _check_unique(values, reading)
    _check_folders(values, reading)
    _check_ssh(values, reading)
    _check_watch(values, reading)
    _check_queues(values, reading)
    timing = values.get("timing", {})
    first, most = timing.get("backoff_first_s"), timing.get("backoff_max_s")
    if first is not None and most is not None and first > most:
        reading.wrong(("timing", "backoff_max"), "must not be shorter than `backoff_first`")
    return _check_workflows(values, reading)


def _numbered(values: Values, name: str) -> Iterator[tuple[Key, Values]]:
    for number, item in enumerate(values.get(name, ()), start=1):
        if item is not INVALID:
            yield (name, number), item


def _check_timezone(values: Values, reading: Reading) -> None:
    name = values.get("timezone")
    if name is None:
        return
    try:
        ZoneInfo(name)
    except (LookupError, ValueError, OSError):
        zones = tuple(sorted(available_timezones()))
        if not zones:
            reading.wrong(("timezone",), "this computer has no time zone database; install `tzdata`")
            return
        near = choices(name, zones)
        advice = (
            near if near.startswith("did you") else "write an IANA name such as Asia/Seoul or Europe/Berlin"
        )
        reading.wrong(("timezone",), f"there is no time zone `{name}`; {advice}")


def _check_unique(values: Values, reading: Reading) -> None:
    for section, name, noun in (("watch", "room", "room"), ("hosts", "name", "host")):
        first: dict[str, Key] = {}
        for key, item in _numbered(values, section):
            label = item.get(name)
            if label is None:
                continue
            # Room labels become folders, which Windows does not tell apart by case.
            known = first.setdefault(label.casefold(), (*key, name))
            if known != (*key, name):
                line = reading.lines.get(known, 0)
                reading.wrong((*key, name), f"`{label}` is already the {noun} in line {line}")
    for key, host in _numbered(values, "hosts"):
        seen: set[str] = set()
        for number, group in enumerate(host.get("queue", {}).get("groups", ()), start=1):
            label = _group(group).get("name")
            if label is None:
                continue
            if label in seen:
                reading.wrong(
                    (*key, "queue", "groups", number, "name"), f"the group `{label}` is given twice"
                )
            seen.add(label)


def _check_folders(values: Values, reading: Reading) -> None:
    """Nothing that mqi writes may lie in a watch folder, where it would become a case, nor the reverse."""
    watched = [(key, item["path"]) for key, item in _numbered(values, "watch") if "path" in item]
    written: list[tuple[Key, Path, str]] = [
        (("paths", name), path, f"the folder for {name}" if name != "database" else "the database")
        for name, path in values.get("paths", {}).items()
    ]
    for key, host in _numbered(values, "hosts"):
        kind = HOST_TYPES.get(host.get("type", ""))
        if kind is not None and kind.on_this_computer and "work_dir" in host:
            work_dir = Path(host["work_dir"])
            written.append(((*key, "work_dir"), work_dir, f"the work folder of {host.get('name', 'a host')}"))
    for number, (key, path) in enumerate(watched):
        for other_key, other in watched[:number]:
            if _within(path, other) or _within(other, path):
                line = reading.lines.get((*other_key, "path"), 0)
                reading.wrong(
                    (*key, "path"), f"overlaps the watch folder in line {line}: cases would be seen twice"
                )
        for place, folder, noun in written:
            if _within(folder, path):
                reading.wrong(
                    place, f"{noun} lies in a watch folder ({path}), where it would be taken for a case"
                )
            elif noun != "the database" and _within(path, folder):
                reading.wrong((*key, "path"), f"lies in {noun} ({folder})")
    for number, (place, folder, noun) in enumerate(written):
        for _, other, other_noun in written[:number]:
            both = "work folder" in noun and ("work folder" in other_noun or "results" in other_noun)
            if both and (_within(folder, other) or _within(other, folder)):
                reading.wrong(place, f"{noun} overlaps {other_noun} ({other})")


def _check_ssh(values: Values, reading: Reading) -> None:
    for key, host in _numbered(values, "hosts"):
        kind, given = host.get("type"), host.get("ssh")
        if kind == "ssh" and "ssh" in host and given is None:
            reading.wrong(
                (*key, "ssh"), "is missing: how the host is reached, at least {address: …, user: …}"
            )
        if kind == "local" and given is not None:
            reading.wrong((*key, "ssh"), "is for a host of `type: ssh`")
        if kind != "ssh" or given is None:
            continue
        for path in ("work_dir", "python"):
            text = str(host.get(path, "/"))
            if text.startswith(("/", "~/")) or (path == "python" and "/" not in text):
                continue
            what = "begin with / or with ~/" + (", or be a command" if path == "python" else "")
            reading.wrong((*key, path), f"must {what}: it is a path on the host")
        for place, login in (((*key, "ssh"), given), ((*key, "ssh", "jump"), given.get("jump"))):
            ways = ("key", "secret", "agent")
            if login and all(way in login and not login[way] for way in ways):
                reading.wrong(place, "has neither `key` nor `secret` nor `agent`: nothing to log in with")


def _within(path: Path, folder: Path) -> bool:
    """Whether `path` is `folder` or lies in it, by their names: no disk is asked, none may be gone."""
    inner, outer = Path(os.path.normcase(path)), Path(os.path.normcase(folder))
    return inner == outer or outer in inner.parents


def _check_watch(values: Values, reading: Reading) -> None:
    for key, watch in _numbered(values, "watch"):
        if watch.get("depth", 1) is None and watch.get("require") == ():
            reading.wrong((*key, "require"), "must name a pattern, because `depth: any` looks for it")


def _check_queues(values: Values, reading: Reading, *, windows: bool = os.name == "nt") -> None:
    """What belongs to one type of queue means nothing with another: a key that does nothing is a mistake."""
    for key, host in _numbered(values, "hosts"):
        queue, place = host.get("queue", {}), (*key, "queue")
        wanted = queue.get("type")
        kind = HOST_TYPES.get(host.get("type", ""))
        if windows and kind is not None and kind.on_this_computer and wanted in ("pueue", "slurm"):
            reading.wrong((*place, "type"), "on Windows the only queue is `local`")
        for name, default in (("pueue", Pueue()), ("slurm", Slurm())):
            given = queue.get(name)
            if wanted not in (None, name) and isinstance(given, dict) and given != default._asdict():
                reading.wrong((*place, name), f"means nothing with `type: {wanted}`")
        pueue = queue.get("pueue")
        per_gpu = wanted == "pueue" and isinstance(pueue, dict) and pueue.get("group_per_gpu")
        for number, entry in enumerate(queue.get("groups", ()), start=1):
            group, at = _group(entry), (*place, "groups", number)
            gpus = group.get("gpus", "none")
            if wanted not in (None, "slurm") and group.get("options"):
                reading.wrong((*at, "options"), f"means nothing with `type: {wanted}`")
            if wanted == "slurm" and not isinstance(gpus, str):
                reading.wrong((*at, "gpus"), "must be `auto` or `none`: Slurm chooses the GPU of a job")
            if per_gpu and gpus == "auto":
                reading.wrong(
                    (*at, "gpus"), "must list the UUIDs (nvidia-smi -L), because `group_per_gpu` is true"
                )
            elif per_gpu and not isinstance(gpus, str) and group.get("slots") != len(gpus):
                reading.wrong(
                    (*at, "slots"), f"must be {len(gpus)}, one for each GPU, as `group_per_gpu` is true"
                )


def _check_workflows(values: Values, reading: Reading) -> list[Mistake]:
    files: dict[str, Path] = values["workflows"]
    others: list[Mistake] = []
    loaded: dict[str, Workflow] = {}
    used = {watch["workflow"] for _, watch in _numbered(values, "watch") if "workflow" in watch}
    for name, path in files.items():
        key: Key = ("workflows", name)
        if key not in reading.lines and name not in used:
            continue  # the packaged one, and nobody uses it
        if key in reading.lines and not os.path.isfile(path):  # noqa: PTH113  Path.is_file may raise
            reading.wrong(key, f"there is no file {path}, or it may not be read")
            continue
        workflow, mistakes = read_workflow(path, name, reading.read)
        others += mistakes
        if workflow is not None:
            loaded[name] = workflow
    for key, watch in _numbered(values, "watch"):
        wanted = watch.get("workflow")
        if wanted is not None and wanted not in files:
            place = (*key, "workflow")
            reading.wrong(place, f"there is no workflow `{wanted}`; {choices(wanted, tuple(files))}")
    for name in sorted(used & set(loaded)):
        _check_groups(loaded[name], values, reading)
    return others


def _check_groups(workflow: Workflow, values: Values, reading: Reading) -> None:
    """Every host must be able to run every step: a case may go to any of them."""
    for key, host in _numbered(values, "hosts"):
        place = (*key, "queue", "groups")
        listed = host.get("queue", {}).get("groups")
        if listed is None or any("name" not in _group(group) for group in listed):
            continue
        groups = {_group(group)["name"]: _group(group) for group in listed}
        for step in workflow.steps:
            group = groups.get(step.group)
            user = f"the step `{step.name}` of the workflow `{workflow.name}`"
            if group is None:
                reading.wrong(
                    place, f"{user} needs a group `{step.group}`; there are only: {', '.join(groups)}"
                )
            elif step.gpu and group.get("gpus") in ("none", ()):
                reading.wrong(place, f"{user} takes a GPU, and the group `{step.group}` has `gpus: none`")


def _group(group: Any) -> Values:
    """The default groups are Groups already, those of the file still values; INVALID ones are empty."""
    if isinstance(group, Group):
        return {"name": group.name, "slots": group.slots, "gpus": group.gpus, "options": group.options}
    return group if isinstance(group, dict) else {}
