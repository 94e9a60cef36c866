"""GPUs: what nvidia-smi shows, and one lock per card."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from typing import Any, Dict, List, Optional, Tuple

from agent.locks import Lock
from agent.settings import Group
from agent.work import Work

# A driver in trouble makes nvidia-smi hang for minutes.
TIME_LIMIT_S = 8.0
_COLUMNS = "uuid,name,memory.total,memory.used,utilization.gpu,temperature.gpu"


class GpuProblem(Exception):
    """The host cannot say which GPUs it has; it may be able to later."""


class NoGpu(Exception):
    """The group's GPUs are not on this host; waiting does not help."""


class GpuQuery:
    """nvidia-smi, asked in the background from the moment this is made, so that nobody waits for it twice."""

    def __init__(self) -> None:
        self._give_up = time.monotonic() + TIME_LIMIT_S
        program = shutil.which("nvidia-smi")
        self._cards = _start(program, ["--query-gpu=" + _COLUMNS])
        self._processes = _start(program, ["--query-compute-apps=gpu_uuid,pid"])

    def cards(self) -> List[Dict[str, Any]]:
        """The cards as the probe tells them; [] without nvidia-smi. Raises GpuProblem when it hangs or fails."""
        if self._cards is None or self._processes is None:
            return []
        cards = _parse_cards(self._output(self._cards))
        for uuid in _parse_first(self._output(self._processes)):
            for card in cards:
                if card["uuid"] == uuid:
                    card["processes"] += 1
        return cards

    def _output(self, process: "subprocess.Popen[bytes]") -> str:
        try:
            output = process.communicate(timeout=max(0.1, self._give_up - time.monotonic()))[0]
        except subprocess.TimeoutExpired:
            # Not waited for: a process stuck in the driver does not even die of SIGKILL.
            process.kill()
            raise GpuProblem("nvidia-smi did not answer for %d s" % TIME_LIMIT_S) from None
        if process.returncode != 0:
            raise GpuProblem("nvidia-smi failed with code %d" % process.returncode)
        return output.decode("utf-8", "replace")


def _start(program: Optional[str], arguments: List[str]) -> "Optional[subprocess.Popen[bytes]]":
    if program is None:
        return None
    flags = 0
    if sys.platform == "win32":
        flags = subprocess.CREATE_NO_WINDOW
    try:
        return subprocess.Popen(
            [program, *arguments, "--format=csv,noheader,nounits"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            creationflags=flags,
        )
    except OSError:
        return None


def _parse_cards(text: str) -> List[Dict[str, Any]]:
    cards = []
    for line in text.splitlines():
        fields = [field.strip() for field in line.split(",")]
        if len(fields) == 6 and fields[0].startswith(("GPU-", "MIG-")):
            cards.append(
                {
                    "uuid": fields[0],
                    "name": fields[1],
                    "memory_total_mb": _number(fields[2]),
                    "memory_used_mb": _number(fields[3]),
                    "utilisation": _number(fields[4]),
                    "temperature": _number(fields[5]),
                    "processes": 0,
                }
            )
    return cards


def _parse_first(text: str) -> List[str]:
    return [line.split(",")[0].strip() for line in text.splitlines() if "," in line]


def _number(text: str) -> Optional[float]:
    """A number, or None for "[N/A]" and its like."""
    try:
        return float(text)
    except ValueError:
        return None


def take_gpu(work: Work, group: Group) -> Optional[Tuple[str, Optional[Lock]]]:
    """(UUID for CUDA_VISIBLE_DEVICES, its lock) of a free GPU of `group`; None when all are taken.

    ("", None): the group is configured without GPUs. Raises NoGpu and GpuProblem.
    """
    if group.gpus == "none":
        return "", None
    if isinstance(group.gpus, str):
        uuids = [str(card["uuid"]) for card in GpuQuery().cards()]
        if not uuids:
            raise NoGpu("nvidia-smi shows no GPU on this host")
    else:
        uuids = group.gpus
        if not uuids:
            raise NoGpu("the group %s has an empty list of GPUs" % group.name)
    for uuid in uuids:
        lock = Lock(work.gpu_lock(uuid))
        if lock.acquire():
            return uuid, lock
    return None


def take_given(work: Work, given: str) -> Optional[Tuple[str, Optional[Lock]]]:
    """The same for what a queue has put into CUDA_VISIBLE_DEVICES (Slurm: the card's number, in the order of
    the PCI bus; alone and number 0 where it hides the others).

    Its UUID is locked like any other: an orphan that the queue has forgotten still has its card. Without
    nvidia-smi, and for several cards, what the queue says is taken as it is. Raises NoGpu and GpuProblem.
    """
    if not given or given == "NoDevFiles":
        raise NoGpu("the queue gave it none; check `gres` in the configuration, and in the queue's")
    uuids = [str(card["uuid"]) for card in GpuQuery().cards()]
    if given in uuids:
        uuid = given
    elif given.isdigit() and int(given) < len(uuids):
        uuid = uuids[int(given)]
    else:
        return given, None
    lock = Lock(work.gpu_lock(uuid))
    return (uuid, lock) if lock.acquire() else None
