"""What was read last stands for the same reading only; everything else is read from mqi.yaml itself."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mqi import remembered
from mqi.config import load_settings
from mqi.errors import ConfigurationProblem
from mqi.remembered import load_remembered

EVERYTHING = """\
watch:
  - {path: ~/cases, room: G1, workflow: own, machines: [G1*], ptn_room: "2"}
  - {path: shi, room: G2, layout: shi}
hosts:
  - {name: here, environment: {A: b}}
  - name: far
    type: ssh
    ssh: {address: h, user: u, key: k, secret: env:SECRET, jump: {address: j, user: v, agent: true}}
    queue: {type: pueue, groups: [{name: cpu, slots: 2}, {name: gpu, gpus: [GPU-1, GPU-2], slots: 2, max_jobs: 5}]}
    bandwidth: 1 MiB
workflows: {own: own.yaml}
timezone: Europe/Berlin
"""
OWN = "steps: [{name: one, run: [python3, x.py], group: cpu}]\n"


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    return {"HOME": str(tmp_path / "home"), "USERPROFILE": str(tmp_path / "home")}


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "mqi.yaml"
    path.write_text(EVERYTHING, encoding="utf-8")
    (tmp_path / "own.yaml").write_text(OWN, encoding="utf-8")
    return path


def note_of(config: Path) -> Path:
    return config.with_name("mqi.yaml.remembered")


def sealed(text: bytes) -> bytes:
    return b"%08x\n" % zlib.crc32(text) + text


def test_what_is_remembered_equals_what_is_read(config: Path, environ: dict[str, str]) -> None:
    read = load_settings(config, environ)
    assert load_remembered(config, environ) == read
    assert note_of(config).is_file()
    assert load_remembered(config, environ) == read
    assert [path.name for path in config.parent.iterdir() if "part" in path.name] == []


def test_who_only_looks_leaves_nothing_behind(config: Path, environ: dict[str, str]) -> None:
    before = sorted(config.parent.iterdir())
    load_remembered(config, environ, keep=False)
    assert sorted(config.parent.iterdir()) == before


def test_it_is_really_used(config: Path, environ: dict[str, str]) -> None:
    load_remembered(config, environ)
    forged = note_of(config).read_bytes().partition(b"\n")[2].replace(b"Europe/Berlin", b"Asia/Seoul", 99)
    # The place in the copy of mqi.yaml is to stay as it is: only the settings tell the other zone.
    forged = forged.replace(b"timezone: Asia/Seoul", b"timezone: Europe/Berlin")
    note_of(config).write_bytes(sealed(forged))
    assert str(load_remembered(config, environ).timezone) == "Asia/Seoul"


def test_a_run_that_recalls_reads_no_yaml(config: Path, environ: dict[str, str]) -> None:
    load_remembered(config, environ)
    code = (
        "import sys; from pathlib import Path; from mqi.remembered import load_remembered; "
        f"print(load_remembered(Path({str(config)!r}), {environ!r}).timezone, 'yaml' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["Europe/Berlin", "False"]


def test_a_changed_file_is_read(config: Path, environ: dict[str, str]) -> None:
    load_remembered(config, environ)
    times = config.stat()
    config.write_text(EVERYTHING.replace("room: G2", "room: G3"), encoding="utf-8")
    os.utime(config, ns=(times.st_atime_ns, times.st_mtime_ns))  # same length, same time: the bytes decide
    assert [watch.room for watch in load_remembered(config, environ).watch] == ["G1", "G3"]


def test_a_mistake_is_told_every_time_and_the_file_before_it_still_counts(
    config: Path, environ: dict[str, str]
) -> None:
    before = load_remembered(config, environ)
    for text in ("hosts: 3", EVERYTHING.replace("jump", "jum")):
        config.write_text(text, encoding="utf-8")
        for _ in range(2):
            with pytest.raises(ConfigurationProblem):
                load_remembered(config, environ)
    config.write_text(EVERYTHING, encoding="utf-8")
    assert load_remembered(config, environ) == before


@pytest.mark.parametrize("text", ["steps: nothing", None])
def test_a_workflow_that_is_wrong_or_gone_now_is_told(
    config: Path, environ: dict[str, str], text: str | None
) -> None:
    load_remembered(config, environ)
    own = config.with_name("own.yaml")
    own.unlink()
    if text is not None:
        own.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigurationProblem, match="own"):
        load_remembered(config, environ)


def test_another_home_is_another_reading(config: Path, environ: dict[str, str], tmp_path: Path) -> None:
    load_remembered(config, environ)
    other = dict.fromkeys(environ, str(tmp_path / "other"))
    assert load_remembered(config, other).watch[0].path == tmp_path / "other" / "cases"
    assert load_remembered(config, environ).watch[0].path == tmp_path / "home" / "cases"


def test_a_value_from_the_environment_is_not_written_down(config: Path, environ: dict[str, str]) -> None:
    config.write_text(EVERYTHING.replace("{A: b}", "{A: '${TOKEN}'}"), encoding="utf-8")
    for token in ("first", "second"):
        assert load_remembered(config, {**environ, "TOKEN": token}).hosts[0].environment == {"A": token}
    assert not note_of(config).exists()


def test_another_program_reads_for_itself(
    config: Path, environ: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load_remembered(config, environ)
    before = note_of(config).read_bytes()
    copy = tmp_path / "mqi"
    shutil.copytree(Path(remembered.__file__).parent, copy, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(remembered, "__file__", str(copy / "remembered.py"))
    load_remembered(config, environ)
    copied = note_of(config).read_bytes()
    assert copied != before
    with (copy / "config_keys.py").open("a", encoding="utf-8") as file:
        file.write("# a change of the next version\n")
    load_remembered(config, environ)
    assert note_of(config).read_bytes() != copied


def _resealed(change: Callable[[list[Any]], object]) -> Callable[[bytes], bytes]:
    def damage(data: bytes) -> bytes:
        value = json.loads(data.partition(b"\n")[2])
        change(value)
        return sealed(json.dumps(value).encode())

    return damage


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda data: b"", id="empty"),
        pytest.param(lambda data: data[: len(data) // 2], id="cut"),
        pytest.param(lambda data: data.replace(b"Berlin", b"London"), id="other bytes"),
        pytest.param(lambda data: b"zz" + data, id="no checksum"),
        pytest.param(_resealed(lambda value: value.pop()), id="a part is missing"),
        pytest.param(_resealed(lambda value: value[4].append(1)), id="another field"),
        pytest.param(_resealed(lambda value: value[4].pop(3)), id="a field less"),
        pytest.param(_resealed(lambda value: value.__setitem__(4, ["Nothing"])), id="an unknown class"),
        pytest.param(_resealed(lambda value: value.__setitem__(4, ["ZoneInfo", "a/b"])), id="no such zone"),
        pytest.param(_resealed(lambda value: value.__setitem__(4, 5)), id="no settings"),
        pytest.param(_resealed(lambda value: value.__setitem__(3, {})), id="of no file"),
    ],
)
def test_a_damaged_note_is_as_good_as_none(
    config: Path, environ: dict[str, str], damage: Callable[[bytes], bytes]
) -> None:
    read = load_remembered(config, environ)
    good = note_of(config).read_bytes()
    note_of(config).write_bytes(damage(good))
    assert load_remembered(config, environ) == read
    assert note_of(config).read_bytes() == good


def test_where_nothing_can_be_written_it_is_read_each_time(config: Path, environ: dict[str, str]) -> None:
    note_of(config).mkdir()  # also for root, whom permissions do not stop
    assert load_remembered(config, environ) == load_remembered(config, environ)
    assert [path.name for path in config.parent.iterdir() if path.name.endswith(".part")] == []


@pytest.mark.skipif(os.name == "nt", reason="POSIX permissions")
def test_the_note_is_for_its_owner_alone(config: Path, environ: dict[str, str]) -> None:
    load_remembered(config, environ)
    assert note_of(config).stat().st_mode & 0o777 == 0o600
