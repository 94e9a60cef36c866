"""An execution host that is reached by SSH: one connection and one exec for all requests of a command.

What is executed is the host's Python with a few words of ours (`STAGE`); everything else, the name of the scripts
too, goes through stdin. So nothing depends on the login shell's quoting, and nothing shows in the host's
process list but the work directory.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import shlex
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mqi.errors import ConfigurationProblem, HostRefused, HostUnreachable, MqiError, TemporaryProblem
from mqi.host.agent_host import REQUESTS, AgentHost
from mqi.host.channel import Channel, Watchdog
from mqi.host.deploy import content_hash, script_files
from mqi.host.framing import MAX_NOISE
from mqi.host.lean import import_fabric
from mqi.resources import remote_scripts
from mqi.settings import HostSettings, Ssh

if TYPE_CHECKING:
    from mqi.host.ssh_channel import SshChannel
    from mqi.host.ssh_line import Line

# Reads one line without reading ahead, and runs it. In double quotes it means the same to every shell.
STAGE = "import sys;exec(open(0,'rb',0,closefd=False).readline())"
_NOT_FOUND, _NOT_EXECUTABLE = 127, 126
# The agent is started, its scripts brought there, within this time at most.
_START_S = 120.0


class SshHost(AgentHost):
    """See `base.Host`. A connection that broke is opened anew by the next request, never within one."""

    keeps_its_agent = True

    def __init__(self, settings: HostSettings, installation: str, **limits: Any) -> None:
        super().__init__(settings, installation, **limits)
        if settings.ssh is None:
            raise ConfigurationProblem(f"host {settings.name}: its `ssh` is missing in mqi.yaml")
        self._ssh: Ssh = settings.ssh
        self._line: Line | None = None
        self._folder = Path()
        self._early: _Early | None = None

    def _deploy(self) -> str:
        self._folder = remote_scripts()
        return content_hash(self._folder)

    def get_ready(self) -> None:
        """Imports, connects and starts the agent in the background; the next request waits for that, and raises what
        it met."""
        if self._line is None and self._early is None:
            self._early = _Early(self)
            self._early.start()

    def _open_agent(self, scripts: str, entry: str) -> Channel:
        import_fabric()  # not before there is something to say
        from mqi.host.ssh_channel import SshChannel
        from mqi.host.ssh_line import guarded

        line = self._connected()
        channel = SshChannel(line.stream(self._command(entry)), line.cut)
        try:
            # A word now and then keeps the watchdog quiet; nobody may go on like that for ever.
            with (
                guarded(line.cut, max(_START_S, 4 * self._ssh.connect_timeout_s)),
                Watchdog(channel, 2 * self._ssh.connect_timeout_s) as watchdog,
            ):
                self._boot(channel, watchdog, scripts)
            return channel
        except BaseException:
            channel.close()
            raise

    def _listening(self, entry: str) -> Channel:
        early, self._early = self._early, None
        if early is not None:
            self._keep(early.channel(), early.ready_at)
        return super()._listening(entry)

    def _connected(self) -> Line:
        from mqi.host.ssh_line import Line

        if self._line is not None and not self._line.alive:
            self.close()
        if self._line is None:
            self._line = Line(self.settings.name, self._ssh)
        return self._line

    def close(self) -> None:
        """Ends the connection, if there is one."""
        early, self._early = self._early, None
        # One that is still on its way ends with this process; nobody needs to wait for it.
        if early is not None and not early.is_alive():
            with contextlib.suppress(Exception):  # it failed, and nobody asked for it after all
                early.channel().close()
        super().close()
        if self._line is not None:
            self._line.close()
            self._line = None

    def _command(self, entry: str) -> str:
        return f'{shell_path(self._ssh.python)} -I -S -c "{STAGE}" {entry} --work {shlex.quote(self.settings.work_dir)}'

    # --- from the login shell to the agent -------------------------------------------------------------

    def _boot(self, channel: SshChannel, watchdog: Watchdog, scripts: str) -> None:
        """Turns the started Python into the agent, with the scripts brought to it when it lacks them."""
        nonce = secrets.token_hex(8)
        program = Path(__file__).with_name("boot.py").read_text(encoding="utf-8")
        self._send(channel, f"exec({program!a});boot({scripts!a}, {nonce!a})\n".encode("ascii"))
        said = self._heard(channel, watchdog, nonce)
        if said.get("state") == "missing":
            for piece in archive(self._folder):
                self._send(channel, piece)
                watchdog.beat()
            said = self._heard(channel, watchdog, nonce)
        if said.get("state") != "ready":
            raise self._refusal(said)

    @staticmethod
    def _send(channel: SshChannel, data: bytes) -> None:
        # A host that does not listen has something to say, or its end does.
        with contextlib.suppress(OSError, ValueError):
            channel.stdin.write(data)
            channel.stdin.flush()

    def _heard(self, channel: SshChannel, watchdog: Watchdog, nonce: str) -> dict[str, Any]:
        """What the started Python says, after whatever the login shell has to say. Raises an MqiError."""
        mark = f"MQI-BOOT {nonce} ".encode()
        seen = 0
        while seen <= MAX_NOISE:
            try:
                line = channel.stdout.readline(4096)
            except OSError:
                line = b""
            if not line:
                raise self._silence(channel, watchdog)
            if mark in line and line.endswith(b"\n"):
                with contextlib.suppress(ValueError):
                    said = json.loads(line.partition(mark)[2])
                    if isinstance(said, dict):
                        return said
            seen += len(line)
            watchdog.beat()
        raise HostUnreachable(
            f"host {self.settings.name}: its login talks without an end, and mqi's agent does not start",
            "see what the start-up files of its login shell print",
        )

    def _silence(self, channel: SshChannel, watchdog: Watchdog) -> MqiError:
        name, python = self.settings.name, self._ssh.python
        if watchdog.fired:
            return HostUnreachable(
                f"host {name} let us in, but does not start mqi's agent in time",
                "it may be overloaded, or a start-up file of its login shell waits for something",
            )
        code = channel.wait(2.0)
        words = " ".join(channel.stderr_tail().split())[-300:]
        told = f": {words}" if words else ""
        if code is None:
            return HostUnreachable(f"host {name}: the connection broke before mqi's agent started{told}", "")
        if code in (_NOT_FOUND, _NOT_EXECUTABLE):
            return HostRefused(
                f"host {name}: its Python {python} does not start (exit code {code}){told}", "no_python",
                "name a Python 3.8 or later in the host's `ssh: python:`",
            )  # fmt: skip
        if "SyntaxError" in words or "nknown option" in words:
            return self._refusal({"state": "too_old", "version": words[-120:]})
        return HostRefused(
            f"host {name}: its login ended (exit code {code}) before mqi's agent started{told}", "login_shell",
            f"try: ssh {self._ssh.user}@{self._ssh.address} {python} --version; a start-up file of its login shell "
            f"may fail or end it",
        )  # fmt: skip

    def _refusal(self, said: dict[str, Any]) -> MqiError:
        name = self.settings.name
        state = said.get("state")
        if state == "too_old":
            return HostRefused(
                f"host {name}: its Python {self._ssh.python} is too old for mqi's agent "
                f"({str(said.get('version'))[:150]})", "python_too_old",
                "name a Python 3.8 or later in the host's `ssh: python:`",
            )  # fmt: skip
        if state == "damaged":
            return TemporaryProblem(f"host {name}: the scripts arrived damaged; they are sent again", "")
        why = str(said.get("message"))[:200]
        return TemporaryProblem(
            f"host {name}: its work directory {self.settings.work_dir} cannot be used ({why})",
            "check that work_dir is writable for the user there, and that its disk is not full",
        )


class _Early(threading.Thread):
    """An agent that is started before there is a request for it."""

    def __init__(self, host: SshHost) -> None:
        super().__init__(name="mqi-early", daemon=True)
        self._host = host
        self._channel: Channel | None = None
        self._error: BaseException | None = None
        self.ready_at = 0.0  # by time.monotonic

    def run(self) -> None:
        try:
            self._channel = self._host._open_agent(self._host.deploy(), REQUESTS)
            self.ready_at = time.monotonic()
        except BaseException as error:  # noqa: BLE001  # whoever asks for the channel gets it
            self._error = error

    def channel(self) -> Channel:
        """Waits for it. Raises what the start met."""
        self.join()
        if self._channel is None:
            assert self._error is not None
            raise self._error
        return self._channel


def archive(folder: Path) -> list[bytes]:
    """What `boot.install` takes: a line of JSON with names and sizes, then the files' bytes."""
    files = [(name, path.read_bytes()) for name, path in script_files(folder)]
    table = json.dumps([[name, len(data)] for name, data in files]).encode("ascii")
    return [table + b"\n", *(data for _, data in files)]


def shell_path(text: str) -> str:
    """A program for a login shell of any kind: everything quoted but a leading `~/`."""
    home, rest = ("~/", text[2:]) if text.startswith("~/") else ("", text)
    return home + shlex.quote(rest)
