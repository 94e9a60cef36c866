"""GPUs: what nvidia-smi shows, and one lock per card."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple

from agent.files import read_foreign_json, write_json
from agent.gpu_care import FREE, record_of, use_of
from agent.locks import Lock
from agent.processes import identity, is_alive
from agent.settings import GpuRules, Group
from agent.work import Work

# A driver in trouble makes nvidia-smi hang for minutes.
TIME_LIMIT_S = 8.0
# One that hung is left alone for this long, and for as long as it has not even died of SIGKILL.
_REST_S = 60.0
# Without persistence mode nvidia-smi takes seconds, and a cycle asks several times within a few.
_FRESH_S = 5.0
_COLUMNS = "uuid,name,memory.total,memory.used,utilization.gpu,temperature.gpu,index"
# `nvidia-smi -L`: "GPU 0: NVIDIA A100 (UUID: GPU-…)", then its "  MIG 1g.5gb     Device  0: (UUID: MIG-…)".
_CARD_LINE = r"^GPU \d+: .*\(UUID: (GPU-[0-9A-Za-z-]+)\)"
_MIG_LINE = r"^\s+MIG (\S+)\s+Device\s+\d+: \(UUID: (MIG-[0-9A-Za-z/-]+)\)"


class GpuProblem(Exception):
    """The host cannot say which GPUs it has; it may be able to later."""


class NoGpu(Exception):
    """The group's GPUs are not on this host; waiting does not help."""


class GpuQuery:
    """nvidia-smi, asked in the background from the moment this is made, so that nobody waits for it twice.

    `folder`: where its last answer is kept for a few seconds, and where it is noted that it hung.
    """

    def __init__(self, folder: Optional[Path] = None) -> None:
        # Host time of what is told; what happened on a card after it is not in it.
        self.at = time.time()
        self._give_up = time.monotonic() + TIME_LIMIT_S
        self._folder = folder
        self._known: Optional[List[Dict[str, Any]]] = None
        self._trouble = ""
        self._cards: "Optional[subprocess.Popen[bytes]]" = None
        self._processes: "Optional[subprocess.Popen[bytes]]" = None
        import shutil  # slow to import, and a job without a GPU has no use for it

        self._program = shutil.which("nvidia-smi")
        if self._program is not None and not self._remembers():
            self._cards = _start(self._program, ["--query-gpu=" + _COLUMNS, *_CSV])
            self._processes = _start(self._program, ["--query-compute-apps=gpu_uuid,pid", *_CSV])

    def cards(self) -> List[Dict[str, Any]]:
        """The cards as the probe tells them; [] without nvidia-smi. Raises GpuProblem when it hangs or fails.

        A card that is split into MIG instances is told as these; nvidia-smi tells neither their load nor
        their processes, which are None.
        """
        if self._trouble:
            raise GpuProblem(self._trouble)
        if self._known is None:
            self._known = self._ask()
            self._keep("nvidia-smi.json", {"at": self.at, "cards": self._known})
        return [dict(card) for card in self._known]

    def _ask(self) -> List[Dict[str, Any]]:
        if self._program is None or self._cards is None or self._processes is None:
            return []
        cards = _parse_cards(self._output(self._cards))
        for uuid in _parse_first(self._output(self._processes)):
            for card in cards:
                if card["uuid"] == uuid:
                    card["processes"] += 1
        # A card in MIG mode does not tell its utilisation; others that do not are asked in vain.
        if any(card["utilisation"] is None for card in cards):
            listing = _start(self._program, ["-L"])
            instances = _parse_instances(self._output(listing)) if listing is not None else {}
            cards = [part for card in cards for part in _split(card, instances.get(card["uuid"], []))]
        return cards

    def _output(self, process: "subprocess.Popen[bytes]") -> str:
        try:
            output = process.communicate(timeout=max(0.1, self._give_up - time.monotonic()))[0]
        except subprocess.TimeoutExpired:
            # Not waited for: a process stuck in the driver does not even die of SIGKILL.
            stuck = identity(process.pid)
            process.kill()
            self._keep("nvidia-smi.hung.json", {"at": time.time(), "process": stuck})
            raise GpuProblem("nvidia-smi did not answer for %d s" % TIME_LIMIT_S) from None
        if process.returncode != 0:
            raise GpuProblem("nvidia-smi failed with code %d" % process.returncode)
        return output.decode("utf-8", "replace")

    def _keep(self, name: str, value: Dict[str, Any]) -> None:
        if self._folder is not None and self._program is not None:
            try:
                self._folder.mkdir(parents=True, exist_ok=True)
                write_json(self._folder / name, value)
            except OSError:
                pass  # a disk that is full has its own sentence

    def _remembers(self) -> bool:
        """Whether there is no need to ask: it has just answered, or it hung a moment ago."""
        if self._folder is None:
            return False
        hung = _recent(self._folder / "nvidia-smi.hung.json")
        if hung is not None and (is_alive(hung.get("process")) or 0 <= self.at - hung["at"] < _REST_S):
            self._trouble = "nvidia-smi did not answer for %d s; it is asked again in a minute" % TIME_LIMIT_S
            if is_alive(hung.get("process")):
                self._trouble = "nvidia-smi hangs and cannot be ended: the host's driver is in trouble"
            return True
        kept = _recent(self._folder / "nvidia-smi.json")
        if kept is not None and isinstance(kept.get("cards"), list) and 0 <= self.at - kept["at"] < _FRESH_S:
            self._known, self.at = kept["cards"], kept["at"]
            return True
        return False


_CSV = ["--format=csv,noheader,nounits"]


def _recent(path: Path) -> Optional[Dict[str, Any]]:
    raw = read_foreign_json(path)
    return raw if isinstance(raw, dict) and isinstance(raw.get("at"), (int, float)) else None


def _start(program: str, arguments: List[str]) -> "Optional[subprocess.Popen[bytes]]":
    flags = 0
    if sys.platform == "win32":
        flags = subprocess.CREATE_NO_WINDOW
    try:
        return subprocess.Popen(
            [program, *arguments],
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
        if len(fields) >= 6 and fields[0].startswith(("GPU-", "MIG-")):
            index = _number(fields[6]) if len(fields) > 6 else None
            cards.append(
                {
                    "uuid": fields[0],
                    "index": None if index is None else int(index),
                    "name": fields[1],
                    "memory_total_mb": _number(fields[2]),
                    "memory_used_mb": _number(fields[3]),
                    "utilisation": _number(fields[4]),
                    "temperature": _number(fields[5]),
                    "processes": 0,
                }
            )
    return cards


def _parse_instances(text: str) -> Dict[str, List[Tuple[str, str]]]:
    """UUID of a card -> (profile, UUID) of its MIG instances, from `nvidia-smi -L`."""
    found: Dict[str, List[Tuple[str, str]]] = {}
    card = ""
    for line in text.splitlines():
        whole, part = re.match(_CARD_LINE, line), re.match(_MIG_LINE, line)
        if whole:
            card = whole[1]
        elif part and card:
            found.setdefault(card, []).append((part[1], part[2]))
    return found


def _split(card: Dict[str, Any], instances: List[Tuple[str, str]]) -> List[Dict[str, Any]]:
    unknown = {"memory_total_mb": None, "memory_used_mb": None, "processes": None}
    return [
        dict(card, uuid=uuid, name="%s MIG %s" % (card["name"], profile), **unknown)
        for profile, uuid in instances
    ] or [card]


def _parse_first(text: str) -> List[str]:
    return [line.split(",")[0].strip() for line in text.splitlines() if "," in line]


def _number(text: str) -> Optional[float]:
    """A number, or None for "[N/A]" and its like."""
    try:
        number = float(text)
    except ValueError:
        return None
    return number if abs(number) < 1e12 else None  # neither nan nor inf, which are no JSON


def take_gpu(work: Work, group: Group, rules: GpuRules) -> Optional[Tuple[str, Optional[Lock]]]:
    """(UUID for CUDA_VISIBLE_DEVICES, its lock) of a free GPU of `group`; None when none is free now: ours
    have them, somebody else uses them, or they are in quarantine.

    ("", None): the group is configured without GPUs. Raises NoGpu and GpuProblem.
    """
    if group.gpus == "none":
        return "", None
    query = GpuQuery(work.gpus)
    cards = {str(card["uuid"]): card for card in query.cards()}
    if isinstance(group.gpus, str):
        uuids = list(cards)
        if not uuids:
            raise NoGpu("nvidia-smi shows no GPU on this host")
    else:
        # Without nvidia-smi the configuration is believed; with it, a card that has gone is not started on.
        # Of an old driver's MIG instances the names need not be those of the configuration.
        uuids = [uuid for uuid in group.gpus if not cards or uuid in cards or uuid.startswith("MIG-")]
        if not uuids:
            raise NoGpu("nvidia-smi shows none of the GPUs of the group %s" % group.name)
    for uuid in uuids:
        lock = _lock_if_free(work, query, cards, uuid, rules)
        if lock is not None:
            return uuid, lock
    return None


def take_given(work: Work, given: str, rules: GpuRules) -> Optional[Tuple[str, Optional[Lock]]]:
    """The same for what a queue has put into CUDA_VISIBLE_DEVICES (Slurm: the card's number, in the order of
    the PCI bus; alone and number 0 where it hides the others).

    Its UUID is locked like any other: an orphan that the queue has forgotten still has its card. Without
    nvidia-smi, and for several cards, what the queue says is taken as it is. Raises NoGpu and GpuProblem.
    """
    if not given or given == "NoDevFiles":
        raise NoGpu("the queue gave it none; check `gres` in the configuration, and in the queue's")
    # Asked anew: a job of Slurm sees other cards than the one before.
    query = GpuQuery()
    cards = {str(card["uuid"]): card for card in query.cards()}
    uuids = list(cards)
    if given in cards:
        uuid = given
    elif given.isdigit() and int(given) < len(uuids):
        uuid = uuids[int(given)]
    else:
        return given, None
    lock = _lock_if_free(work, query, cards, uuid, rules)
    return None if lock is None else (uuid, lock)


def _lock_if_free(
    work: Work, query: GpuQuery, cards: Dict[str, Dict[str, Any]], uuid: str, rules: GpuRules
) -> Optional[Lock]:
    """The card's lock when nobody uses it and it is not in quarantine."""
    lock = Lock(work.gpu_lock(uuid))
    if not lock.acquire():
        return None
    record = record_of(work, uuid)
    # A job of ours that has just left the card may still be in what nvidia-smi showed.
    told = {} if float(record.get("at") or 0.0) >= query.at else cards.get(uuid, {})
    if use_of(told, record, rules, False, time.time()).state == FREE:
        return lock
    lock.release()
    return None
