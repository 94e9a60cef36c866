"""The scripts on the host: by content, complete or not there."""

from __future__ import annotations

import os
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from mqi.errors import TemporaryProblem
from mqi.host.agent_host import AgentHost
from mqi.host.deploy import content_hash, script_files
from mqi.resources import remote_scripts
from tests.agent.bench import RUN, Bench, wait_for


def test_the_hash_is_of_names_and_contents_only(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    for folder in (first, second):
        (folder / "a").mkdir(parents=True)
        (folder / "a" / "x.py").write_text("1")
        (folder / "b.py").write_text("2")
    same = content_hash(first)
    (second / "a" / "__pycache__").mkdir()
    (second / "a" / "__pycache__" / "x.cpython-311.pyc").write_text("?")
    (second / "b.py~").write_text("?")
    assert content_hash(second) == same
    assert [name for name, _ in script_files(second)] == ["a/x.py", "b.py"]
    (second / "b.py").rename(second / "c.py")
    assert content_hash(second) != same
    (second / "c.py").rename(second / "b.py")
    (second / "b.py").write_text("3")
    assert content_hash(second) != same


def _deployed(host: AgentHost) -> str:
    host.ask([])  # whichever request first finds them missing brings them there
    return host.deploy()


def test_deployed_once_by_many(bench: Bench) -> None:
    hosts = [bench.new_host() for _ in range(6)]
    with ThreadPoolExecutor(6) as pool:
        names = list(pool.map(_deployed, hosts))
    assert set(names) == {content_hash(remote_scripts())}
    scripts = bench.work / "scripts"
    assert [path.name for path in scripts.iterdir()] == [names[0]]
    assert content_hash(scripts / names[0]) == names[0]
    # The agent runs from there, and what Python caches beside it changes nothing.
    assert bench.ask({"verb": "inventory"})[0]["ok"]
    assert content_hash(scripts / names[0]) == names[0]


def test_a_copy_that_broke_off_is_not_the_scripts(bench: Bench) -> None:
    name = _deployed(bench.host)
    target = bench.work / "scripts" / name
    half = target.with_name(f".{name}.00000000~")
    target.rename(half)
    (half / "agent" / "__main__.py").unlink()
    assert _deployed(bench.new_host()) == name
    assert (target / "agent" / "__main__.py").exists()


def test_a_work_directory_that_cannot_be_made(bench: Bench) -> None:
    bench.work.write_text("a file in the way")
    with pytest.raises(TemporaryProblem) as caught:
        bench.host.ask([])
    assert "work_dir" in caught.value.hint


def test_scripts_can_be_replaced_while_jobs_run(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.submit(bench.plan(bench.gated("one-a1"), bench.traced("two-a1", "one-a1")))
    newer = tmp_path / "newer"
    shutil.copytree(remote_scripts(), newer, ignore=shutil.ignore_patterns("__pycache__"))
    (newer / "extra.py").write_text("# another version\n")
    for module in ("local", "ssh"):
        monkeypatch.setattr(f"mqi.host.{module}.remote_scripts", lambda: newer)
    bench.host = bench.new_host()
    assert set(bench.states().values()) <= {"running", "queued", "waiting"}
    assert len(list((bench.work / "scripts").iterdir())) == 2
    bench.open_gate()
    assert bench.exit("two-a1")["kind"] == "ok"
    assert bench.begun("one-a1") == bench.begun("two-a1") == 1


def test_old_versions_go_when_nothing_needs_them(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.submit(bench.plan(bench.gated("one-a1"), bench.traced("two-a1", "one-a1")))
    first = bench.host.deploy()
    scripts = bench.work / "scripts"

    def deploy(words: str) -> str:
        """Another version comes, and the ones before it have not been used for two days."""
        newer = tmp_path / words
        shutil.copytree(remote_scripts(), newer, ignore=shutil.ignore_patterns("__pycache__"))
        (newer / "extra.py").write_text(f"# {words}\n")
        for module in ("local", "ssh"):
            monkeypatch.setattr(f"mqi.host.{module}.remote_scripts", lambda: newer)
        bench.host = bench.new_host()
        name = _deployed(bench.host)
        for version in scripts.iterdir():
            if version.name != name:
                os.utime(version, (time.time() - 2 * 86400,) * 2)
        bench.ask()
        return name

    def versions() -> set[str]:
        return {path.name for path in scripts.iterdir()}

    bench.wait_state("one-a1", "running")
    second = deploy("second")
    assert versions() == {first, second}  # a job runs, another waits, and their plan names it
    third = deploy("third")
    assert versions() == {first, second, third}  # while anything runs, nobody knows what was started from which
    bench.open_gate()
    assert bench.exit("two-a1")["kind"] == "ok"
    wait_for(lambda: not bench.runners(), "the runner to end")
    bench.ask()
    assert versions() == {first, third}  # its plan may still be carried on
    assert bench.ask({"verb": "release", "run_key": RUN, "serial": 1})[0]["ok"]
    bench.ask()
    assert versions() == {third}
    # One that was used today may be another command's that is under way.
    (scripts / ("a" * 32)).mkdir()
    bench.ask()
    assert versions() == {third, "a" * 32}
    assert bench.begun("one-a1") == bench.begun("two-a1") == 1
