"""Several hosts, hosts in trouble, and hosts that are lost: as operators see it. All hosts are real agents here."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.agent.system import all_processes, kill, wait_for
from tests.cli.conftest import Installation, install


def host(name: str, **keys: str) -> str:
    groups = "[{{name: cpu, slots: 1}}, {{name: gpu, slots: 1{}}}]".format(keys.pop("gpu", ""))
    lines = {"name": name, "work_dir": f"work-{name}", "queue": f"{{groups: {groups}}}", **keys}
    return "  - " + "\n    ".join(f"{key}: {value}" for key, value in lines.items())


def configure(site: Installation, *hosts: str, **replaced: str) -> None:
    """Write mqi.yaml anew with these hosts; `replaced`: other sections."""
    path = site.root / "mqi.yaml"
    text = path.read_text(encoding="utf-8")
    head, _, rest = text.partition("hosts:\n")
    tail = rest[rest.index("paths:") :]
    lines = [replaced.get(line.partition(":")[0], line) for line in tail.splitlines()]
    path.write_text(head + "hosts:\n" + "\n".join(hosts) + "\n" + "\n".join(lines) + "\n", encoding="utf-8")


def found_complete(site: Installation) -> None:
    """Two scans: one that sees the folders, and one that sees them unchanged."""
    site.run("scan")
    site.run("scan")


def row(site: Installation, name: str) -> dict[str, Any]:
    return next(dict(one) for one in site.status()["hosts"] if one["name"] == name)


def executed(site: Installation) -> Counter[str]:
    return Counter(site.ledger())


@pytest.fixture
def make_site(tmp_path: Path) -> Iterator[Callable[[str], Installation]]:
    made: list[Installation] = []

    def make(name: str = "site") -> Installation:
        made.append(install(tmp_path / name))
        return made[-1]

    yield make
    for site in made:
        site.stop_everything()


def test_a_broken_host_is_left_alone_while_the_others_go_on(make_site: Callable[[str], Installation]) -> None:
    site = make_site("site")
    configure(site, host("a"), host("b"), host("c"))
    for number in (1, 2, 3):
        site.sample(f"P{number}", seed=number)
    for number in (1, 2, 3):
        site.cycle_until("completed", case_id=number)
    assert {site.case(number)["host"] for number in (1, 2, 3)} == {"a", "b", "c"}, "each host got one"

    # The work directory of b cannot be used, and the Python of c has gone.
    (site.root / "work-b").rename(site.root / "kept-b")
    (site.root / "work-b").write_text("no folder")
    # The hosts were heard of a moment ago: without new word from them, cases would be bound to them.
    with sqlite3.connect(site.root / "mqi.db") as connection:
        connection.execute("UPDATE hosts SET last_answer_at = last_answer_at - 3600")
    connection.close()
    configure(site, host("a"), host("b"), host("c", python=str(site.root / "no-python")))
    site.sample("P4", seed=4)
    assert site.cycle_until("completed", case_id=4)["host"] == "a"
    b, c = row(site, "b"), row(site, "c")
    assert (b["usable"], c["usable"], row(site, "a")["state"]) == (False, False, "answers")
    assert (b["state"], c["state"]) == ("trouble", "configuration")
    assert "cannot be copied to its work directory" in b["reason"]
    assert "its Python does not start" in c["reason"]
    text = site.run("host", "list").stdout
    assert "its Python does not start" in text
    assert "! host c cannot be used" in site.run("status").stdout

    (site.root / "work-b").unlink()
    (site.root / "kept-b").rename(site.root / "work-b")
    site.run("host", "release", "b")
    site.sample("P5", seed=5)
    assert site.cycle_until("completed", case_id=5)["host"] in ("a", "b")
    assert row(site, "b")["state"] == "answers", "it was asked again before a case was bound"
    assert max(executed(site).values()) == 1
    assert len(site.ledger()) == 5 * 3


def silence(site: Installation, name: str) -> str:
    """The host's entry with a Python that says nothing, as a host that has crashed."""
    program = site.root / "silent.py"
    if sys.platform == "win32":
        pytest.skip("a program without an extension cannot be started on Windows")
    program.write_text("#!/bin/sh\nexec sleep 30\n")
    program.chmod(0o755)
    return host(name, python=str(program), timeout="1s")


def crash(site: Installation, name: str) -> None:
    """Every process of this host ends without a word."""
    for pid, argv in all_processes():
        if any(str(site.root / f"work-{name}") in word for word in argv):
            kill(pid)


def test_a_host_that_is_gone_is_given_up_and_its_old_work_directory_starts_nothing_more(
    make_site: Callable[[str], Installation],
) -> None:
    site = make_site("site")
    configure(site, host("a"), host("b"))
    site.behave(b2={"sleep": 600}, b3={"sleep": 600})
    site.sample()
    first = site.cycle_until("running")["host"]
    other = {"a": "b", "b": "a"}[first]
    assert "has just answered, so it is not lost" in site.run("host", "lost", first, "--yes", code=2).stderr

    crash(site, first)
    configure(site, silence(site, first), host(other))
    site.behave()
    site.run("cycle", code=75)
    assert "did not answer in time" in row(site, first)["reason"]
    asked = site.run("host", "lost", first, code=2)
    assert "1 cases that are on host" in asked.stderr
    assert site.state_of() == "running", "nothing is given up without a word"
    said = site.run("host", "lost", first, "--yes").stdout
    assert f"host {first} was declared lost; it is computed again on another host" in said
    case = site.cycle_until("completed")
    assert case["host"] == other
    assert max(executed(site).values()) == 1, "its jobs have new keys"
    history = json.loads(site.run("--json", "status", "1").stdout)["history"]
    assert [event["event"] for event in history].count("host lost") == 1
    before = len(site.ledger())

    # It comes back with what it had.
    configure(site, host(first), host(other))
    site.run("host", "release", first)
    site.sample("P2", seed=2)
    assert site.cycle_until("completed", case_id=2)["host"] == other
    back = row(site, first)
    assert back["state"] == "lost"
    assert "has come back with the work directory that was declared lost" in back["reason"]
    time.sleep(1.0)
    assert len(site.ledger()) == before + 3, "nothing of the old work directory went on"

    shutil.rmtree(site.root / f"work-{first}")
    site.run("host", "release", first)
    site.sample("P3", seed=3)
    site.cycle_until("completed", case_id=3)
    assert row(site, first)["state"] == "answers"
    assert max(executed(site).values()) == 1


def test_two_control_pcs_on_one_work_directory(make_site: Callable[[str], Installation]) -> None:
    one, two = make_site("one"), make_site("two")
    one.sample()
    one.cycle_until("completed")
    shared = (one.root / "work").as_posix()
    path = two.root / "mqi.yaml"
    path.write_text(path.read_text(encoding="utf-8").replace("work_dir: work", f"work_dir: {shared}"), encoding="utf-8")
    two.sample("P9", seed=9)
    found_complete(two)
    two.run("cycle", code=78)
    assert two.ledger() == []
    text = two.run("status").stdout
    assert "! host here cannot be used: host here: this work directory belongs to another installation of mqi" in text
    assert "mqi host lost" not in text, "it is not lost, it is somebody else's"
    assert "has not yet told which runs it holds" in two.case()["reason"]
    one.sample("P2", seed=2)
    one.cycle_until("completed", case_id=2)
    assert max(executed(one).values()) == 1


@pytest.mark.parametrize(
    ("section", "words"),
    [
        ("host", "free on its work disk (limit: 1048576.0 GiB)"),
        ("transfer", "free on the results disk here (limit: 1048576.0 GiB)"),
    ],
)
def test_nothing_is_sent_when_a_disk_is_below_its_watermark(
    section: str, words: str, make_site: Callable[[str], Installation]
) -> None:
    site = make_site("site")
    low = {"min_free": "1024 TiB"}
    if section == "host":
        configure(site, host("a", **low))
    else:
        configure(site, host("a"), transfer="transfer: {min_free: 1024 TiB}")
    site.sample()
    site.run("cycle", code=None)
    site.run("cycle", code=None)
    case = site.case()
    assert case["state"] == "new"
    assert words in case["reason"]
    assert not (site.root / "work-a" / "runs").exists()
    if section == "host":
        assert "! host a has only" in site.run("status").stdout
    configure(site, host("a"), transfer="transfer: {min_free: 1 MiB}")
    site.cycle_until("completed")


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32" or os.geteuid() != 0, reason="needs a small disk of its own: root on Linux")
@pytest.mark.parametrize("full", ["work-a", "results"])
def test_a_disk_that_is_really_full(full: str, make_site: Callable[[str], Installation]) -> None:
    """Without any watermark, so that the disk itself says no."""
    site = make_site("site")
    configure(site, host("a", min_free="0 B"), transfer="transfer: {min_free: 0 B}")
    disk = site.root / full
    disk.mkdir()
    # The scripts fit, an input of 4 MB (or what a job made of it) does not.
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(disk)], check=False)
    if mounted.returncode != 0:
        pytest.skip("this computer does not let us mount a disk")
    try:
        folder = site.sample()
        if full == "work-a":
            (folder / "large.bin").write_bytes(os.urandom(4 << 20))
        else:
            step = site.root / "step.py"
            step.write_text(step.read_text() + "pathlib.Path('dose.txt').write_bytes(os.urandom(4 << 20))\n")
        for _round in range(20):
            site.run("cycle", code=None)
            case = site.case()
            if "space" in case["reason"] or "disk" in case["reason"]:
                break
            time.sleep(0.3)
        assert case["state"] in ("submitting", "fetching"), case
        assert "space" in case["reason"] or "disk" in case["reason"], case["reason"]
        assert not list((site.root / "results").rglob("provenance.json"))
        if full == "results":
            assert row(site, "a")["state"] == "answers", "our disk is not the host's fault"
        subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)
        assert site.cycle_until("completed", "failed")["state"] == "completed"
        assert max(executed(site).values()) == 1
    finally:
        site.stop_everything()
        subprocess.run(["umount", "-l", str(disk)], check=False)


@pytest.mark.slow
def test_a_database_restored_from_yesterdays_backup(make_site: Callable[[str], Installation]) -> None:
    site = make_site("site")
    configure(site, host("a"), host("b"))
    site.sample()
    site.cycle_until("completed")
    backup = sqlite3.connect(site.root / "yesterday.db")
    live = sqlite3.connect(site.root / "mqi.db")
    live.backup(backup)
    live.close()
    backup.close()
    site.sample("P2", seed=2)
    held = site.cycle_until("completed", case_id=2)["host"]
    for name in ("mqi.db", "mqi.db-wal", "mqi.db-shm"):
        (site.root / name).unlink(missing_ok=True)
    (site.root / "yesterday.db").rename(site.root / "mqi.db")
    # The host that held the forgotten run is silent: nothing new may go to the other one.
    other = {"a": "b", "b": "a"}[held]
    configure(site, silence(site, held), host(other))
    found_complete(site)
    site.run("submit", code=75)
    assert site.state_of(2) == "new"
    text = site.run("status").stdout
    assert f"! the database is older than the one used last (a restored backup?), and host {held} has not told" in text
    assert "a database older than the one used last was put back" in text
    configure(site, host("a"), host("b"))
    site.run("host", "release", held)
    assert site.cycle_until("completed", case_id=2)["host"] == held
    assert max(executed(site).values()) == 1
    assert len(site.ledger()) == 6, "nothing was computed again"


SMI = """\
import pathlib, sys
here = pathlib.Path(__file__)
if sys.argv[1].startswith("--query-gpu="):
    print("GPU-aaaa, Fake, 8000, 10, 0, 40, 0")
elif here.with_name("busy").exists():
    print("GPU-aaaa, 4711")
"""


@pytest.mark.skipif(sys.platform == "win32", reason="the fake nvidia-smi is a shell script")
def test_a_gpu_that_must_not_be_used(make_site: Callable[[str], Installation]) -> None:
    site = make_site("site")
    folder = site.root / "bin"
    folder.mkdir()
    (folder / "smi.py").write_text(SMI)
    (folder / "nvidia-smi").write_text(f'#!/bin/sh\nexec {sys.executable} -I -S {folder / "smi.py"} "$@"\n')
    (folder / "nvidia-smi").chmod(0o755)
    site.environment["PATH"] = f"{folder}{os.pathsep}{os.environ['PATH']}"
    workflow = site.root / "default_qa.yaml"
    workflow.write_text(workflow.read_text().replace("group: gpu", "group: gpu\n    gpu: true"))
    configure(site, host("a", gpu=", gpus: auto", gpu_rules="{quarantine_after: 1, quarantine: 6h}"))

    def look_again() -> None:
        (site.root / "work-a" / "gpus" / "nvidia-smi.json").unlink(missing_ok=True)

    (folder / "busy").touch()
    site.sample()
    found_complete(site)
    site.run("submit")
    assert "no GPU for the group gpu: GPU-aaaa: 1 process of somebody else" in site.case()["reason"]
    assert site.state_of() == "new"
    (gpu,) = [one for one in site.status()["gpu_resources"] if one["pueue_group"] == "gpu"]
    assert (gpu["gpu"], gpu["status"], gpu["note"]) == ("GPU-aaaa", "busy", "1 process of somebody else")
    (folder / "busy").unlink()
    look_again()
    site.behave(b2={"exit": 3, "why": "an illegal memory access"})

    def gpu_state() -> str:
        look_again()
        site.run("cycle", code=None)
        return str(next(one["status"] for one in site.status()["gpu_resources"] if one["pueue_group"] == "gpu"))

    wait_for(lambda: gpu_state() == "quarantined", "the quarantine", 60)
    text = site.run("status").stdout
    assert "! the GPU GPU-aaaa of host a is left out, since jobs of 1 runs in a row failed on it" in text
    assert "an illegal memory access" in text
    assert "is used again" in site.run("host", "release", "a", "--gpu", "GPU-aaaa").stdout
    case = site.cycle_until("failed", "completed")
    assert [job["state"] for job in case["jobs"]] == ["done", "failed", "done"], "beam 3 went on"
    assert max(executed(site).values()) == 1


@pytest.mark.slow
def test_a_held_host_gets_no_new_cases(make_site: Callable[[str], Installation]) -> None:
    site = make_site("site")
    configure(site, host("a"), host("b"))
    site.run("host", "hold", "a")
    for number in (1, 2):
        site.sample(f"P{number}", seed=number)
    for number in (1, 2):
        assert site.cycle_until("completed", case_id=number)["host"] == "b"
    assert row(site, "a")["state"] == "held"
    assert "no host 'z'" in site.run("host", "hold", "z", code=2).stderr
