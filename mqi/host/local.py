"""This machine as an execution host: the same agent as anywhere, as a child process."""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO, cast

from filelock import FileLock

from mqi.errors import ConfigurationProblem, DiskProblem
from mqi.host.agent_host import AgentHost
from mqi.host.channel import Channel
from mqi.host.deploy import content_hash, script_files
from mqi.host.framing import Source
from mqi.renaming import replace
from mqi.resources import remote_scripts


class LocalHost(AgentHost):
    """See `base.Host`. An agent ends with its request, for no login shell starts it; the queue's runner outlives us."""

    def _path(self, *parts: str) -> str:
        return str(Path(self.settings.work_dir, *parts))

    def _deploy(self) -> str:
        scripts = remote_scripts()
        name = content_hash(scripts)
        target = Path(self._path("scripts", name))
        if target.is_dir():
            return name
        # Complete or not there: other processes may start the agent from it at any moment.
        temporary = target.with_name(f".{name}.{secrets.token_hex(4)}~")
        try:
            Path(self._path()).mkdir(mode=0o700, parents=True, exist_ok=True)
            target.parent.mkdir(exist_ok=True)
            with FileLock(self._path("deploy.lock")):
                return self._deploy_alone(scripts, target, temporary)
        except OSError as error:
            raise DiskProblem(
                f"host {self.settings.name}: the scripts cannot be copied to its work directory ({error.strerror})",
                "check that work_dir is writable and its disk is not full",
            ) from error

    def _deploy_alone(self, scripts: Path, target: Path, temporary: Path) -> str:
        """Under the lock: whatever a killed deployment left half done is nobody's."""
        if target.is_dir():
            return target.name
        for left in target.parent.glob(".*~"):
            shutil.rmtree(left, ignore_errors=True)
        try:
            for relative, source in script_files(scripts):
                copy = temporary / relative
                copy.parent.mkdir(parents=True, exist_ok=True)
                _copy_durably(source, copy)
            replace(temporary, target)
        except OSError:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        return target.name

    def _open_agent(self, scripts: str, entry: str) -> Channel:
        python = self.settings.python or sys.executable
        agent = self._path("scripts", scripts, "agent")
        return ProcessChannel([python, "-I", "-S", agent, entry, "--work", self._path()], self.settings.name)


def _copy_durably(source: Path, target: Path) -> None:
    with target.open("wb") as stream:
        stream.write(source.read_bytes())
        stream.flush()
        os.fsync(stream.fileno())


class ProcessChannel:
    """A child process as a channel."""

    def __init__(self, argv: Sequence[str], host: str) -> None:
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  # lives as long as the channel
        try:
            if sys.platform == "win32":
                self._process = subprocess.Popen(
                    list(argv),
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=self._errors,
                    creationflags=subprocess.CREATE_NO_WINDOW | subprocess.CREATE_NEW_PROCESS_GROUP,
                )
            else:
                self._process = subprocess.Popen(
                    list(argv),
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=self._errors,
                    # The operator's Ctrl-C is ours to handle.
                    start_new_session=True,
                )
        except OSError as error:
            self._errors.close()
            raise ConfigurationProblem(
                f"host {host}: its Python does not start ({error.strerror})",
                "check `python` in the host's configuration",
            ) from error
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self.stdin: BinaryIO = cast(BinaryIO, self._process.stdin)
        self.stdout: Source = cast(Source, self._process.stdout)

    @property
    def alive(self) -> bool:
        """Whether the process still runs."""
        return self._process.poll() is None

    def stderr_tail(self) -> str:
        self._errors.seek(0, os.SEEK_END)
        self._errors.seek(max(0, self._errors.tell() - 2000))
        return self._errors.read().decode("utf-8", "replace")

    def wait(self, timeout_s: float) -> int | None:
        try:
            return self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return None

    def kill(self) -> None:
        """Ends the process. Its pipes are closed by it, which wakes a blocked reader or writer."""
        self._process.kill()

    def close(self) -> None:
        """Ends the process, reaps it and closes our ends of its pipes."""
        self.kill()
        try:
            self.stdin.close()
        except OSError:
            pass  # what was still buffered had no reader any more
        assert self._process.stdout is not None
        self._process.stdout.close()
        self._process.wait()
        self._errors.close()
