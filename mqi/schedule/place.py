"""What a scheduled run of one installation needs of this computer. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import PurePath

from mqi.schedule.order import check_printable
from mqi.settings import Settings

# A cycle that moves no data is done in seconds; this is for a slow share, a slow host and a long listing.
_BESIDES_TRANSFER_S = 1500
_SHORTEST_LIMIT_S = 1800


@dataclass(frozen=True, slots=True)
class Place:
    """Absolute paths as text, in this system's style; times in seconds."""

    python: str
    config: str
    # The folder of the configuration: the working directory, and where the installation id lies.
    folder: str
    # The folders that a run writes to.
    folders: tuple[str, ...]
    # The same without those that lie inside another one.
    writes: tuple[str, ...]
    # Written too, but on a disk that may be away for a while, without stopping the rest.
    results: str
    # Folders that a run must never write to.
    watch: tuple[str, ...]
    # What else a run reads: programs, libraries, workflows.
    reads: tuple[str, ...]
    # Where cron's line leaves the exit code of the last run.
    notes: str
    # A local host: jobs are children of the run and outlive it.
    runs_jobs: bool
    uses_gpus: bool
    # A host that is reached by network.
    uses_network: bool
    # The scheduler ends a run after this time. Longer than any run that does what it should.
    limit_s: int

    @property
    def paths(self) -> tuple[str, ...]:
        """Every path that a run touches."""
        return (*self.writes, self.results, *self.watch, *self.reads, self.config, self.python)


def place_of(settings: Settings, python: str, libraries: Sequence[str]) -> Place:
    """What this configuration needs, run by `python`, whose code lies in the folders `libraries`.

    Raises ConfigurationProblem for a path that no scheduler can be told.
    """
    local = [host for host in settings.hosts if host.type == "local"]
    writes = [
        settings.paths.database.parent,
        settings.paths.logs,
        settings.paths.locks.parent,
        settings.paths.installation.parent,
    ]
    folders = [*dict.fromkeys(map(str, writes)), *(host.work_dir for host in local)]
    reads = [python, *libraries, *(str(path.parent) for path in settings.workflows.values())]
    reads += [host.python for host in local if host.python]
    place = Place(
        python=python,
        config=str(settings.source),
        folder=str(settings.source.parent),
        folders=tuple(folders),
        writes=_outermost(folders),
        results=str(settings.paths.results),
        watch=tuple(dict.fromkeys(str(watch.path) for watch in settings.watch)),
        reads=_outermost(reads),
        notes=str(settings.paths.locks),
        runs_jobs=bool(local),
        uses_gpus=any(group.gpus != "none" for host in local for group in host.queue.groups),
        uses_network=len(local) < len(settings.hosts),
        limit_s=max(_SHORTEST_LIMIT_S, -(-int(settings.transfer.budget_s) // 60) * 60 + _BESIDES_TRANSFER_S),
    )
    check_printable(*place.paths)
    return place


def _outermost(paths: Iterable[str]) -> tuple[str, ...]:
    """The paths without those that lie inside another one, in their order."""
    unique = dict.fromkeys(paths)
    parsed = {text: PurePath(text) for text in unique}
    return tuple(
        text
        for text in unique
        if not any(parsed[other] in parsed[text].parents for other in unique if other != text)
    )


def arguments(place: Place, command: str) -> tuple[str, ...]:
    """What follows the interpreter's name. -I: neither the folder nor the user's packages change what runs."""
    return ("-X", "utf8", "-I", "-m", "mqi", "--config", place.config, command)
