#!/usr/bin/env python3
"""The main job on the embedded default: this machine as host, the built-in queue, MCsquare, and a generated case
with an RT Ion Plan and the logs of one fraction, to a Monte Carlo dose and a report.

python3 scripts/demo.py [FOLDER]       everything goes below FOLDER (default: demo-output)
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from _components import MCSQUARE, install_mcsquare
from _venv import ROOT, ensure

# Two minutes on two idle cores.
LIMIT_S = 900.0


def main() -> int:
    """The demo with the checkout's virtual environment."""
    if sys.argv[1:2] in (["-h"], ["--help"]):
        print(__doc__)
        return 0
    python = ensure("steps")
    return run(python, Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / "demo-output").resolve())


def run(python: Path, folder: Path) -> int:
    """Make the case, run `mqi cycle` until it is done, show what came of it."""
    install_mcsquare(python)
    if folder.exists():
        if not (folder / "mqi.yaml").is_file():
            print(f"{folder} exists and is not an earlier demo; name another folder")
            return 2
        shutil.rmtree(folder)
    cases = folder / "cases"
    cases.mkdir(parents=True)
    environment = {**os.environ, "MQI_CONFIG_PATH": str(folder / "mqi.yaml"), "PYTHONUTF8": "1"}

    def mqi(*arguments: str, quiet: bool = False) -> subprocess.CompletedProcess[str]:
        if not quiet:
            print(f"\n$ mqi {' '.join(arguments)}", flush=True)
        return subprocess.run(
            [str(python), "-m", "mqi", *arguments],
            env=environment, text=True, encoding="utf-8", stdout=subprocess.PIPE if quiet else None, check=False,
        )  # fmt: skip

    places = ("--cases", str(cases), "--results", str(folder / "results"))
    if mqi("init", "--yes", "--layout", "shi", *places).returncode:
        return 1
    # A sample need not lie still for a minute, and the steps find the dose engine by their host's environment.
    config = folder / "mqi.yaml"
    text = config.read_text(encoding="utf-8").replace("#quiet: 1 min", "quiet: 1s")
    text = text.replace("#environment: {}", "environment: " + json.dumps({"MCSQUARE_FOLDER": str(MCSQUARE)}))
    config.write_text(text, encoding="utf-8")
    # A setup beam and two treatment beams, delivered in another order than planned, with noise and an interlock.
    if mqi("sample", str(cases)).returncode:
        return 1

    deadline = time.monotonic() + LIMIT_S
    state = ""
    while state not in ("completed", "failed") and time.monotonic() < deadline:
        result = mqi("cycle")
        if result.returncode not in (0, 75):
            return result.returncode
        status = json.loads(mqi("--json", "status", quiet=True).stdout)
        state = status["cases"][0]["state"] if status["cases"] else ""
        time.sleep(1.0)

    mqi("status")
    mqi("status", "1")
    case = status["cases"][0]
    if state != "completed":
        print(f"\nthe sample case is {state}: {case['reason']}")
        mqi("logs", "1")
        return 1
    results = Path(case["results_path"])
    print(f"\nresults: {results}")
    for path in sorted(results.rglob("*")):
        if path.is_file():
            print(f"  {path.relative_to(results).as_posix():45} {path.stat().st_size:>9,} bytes")
    print(f"\nverdict: {case['verdict'] or 'none'}")
    mqi("report", "1", "--print-path")
    print(f"\nconfiguration: {config}   (look around: MQI_CONFIG_PATH={config} {python} -m mqi status)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
