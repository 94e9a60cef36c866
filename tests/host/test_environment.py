"""The Python environment of the steps: built on the host from wheels, without a network, all of it or nothing."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from mqi.errors import HostRefused, UsageProblem
from mqi.host.wheels import imports_of, read_folder, requirements_of_steps
from tests.agent.bench import RUN, Bench


def a_wheel(folder: Path, name: str, version: str, code: str, requires: str = "") -> Path:
    """A wheel of one module, made by hand (PEP 427)."""
    folder.mkdir(exist_ok=True)
    info = f"{name}-{version}.dist-info"
    wanted = f"Requires-Dist: {requires}\n" if requires else ""
    files = {
        f"{name}.py": code,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{wanted}",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{path},,\n" for path in files) + f"{info}/RECORD,,\n"
    path = folder / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for file, text in {**files, f"{info}/RECORD": record}.items():
            archive.writestr(file, text)
    return path


@pytest.fixture(scope="module")
def pip_wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """pip as a wheel, made of the one that is installed here: no network is needed."""
    pip = pytest.importorskip("pip", reason="this Python has no pip")
    root = Path(str(pip.__file__)).parents[1]
    folder = tmp_path_factory.mktemp("pip")
    info = next(root.glob("pip-*.dist-info"))
    path = folder / f"{info.name.removesuffix('.dist-info')}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for part in (root / "pip", info):
            for file in part.rglob("*"):
                if file.is_file() and "__pycache__" not in file.parts:
                    archive.write(file, file.relative_to(root).as_posix())
    return path


@pytest.fixture
def wheels(tmp_path: Path, pip_wheel: Path) -> Path:
    """A folder as `mqi host wheels` makes it, of packages of our own."""
    folder = tmp_path / "wheels"
    a_wheel(folder, "dose", "1.0", "import beam\nVALUE = beam.VALUE\n", requires="beam>=2")
    a_wheel(folder, "beam", "2.1", "VALUE = 'from the environment'\n")
    (folder / pip_wheel.name).write_bytes(pip_wheel.read_bytes())
    (folder / "requirements.txt").write_text("dose>=1\n")
    return folder


def set_up(bench: Bench, folder: Path) -> tuple[dict[str, object], list[str]]:
    told: list[str] = []
    found, requirements = read_folder(folder)
    return bench.host.set_up(found, requirements, imports_of(requirements), told.append), told


@pytest.mark.skipif(sys.platform == "win32", reason="hosts that are set up are Linux")
def test_built_once_and_used_by_new_jobs(bench: Bench, wheels: Path) -> None:
    said, told = set_up(bench, wheels)
    assert said["packages"] == {"dose": "1.0", "beam": "2.1"}
    assert any("sending 3 wheels" in line for line in told)
    again, told = set_up(bench, wheels)
    assert (again, told) == (said, [])  # nothing was sent, nothing was built
    code = "import dose; print(dose.VALUE)"
    bench.submit(bench.plan(bench.a_job("one-a1", ["{python}", "-c", code])))
    assert bench.exit("one-a1")["kind"] == "ok"
    assert bench.ask({"verb": "log", "job_key": f"{RUN}.one-a1"})[0]["text"] == "from the environment\n"
    with pytest.raises(HostRefused, match="another installation"):
        bench.new_host("installation-2").set_up(read_folder(wheels)[0], ["dose"], [], told.append)
    # A newer set takes the place of the first, which nothing uses.
    a_wheel(wheels, "beam", "2.2", "VALUE = 'newer'\n")
    newer, _ = set_up(bench, wheels)
    assert newer["packages"] == {"dose": "1.0", "beam": "2.2"}
    assert {path.name for path in (bench.work / "env").iterdir()} == {"current", "lock", newer["environment"]}


@pytest.mark.skipif(sys.platform == "win32", reason="hosts that are set up are Linux")
@pytest.mark.parametrize("bench", ["ssh"], indirect=True)
def test_what_cannot_be_built_changes_nothing(bench: Bench, wheels: Path) -> None:
    good, _ = set_up(bench, wheels)
    broken = wheels.with_name("broken")
    for path in wheels.iterdir():
        if not path.name.startswith("beam"):
            broken.mkdir(exist_ok=True)
            (broken / path.name).write_bytes(path.read_bytes())
    with pytest.raises(HostRefused) as caught:
        set_up(bench, broken)
    assert "beam" in str(caught.value)
    a_wheel(broken, "beam", "3.0", "raise ImportError('wrong GLIBC')\n")
    with pytest.raises(HostRefused) as caught:
        set_up(bench, broken)
    assert "wrong GLIBC" in str(caught.value)
    assert (bench.work / "env" / "current").readlink().name == good["environment"]
    # What was left half built is built anew: the mark comes last.
    assert not (bench.work / "env" / "current" / "wheels").exists()
    a_wheel(broken, "beam", "3.0", "VALUE = 3\n")
    assert set_up(bench, broken)[0]["packages"] == {"dose": "1.0", "beam": "3.0"}


def test_a_folder_that_is_none(tmp_path: Path, wheels: Path) -> None:
    with pytest.raises(UsageProblem) as caught:
        read_folder(tmp_path)
    assert "mqi host wheels" in caught.value.hint
    assert [one.blob.sha256 for one in read_folder(wheels)[0]] == [
        hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(wheels.glob("*.whl"))
    ]


def test_what_the_steps_need() -> None:
    names = imports_of(requirements_of_steps())
    assert {"numpy", "pydicom", "matplotlib"} <= set(names)
    assert imports_of(["PyYAML>=6", "a-b[c] (>1)"]) == ["yaml", "a_b"]


@pytest.mark.slow
@pytest.mark.parametrize("bench", ["ssh"], indirect=True)
def test_the_real_packages(bench: Bench, tmp_path: Path) -> None:
    """From the package index to a Python on the host that runs the shipped steps."""
    folder = tmp_path / "real"
    config = tmp_path / "mqi.yaml"
    (tmp_path / "cases").mkdir()
    config.write_text("watch: [{path: cases, room: G1}]\nhosts: [{name: here}]\n")
    argv = [sys.executable, "-m", "mqi", "--config", str(config), "--json", "host", "wheels", str(folder)]
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    assert any(name.startswith("numpy-") for name in json.loads(done.stdout)["wheels"])
    said, _ = set_up(bench, folder)
    python = bench.work / "env" / "current" / "bin" / "python"
    script = bench.work / "scripts" / bench.host.deploy() / "interpreter.py"
    assert "usage" in subprocess.run([python, script, "--help"], capture_output=True, text=True, check=True).stdout
    assert "numpy" in str(said["packages"])
