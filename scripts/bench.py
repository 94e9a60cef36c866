#!/usr/bin/env python3
"""Measures mqi, side by side with a reference in the same run, as ratios.

python3 scripts/bench.py                 everything
python3 scripts/bench.py startup scan    only these: startup, scan, cases, gamma, finished, transfer, hosts
python3 scripts/bench.py transfer:A,B    of the transfers, or of the hosts' numbers of cases, only these

startup   `mqi status`, `mqi why`, an idle `mqi scan` and `mqi cycle` against an empty Typer app of two
          commands on the same interpreter and Typer (CPU seconds and wall, minimum of interleaved runs)
scan      10,000 folders of 20 files below a watch folder: the first look, and one with nothing new
cases     200 cases of one tiny step through `mqi cycle` on the local queue
gamma     our gamma beside pymedphys' on a 100 x 100 x 100 grid, global and local
finished  100,000 finished cases in the database: what `status` and an idle `cycle` cost then
transfer  300 files of 512 KiB, 2,000 of 8 KiB and one of 1 GiB over a local sshd, up and down, beside scp, sftp, rsync
          and rclone (medians of interleaved whole processes; needs sshd, 5 GiB below the temporary folder)
hosts     50 and 200 trivial cases from folder to result over SSH and Pueue, beside the least that must be done, and
          dpdispatcher from the package index over the same sshd (needs sshd and Pueue; minutes)

Every row is printed as soon as it is known.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from _venv import ensure

TWO_COMMANDS = """\
import typer
app = typer.Typer()
@app.command()
def one() -> None: print("one")
@app.command()
def two() -> None: print("two")
app()
"""
CONFIG = """\
watch: [{path: cases, room: G1, quiet: 0s}]
hosts: [{name: here, work_dir: work, max_cases: 1000, queue: {groups: [{name: cpu, slots: 2}, {name: gpu, slots: 2}]}}]
paths: {database: mqi.db, results: results, logs: logs}
transfer: {min_free: 1 MiB}
workflows: {default_qa: quick.yaml}
"""
WORKFLOW = """\
steps:
  - name: tiny
    run: ["{python}", "-I", "-S", "-c", "open('out.txt', 'w').write('x')"]
    group: cpu
    outputs: [out.txt]
"""
Row = tuple[str, str, str]


def main() -> int:
    """Run what the command line names; print one table."""
    measures: dict[str, Callable[[str], Iterable[Row]]] = {
        "startup": startup,
        "scan": scan,
        "cases": cases,
        "finished": finished,
        "gamma": gamma,
    }
    scripts = {"transfer": "_bench_transfer.py", "hosts": "_bench_hosts.py"}
    chosen = sys.argv[1:] or [*measures, *scripts]
    unknown = [name for name in chosen if name not in measures and name.partition(":")[0] not in scripts]
    if unknown:
        print(f"there is no measure {unknown[0]!r}; known are {', '.join([*measures, *scripts])}")
        return 2
    # With it every start would compile what nobody has compiled yet; installed programs never do.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    python = str(ensure("dev"))
    for name in chosen:
        print(f"{name} …", file=sys.stderr, flush=True)
        measure, _, parts = name.partition(":")
        rows = measures[name](python) if name in measures else told(python, scripts[measure], parts)
        for what, figure, ratio in rows:
            print(f"{what:<36}  {figure:>26}  {ratio}", flush=True)
    return 0


def told(python: str, script: str, parts: str) -> Iterator[Row]:
    """The rows that a script of ours tells, as it tells them."""
    command = [python, str(Path(__file__).with_name(script)), *filter(None, parts.split(","))]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            what, figure, ratio = json.loads(line)
            yield what, figure, ratio
    if process.returncode:
        sys.exit(f"{script} broke off")


class Place:
    """An installation in a temporary folder."""

    def __init__(self, python: str) -> None:
        self.root = Path(tempfile.mkdtemp(prefix="mqi-bench-"))
        self.python = python
        (self.root / "cases").mkdir()
        (self.root / "mqi.yaml").write_text(CONFIG, encoding="utf-8")
        (self.root / "quick.yaml").write_text(WORKFLOW, encoding="utf-8")

    def command(self, *arguments: str) -> list[str]:
        return [self.python, "-m", "mqi", "--config", str(self.root / "mqi.yaml"), *arguments]

    def mqi(self, *arguments: str) -> str:
        done = subprocess.run(self.command(*arguments), capture_output=True, text=True, check=False)
        if done.returncode:
            sys.exit(f"mqi {' '.join(arguments)}: {done.returncode}\n{done.stdout}{done.stderr}")
        return done.stdout

    def samples(self, count: int) -> None:
        """Plans that differ in one value only: what is measured is mqi, not the writing of plans."""
        code = (
            "import sys, pathlib, pydicom\n"
            "from mqi.sample import write_sample\n"
            "root = pathlib.Path(sys.argv[1])\n"
            "plan = pydicom.dcmread(write_sample(root / 'first', seed=1, layers=1))\n"
            "for number in range(int(sys.argv[2]) - 1):\n"
            "    folder = root / f'case{number:06d}'\n"
            "    folder.mkdir()\n"
            "    plan.RTPlanLabel = f'P{number}'\n"
            "    plan.save_as(folder / 'RP.dcm')\n"
        )
        subprocess.run([self.python, "-c", code, str(self.root / "cases"), str(count)], check=True)

    def store(self, code: str) -> None:
        """Run Python with `store` open on the database."""
        head = "import sys, pathlib; from mqi.store import Store; store = Store(pathlib.Path(sys.argv[1]))\n"
        subprocess.run([self.python, "-c", head + code, str(self.root / "mqi.db")], check=True)

    def remove(self) -> None:
        shutil.rmtree(self.root, ignore_errors=True)


def measured(command: Sequence[str]) -> tuple[float, float, float]:
    """(wall s, CPU s, peak MiB) of one run of a program."""
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _pid, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return time.perf_counter() - started, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def interleaved(commands: dict[str, list[str]], rounds: int) -> dict[str, list[tuple[float, float, float]]]:
    """Every command once per round, so that whatever else the machine does hits all of them alike."""
    found: dict[str, list[tuple[float, float, float]]] = {name: [] for name in commands}
    for _round in range(rounds):
        for name, command in commands.items():
            found[name].append(measured(command))
    return found


def compare(commands: dict[str, list[str]], reference: str, rounds: int = 9) -> list[Row]:
    """One row per command: minimum wall and CPU seconds, and the ratios to the reference."""
    found = interleaved(commands, rounds)
    wall = {name: min(run[0] for run in runs) for name, runs in found.items()}
    cpu = {name: min(run[1] for run in runs) for name, runs in found.items()}
    peak = {name: max(run[2] for run in runs) for name, runs in found.items()}
    return [
        (
            name,
            f"{wall[name]:.3f} s wall {cpu[name]:.3f} cpu",
            f"{wall[name] / wall[reference]:.2f}x wall, {cpu[name] / cpu[reference]:.2f}x cpu of {reference}; {peak[name]:.0f} MiB",
        )
        for name in commands
    ]


def startup(python: str) -> list[Row]:
    """See the module's docstring."""
    place = Place(python)
    try:
        place.samples(1)
        until_settled(place, 1, 60)
        two = place.root / "two.py"
        two.write_text(TWO_COMMANDS, encoding="utf-8")
        commands = {
            "empty Typer app": [python, str(two), "one"],
            "mqi status": place.command("status"),
            "mqi why": place.command("why", "1"),
            "mqi scan, idle": place.command("scan"),
            "mqi cycle, idle": place.command("cycle"),
        }
        return compare(commands, "empty Typer app")
    finally:
        place.remove()


def until_settled(place: Place, count: int, limit_s: float) -> float:
    """Run cycles until `count` cases are completed; the seconds it took."""
    started = time.perf_counter()
    while time.perf_counter() - started < limit_s:
        place.mqi("cycle")
        if place.mqi("status", "--all", "--state", "completed").count("completed") >= count:
            place.mqi("cycle")
            return time.perf_counter() - started
    sys.exit(f"not all of {count} cases were completed within {limit_s:.0f} s")


def scan(python: str) -> list[Row]:
    """See the module's docstring."""
    place = Place(python)
    try:
        for number in range(10_000):
            folder = place.root / "cases" / f"case{number:05d}"
            folder.mkdir()
            for file in range(20):
                (folder / f"{file:03d}.dcm").touch()
        first = measured(place.command("scan", "--baseline", "--yes"))
        full = measured(place.command("scan"))
        quiet = [measured(place.command("scan")) for _round in range(5)]
        reference = place.root / "walk.py"
        reference.write_text(
            "import os, sys\nprint(sum(os.stat(e.path).st_mtime_ns > 0 for e in os.scandir(sys.argv[1])))\n",
            encoding="utf-8",
        )
        walk = [measured([python, str(reference), str(place.root / "cases")]) for _round in range(5)]
        floor = min(run[0] for run in walk)
        return [
            ("scan of 10,000 x 20, baseline", f"{first[0]:.2f} s", f"{first[2]:.0f} MiB"),
            ("scan, every file looked at", f"{full[0]:.2f} s", f"{full[2]:.0f} MiB"),
            (
                "scan, nothing new",
                f"{statistics.median(run[0] for run in quiet):.2f} s",
                f"{min(run[0] for run in quiet) / floor:.1f}x of Python with one stat per folder; {quiet[0][2]:.0f} MiB",
            ),
        ]
    finally:
        place.remove()


def cases(python: str) -> list[Row]:
    """See the module's docstring."""
    place = Place(python)
    count = 200
    try:
        place.samples(count)
        place.mqi("scan")
        took = until_settled(place, count, 900)
        bare = [python, "-I", "-S", "-c", "open('/dev/null', 'w').write('x')"]
        started = time.perf_counter()
        for _number in range(count):
            subprocess.run(bare, check=True)
        floor = time.perf_counter() - started
        return [
            (f"{count} cases, folder to result", f"{took:.1f} s", f"{1000 * took / count:.0f} ms a case"),
            (
                f"{count} bare steps, one after the other",
                f"{floor:.1f} s",
                f"{took / floor:.1f}x of it is what mqi takes",
            ),
        ]
    finally:
        place.remove()


def finished(python: str) -> list[Row]:
    """See the module's docstring."""
    place = Place(python)
    try:
        place.mqi("scan")
        commands = {"mqi status": place.command("status"), "mqi cycle, idle": place.command("cycle")}
        before = interleaved(commands, 7)
        place.store(
            "with store.database.write() as c:\n"
            '    c.executemany("INSERT INTO cases (room, path, case_path, results_name, workflow, status, status_updated_at, '
            "first_seen_at, run_key, run_digest, host, released_at, purged_at, results_path) VALUES ('G1', ?, '/x', ?, 'default_qa', "
            "'completed', 1.0, 1.0, ?, ?, 'here', 1.0, 1.0, '/r')\", "
            "((f'p{n}', f'p{n}', f'{n:012x}', f'{n:064x}') for n in range(100000)))\n"
            "    c.executemany(\"INSERT INTO events (at, case_id, event, before, after, actor) VALUES (1.0, ?, 'x', 'a', 'b', 'c')\", "
            "((n + 1,) for n in range(100000) for _ in range(7)))\n"
        )
        after = interleaved(commands, 7)
        rows = []
        for name in commands:
            empty, full = (min(run[0] for run in runs[name]) for runs in (before, after))
            peak = max(run[2] for run in after[name])
            rows.append(
                (f"{name}, 100,000 finished", f"{full:.3f} s", f"{full / empty:.2f}x of none; {peak:.0f} MiB")
            )
        return rows
    finally:
        place.remove()


GAMMA = """
import os, sys, time
os.environ["OPENBLAS_NUM_THREADS"] = "1"
sys.path[:0] = sys.argv[1:3]
import numpy as np, pymedphys
from dataclasses import replace
from doses import field, shifted
from steplib.gamma import Criteria, gamma
reference = field(100, 2.0)
evaluated = shifted(reference, (0.7, -0.5, 1.0), scale=1.01, noise=0.01)
axes = tuple(reversed(reference.axes_mm()))
doses = [grid.dose_gy.astype(float) for grid in (reference, evaluated)]
for local in (False, True):
    started = time.perf_counter()
    ours = gamma(reference, evaluated, replace(Criteria(), local=local))
    middle = time.perf_counter()
    index = pymedphys.gamma(axes, doses[0], axes, doses[1], 3, 2, lower_percent_dose_cutoff=10, interp_fraction=10,
                            max_gamma=2, local_gamma=local, interp_algo="scipy")
    ended = time.perf_counter()
    rate = 100 * np.mean(index[~np.isnan(index)] <= 1)
    print("RESULT", local, ours.pass_percent, middle - started, rate, ended - middle)
"""


def gamma(python: str) -> list[Row]:
    """Our gamma and pymedphys' (steps of DTA/10, scipy's interpolation) on a 100 x 100 x 100 grid, side by side."""
    root = Path(__file__).resolve().parents[1]
    places = [str(root / "remote_scripts"), str(root / "tests" / "steps_remote")]
    done = subprocess.run([python, "-c", GAMMA, *places], capture_output=True, text=True, check=True)
    rows: list[Row] = []
    for line in done.stdout.splitlines():
        if line.startswith("RESULT"):
            _word, local, ours, our_s, theirs, their_s = line.split()
            what = f"gamma 100³, {'local' if local == 'True' else 'global'}"
            rows.append((what, f"{float(our_s):.2f} s, {float(ours):.2f} %", ""))
            ratio = float(their_s) / float(our_s)
            rows.append(
                (
                    f"{what}, pymedphys",
                    f"{float(their_s):.2f} s, {float(theirs):.2f} %",
                    f"{ratio:.1f}x of ours",
                )
            )
    return rows


if __name__ == "__main__":
    sys.exit(main())
