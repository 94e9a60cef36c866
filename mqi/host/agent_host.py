"""A host that is spoken to through its agent, over whatever channel a subclass opens.

An agent serves one request after another, and remembers nothing of one for the next: a connection may break anywhere.
"""

from __future__ import annotations

import contextlib
import secrets
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from mqi.errors import HostRefused
from mqi.host import download, framing, upload
from mqi.host.base import Answer, Blob, DownloadOutcome, Progress, RemoteFile, UploadOutcome, Wheel
from mqi.host.channel import Channel, Watchdog
from mqi.host.conversation import PROTOCOL, Conversation, refusal
from mqi.host.pace import Pace
from mqi.settings import HostSettings

# A job is lost after this many listings without it, over this long by the host's clock.
LOST_LISTINGS = 3
LOST_AFTER_S = 120.0
# So many files travel under one request: its header stays far below the limit of a message.
BATCH = 5000
# An agent that was not spoken to for longer is left: it will not wait for ever (`IDLE_S` there), and nobody knows what
# has become of the connection.
_KEPT_S = 60.0
# The agent's entry point for them.
REQUESTS = "request"
Item = TypeVar("Item")


class AgentHost(ABC):
    """See `base.Host`. Subclasses open channels and deploy the scripts."""

    # Whether a command's next request goes to the agent of the last one: where starting one costs (a login shell).
    keeps_its_agent = False

    def __init__(
        self,
        settings: HostSettings,
        installation: str,
        *,
        lost_listings: int = LOST_LISTINGS,
        lost_after_s: float = LOST_AFTER_S,
    ) -> None:
        self.settings = settings
        self._installation = installation
        self._lost = {"lost_listings": lost_listings, "lost_after_s": lost_after_s}
        self._scripts = ""
        self._kept: Channel | None = None
        self._kept_since = 0.0

    @abstractmethod
    def _open_agent(self, scripts: str, entry: str) -> Channel:
        """Starts the agent of the scripts with this hash on the host, by `python -I -S` (it needs no
        site-packages), to serve requests in the work directory; `entry` is its entry point.

        Raises an MqiError when that cannot be done.
        """

    @abstractmethod
    def _deploy(self) -> str:
        """The hash of the scripts, which `_open_agent` finds on the host or brings there."""

    def get_ready(self) -> None:  # noqa: B027  # where a request costs little beforehand, there is nothing to do
        """See `base.Host`."""

    def close(self) -> None:
        """Ends what is kept open between requests."""
        kept, self._kept = self._kept, None
        if kept is not None:
            kept.close()

    def deploy(self) -> str:
        """The hash of the scripts that serve our requests there."""
        if not self._scripts:
            self._scripts = self._deploy()
        return self._scripts

    def ask(self, calls: Sequence[Mapping[str, Any]]) -> Answer:
        """One request with `calls`, and its answer."""
        with self._conversation(calls) as conversation:
            conversation.end_request()
            answer = conversation.answer()
            conversation.expect_end()
        return answer

    def upload(
        self,
        blobs: Sequence[tuple[Blob, int]],
        *,
        deadline: float | None = None,
        progress: Progress | None = None,
    ) -> UploadOutcome:
        """Sends files in few requests, one stream each."""
        tally = upload.Tally(
            sum(blob.size - offset for blob, offset in blobs),
            deadline,
            progress,
            Pace(self.settings.bandwidth),
        )
        for batch in _batches(blobs):
            if tally.late():
                break
            call = {
                "verb": "put",
                "blobs": [
                    {"sha256": blob.sha256, "size": blob.size, "offset": offset} for blob, offset in batch
                ],
            }
            with self._conversation([call]) as conversation:
                sent = upload.send(conversation, batch, tally)
                reply = conversation.answer().replies[0]
                conversation.expect_end()
            upload.settle(tally, sent, _good(reply, self.settings.name))
        return tally.outcome()

    def download(
        self,
        files: Sequence[RemoteFile],
        *,
        deadline: float | None = None,
        progress: Progress | None = None,
    ) -> DownloadOutcome:
        """Fetches files in few requests, one stream each, and verifies every byte."""
        tally = download.Tally(
            sum(one.size for one in files), deadline, progress, Pace(self.settings.bandwidth)
        )
        for batch in _batches(files):
            if tally.late():
                break
            places = download.places(batch, tally)
            with self._conversation([download.call(places)]) as conversation:
                conversation.end_request()
                _good(conversation.answer().replies[0], self.settings.name)
                if not download.receive(conversation, places, tally):
                    break
                conversation.expect_end()
        return tally.outcome()

    def set_up(
        self,
        wheels: Sequence[Wheel],
        requirements: Sequence[str],
        imports: Sequence[str],
        tell: Callable[[str], None],
    ) -> dict[str, Any]:
        """Asks first, so that only missing wheels travel, and none when the environment is there."""
        request = {
            "installation": self._installation,
            "wheels": [[wheel.name, wheel.blob.sha256, wheel.blob.size] for wheel in wheels],
            "requirements": list(requirements),
            "imports": list(imports),
        }
        said = self._environment(request, tell)
        if "missing" in said:
            blobs = {wheel.blob.sha256: wheel.blob for wheel in wheels}
            wanted = [(blobs[sha256], int(offset)) for sha256, offset in said["missing"] if sha256 in blobs]
            tell(f"sending {len(wanted)} wheels, {sum(blob.size for blob, _ in wanted) / 2**20:.0f} MiB")
            self.upload(wanted)
            said = self._environment(request, tell)
        if "environment" not in said:
            raise HostRefused(
                f"host {self.settings.name} did not take all wheels", "environment", "try again"
            )
        return said

    def _environment(self, request: Mapping[str, Any], tell: Callable[[str], None]) -> dict[str, Any]:
        with self._spoken("environment", request, 0) as conversation:
            conversation.end_request()
            conversation.skip_to_answer()
            while True:
                kind, length = conversation.header()
                if kind not in ("J", "X"):
                    raise framing.Garbled("the answer does not begin with a message")
                said = conversation.message(length)
                if kind == "X":
                    raise refusal(self.settings.name, said)
                if "progress" not in said:
                    return said
                tell(str(said["progress"])[:200])

    @contextlib.contextmanager
    def _conversation(self, calls: Sequence[Mapping[str, Any]]) -> Iterator[Conversation]:
        request = {
            "protocol": PROTOCOL,
            "installation": self._installation,
            "now": time.time(),
            "settings": self._request_settings(),
            "calls": list(calls),
        }
        with self._spoken(REQUESTS, request, len(calls)) as conversation:
            yield conversation

    @contextlib.contextmanager
    def _spoken(self, entry: str, request: Mapping[str, Any], calls: int) -> Iterator[Conversation]:
        """The conversation that begins with `request`."""
        nonce = secrets.token_hex(16)
        message = framing.encode({"nonce": nonce, **request})
        channel = self._listening(entry)
        try:
            with Watchdog(channel, self.settings.timeout_s) as watchdog:
                conversation = Conversation(self.settings.name, channel, watchdog, nonce, calls)
                try:
                    conversation.write(message, frame="J")
                    yield conversation
                except framing.Garbled as error:
                    raise conversation.unreachable(str(error)) from error
            if conversation.over and entry == REQUESTS and self.keeps_its_agent:
                self._keep(channel, time.monotonic())
        finally:
            # Also on Ctrl-C and on every error: no agent is left that waits for us.
            if self._kept is not channel:
                channel.close()

    def _keep(self, channel: Channel, since: float) -> None:
        self._kept, self._kept_since = channel, since

    def _listening(self, entry: str) -> Channel:
        """The channel to an agent that waits for a request: the last one's, if all was said there."""
        kept, self._kept = self._kept, None
        if kept is not None:
            if entry == REQUESTS and kept.alive and time.monotonic() - self._kept_since < _KEPT_S:
                return kept
            kept.close()
        return self._open_agent(self.deploy(), entry)

    def _request_settings(self) -> dict[str, Any]:
        queue = self.settings.queue
        groups = [
            {
                "name": group.name,
                "slots": group.slots,
                "gpus": group.gpus if isinstance(group.gpus, str) else list(group.gpus),
                "options": list(group.options),
            }
            for group in queue.groups
        ]
        own: dict[str, Any] = {}
        if queue.type == "pueue":
            own["pueue"] = queue.pueue._asdict()
        elif queue.type == "slurm":
            own["slurm"] = {**queue.slurm._asdict(), "options": list(queue.slurm.options)}
        return {
            "queue": {"type": queue.type, "groups": groups, "max_queued": queue.max_queued, **own},
            "python": self.settings.python,
            "environment": dict(self.settings.environment),
            "gpu_rules": {
                "busy_memory_mb": self.settings.gpu_rules.busy_memory_bytes / 2**20,
                "quarantine_after": self.settings.gpu_rules.quarantine_after,
                "quarantine_s": self.settings.gpu_rules.quarantine_s,
            },
            **self._lost,
        }


def _good(reply: Mapping[str, Any], host: str) -> Mapping[str, Any]:
    """The reply to a transfer. Raises HostRefused or TemporaryProblem when the host says no to all of it."""
    if reply.get("ok") is not True:
        raise refusal(host, reply)
    return reply


def _batches(items: Sequence[Item]) -> Iterator[Sequence[Item]]:
    for start in range(0, len(items), BATCH):
        yield items[start : start + BATCH]
