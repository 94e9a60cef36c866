"""Is this database older than the one that was used last? A backup that was restored does not know by itself.

The id of the newest event is noted beside the configuration before anything is handed to a host. A database
whose newest event is older has forgotten runs: like a new database, it asks every host what it holds before
it submits anything, so that no run is sent to a second host.
"""

from __future__ import annotations

import logging
from pathlib import Path

from mqi.errors import DiskProblem
from mqi.results import replace
from mqi.site import Site

log = logging.getLogger("mqi.submit")


def _note(site: Site) -> Path:
    return site.settings.paths.installation.with_suffix(".events")


def _noted(site: Site) -> int:
    try:
        return int(_note(site).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return 0  # never noted, or unreadable: the hosts were asked when the database was made


def notice_older_database(site: Site) -> None:
    """Forget what the hosts are known to hold when this database is older than the one used last."""
    if site.store.newest_event() >= _noted(site):
        return
    log.warning("the database is older than the one used last; every host is asked which runs it holds")
    with site.store.together():
        for row in site.store.hosts():
            site.store.put_host(row.name, inventoried_at=None)
    # Only now: the forgetting is committed, and survives when this process is killed here.
    note_newest_event(site)


def note_newest_event(site: Site) -> None:
    """Note the newest event, after the intents of this run are committed and before any of them is carried out."""
    newest = site.store.newest_event()
    if newest == _noted(site):
        return
    path = _note(site)
    part = path.with_name(path.name + ".part")
    try:
        part.write_text(f"{newest}\n", encoding="utf-8")
        replace(part, path)
    except OSError as error:
        raise DiskProblem(
            f"the newest event cannot be noted beside the configuration: {error.strerror or error}",
            f"let the account that runs mqi write {path}; nothing is submitted until then",
        ) from error
