"""mqi.yaml: found, read, checked; and the example and schemas that are rendered from its declaration."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import sys
import time
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from mqi.config import load_settings
from mqi.config_keys import FILE, HOST_TYPES, HostType, schema
from mqi.config_place import find_config, user_config
from mqi.errors import ConfigurationProblem
from mqi.resources import packaged_config
from mqi.settings import HostSettings, Logging, Pueue, Retention, Slurm, Timing, Transfer, WatchFolder

LEAST = "watch: [{path: cases, room: G1}]\nhosts: [{name: here}]\n"


def write(folder: Path, text: str) -> Path:
    path = folder / "mqi.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def mistakes(folder: Path, text: str, environ: dict[str, str] | None = None) -> list[str]:
    """The reported mistakes; an empty list when the text is right."""
    try:
        load_settings(write(folder, text), environ or {})
    except ConfigurationProblem as problem:
        first, *lines = str(problem).splitlines()
        count = int(re.findall(r"has (\d+) mistakes?$", first)[0])
        assert count == len(lines) and problem.exit_code == 78 and problem.hint
        return [line.strip() for line in lines]
    return []


# --- where it lies ---------------------------------------------------------------------------------


def test_the_first_place_that_has_a_configuration_wins(tmp_path: Path) -> None:
    home, cwd = tmp_path / "home", tmp_path / "cwd"
    environ = {"XDG_CONFIG_HOME": str(home), "APPDATA": str(home)}
    with pytest.raises(ConfigurationProblem, match="there is no configuration") as none:
        find_config(None, environ, cwd)
    assert "mqi init" in none.value.hint

    places = [
        home / "mqi" / "mqi.yaml",
        cwd / "config" / "mqi.yaml",
        tmp_path / "named.yaml",
        tmp_path / "x.yaml",
    ]
    for place in places:
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(LEAST, encoding="utf-8")
    by_variable = {**environ, "MQI_CONFIG_PATH": str(places[2])}
    assert find_config(places[3], by_variable, cwd) == places[3]
    assert find_config(None, by_variable, cwd) == places[2]
    assert find_config(None, environ, cwd) == places[1]
    places[1].unlink()
    assert find_config(None, environ, cwd) == places[0]


def test_a_named_configuration_that_is_missing_is_not_replaced_by_another(tmp_path: Path) -> None:
    (tmp_path / "config").mkdir()
    write(tmp_path / "config", LEAST)
    with pytest.raises(ConfigurationProblem, match="--config"):
        find_config(Path("gone.yaml"), {}, tmp_path)
    with pytest.raises(ConfigurationProblem, match="MQI_CONFIG_PATH"):
        find_config(None, {"MQI_CONFIG_PATH": "gone.yaml"}, tmp_path)
    assert find_config(Path("config/mqi.yaml"), {}, tmp_path).is_absolute()


def test_the_users_folder_follows_the_system() -> None:
    assert user_config({"APPDATA": "/a"}, windows=True) == Path("/a/mqi/mqi.yaml")
    assert user_config({"HOME": "/h"}, windows=False) == Path("/h/.config/mqi/mqi.yaml")
    # The XDG specification: relative paths in these variables are to be ignored.
    assert user_config({"HOME": "/h", "XDG_CONFIG_HOME": "rel"}, windows=False) == Path(
        "/h/.config/mqi/mqi.yaml"
    )


# --- what is read ------------------------------------------------------------------------------------


def test_the_least_file_gives_the_defaults_of_settings(tmp_path: Path) -> None:
    loaded = load_settings(write(tmp_path, LEAST), {})
    assert loaded.watch == (WatchFolder(path=tmp_path / "cases", room="G1"),)
    work_dir = str(tmp_path / "data" / "work")
    assert loaded.hosts == (HostSettings(name="here", work_dir=work_dir, python=sys.executable),)
    assert loaded.timezone.key == "Asia/Seoul"
    assert loaded.paths.database == tmp_path / "data" / "mqi.db"
    assert loaded.paths.locks == tmp_path / "data" / "mqi.db.locks"
    assert loaded.paths.installation == tmp_path / "mqi.installation"
    assert loaded.workflows == {"default_qa": packaged_config() / "workflows" / "default_qa.yaml"}
    assert (loaded.source, loaded.config_dir) == (tmp_path / "mqi.yaml", tmp_path)
    rest = (loaded.logging, loaded.transfer, loaded.retention, loaded.timing)
    assert rest == (Logging(), Transfer(), Retention(), Timing())


def test_every_key_arrives_where_it_belongs(tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text("steps: [{name: one, run: [true_program]}]\n", encoding="utf-8")
    loaded = load_settings(
        write(
            tmp_path,
            """
timezone: Europe/Berlin
paths: {database: "${ROOT}/x.db", results: ~/results, logs: ../logs}
watch:
  - {path: "${ROOT}/in", room: 2, depth: any, marker: _READY, quiet: 5s, require: [RP*], ignore: [],
     workflow: own, priority: -3}
hosts:
  - name: gpu-server
    work_dir: ~/work
    python: bin/python3
    queue: {groups: [{name: cpu, slots: 3, gpus: auto}, {name: big, gpus: [GPU-1a]}], max_queued: 9}
    max_cases: 2
    min_free: 1 GB
    timeout: 1 min
    environment: {OMP_NUM_THREADS: 4, EMPTY: "", HERE: "${ROOT}", LITERAL: "$${ROOT}"}
workflows: {own: own.yaml}
logging: {format: json, level: DEBUG, keep_days: 1, max_size: 1 MiB}
transfer: {budget: 10s, min_free: 0}
retention: {host_runs: 1h}
timing: {interval: 5 min, lock_stall: 1h, database_wait: 1s, backoff_first: 2s, backoff_max: 3s, probe: 2h,
         full_look: 0}
""",
        ),
        {
            "ROOT": str(tmp_path / "root dir"),
            "HOME": str(tmp_path / "home"),
            "USERPROFILE": str(tmp_path / "home"),
        },
    )
    home = tmp_path / "home"
    assert loaded.timezone.key == "Europe/Berlin"
    assert loaded.paths.database == tmp_path / "root dir" / "x.db"
    assert loaded.paths.results == home / "results"
    assert loaded.paths.logs == tmp_path.parent / "logs"
    watch = loaded.room("2")
    assert watch == WatchFolder(
        tmp_path / "root dir" / "in", "2", None, "_READY", 5.0, ("RP*",), (), "own", -3
    )
    host = loaded.hosts[0]
    assert (host.name, host.work_dir) == ("gpu-server", str(home / "work"))
    assert host.python == str(tmp_path / "bin" / "python3")
    assert [(one.name, one.slots, one.gpus) for one in host.queue.groups] == [
        ("cpu", 3, "auto"),
        ("big", 1, ("GPU-1a",)),
    ]
    assert (host.queue.max_queued, host.max_cases, host.min_free_bytes, host.timeout_s) == (9, 2, 10**9, 60.0)
    environment = {
        "OMP_NUM_THREADS": "4",
        "EMPTY": "",
        "HERE": str(tmp_path / "root dir"),
        "LITERAL": "${ROOT}",
    }
    assert host.environment == environment
    assert loaded.workflows["own"] == tmp_path / "own.yaml"
    assert loaded.logging == Logging("json", "DEBUG", 1, 2**20)
    assert loaded.transfer == Transfer(10.0, 0)
    assert loaded.retention == Retention(3600.0)
    assert loaded.timing == Timing(300.0, 3600.0, 1.0, 2.0, 3.0, 7200.0, 0.0)


@pytest.mark.parametrize(
    "data",
    [
        LEAST.encode("utf-8-sig"),  # Notepad
        LEAST.encode("utf-16"),  # PowerShell's >
        LEAST.replace("\n", "\r\n").encode("utf-8"),
        LEAST.replace("G1", "방 1").encode("utf-8"),
        (LEAST + "logging:\n  # format: text\npaths: ~\nworkflows:\n").encode("utf-8"),  # all commented out
    ],
)
def test_files_as_editors_leave_them(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "mqi.yaml").write_bytes(data)
    assert load_settings(tmp_path / "mqi.yaml", {}).watch


def test_a_watch_folder_that_does_not_exist_is_no_mistake(tmp_path: Path) -> None:
    assert not mistakes(tmp_path, LEAST.replace("cases", "/nowhere/at/all"))


@pytest.mark.parametrize(
    ("keys", "depth", "marker"),
    [
        ("", 1, None),
        (", layout: generic", 1, None),
        (", layout: shi", None, "_CASE_READY"),
        (", layout: shi, depth: 2, marker: null", 2, None),
    ],
)
def test_a_layout_has_defaults_of_its_own(tmp_path: Path, keys: str, depth: int | None, marker: str | None) -> None:
    (watch,) = load_settings(write(tmp_path, LEAST.replace("room: G1", "room: G1" + keys)), {}).watch
    assert (watch.depth, watch.marker) == (depth, marker)


def test_a_bare_command_is_left_to_the_path(tmp_path: Path) -> None:
    path = write(tmp_path, LEAST.replace("name: here", "name: here, python: python3"))
    assert load_settings(path, {}).hosts[0].python == "python3"


# --- what is wrong ------------------------------------------------------------------------------------

WRONG = [
    # a remark, the file, what is reported (a part of each line, in order)
    ("nothing", "", ["`hosts` is missing", "`watch` is missing"]),
    ("empty lists", "watch: []\nhosts:\n", ["1: watch: must list at least one", "2: hosts: must list at"]),
    ("no mapping", "- a\n", ["must be lines of `key: value`"]),
    ("unknown, near", LEAST + "loging: {}\n", ["yaml:3: loging: is not known; did you mean `logging`?"]),
    ("unknown, far", LEAST + "xyzzy: 1\n", ["xyzzy: is not known; known: timezone, paths"]),
    ("unknown, deep", LEAST + "logging:\n  levle: INFO\n", [":4: logging.levle: is not known; did you mean"]),
    ("twice", LEAST + "timezone: UTC\ntimezone: UTC\n", [":4: timezone: is given twice (first in line 3)"]),
    ("twice, deep", LEAST + "logging:\n  level: INFO\n  level: INFO\n", [":5: logging.level: is given"]),
    ("wrong kind", LEAST + "logging: [a]\n", ["logging: must be lines of `key: value`"]),
    ("list for text", LEAST + "timezone: [a]\n", ["timezone: must be a time zone, not a list"]),
    ("number for text", LEAST + "timezone: 1\n", ["timezone: must be a time zone; write it in quotes: '1'"]),
    ("null for text", LEAST + "timezone:\n", ["timezone: must be a time zone; it is empty"]),
    ("blank text", LEAST + "timezone: ' '\n", ["timezone: must be a time zone; it is empty"]),
    ("time zone", LEAST + "timezone: Asia/Soul\n", ["no time zone `Asia/Soul`; did you mean `Asia/Seoul`?"]),
    ("time zone, far", LEAST + "timezone: Mars Colony 7\n", ["write an IANA name"]),
    ("time zone, folder", LEAST + "timezone: Asia\n", ["there is no time zone `Asia`"]),
    ("time zone, climbing", LEAST + "timezone: ../../etc/passwd\n", ["there is no time zone"]),
    ("variable", LEAST + "paths: {logs: '${GONE}/x'}\n", ["the environment variable GONE is not set"]),
    ("variable, broken", LEAST + "paths: {logs: '${x y}'}\n", ["must be followed by a name"]),
    ("variable in a number", LEAST + "logging: {keep_days: '${HOME}'}\n", ["must be a whole number"]),
    ("variable in a time", LEAST + "timing: {probe: '${HOME}'}\n", ["is not a duration"]),
    ("variable in a name", LEAST.replace("here", "'${HOME}'"), ["hosts[1].name: `${HOME}` is not a name"]),
    ("no unit", LEAST + "timing: {probe: 60}\n", ["timing.probe: `60` needs a unit, as in `30s`"]),
    ("no unit, size", LEAST + "transfer: {min_free: 60}\n", ["transfer.min_free: `60` needs a unit"]),
    ("a bare m", LEAST + "timing: {probe: 5m}\n", ["`m` is not a unit of time"]),
    ("too short", LEAST + "timing: {interval: 1s}\n", ["must lie between 10s and 1d"]),
    ("too much", LEAST + "logging: {keep_days: 99999999}\n", ["must be a whole number from 1 to 36500"]),
    ("fraction", LEAST + "logging: {keep_days: 1.5}\n", ["must be a whole number"]),
    ("true is no number", LEAST + "logging: {keep_days: true}\n", ["must be a whole number"]),
    ("octal", LEAST + "logging: {keep_days: 010}\n", ["`010` is read differently"]),
    ("choice", LEAST + "logging: {level: info}\n", ["`info` is not known; did you mean `INFO`?"]),
    ("backoff", LEAST + "timing: {backoff_first: 1h}\n", ["timing.backoff_max: must not be shorter"]),
    ("host type", LEAST.replace("here", "here, type: shh"), ["type: `shh` is not known; did you mean `ssh`?"]),
    ("queue type", LEAST.replace("here", "here, queue: {type: sge}"), ["queue.type: `sge` is not known"]),
    ("host name", LEAST.replace("here", "Here!"), ["`Here!` is not a name of a-z"]),
    ("host names", LEAST.replace("}]\n", "}, {name: here, work_dir: w}]\n"), None),
    ("environment", LEAST.replace("here", "here, environment: {MQI_X: a}"), ["`MQI_X` is not a variable's"]),
    ("environment", LEAST.replace("here", "here, environment: {A: [1]}"), ["A: must be text, not a list"]),
    ("room, Windows", LEAST.replace("G1", "'G1:a'"), ["watch[1].room: `G1:a` cannot name a folder"]),
    ("room, device", LEAST.replace("G1", "aux.1"), ["`aux.1` cannot name a folder"]),
    ("room, dot", LEAST.replace("G1", "G1."), ["`G1.` cannot name a folder"]),
    ("room, slash", LEAST.replace("G1", "a/b"), ["`a/b` cannot name a folder"]),
    ("marker", LEAST.replace("G1", "G1, marker: a/b"), ["marker: `a/b` is not the name of a file"]),
    ("depth", LEAST.replace("G1", "G1, depth: 0"), ["depth: must be a whole number from 1 to 20, or `any`"]),
    ("nothing required", LEAST.replace("G1", "G1, depth: any, require: []"), ["`depth: any` looks for it"]),
    ("list needed", LEAST.replace("G1", "G1, require: '*.dcm'"), ["require: must be a list"]),
    ("no such workflow", LEAST.replace("G1", "G1, workflow: default_aq"), ["did you mean `default_qa`?"]),
    ("no such file", LEAST + "workflows: {own: own.yaml}\n", ["workflows.own: there is no file"]),
    ("workflow name", LEAST + "workflows: {Own: own.yaml}\n", ["workflows.Own: `Own` is not a name"]),
    ("no group", LEAST.replace("here", "here, queue: {groups: [{name: cpu}]}"), ["needs a group `gpu`"]),
    (
        "group twice",
        LEAST.replace("here", "here, queue: {groups: [{name: cpu}, {name: gpu}, {name: cpu}]}"),
        ["hosts[1].queue.groups[3].name: the group `cpu` is given twice"],
    ),
    (
        "GPUs",
        LEAST.replace("here", "here, queue: {groups: [{name: cpu, gpus: al}, {name: gpu, gpus: [0]}]}"),
        ["groups[1].gpus: `al` is not known", "groups[2].gpus[1]: must be a GPU's UUID"],
    ),
    (
        "options of another queue",
        LEAST.replace("here", "here, queue: {pueue: {program: pueue4}, slurm: {partition: x}, groups: [{name: cpu, options: [--qos=x]}, {name: gpu}]}"),
        [
            "queue.groups[1].options: means nothing with `type: local`",
            "queue.pueue: means nothing with `type: local`",
            "queue.slurm: means nothing with `type: local`",
        ],
    ),
    (
        "a group per GPU",
        LEAST.replace("here", "here, queue: {type: pueue, pueue: {group_per_gpu: true}, groups: [{name: cpu}, {name: gpu, gpus: auto}, {name: big, gpus: [GPU-a, GPU-b]}]}"),
        ["groups[2].gpus: must list the UUIDs", "groups[3].slots: must be 2, one for each GPU"],
    ),
    (
        "Slurm's GPUs",
        LEAST.replace("here", "here, queue: {type: slurm, groups: [{name: cpu}, {name: gpu, gpus: [GPU-a]}]}"),
        ["groups[2].gpus: must be `auto` or `none`: Slurm chooses"],
    ),
    (
        "options of sbatch",
        LEAST.replace("here", "here, queue: {type: slurm, slurm: {options: [-p x, --export=ALL, --qos=low], time: 2 h}}"),
        [
            "slurm.options[1]: `-p x` is not an option in its long form",
            "slurm.options[2]: mqi gives `--export` itself",
            "slurm.time: `2 h` is not a time of Slurm's",
        ],
    ),
    (
        "Pueue's keys",
        LEAST.replace("here", "here, queue: {type: pueue, pueue: {group_prefix: a b, socket: x}}"),
        ["pueue.group_prefix: `a b` is not letters", "pueue.socket: is not known"],
    ),
    ("own home only", LEAST + "paths: {logs: ~bob/x}\n", ["only `~` followed by a slash"]),
    ("own home only", LEAST.replace("here", "here, work_dir: ~bob/x"), ["only `~` followed by a slash"]),
    ("Windows path", LEAST + 'paths: {logs: "C:\\data"}\n', [":3: is not valid YAML", ]),
    ("Windows path, silent", LEAST + 'paths: {logs: "C:\\temp"}\n', ["contains a control character"]),
    ("tab", "watch:\n\t- a\n", [":2: is not valid YAML"]),
    ("broken", "watch: [\n", ["is not valid YAML"]),
    ("two documents", "---\na: 1\n---\nb: 2\n", ["is not valid YAML"]),
    ("control character", "watch: \x07\n", [":1: is not valid YAML"]),
    ("tag", LEAST + "timezone: !env X\n", [":3: tags such as !env are not supported"]),
    ("python tag", LEAST + "timezone: !!python/object:os.system X\n", ["tags such as tag:yaml.org"]),
    ("alias", LEAST + "paths: &p {logs: a}\nlogging: *p\n", ["aliases (*name) are not supported"]),
    ("loop", "watch: &w [*w]\n", ["aliases (*name) are not supported"]),
    ("merge", LEAST + "logging: {<<: {level: INFO}}\n", ["logging.<<: merge keys are not supported"]),
    ("list as key", LEAST + "logging: {[a]: b}\n", ["a key must be a word"]),
    ("layout", LEAST.replace("G1", "G1, layout: SHI"), ["did you mean `shi`?"]),
    ("window", LEAST.replace("G1", "G1, fraction_window: 5s"), ["must lie between 1 min and 12h"]),
    ("partial", LEAST.replace("G1", "G1, partial: wait"), ["`wait` is not known"]),
    ("ptn room", LEAST.replace("G1", "G1, ptn_room: a/b"), ["is not a room's number"]),
    ("deep", LEAST + "timezone: " + "[" * 100_000 + "\n", ["nested more than 50 levels"]),
    ("deep blocks", "- " * 600 + "\n", ["nested more than 50 levels"]),
    ("huge", "#" * (2**20 + 1), ["larger than 1 MiB"]),
]  # fmt: skip


@pytest.mark.parametrize(("remark", "text", "expected"), WRONG)
def test_what_is_wrong_is_said(tmp_path: Path, remark: str, text: str, expected: list[str] | None) -> None:
    # That Pueue and Slurm run on no Windows is said there of every local host, and tested below.
    lines = [line for line in mistakes(tmp_path, text) if "on Windows the only queue is" not in line]
    if expected is None:
        assert lines
        return
    assert len(lines) == len(expected), lines
    for line, part in zip(lines, expected, strict=True):
        assert part in line, remark
        assert line.startswith("mqi.yaml:")


def test_queues_of_a_host(tmp_path: Path) -> None:
    if os.name == "nt":
        assert mistakes(tmp_path, LEAST.replace("here", "here, queue: {type: pueue}")) == [
            "mqi.yaml:2: hosts[1].queue.type: on Windows the only queue is `local`"
        ]
        return
    text = "here, queue: {type: slurm, slurm: {time: 2:00:00, account: 17, partition: gpu, options: [--mem=8G]}}"
    settings = load_settings(write(tmp_path, LEAST.replace("here", text)), {})
    queue = settings.hosts[0].queue
    assert (queue.type, queue.slurm) == (
        "slurm", Slurm(time="2:00:00", account="17", partition="gpu", options=("--mem=8G",))
    )  # fmt: skip
    text = "here, queue: {type: pueue, pueue: {config: /etc/pueue.yml, group_per_gpu: true}, groups: [{name: cpu}, {name: gpu, slots: 1, gpus: [GPU-a]}]}"
    queue = load_settings(write(tmp_path, LEAST.replace("here", text)), {}).hosts[0].queue
    assert (queue.type, queue.pueue) == ("pueue", Pueue(config="/etc/pueue.yml", group_per_gpu=True))


def test_a_host_elsewhere_has_pueue_unless_its_queue_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Whatever types of hosts there are: a configuration that names one which is not this computer.
    monkeypatch.setitem(HOST_TYPES, "local", HostType(on_this_computer=False))
    text = LEAST.replace("here", "here, work_dir: /w")
    assert load_settings(write(tmp_path, text), {}).hosts[0].queue.type == "pueue"
    text = LEAST.replace("here", "here, work_dir: /w, queue: {type: local}")
    assert load_settings(write(tmp_path, text), {}).hosts[0].queue.type == "local"


def test_python_tags_are_never_built(tmp_path: Path) -> None:
    target = tmp_path / "made"
    assert mistakes(tmp_path, LEAST + f"timezone: !!python/object/apply:os.mkdir ['{target}']\n")
    assert not target.exists()


def test_all_mistakes_come_at_once_in_the_order_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text("steps:\n  - {name: One, run: [a]}\n", encoding="utf-8")
    text = """\
watch:
  - path: cases
    room: G1
    quite: 60s
  - nonsense
  - path: cases/sub
    room: g1
    workflow: own
hosts:
  - {name: a, max_cases: 0}
  - {name: a, work_dir: cases/w}
workflows: {own: own.yaml}
"""
    lines = mistakes(tmp_path, text)
    starts = ["mqi.yaml:4: watch[1].quite", "mqi.yaml:5: watch[2]", "mqi.yaml:6: watch[3].path: overlaps",
              "mqi.yaml:7: watch[3].room: `g1` is already the room in line 3",
              "mqi.yaml:10: hosts[1].max_cases",
              "mqi.yaml:11: hosts[2].name: `a` is already the host in line 10",
              "mqi.yaml:11: hosts[2].work_dir", "own.yaml:2: steps[1].name"]  # fmt: skip
    assert len(lines) == len(starts), lines
    for line, start in zip(lines, starts, strict=True):
        assert line.startswith(start)


OVERLAPS = [
    ("two watch folders", "a", "a", "r", "w", "watch[2].path: overlaps"),
    ("nested", "a", "a/b/c", "r", "w", "watch[2].path: overlaps"),
    ("nested the other way", "a/b", "a", "r", "w", "watch[2].path: overlaps"),
    (
        "results inside",
        "a",
        "b",
        "a/results",
        "w",
        "paths.results: the folder for results lies in a watch folder",
    ),
    (
        "results climbing in",
        "a",
        "b",
        "x/../b/r",
        "w",
        "paths.results: the folder for results lies in a watch",
    ),
    ("watch in results", "r/a", "b", "r", "w", "watch[1].path: lies in the folder for results"),
    (
        "work inside",
        "a",
        "b",
        "r",
        "b/w",
        "hosts[1].work_dir: the work folder of here lies in a watch folder",
    ),
    ("watch in work", "w/a", "b", "r", "w", "watch[1].path: lies in the work folder of here"),
    ("work and results", "a", "b", "x", "x/w", "hosts[1].work_dir: the work folder of here overlaps"),
    ("only alike", "a", "ab", "abc", "abcd", None),
    ("beside each other", "x/a", "x/b", "x/r", "x/w", None),
]


@pytest.mark.parametrize(("remark", "first", "second", "results", "work", "expected"), OVERLAPS)
def test_folders_that_must_not_contain_each_other(
    tmp_path: Path, remark: str, first: str, second: str, results: str, work: str, expected: str | None
) -> None:
    lines = mistakes(
        tmp_path,
        f"watch: [{{path: {first}, room: A}}, {{path: {second}, room: B}}]\npaths: {{results: {results}}}\n"
        f"hosts: [{{name: here, work_dir: {work}}}]\n",
    )
    assert len(lines) == (1 if expected else 0), (remark, lines)
    assert not expected or expected in lines[0], remark


def test_database_in_a_watch_folder(tmp_path: Path) -> None:
    (line,) = mistakes(tmp_path, LEAST + "paths: {database: cases/mqi.db}\n")
    assert "paths.database: the database lies in a watch folder" in line


def test_a_step_with_a_gpu_needs_a_group_with_gpus(tmp_path: Path) -> None:
    own = "steps: [{name: one, run: [a], group: gpu, gpu: true}]\n"
    (tmp_path / "own.yaml").write_text(own, encoding="utf-8")
    text = LEAST.replace("G1", "G1, workflow: own") + "workflows: {own: own.yaml}\n"
    (line,) = mistakes(tmp_path, text)
    assert "mqi.yaml:2: hosts[1].queue.groups: the step `one` of the workflow `own` takes a GPU" in line
    assert not mistakes(tmp_path, text.replace("here", "here, queue: {groups: [{name: gpu, gpus: auto}]}"))


def test_a_file_that_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "mqi.yaml").write_bytes(b"a: b\nroom: " + "치료실".encode("cp949"))
    with pytest.raises(ConfigurationProblem, match=r"mqi\.yaml:2: is not UTF-8"):
        load_settings(tmp_path / "mqi.yaml", {})
    with pytest.raises(ConfigurationProblem, match="cannot be read"):
        load_settings(tmp_path, {})  # a folder
    with pytest.raises(ConfigurationProblem, match="does not exist"):
        load_settings(tmp_path / "gone.yaml", {})


def test_a_variables_value_is_not_shown(tmp_path: Path) -> None:
    text = LEAST.replace("here", "here, environment: {TOKEN: '${TOKEN}'}")
    (line,) = mistakes(tmp_path, text, {"TOKEN": "secret\tvalue"})
    assert "control character" in line and "secret" not in line


@settings(max_examples=150, deadline=None)
@given(data=st.binary(max_size=200) | st.text(max_size=200).map(lambda text: text.encode("utf-8", "replace")))
def test_any_bytes_give_settings_or_a_sentence(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzz.yaml"
    path.write_bytes(data)
    with pytest.raises(ConfigurationProblem):
        load_settings(path, {})


_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.sampled_from(["", "a", "5s", "1 GB", "any", "~", "${A}"]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["path", "room", "name", "a"]), inner)
    ),
    max_leaves=6,
)


@settings(max_examples=150, deadline=None)
@given(key=st.sampled_from(sorted(FILE.entries)), value=_VALUES)
def test_any_value_under_a_known_key(tmp_path_factory: pytest.TempPathFactory, key: str, value: Any) -> None:
    """Wrong values are mistakes, never exceptions; and what is accepted, the schema accepts as well."""
    base: dict[str, Any] = yaml.safe_load(LEAST)
    path = tmp_path_factory.getbasetemp() / "values.yaml"
    path.write_text(json.dumps({**base, key: value}), encoding="utf-8")
    try:
        load_settings(path, {"A": "x"})
    except ConfigurationProblem:
        return
    jsonschema.validate({**base, key: value}, schema())


# --- example, schema, speed ----------------------------------------------------------------------------


def _generator() -> Any:
    path = Path(__file__).resolve().parents[2] / "scripts" / "write_config.py"
    spec = importlib.util.spec_from_file_location("write_config", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_generated_files_are_up_to_date() -> None:
    for name, text in _generator().generated().items():
        written = (packaged_config() / name).read_text(encoding="utf-8")
        assert written == text, f"run: python scripts/write_config.py ({name} is stale)"


def test_the_example_is_the_defaults(tmp_path: Path) -> None:
    text = (packaged_config() / "mqi.example.yaml").read_text(encoding="utf-8")
    assert text.splitlines()[0] == "# yaml-language-server: $schema=mqi.schema.json"
    example = load_settings(write(tmp_path, text), {})
    assert example == load_settings(write(tmp_path, LEAST), {})
    written: dict[str, Any] = yaml.safe_load(text)
    jsonschema.validate(written, schema())
    assert set(written) == set(FILE.entries)  # every section, and below them every key:
    fields = set(HostSettings._fields)
    assert len(written["hosts"][0]) == len(fields)
    assert len(written["watch"][0]) == len(WatchFolder._fields)
    assert len(written["timing"]) == len(Timing._fields)


def test_the_schema_is_one_and_refuses_what_the_reader_refuses() -> None:
    jsonschema.Draft7Validator.check_schema(schema())
    validator = jsonschema.Draft7Validator(schema())
    right: dict[str, Any] = yaml.safe_load(LEAST)
    wrong: dict[str, Any]
    assert validator.is_valid(right)
    for wrong in ({"loging": {}}, {"timing": {"probe": "5m"}}, {"timing": {"probe": 60}}, {"hosts": []},
                  {"logging": {"level": "info"}}, {"hosts": [{"name": "Here!"}]}):  # fmt: skip
        assert not validator.is_valid({**right, **wrong}), wrong


def test_every_host_type_is_explained_and_local_exists() -> None:
    assert HOST_TYPES["local"].on_this_computer


@pytest.mark.skipif(os.name == "nt", reason="the clock of CPU time ticks every 16 ms there")
def test_reading_is_fast(tmp_path: Path) -> None:
    """`mqi status` is typed all day. CPU time, best of several runs: the machine may be busy."""
    text = (packaged_config() / "mqi.example.yaml").read_text(encoding="utf-8")
    path = write(tmp_path, text)
    times = []
    for _ in range(20):
        start = time.process_time()
        load_settings(path, os.environ)
        times.append(time.process_time() - start)
    assert min(times) < 0.010
