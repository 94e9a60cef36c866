"""The tests on CPython for Windows under Wine (test.py --windows): portable tests, demo, schedule."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType

from _components import install_mcsquare
from _venv import ROOT
from _wine import CACHE, Wine, ensure_wine

# What is run there. Tests that need POSIX say so themselves, and are skipped.
PORTABLE = (
    "tests/core", "tests/config", "tests/logs", "tests/intake", "tests/manifest", "tests/agent", "tests/host",
    "tests/schedule", "tests/steps_remote",
)  # fmt: skip
# What is not, and why.
LEFT_OUT = {
    "tests/cli": "a thousand program starts, three seconds each under Wine; the demo stands for them",
    "tests/week, tests/crash, tests/protocol, tests/faults": "decisions that are the same everywhere, and faults of POSIX",
}
# What Windows itself can do and Wine 8 cannot: test -> why.
WINE_CANNOT: dict[str, str] = {
    "tests/host/test_environment.py::test_what_the_steps_need": "asks the installed mqi; there it is this folder",
}
SCHEDULE = "tests/schedule/test_on_windows.py"
# Windows starts processes slower than Linux, and Wine slower than Windows.
LIMIT_TESTS_S, LIMIT_DEMO_S, LIMIT_SCHEDULE_S = 3600.0, 900.0, 600.0
DEMO = r"""
import pathlib, sys
sys.path.insert(0, "scripts")
import demo
sys.exit(demo.run(pathlib.Path(sys.executable), pathlib.Path(sys.argv[1])))
"""


def run_windows(arguments: Sequence[str], *, slow: bool) -> int:
    """All three parts, or with `arguments` pytest with these alone; 0 when everything is as it should be."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "lock").open("wb") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            sys.exit("the Windows tests run already in this checkout; each ends all of Wine when it is done")
        try:
            signal.signal(signal.SIGTERM, _end)
            wine = ensure_wine()
            wine.open()
            return _summary(_parts(wine, arguments, slow), LEFT_OUT if not arguments else {})
        finally:
            Wine(CACHE / "prefix").close()


def _end(number: int, _frame: FrameType | None) -> None:
    sys.exit(128 + number)


def _parts(wine: Wine, arguments: Sequence[str], slow: bool) -> list[tuple[str, int, float]]:
    """(name, exit code, seconds) of each part."""
    deselected = [option for test in WINE_CANNOT for option in ("--deselect", test)]
    pytest = ["-m", "pytest", "-p", "no:cacheprovider", *deselected]
    # Each part has its own: what a runner of the one before still has open cannot be deleted on Windows.
    first, second = ["--basetemp", r"C:\temp\pytest"], ["--basetemp", r"C:\temp\pytest-schedule"]
    # Two workers, as on Linux: most tests wait for processes.
    spread = ["-n", str(min(os.cpu_count() or 1, 8)), "--dist", "worksteal"]
    chosen = [] if slow else ["-m", "not slow"]
    if arguments:
        return [_part(wine, "the chosen tests", [*pytest, *first, *chosen, *arguments], LIMIT_TESTS_S)]
    shutil.rmtree(wine.drive_c / "temp" / "demo", ignore_errors=True)
    # The demo asks for it again, in a Python that may have no pip.
    install_mcsquare(Path(sys.executable), "win32")
    return [
        _part(
            wine,
            "portable tests",
            [*pytest, *first, *spread, *chosen, f"--ignore={SCHEDULE}", *PORTABLE],
            LIMIT_TESTS_S,
        ),
        _part(wine, "the demo's pipeline", ["-c", DEMO, r"C:\temp\demo"], LIMIT_DEMO_S),
        _part(wine, "the schedule", [*pytest, *second, "-v", SCHEDULE], LIMIT_SCHEDULE_S),
    ]


def _part(wine: Wine, name: str, arguments: Sequence[str], limit_s: float) -> tuple[str, int, float]:
    print(f"\n=== {name}, on Windows (Wine)", flush=True)
    begun = time.monotonic()
    return name, wine.python(arguments, limit_s), time.monotonic() - begun


def _summary(parts: Sequence[tuple[str, int, float]], left_out: Mapping[str, str]) -> int:
    print("\n=== Windows (CPython under Wine)")
    for name, code, seconds in parts:
        print(f"  {'ok' if code == 0 else f'FAILED, exit code {code}':22} {name} ({seconds:.0f} s)")
    for tests, reason in ({**left_out, **WINE_CANNOT}).items():
        print(f"  not run                {tests}: {reason}")
    print(f"what Wine cannot show: {(ROOT / 'docs' / 'windows-acceptance.md').relative_to(ROOT)}")
    return next((code for _, code, _ in parts if code), 0)
