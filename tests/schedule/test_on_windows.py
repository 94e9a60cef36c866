"""The schedule where it is used: the files read by Windows' own XML parser, the task's command line run as it stands.

On Windows, or on CPython for Windows under Wine (scripts/test.py --windows). Registering is not tried: Wine's
schtasks takes anything. docs/windows-acceptance.md has what only a real Windows can show.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from mqi.schedule import task_scheduler as tasks
from tests.schedule.conftest import WINDOWS_PLACE, Done, Installed, make_order
from tests.schedule.test_task_scheduler import NS, ORDERS, SCHEMA

pytestmark = pytest.mark.skipif(sys.platform != "win32", reason="only on Windows")

# Arguments: a file, and the schema or "". Prints `name=text` of every element with text, escaped to ASCII.
READ = r"""
var doc = new ActiveXObject("Msxml2.DOMDocument.6.0");
doc.async = false;
doc.resolveExternals = false;
var schema = WScript.Arguments.length > 1 ? WScript.Arguments(1) : "";
if (schema) {
    var cache = new ActiveXObject("Msxml2.XMLSchemaCache.6.0");
    cache.add("NAMESPACE", schema);
    doc.schemas = cache;
}
if (!doc.load(WScript.Arguments(0))) {
    WScript.Echo("line " + doc.parseError.line + ": " + doc.parseError.reason);
    WScript.Quit(3);
}
var invalid = schema ? doc.validate() : null;
if (invalid && invalid.errorCode) {
    WScript.Echo("invalid: " + invalid.reason);
    WScript.Quit(4);
}
var all = doc.getElementsByTagName("*");
for (var i = 0; i < all.length; i++) {
    if (all.item(i).childNodes.length == 1 && all.item(i).firstChild.nodeType == 3) {
        WScript.Echo(all.item(i).nodeName + "=" + escape(all.item(i).text));
    }
}
""".replace("NAMESPACE", NS.strip("{}"))
OPTIONS = {
    "gmsa": ("--user", "HOSP\\mqi$"),
    "password": ("--user", "HOSP\\svc-mqi", "--logon", "password"),
    "s4u": ("--user", "HOSP\\svc-mqi", "--logon", "s4u"),
    "interactive": ("--user", "PC\\김물리", "--logon", "interactive"),
}


def read(file: Path, folder: Path, schema: Path | None = None) -> Done:
    """What MSXML says about a file."""
    script = folder / "read.js"
    script.write_text(READ, encoding="ascii")
    said = folder / "said"
    # Into a file: the desktop that Wine starts for cscript would keep a pipe open for ever.
    with said.open("wb") as out:
        done = subprocess.run(
            ["cscript", "//nologo", str(script), str(file), *([str(schema)] if schema else [])],
            stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, timeout=120, check=False,
        )  # fmt: skip
    return Done(done.returncode, said.read_text(encoding="ascii", errors="replace"), "")


def texts(out: str) -> dict[str, str]:
    """Element -> text, of what READ printed."""
    pairs = (line.partition("=") for line in out.splitlines() if "=" in line)
    unescape = re.compile("%u([0-9A-F]{4})|%([0-9A-F]{2})")
    return {name: unescape.sub(lambda found: chr(int(found[1] or found[2], 16)), text) for name, _, text in pairs}


@pytest.mark.parametrize("logon", OPTIONS)
def test_msxml_reads_what_install_writes(logon: str, installed: Installed, tmp_path: Path) -> None:
    folder = tmp_path / "for the administrator"
    done = installed.run_mqi("schedule", "install", "--output", str(folder), *OPTIONS[logon])
    assert done.returncode == 0, done.stderr
    (file,) = folder.iterdir()
    assert file.read_bytes().startswith(b"\xff\xfe<\0?\0")
    result = read(file, tmp_path)
    assert result.returncode == 0, result.stdout + result.stderr
    found = texts(result.stdout)
    assert found["UserId"] == OPTIONS[logon][1]
    assert found["WorkingDirectory"] == str(installed.folder)
    assert f'--config "{installed.config}" cycle' in found["Arguments"]
    assert Path(found["Command"]).name == ("pythonw.exe" if logon == "interactive" else "python.exe")
    assert Path(found["Command"]).is_file()


@pytest.mark.parametrize("name", ORDERS)
def test_msxml_finds_it_valid(name: str, tmp_path: Path) -> None:
    file = tmp_path / "task.xml"
    text = tasks.task_xml(ORDERS[name], WINDOWS_PLACE, "cycle")
    file.write_bytes(tasks.encode(text))
    result = read(file, tmp_path, SCHEMA)
    assert result.returncode == 0, result.stdout + result.stderr
    file.write_bytes(tasks.encode(text.replace("<Priority>6<", "<Priority>11<")))
    assert read(file, tmp_path, SCHEMA).returncode == 4


def test_msxml_would_notice_wrong_bytes(tmp_path: Path) -> None:
    file = tmp_path / "task.xml"
    file.write_bytes(tasks.task_xml(make_order(), WINDOWS_PLACE, "cycle").encode("utf-8"))
    assert read(file, tmp_path).returncode == 3
    file.write_bytes(tasks.encode("<Task><Settings></Task>"))
    assert read(file, tmp_path).returncode == 3


def test_dry_run(installed: Installed) -> None:
    before = sorted(installed.folder.iterdir())
    done = installed.run_mqi("--json", "schedule", "install", "--dry-run", "--steps", "--logon", "password", "--user", "HOSP\\svc")
    assert done.returncode == 0, done.stderr
    shown = json.loads(done.stdout)
    assert [one["name"] for one in shown["files"]] == [f"mqi-{step}.xml" for step in ("scan", "submit", "sync", "fetch")]
    for one in shown["files"]:
        assert ET.fromstring(one["text"].encode("utf-16")).tag == f"{NS}Task"
    assert all(line.endswith("/RU HOSP\\svc /RP * /F") for line in shown["commands"][1:])
    assert sorted(installed.folder.iterdir()) == before


@pytest.mark.parametrize("logon", ["password", "interactive"])
def test_the_task_runs_as_it_stands(logon: str, installed: Installed) -> None:
    """With python.exe, and with pythonw.exe, which has no streams; mqi's exit code is the task's result."""
    done = installed.run_mqi("--json", "schedule", "install", "--dry-run", *OPTIONS[logon])
    root = ET.fromstring(json.loads(done.stdout)["files"][0]["text"].encode("utf-16"))
    part = {element.tag.removeprefix(NS): element.text or "" for element in root.iter()}

    def run() -> int:
        return subprocess.run(
            f'"{part["Command"]}" {part["Arguments"]}', cwd=part["WorkingDirectory"],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=120, check=False,
            creationflags=subprocess.DETACHED_PROCESS if logon == "interactive" else subprocess.CREATE_NO_WINDOW,  # type: ignore[attr-defined]
            env={name: os.environ[name] for name in ("SYSTEMROOT", "TEMP", "TMP", "PATH", "USERPROFILE") if name in os.environ},
        ).returncode  # fmt: skip

    assert run() == 0
    beats = json.loads(installed.run_mqi("--json", "schedule", "show").stdout)["heartbeat"]
    assert [beat["last_error"] for beat in beats] == [None] * 4
    assert not any(beat["late"] for beat in beats)
    installed.config.write_text("watch: []\n", encoding="utf-8")
    assert run() == 78
