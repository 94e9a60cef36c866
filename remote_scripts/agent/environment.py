"""The Python environment of the steps, built on the host from a folder of wheels, without a network.

    env/<hash of the wheels>/          a virtual environment, `ready.json` once it is complete
    env/current                        a link to the one that new jobs use

One request on stdin, as for `request`: {"nonce", "installation", "wheels": [[file name, sha256, size], …],
"requirements": […], "imports": […]}. The wheels' bytes are in the store (verb `put`). The answer is a row of J frames:
{"progress"}, and at last {"missing": […]} or {"environment", "python", "packages"}.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, BinaryIO, Callable, Dict, List, Tuple

from agent import names
from agent.files import link_or_copy, read_json_object, remove_tree, replace, unique, write_json
from agent.frames import encode, read_json, write_frame
from agent.locks import Lock, is_locked
from agent.problems import Refused
from agent.store import missing_blobs
from agent.work import Work

# A connection counts as dead when nothing comes for a while; pip is silent for long.
_TELL_EVERY_S = 2.0
_WHEEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+!-]{0,200}\.whl")
_REQUIREMENT = re.compile(r"[A-Za-z0-9][A-Za-z0-9 _.,<>=!~*\[\]-]{0,200}")
_MODULE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_VERSIONS = """
import importlib.metadata, json, sys
for name in sys.argv[1:]:
    __import__(name)
found = {one.metadata["Name"]: one.version for one in importlib.metadata.distributions()}
print(json.dumps({"python": sys.version.split()[0], "packages": found}))
"""


def serve(work: Work, source: BinaryIO, output: BinaryIO, admit: Callable[[str], None]) -> None:
    """Serve one request of an installation that `admit` lets in. Raises Refused."""
    request = read_json(source)
    nonce = request["nonce"] if isinstance(request, dict) else None
    if not isinstance(nonce, str) or re.fullmatch("[0-9a-f]{8,64}", nonce) is None:
        raise Refused("bad_request", "the request has no nonce")
    output.write(b"MQI-REPLY %s\n" % nonce.encode("ascii"))

    def tell(**what: Any) -> None:
        write_frame(output, "J", encode(what))
        output.flush()

    try:
        if sys.platform == "win32":
            raise Refused("environment", "environments are built on Linux hosts only", "name a `python` in mqi.yaml")
        admit(str(request.get("installation")))
        wheels = [_wheel(entry) for entry in request["wheels"]]
        requirements = [_text(_REQUIREMENT, one) for one in request["requirements"]]
        imports = [_text(_MODULE, one) for one in request["imports"]]
        missing = missing_blobs(work, [(sha256, size) for _, sha256, size in wheels])
        if missing:
            tell(missing=missing)
        else:
            tell(**_built(work, wheels, requirements, imports, tell))
    except Refused as error:
        write_frame(output, "X", encode({"code": error.code, "message": str(error), "hint": error.hint}))
    write_frame(output, "E")
    output.flush()


def _wheel(entry: Any) -> Tuple[str, str, int]:
    name, sha256, size = entry
    return _text(_WHEEL, name), names.digest(sha256), names.whole(size, "size")


def _text(pattern: "re.Pattern[str]", value: Any) -> str:
    if not isinstance(value, str) or pattern.fullmatch(value) is None:
        raise Refused("bad_request", "not what an environment is made of: %.80r" % (value,))
    return value


def _built(
    work: Work, wheels: List[Tuple[str, str, int]], requirements: List[str], imports: List[str], tell: Any
) -> Dict[str, Any]:
    described = json.dumps([sys.version, sorted(wheels), sorted(requirements)])
    name = hashlib.sha256(described.encode("utf-8")).hexdigest()[:16]
    folder = work.environments / name
    work.environments.mkdir(mode=0o700, parents=True, exist_ok=True)
    with Lock(work.environments / "lock") as lock:
        if not lock.acquire(5.0):
            raise Refused("lock_timeout", "another `mqi host setup` is building there")
        if not (folder / "ready.json").exists():
            # A virtual environment knows its own path, so it is built in its place; the mark makes it one.
            remove_tree(folder)
            _build(work, folder, wheels, requirements, tell)
            python = str(folder / "bin" / "python")
            said = json.loads(_run([python, "-I", "-c", _VERSIONS, *imports], tell, "trying it"))
            write_json(folder / "ready.json", said)
        _point(work, name)
        _drop_others(work, name)
    said = read_json_object(folder / "ready.json") or {}
    return {"environment": name, "python": said.get("python"), "packages": said.get("packages")}


def _build(
    work: Work, folder: Path, wheels: List[Tuple[str, str, int]], requirements: List[str], tell: Any
) -> None:
    # Debian's Python has no ensurepip; pip comes with the wheels, and runs from its own.
    _run([sys.executable, "-I", "-m", "venv", "--without-pip", str(folder)], tell, "making it")
    house = folder / "wheels"
    house.mkdir()
    for name, sha256, _ in wheels:
        link_or_copy(work.blob(sha256), house / name)
    pip = next((house / name for name, _, _ in wheels if name.startswith("pip-")), None)
    if pip is None:
        raise Refused("no_pip", "pip is not among the wheels", "collect them with `mqi host wheels`")
    words = ["--isolated", "--disable-pip-version-check", "--no-input", "install", "--no-index", "--no-cache-dir"]
    words += ["--only-binary", ":all:", "--find-links", str(house), *requirements]
    _run([str(folder / "bin" / "python"), "-I", str(pip / "pip"), *words], tell, "installing")
    remove_tree(house)


def _run(argv: List[str], tell: Any, what: str) -> str:
    """Runs a program with a sign of life now and then; its stdout. Raises Refused with its last words."""
    environment = {"PATH": os.environ.get("PATH", "/usr/bin:/bin"), "HOME": "/nonexistent", "LANG": "C.UTF-8"}
    try:
        process = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment
        )
    except OSError as error:
        raise Refused("environment", "%s does not start (%s)" % (argv[0], error.strerror)) from error
    started = time.monotonic()
    while True:
        tell(progress="%s, %.0f s" % (what, time.monotonic() - started))
        try:
            text = process.communicate(timeout=_TELL_EVERY_S)[0].decode("utf-8", "replace")
            break
        except subprocess.TimeoutExpired:
            continue
        except BaseException:
            process.kill()
            raise
    if process.returncode:
        # Of pip's many lines those that say what is wrong: a message from a host is cut after 500 characters.
        errors = [line for line in text.splitlines() if line.startswith("ERROR:")]
        words = " ".join("\n".join(errors or [text]).split())[-400:]
        raise Refused("environment", "%s failed (code %d): %s" % (what, process.returncode, words))
    return text.strip().splitlines()[-1] if text.strip() else ""


def _point(work: Work, name: str) -> None:
    """New jobs use this one from now on; running ones keep theirs."""
    current = work.environments / "current"
    if os.path.islink(str(current)) and os.readlink(str(current)) == name:
        return
    temporary = current.with_name(".current.%s~" % unique())
    os.symlink(name, str(temporary))
    replace(temporary, current)


def _drop_others(work: Work, name: str) -> None:
    """Removes the others, unless a job that runs may work with one."""
    for key in work.run_keys():
        run = work.run(key)
        if any(is_locked(run.job(job).lock) for job in run.job_keys()):
            return
    for entry in sorted(work.environments.iterdir()):
        if entry.is_dir() and not entry.is_symlink() and entry.name != name:
            try:
                remove_tree(entry)
            except OSError:
                pass  # the next setup tries again
