"""The real queues that tests run jobs through: each daemon with its own configuration below a temporary folder,
on a socket or on ports of the loopback interface, and stopped by its process id."""

from __future__ import annotations

import contextlib
import getpass
import importlib.util
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import pytest

from mqi.settings import Group, Pueue, Queue, Slurm
from tests.agent.system import kill, wait_for

CI = bool(os.environ.get("CI"))
_SBIN = os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin", "/sbin"))


def _installation() -> Any:
    """scripts/_pueue.py: it knows where it has put Pueue."""
    path = Path(__file__).resolve().parents[2] / "scripts" / "_pueue.py"
    spec = importlib.util.spec_from_file_location("_pueue", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def missing(what: str) -> None:
    """Skip, or fail where everything must be there."""
    if CI:
        pytest.fail(f"{what}, and CI must have it", pytrace=False)
    pytest.skip(f"{what}: scripts/test.py installs it (Debian, as root)")


class Stand(Protocol):
    """A queue under test."""

    name: str

    def queue(self, groups: Sequence[Group], max_queued: int = 4) -> Queue:
        """The settings with which a host uses it."""

    def held(self, work: Path, group: str) -> contextlib.AbstractContextManager[None]:
        """Keeps tasks of the group from starting."""

    def empty(self, work: Path) -> None:
        """Takes everything from the queue that waits in it, behind the agent's back."""

    def stop(self) -> None:
        """Ends its processes."""


class LocalStand:
    """The built-in queue."""

    name = "local"

    def queue(self, groups: Sequence[Group], max_queued: int = 4) -> Queue:
        return Queue(groups=tuple(groups), max_queued=max_queued)

    @contextlib.contextmanager
    def held(self, work: Path, group: str) -> Iterator[None]:
        from agent.locks import Lock

        with Lock(work / "queue" / "local" / group / "runner.lock") as lock:
            assert lock.acquire(5.0)
            yield

    def empty(self, work: Path) -> None:
        for path in (work / "queue" / "local").glob("*/tasks/*.json"):
            path.unlink()

    def stop(self) -> None:
        """Nothing runs but what the bench itself stops."""


class PueueStand:
    """A pueued of its own. `inside`: words before its programs, which let them run in another computer (see
    tests/faults/computer.py), with whose power they and its runtime directory go."""

    name = "pueue"

    def __init__(self, folder: Path, version: str = "", inside: Sequence[str] = ()) -> None:
        installation = _installation()
        version = version or installation.EVERY_DAY
        if sys.platform == "win32" or not installation.is_there(version):
            why = "" if sys.platform == "win32" else installation.unreachable(version)
            if sys.platform == "win32" or why:
                pytest.skip(why or "mqi uses no Pueue on Windows")
            missing(f"Pueue {version} is not built")
        self._bin = installation.folder(version) / "bin"
        self.folder = folder
        self.inside = list(inside)
        runtime = "/run/queue" if inside else f"{folder}/run"
        self.config = folder / "pueue.yml"
        self.state = folder / "data" / "state.json"
        (folder / "data").mkdir(parents=True)
        (folder / "run").mkdir()
        self.config.write_text(
            f"shared:\n  pueue_directory: {folder}/data\n  runtime_directory: {runtime}\n"
            f"  unix_socket_path: {runtime}/p.sock\n  alias_file: {folder}/aliases.yml\n"
            "  use_unix_socket: true\nclient: {}\ndaemon: {}\n"
        )
        self._log = folder / "pueued.log"
        self.start()

    def start(self) -> None:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [*self.inside, self._bin / "pueued", "-c", self.config],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
                # What the daemon's owner has is not what tasks get.
                env={**os.environ, "CUDA_VISIBLE_DEVICES": "7", "SECRET_OF_THE_DAEMON": "s3cret"},
            )  # fmt: skip
        wait_for(lambda: self.run("status", code=None).returncode == 0, "pueued to answer")

    @property
    def pid(self) -> int:
        return self._process.pid

    def run(self, *words: str, code: int | None = 0) -> subprocess.CompletedProcess[str]:
        """`pueue` by hand, as an operator of this host uses it."""
        done = subprocess.run(
            [*self.inside, self._bin / "pueue", "-c", self.config, *words],
            capture_output=True, text=True, timeout=30, check=False,
        )  # fmt: skip
        assert code is None or done.returncode == code, (words, done.stdout, done.stderr)
        return done

    def tasks(self) -> list[dict[str, Any]]:
        return list(json.loads(self.run("status", "--json").stdout)["tasks"].values())

    def groups(self) -> dict[str, dict[str, Any]]:
        return dict(json.loads(self.run("group", "--json").stdout))

    def kill(self) -> None:
        """-9: what it started goes on."""
        self._process.kill()
        self._process.wait()

    def end(self) -> None:
        """As an operator or a shutdown ends it: what it started ends too."""
        self._process.terminate()
        self._process.wait()

    def queue(self, groups: Sequence[Group], max_queued: int = 4, **options: Any) -> Queue:
        pueue = Pueue(program=str(self._bin / "pueue"), config=str(self.config), **options)
        return Queue(type="pueue", groups=tuple(groups), max_queued=max_queued, pueue=pueue)

    @contextlib.contextmanager
    def held(self, work: Path, group: str) -> Iterator[None]:
        name = f"mqi-{group}"
        if name not in self.groups():
            self.run("group", "add", name)
            wait_for(lambda: name in self.groups(), "the group")
        self.run("pause", "-g", name)
        # The agent knows this daemon, so that it takes the pause for what it is: somebody's wish.
        record = work / "queue" / "pueue" / "daemon.json"
        record.parent.mkdir(parents=True, exist_ok=True)
        from agent.processes import identity

        record.write_text(json.dumps(identity(self.pid)))
        yield
        self.run("start", "-g", name)

    def empty(self, work: Path) -> None:
        waiting = [str(task["id"]) for task in self.tasks() if "Queued" in str(task["status"])]
        if waiting:
            self.run("remove", *waiting)

    def stop(self) -> None:
        if self._process.poll() is None:
            self.end()


SLURM_CONF = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
SlurmdPort={node}
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
AuthType=auth/none
CredType=cred/none
SlurmUser={user}
SlurmdUser={user}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/run/slurmctld.pid
SlurmdPidFile={folder}/run/slurmd.pid
SlurmctldLogFile={folder}/log/slurmctld.log
SlurmdLogFile={folder}/log/slurmd.log
# More processors than a small test machine has.
SlurmdParameters=config_overrides
MailProg=/bin/true
ReturnToService=2
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/filetxt
JobCompLoc={folder}/log/jobcomp.log
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/backfill
KillWait=2
GresTypes=gpu
NodeName={host} NodeAddr=127.0.0.1 CPUs=4 RealMemory=500 Gres=gpu:2 State=UNKNOWN
PartitionName=main Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""


class SlurmStand:
    """A controller and a node of its own: no user, no key, no database needed. `inside`: as for Pueue."""

    name = "slurm"

    def __init__(self, folder: Path, inside: Sequence[str] = ()) -> None:
        if sys.platform == "win32":
            pytest.skip("mqi uses no Slurm on Windows")
        self._programs = {name: program(name) for name in ("slurmctld", "slurmd", "sbatch", "scontrol")}
        self.folder = folder
        self.inside = list(inside)
        for name in ("state", "spool", "run", "log", "dev"):
            (folder / name).mkdir()
        # A GPU's file must be a device; these two are, everywhere.
        (folder / "dev" / "nvidia0").symlink_to("/dev/null")
        (folder / "dev" / "nvidia1").symlink_to("/dev/zero")
        host = socket.gethostname().partition(".")[0]
        self.config = folder / "slurm.conf"
        self.config.write_text(
            SLURM_CONF.format(
                host=host, folder=folder, user=getpass.getuser(),
                controller=free_port(), node=free_port(),
            )
        )  # fmt: skip
        (folder / "gres.conf").write_text(
            f"AutoDetect=off\nNodeName={host} Name=gpu File={folder}/dev/nvidia[0-1]\n"
        )
        self._begin()

    def _begin(self) -> None:
        self.start_controller()
        self.start_node()

    def start_controller(self) -> None:
        self.controller = self._start("slurmctld")
        wait_for(lambda: " is UP" in self.run("scontrol", "ping", code=None).stdout, "slurmctld to answer", 40)

    def start_node(self) -> None:
        self.node = self._start("slurmd")
        ready = ("idle", "mixed", "allocated")
        wait_for(lambda: self.run("sinfo", "-h", "-o", "%T").stdout.strip() in ready, "the node to be up", 40)

    def _start(self, name: str) -> subprocess.Popen[bytes]:
        with (self.folder / "log" / f"{name}.out").open("ab") as log:
            return subprocess.Popen(
                [*self.inside, self._programs[name], "-D"],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
                env={**os.environ, "SLURM_CONF": str(self.config)},
            )  # fmt: skip

    def run(self, *words: str, code: int | None = 0) -> subprocess.CompletedProcess[str]:
        """One of Slurm's programs by hand."""
        done = subprocess.run(
            [*self.inside, *words], capture_output=True, text=True, timeout=60, check=False,
            env={**os.environ, "SLURM_CONF": str(self.config)},
        )  # fmt: skip
        assert code is None or done.returncode == code, (words, done.stdout, done.stderr)
        return done

    def jobs(self) -> dict[str, str]:
        """Name -> state of all that Slurm knows; of equal names the newest."""
        lines = self.run("squeue", "-h", "-t", "all", "-S", "i", "-o", "%j %T").stdout.splitlines()
        return dict(line.split(" ", 1) for line in lines)

    def queue(self, groups: Sequence[Group], max_queued: int = 4, **options: Any) -> Queue:
        slurm = Slurm(config=str(self.config), **options)
        return Queue(type="slurm", groups=tuple(groups), max_queued=max_queued, slurm=slurm)

    @contextlib.contextmanager
    def held(self, work: Path, group: str) -> Iterator[None]:
        self.run("scontrol", "update", "partition=main", "state=down")
        yield
        self.run("scontrol", "update", "partition=main", "state=up")

    def empty(self, work: Path) -> None:
        self.run("scancel", "--state=PENDING", "-u", str(os.getuid()))

    def stop(self) -> None:
        for process in (self.node, self.controller):
            stop_process(process)


def program(name: str) -> str:
    """Where a daemon is; users' PATHs lack the folder."""
    found = shutil.which(name, path=_SBIN)
    if found is None:
        missing(f"{name} is not installed")
    return str(found)


def free_port() -> int:
    """A port of the loopback interface that nobody has now."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def stop_process(process: subprocess.Popen[bytes]) -> None:
    """Ends one process, stopped or not."""
    if process.poll() is None:
        process.send_signal(signal.SIGCONT)
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            kill(process.pid)
            process.wait()


SLURMDBD_CONF = """\
AuthType=auth/none
DbdHost={host}
DbdAddr=127.0.0.1
DbdPort={port}
SlurmUser={user}
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort={storage}
StorageUser={user}
StorageLoc=accounting
LogFile={folder}/log/slurmdbd.log
PidFile={folder}/run/slurmdbd.pid
"""


class AccountedSlurmStand(SlurmStand):
    """The same with Slurm's accounting: slurmdbd, and a MariaDB that asks nobody for a password."""

    def _begin(self) -> None:
        database, slurmdbd, install = program("mariadbd"), program("slurmdbd"), program("mariadb-install-db")
        folder, storage, port = self.folder, free_port(), free_port()
        data, log = folder / "mariadb", folder / "log" / "mariadb.out"
        ours = [f"--datadir={data}", f"--user={getpass.getuser()}"]
        with log.open("ab") as said:
            subprocess.run(
                [install, "--no-defaults", "--auth-root-authentication-method=normal", "--skip-test-db", *ours],
                stdin=subprocess.DEVNULL, stdout=said, stderr=said, check=True,
            )  # fmt: skip
            self.database = subprocess.Popen(
                [database, "--no-defaults", *ours, f"--socket={folder}/run/mariadb.sock", "--skip-grant-tables",
                 "--skip-networking=0", "--bind-address=127.0.0.1", f"--port={storage}",
                 f"--pid-file={folder}/run/mariadb.pid", "--innodb-buffer-pool-size=16M"],
                stdin=subprocess.DEVNULL, stdout=said, stderr=said, start_new_session=True,
            )  # fmt: skip
        wait_for(lambda: answers(storage), "MariaDB to listen")
        host = socket.gethostname().partition(".")[0]
        config = folder / "slurmdbd.conf"
        config.write_text(SLURMDBD_CONF.format(folder=folder, host=host, port=port, storage=storage, user=getpass.getuser()))
        config.chmod(0o600)
        with (folder / "log" / "slurmdbd.out").open("ab") as said:
            self.accounting = subprocess.Popen(
                [slurmdbd, "-D"], stdin=subprocess.DEVNULL, stdout=said, stderr=said, start_new_session=True,
                env={**os.environ, "SLURM_CONF": str(self.config)},
            )  # fmt: skip
        wait_for(lambda: answers(port), "slurmdbd to listen")
        text = self.config.read_text().replace("=accounting_storage/none", "=accounting_storage/slurmdbd")
        self.config.write_text(f"{text}AccountingStorageHost=127.0.0.1\nAccountingStoragePort={port}\n")
        self.run("sacctmgr", "--immediate", "add", "cluster", "test")
        super()._begin()

    def stop(self) -> None:
        super().stop()
        for process in (self.accounting, self.database):
            stop_process(process)


def answers(port: int) -> bool:
    """Whether somebody listens there."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


# Type of queue -> what starts it in a folder.
STANDS: dict[str, Callable[[Path], Stand]] = {
    "local": lambda folder: LocalStand(),
    "pueue": PueueStand,
    "slurm": SlurmStand,
}


# The same in another version, or with more beside it.
OTHERS: dict[str, Callable[[Path], Stand]] = {
    "pueue 3": lambda folder: PueueStand(folder, _installation().OLD),
    "slurm with accounting": AccountedSlurmStand,
}
