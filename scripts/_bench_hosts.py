"""The `hosts` part of bench.py: trivial cases from folder to result over SSH and Pueue.

Run by the Python of .venv, which has mqi and the tests' sshd and pueued. Beside mqi: a floor written here (one
connection, one upload of everything, one exec that enqueues a task for each case, one fetch of everything; nothing is
verified, nothing could be resumed), and dpdispatcher from the package index, over the same sshd.
"""

from __future__ import annotations

import io
import json
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from _bench_transfer import far_site, trusted_sshd

if TYPE_CHECKING:
    from bench import Place

DPDISPATCHER = "dpdispatcher==1.1.0"
# Cases -> rounds of mqi and the floor. dpdispatcher takes minutes: one round.
ROUNDS = {50: 3, 200: 2}
SLOTS = 2
# Quick tasks keep it busy only when enough of them wait.
MAX_QUEUED = 20
# Between cycles: looking takes processor time from the tasks, which run on the same computer here.
_PAUSE_S = 0.5
CODE = "open('out.txt', 'w').write('x')"
Row = tuple[str, str, str]

QUEUE = (
    "{{type: pueue, groups: [{{name: cpu, slots: {slots}}}, {{name: gpu, slots: {slots}}}], "
    "max_queued: {max_queued}, pueue: {{program: {program}, config: {config}}}}}"
)

# Its Shell starts everything at once and has no queue in between: that is less work, not more.
PEER = """\
import json, sys
from dpdispatcher import Machine, Resources, Submission, Task
given = json.loads(sys.argv[1])
machine = Machine.load_from_dict({
    "batch_type": "Shell", "context_type": "SSHContext", "local_root": given["cases"], "remote_root": given["far"],
    "remote_profile": {"hostname": "127.0.0.1", "username": given["user"], "port": given["port"],
                       "key_filename": given["key"], "look_for_keys": False, "timeout": 20},
})
resources = Resources(number_node=1, cpu_per_node=1, gpu_per_node=0, queue_name="", group_size=1)
tasks = [Task(command=given["command"], task_work_path=name + "/", forward_files=files, backward_files=["out.txt"])
         for name, files in given["folders"].items()]
submission = Submission(work_base="./", machine=machine, resources=resources, task_list=tasks)
submission.run_submission(check_interval=1)
"""


class Lab:
    """A sshd and a pueued of its own."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.server = trusted_sshd(root)
        from tests.agent.daemons import PueueStand

        self.queue = PueueStand(root / "pueue")
        self.pueue = self.queue.queue(()).pueue
        self.queue.run("group", "add", "floor", "-p", str(SLOTS))

    def stop(self) -> None:
        self.queue.stop()
        self.server.stop()

    def login(self) -> dict[str, Any]:
        login = self.server.ssh()
        return {"user": login.user, "port": login.port, "key": str(login.key)}

    def site(self, count: int) -> Place:
        """A new installation with `count` folders, which nobody has seen yet."""
        queue = QUEUE.format(
            slots=SLOTS, max_queued=MAX_QUEUED, program=self.pueue.program, config=self.pueue.config
        )
        return far_site(self.server, queue, count)


def mqi_s(lab: Lab, count: int) -> float:
    """Seconds of `mqi cycle`, as often as it takes."""
    place = lab.site(count)
    try:
        started = time.perf_counter()
        while len(list((place.root / "results").glob("*/*/latest.json"))) < count:
            place.mqi("cycle")
            time.sleep(_PAUSE_S)
            if time.perf_counter() - started > 1800:
                sys.exit(place.mqi("status"))
        took = time.perf_counter() - started
        assert len(list((place.root / "results").rglob("out.txt"))) == count
        return took
    finally:
        place.remove()


def floor_s(lab: Lab, count: int) -> float:
    """Seconds of the least that must be done."""
    place = lab.site(count)
    try:
        given = {
            **lab.login(),
            "cases": str(place.root / "cases"),
            "far": str(place.root / "far"),
            "count": count,
        }
        given |= {
            "program": lab.pueue.program,
            "config": lab.pueue.config,
            "results": str(place.root / "got"),
        }
        started = time.perf_counter()
        subprocess.run([sys.executable, __file__, "floor", json.dumps(given)], check=True)
        took = time.perf_counter() - started
        assert len(list((place.root / "got").glob("*/out.txt"))) == count
        return took
    finally:
        place.remove()
        lab.queue.run("clean", "-g", "floor")


def peer_s(lab: Lab, count: int, python: Path) -> float:
    """Seconds of dpdispatcher."""
    place = lab.site(count)
    try:
        cases = place.root / "cases"
        folders = {
            folder.name: sorted(one.name for one in folder.iterdir()) for folder in sorted(cases.iterdir())
        }
        (place.root / "far").mkdir()
        given = {**lab.login(), "cases": str(cases), "far": str(place.root / "far"), "folders": folders}
        given["command"] = f'{sys.executable} -I -S -c "{CODE}"'
        (place.root / "peer.py").write_text(PEER, encoding="utf-8")
        started = time.perf_counter()
        done = subprocess.run(
            [python, place.root / "peer.py", json.dumps(given)],
            cwd=place.root, capture_output=True, text=True, check=False,
        )  # fmt: skip
        took = time.perf_counter() - started
        if done.returncode or len(list(cases.glob("*/out.txt"))) != count:
            sys.exit(f"dpdispatcher: {done.returncode} {done.stdout[-500:]} {done.stderr[-1000:]}")
        return took
    finally:
        place.remove()


def floor(given: dict[str, Any]) -> None:
    """What is measured as the floor: one process, one connection, three execs."""
    from fabric import Connection

    kwargs = {"key_filename": given["key"], "look_for_keys": False, "allow_agent": False}
    connection = Connection("127.0.0.1", user=given["user"], port=given["port"], connect_kwargs=kwargs)
    connection.open()

    def execute(command: str, data: bytes = b"") -> bytes:
        session = connection.create_session()
        session.exec_command(command)
        session.sendall(data)
        session.shutdown_write()
        found = b"".join(iter(lambda: session.recv(1 << 20), b""))
        assert session.recv_exit_status() == 0, (command, session.recv_stderr(2000))
        return found

    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        archive.add(given["cases"], ".")
    far, python = given["far"], sys.executable
    execute(f"mkdir {far} && tar xf - -C {far}", packed.getvalue())
    task = f'{python} -I -S -c \\"{CODE}\\"'
    execute(
        f"cd {far} && for d in */; do {given['program']} -c {given['config']} add -g floor -w {far}/$d "
        f'-- "{task}" >/dev/null || exit 1; done; '
        f"while [ $(ls */out.txt 2>/dev/null | wc -l) -lt {given['count']} ]; do sleep 0.05; done"
    )
    with tarfile.open(fileobj=io.BytesIO(execute(f"cd {far} && tar cf - */out.txt"))) as archive:
        archive.extractall(given["results"], filter="data")
    connection.close()


def install_peer(folder: Path) -> Path:
    """dpdispatcher in an environment of its own; its Python."""
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    python = folder / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", DPDISPATCHER], check=True, stdout=sys.stderr)
    return python


def measure(counts: list[int], *, peer: bool) -> Iterator[Row]:
    """The rows, as they come."""
    with tempfile.TemporaryDirectory(prefix="mqi-hosts-") as folder:
        root = Path(folder)
        python = install_peer(root / "peer") if peer else None
        lab = Lab(root)
        try:
            for count in counts:
                ours: list[float] = []
                least: list[float] = []
                for _round in range(ROUNDS.get(count, 1)):
                    ours.append(mqi_s(lab, count))
                    least.append(floor_s(lab, count))
                took, best = statistics.median(ours), statistics.median(least)
                yield (
                    f"{count} cases over SSH and Pueue",
                    f"{took:.1f} s",
                    f"{1000 * took / count:.0f} ms a case",
                )
                yield f"{count}, the floor", f"{best:.1f} s", f"mqi takes {took / best:.2f}x of it"
                if python is not None:
                    other = peer_s(lab, count, python)
                    yield f"{count}, {DPDISPATCHER}", f"{other:.1f} s", f"mqi is {other / took:.1f}x faster"
        finally:
            lab.stop()


if __name__ == "__main__":
    if sys.argv[1:2] == ["floor"]:
        floor(json.loads(sys.argv[2]))
    else:
        words = sys.argv[1:]
        counts = [int(word) for word in words if word.isdigit()] or list(ROUNDS)
        for row in measure(counts, peer="alone" not in words):
            print(json.dumps(row), flush=True)
