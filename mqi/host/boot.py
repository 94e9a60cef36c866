"""Brings the agent to life on an SSH host. This file is never imported: its text is sent to the host's Python.

Each exec is `python -I -S -c STAGE request --work W`, whose stdin begins with one line: this program and the call
of `boot` at its end. It answers with one line,

    MQI-BOOT <nonce> {"state": "ready"}

and becomes the agent, which finds the rest of stdin untouched. When the scripts of that hash are not there, it says
`missing` first and takes them from stdin: a line of JSON, [[name, size], …], and the files' bytes. It must at least
start on every Python 3, to say that it is too old.
"""

import errno
import hashlib
import json
import os
import sys
from typing import Any

OLDEST = (3, 8)
# What is tried again by itself, because somebody may make room meanwhile.
UNUSABLE = (errno.ENOSPC, errno.EROFS, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EEXIST)


def boot(scripts: str, nonce: str) -> None:
    """Run the agent of the scripts with the hash `scripts`, with this process's own arguments."""
    os.umask(0o077)
    source = open(0, "rb", buffering=0, closefd=False)  # noqa: SIM115  # nothing may be read ahead of the agent
    root = os.path.abspath(os.path.expanduser(sys.argv[-1]))
    home = os.path.join(root, "scripts")
    target = os.path.join(home, scripts)
    if sys.version_info < OLDEST:
        return tell(nonce, state="too_old", version=sys.version.split()[0])
    try:
        if not os.path.isdir(target):
            os.makedirs(home, mode=0o700, exist_ok=True)
            tell(nonce, state="missing")
            if not install(source, root, home, scripts):
                return tell(nonce, state="damaged")
    except OSError as error:
        code = "work_dir" if error.errno in UNUSABLE else "internal"
        return tell(nonce, state="refused", code=code, message=error.strerror or type(error).__name__)
    tell(nonce, state="ready")
    sys.argv[:] = [os.path.join(target, "agent")] + sys.argv[1:-1] + [root]
    program = os.path.join(target, "agent", "__main__.py")
    with open(program, "rb") as text:
        agent = compile(text.read(), program, "exec")
    exec(agent, {"__name__": "__main__", "__file__": program, "__builtins__": __builtins__})
    return None


def tell(nonce: str, **what: Any) -> None:
    """Say how far we are, on stdout."""
    os.write(1, ("MQI-BOOT %s %s\n" % (nonce, json.dumps(what))).encode("ascii"))


def install(source: Any, root: str, home: str, scripts: str) -> bool:
    """Take the files of the scripts from `source`; they appear under their hash, complete, or not at all.

    False when they are not those of the hash.
    """
    import fcntl
    import shutil

    files = json.loads(source.readline().decode("utf-8"))
    temporary = os.path.join(home, ".%s.%s~" % (scripts, os.urandom(4).hex()))
    with open(os.path.join(root, "deploy.lock"), "ab") as lock:
        # Free again when we die. Under it, whatever a killed installation left half done is nobody's.
        fcntl.flock(lock, fcntl.LOCK_EX)
        for left in os.listdir(home):
            if left.endswith("~"):
                shutil.rmtree(os.path.join(home, left), ignore_errors=True)
        try:
            if take(source, files, temporary) != scripts:
                return False
            if not os.path.isdir(os.path.join(home, scripts)):
                os.rename(temporary, os.path.join(home, scripts))
                sync_folder(home)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    return True


def take(source: Any, files: Any, folder: str) -> str:
    """Write the files below `folder`, durably; the hash of what was written (see deploy.content_hash)."""
    whole = hashlib.sha256()
    for name, size in files:
        path = os.path.join(folder, *name.split("/"))
        if ".." in name.split("/") or not os.path.abspath(path).startswith(folder + os.sep):
            raise ValueError("not a name below the folder")
        os.makedirs(os.path.dirname(path), exist_ok=True)
        data = b""
        while len(data) < size:
            piece = source.read(size - len(data))
            if not piece:
                raise EOFError("the scripts broke off")
            data += piece
        with open(path, "wb") as target:
            target.write(data)
            target.flush()
            os.fsync(target.fileno())
        whole.update(("%s\0%s\n" % (name, hashlib.sha256(data).hexdigest())).encode("utf-8"))
    return whole.hexdigest()[:32]


def sync_folder(folder: str) -> None:
    """Make the names in `folder` survive a power loss."""
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
