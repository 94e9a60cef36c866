"""The `transfer` part of bench.py: mqi's transfers beside scp, sftp, rsync and rclone, over one sshd on loopback.

Run by the Python of .venv, which has mqi and the tests' sshd. Every program as it comes, whole processes, destination
empty, interleaved rounds; mqi's part hashes every byte on both sides, writes durably and renames, which the others do
not.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bench import Place

ROOT = Path(__file__).resolve().parents[1]
# A: like the CT of a case; B: like the logs of a delivery; C: one large file. (files, bytes each, rounds)
SETS = {"A": (300, 512 * 1024, 5), "B": (2000, 8 * 1024, 5), "C": (1, 2**30, 3)}
RUN = "0123456789ab"
KEY = f"{RUN}.copy-a1"
# Only told: nobody uses it so. It shows what it costs that a power loss takes no file.
DURABLE = "rsync -a --fsync"
CONFIG = """\
watch: [{{path: cases, room: G1, quiet: 0s}}]
hosts:
  - {{name: far, type: ssh, work_dir: {work}, python: {python}, max_cases: 1000, queue: {queue}, ssh: {{{ssh}}}}}
paths: {{database: mqi.db, results: results, logs: logs}}
transfer: {{min_free: 1 MiB}}
workflows: {{default_qa: quick.yaml}}
"""
Row = tuple[str, str, str]


def client(words: list[str]) -> None:
    """What is measured of mqi: `up` asks, sends what is missing; `down` asks, fetches. One process, one connection."""
    import gc

    import mqi.__main__  # noqa: F401  as every start of mqi: it looks for garbage less often
    from mqi.host import open_host
    from mqi.host.base import Blob, RemoteFile
    from mqi.settings import HostSettings, Ssh

    direction, folder, given = words[0], Path(words[1]), json.loads(words[2])
    login = {
        **given["ssh"],
        "key": Path(given["ssh"]["key"]),
        "known_hosts": Path(given["ssh"]["known_hosts"]),
    }
    host = open_host(HostSettings("far", "ssh", given["work"], ssh=Ssh(**login)), "bench")
    if direction == "up":
        host.get_ready()  # as submit does, before it hashes
        # As mqi's own cache of digests: a file of the same size and time is not read again.
        cache = Path(given["cache"])
        known = json.loads(cache.read_text()) if cache.exists() else {}
        digests = {}
        for path in sorted(folder.iterdir()):
            state = path.stat()
            key = f"{path.name} {state.st_size} {state.st_mtime_ns}"
            if key not in known:
                with path.open("rb") as file:
                    known[key] = hashlib.file_digest(file, "sha256").hexdigest()
            digests[path] = known[key]
        cache.write_text(json.dumps(known))
        blobs = [Blob(digest, path.stat().st_size, path) for path, digest in digests.items()]
        wanted = [[blob.sha256, blob.size] for blob in blobs]
        call = {"verb": "have", "run_key": RUN, "digest": RUN + "0" * 52, "blobs": wanted}
        missing = dict(host.ask([call]).replies[0]["missing"])
        if missing:
            sent = host.upload([(blob, missing[blob.sha256]) for blob in blobs if blob.sha256 in missing])
            assert set(sent.stored) == set(missing)
    elif direction == "down":
        said = host.ask([{"verb": "outputs", "jobs": [KEY]}]).replies[0]["jobs"][KEY]
        files = [
            RemoteFile(KEY, one["path"], one["size"], one["sha256"], folder / one["path"])
            for one in said["files"]
        ]
        assert len(host.download(files).done) == len(files)
    else:
        plan = given["plan"]
        plan["scripts"] = host.deploy()
        print(host.ask([{"verb": "plan", "plan": plan}, {"verb": "report", "runs": [RUN]}]).replies)
    host.close()
    gc.freeze()  # as every end of mqi


def login_only(given: dict[str, dict[str, str]]) -> None:
    """The least of all: fabric, one connection, nothing on it."""
    from fabric import Connection

    ssh = given["ssh"]
    kwargs = {"key_filename": ssh["key"], "look_for_keys": False, "allow_agent": False}
    with Connection(
        ssh["address"], user=ssh["user"], port=int(ssh["port"]), connect_kwargs=kwargs
    ) as connection:
        connection.open()


def ssh_of(server: Any) -> dict[str, Any]:
    """The `ssh` of a host that is reached by this sshd."""
    login = server.ssh()
    ssh = {"address": "127.0.0.1", "user": login.user, "port": login.port, "python": sys.executable}
    return {**ssh, "key": str(login.key), "known_hosts": str(login.known_hosts)}


def far_site(server: Any, queue: str, count: int) -> Place:
    """A new installation with a host behind this sshd, and `count` folders, which nobody has seen yet."""
    from bench import Place  # not for the measured client, which is this script, too

    place = Place(sys.executable)
    ssh = ", ".join(f"{name}: {value}" for name, value in ssh_of(server).items())
    config = CONFIG.format(work=place.root / "work", python=sys.executable, ssh=ssh, queue=queue)
    (place.root / "mqi.yaml").write_text(config, encoding="utf-8")
    place.samples(count)
    return place


def trusted_sshd(root: Path) -> Any:
    """The tests' sshd, on loopback, with its host key pinned; the caller stops it. Makes `tests` importable."""
    sys.path.insert(0, str(ROOT))
    from tests.host.sshd import Sshd

    server = Sshd(root / "sshd")
    server.trust()
    return server


class Lab:
    """A sshd, a source on each side, and the commands that are compared."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.server = trusted_sshd(root)
        self.here, self.there, self.work = root / "here", root / "there", root / "work"
        self.used = root / "used"
        login = self.server.ssh()
        self.address = f"{login.user}@127.0.0.1"
        self.cache = root / "digests.json"
        self.given: dict[str, Any] = {
            "work": str(self.work),
            "ssh": ssh_of(self.server),
            "cache": str(self.cache),
        }
        options = [
            "IdentitiesOnly=yes",
            "StrictHostKeyChecking=yes",
            f"UserKnownHostsFile={login.known_hosts}",
        ]
        self.ssh = ["-F", "/dev/null", "-i", str(login.key)]
        for option in options:
            self.ssh += ["-o", option]

    def fill(self, count: int, size: int) -> Path:
        source = self.root / "source"
        shutil.rmtree(source, ignore_errors=True)
        source.mkdir()
        for number in range(count):
            with (source / f"{number:05d}.dcm").open("wb") as file:
                for piece in range(0, size, 2**20):
                    file.write(random.Random(number * 2**20 + piece).randbytes(min(2**20, size - piece)))
        return source

    def mqi(self, direction: str, folder: Path, **more: object) -> list[str]:
        return [
            sys.executable,
            __file__,
            "client",
            direction,
            str(folder),
            json.dumps({**self.given, **more}),
        ]

    def commands(self, direction: str, source: Path) -> dict[str, list[str]]:
        """Name -> the command that brings the files of `source` to an empty folder on the other side."""
        port, up = str(self.server.port), direction == "up"
        target = self.there if up else self.here
        far_target = f"{self.address}:{target}/"
        files = sorted(str(path) for path in source.iterdir())
        pair = [*files, far_target] if up else [f"{self.address}:{source}/*", f"{target}/"]
        batch = self.root / "batch"
        verb = "put" if up else "get"
        batch.write_text(f"{verb} -r {source}/* {target}/\n", encoding="utf-8")
        slash = [f"{source}/", far_target] if up else [f"{self.address}:{source}/", f"{target}/"]
        rsync = ["-e", " ".join(["ssh", *self.ssh, "-p", port]), *slash]
        login = self.server.ssh()
        sftp = f":sftp,host=127.0.0.1,port={port},user={login.user},key_file={login.key},known_hosts_file={login.known_hosts}:"
        ends = [str(source), sftp + str(target)] if up else [sftp + str(source), str(target)]
        return {
            "mqi": self.mqi(direction, source if up else target),
            "scp": ["scp", "-q", *self.ssh, "-P", port, *pair],
            "scp -O": ["scp", "-O", "-q", *self.ssh, "-P", port, *pair],
            "sftp -b": ["sftp", "-q", *self.ssh, "-P", port, "-b", str(batch), self.address],
            "rsync -a": ["rsync", "-a", *rsync],
            "rclone": ["rclone", "copy", "--config", "/dev/null", *ends],
            DURABLE: ["rsync", "-a", "--fsync", *rsync],
        }

    def empty(self) -> None:
        """Nothing is on either side. Small files are only put away: ext4 looks with each new file through all that were
        deleted within the last minutes, which would be measured with every program, and more than its work."""
        aside = self.used / str(time.monotonic_ns())
        aside.mkdir(parents=True)
        for folder in (self.here, self.there, self.work / "store"):
            if folder.exists():
                folder.rename(aside / folder.name)
        self.here.mkdir()
        self.there.mkdir()
        self.cache.unlink(missing_ok=True)
        if sum(one.stat().st_size for one in aside.rglob("*") if one.is_file()) >= 2**30:
            shutil.rmtree(aside)
        os.sync()  # nobody waits for what another program left to be written

    def prepare_outputs(self, source: Path) -> None:
        """Makes the files of `source` the outputs of a job on the host."""
        shutil.rmtree(self.work / "runs", ignore_errors=True)
        code = "import os, sys; [os.link(e.path, e.name) for e in os.scandir(sys.argv[1])]"
        job: dict[str, object] = {
            "job_key": KEY, "step": "copy", "beam": None, "attempt": 1, "argv": [sys.executable, "-c", code, str(source)],
            "needs": [], "group": "cpu", "gpu": False, "time_limit_s": 600.0, "outputs": [], "files": [],
            "parameters": {}, "definition": "d" * 64,
        }  # fmt: skip
        plan: dict[str, object] = {
            "format": 1, "run_key": RUN, "digest": RUN + "0" * 52, "serial": 1, "priority": 0, "held": False,
            "cancel": False, "inputs": [], "jobs": [job],
        }  # fmt: skip
        subprocess.run(self.mqi("plan", source, plan=plan), check=True, stdout=subprocess.DEVNULL)
        exit_file = self.work / "runs" / RUN / "jobs" / KEY / "exit.json"
        while not exit_file.exists():
            time.sleep(0.2)
        assert json.loads(exit_file.read_text())["kind"] == "ok", exit_file.read_text()


def timed(command: list[str]) -> float:
    """Seconds of one run, which must succeed."""
    started = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    took = time.perf_counter() - started
    if done.returncode:
        sys.exit(f"{command[0]}: {done.returncode} {done.stderr[-500:]}")
    return took


def race(commands: dict[str, list[str]], rounds: int, before: Callable[[], None]) -> dict[str, float]:
    """The median of each, interleaved."""
    times: dict[str, list[float]] = {name: [] for name in commands}
    for _round in range(rounds):
        for name, command in commands.items():
            before()
            times[name].append(timed(command))
    return {name: statistics.median(found) for name, found in times.items()}


def rows_of(what: str, medians: dict[str, float]) -> list[Row]:
    others = {name: value for name, value in medians.items() if name != "mqi"}
    best = min(others.keys() - {DURABLE}, key=lambda name: others[name])
    words = "  ".join(f"{name} {value:.2f}" for name, value in others.items())
    return [(what, f"{medians['mqi']:.2f} s", f"{medians['mqi'] / others[best]:.2f}x of {best}  ({words})")]


def versions() -> list[Row]:
    """Of everything that is compared."""
    from importlib import metadata

    found = [f"{name} {metadata.version(name)}" for name in ("fabric", "paramiko", "cryptography")]
    for command in (["ssh", "-V"], ["rsync", "--version"], ["rclone", "version"]):
        if shutil.which(command[0]):
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            found.append((done.stdout + done.stderr).splitlines()[0].strip())
    load = ", ".join(f"{one:.1f}" for one in os.getloadavg())
    return [("versions", f"{os.cpu_count()} cores, load {load}", "; ".join(found))]


def measure(names: list[str]) -> Iterator[Row]:
    """The rows, as they come."""
    yield from versions()
    with tempfile.TemporaryDirectory(prefix="mqi-transfer-") as folder:
        lab = Lab(Path(folder))
        try:
            for name in names:
                count, size, rounds = SETS[name]
                source = lab.fill(count, size)
                lab.empty()
                lab.prepare_outputs(source)
                for direction in ("up", "down"):
                    commands = lab.commands(direction, source)
                    there = {one: words for one, words in commands.items() if shutil.which(words[0])}
                    label = f"{name} {direction}: {count} x {size // 1024} KiB"
                    yield from rows_of(label, race(there, rounds, lab.empty))
                if name == "A":
                    yield from changes(lab, source)
        finally:
            lab.server.stop()


def changes(lab: Lab, source: Path) -> Iterator[Row]:
    """What it costs to find out that nothing, or one file of all, has changed."""
    both = {name: words for name, words in lab.commands("up", source).items() if name in ("mqi", "rsync -a")}
    lab.empty()
    for words in both.values():
        timed(words)
    yield from rows_of("A, nothing changed", race(both, 5, lambda: None))
    number = 0

    def change() -> None:
        nonlocal number
        number += 1
        (source / "00007.dcm").write_bytes(random.Random(-number).randbytes(SETS["A"][1]))

    yield from rows_of("A, one file changed", race(both, 5, change))
    place = far_site(lab.server, "{type: local}", 1)
    try:
        idle = {"mqi": known_case(place, source), "rsync -a": both["rsync -a"]}
        yield from rows_of("A, nothing changed: mqi cycle", race(idle, 5, lambda: None))
    finally:
        place.remove()
    # What of that no program in Python can avoid that speaks SSH by paramiko.
    bare = {"mqi": [sys.executable, __file__, "login", json.dumps(lab.given)], "rsync -a": both["rsync -a"]}
    yield from rows_of("only fabric's import and a login", race(bare, 5, lambda: None))


def known_case(place: Place, source: Path) -> list[str]:
    """The `mqi cycle` of this installation once the host has computed its case, to which these files belong: it asks its
    database, and no host."""
    for path in source.iterdir():
        os.link(path, place.root / "cases" / "first" / f"{path.stem}.log")
    for _minute in range(100):
        place.mqi("cycle")
        if list((place.root / "results").glob("*/*/latest.json")):
            return place.command("cycle")
    sys.exit(place.mqi("status"))


if __name__ == "__main__":
    if sys.argv[1:2] == ["client"]:
        client(sys.argv[2:])
    elif sys.argv[1:2] == ["login"]:
        login_only(json.loads(sys.argv[2]))
    else:
        for row in measure(sys.argv[1:] or list(SETS)):
            print(json.dumps(row), flush=True)
