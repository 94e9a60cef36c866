"""Is this database older than the one that was used last? A backup that was restored does not know by itself.

The id of the newest event is noted beside the configuration before anything is handed to a host. A database
whose newest event is older has forgotten runs: like a new database, it asks every host what it holds before
it submits anything, so that no run is sent to a second host. Every command that may add events looks first:
later, the new events would hide it.
"""

from __future__ import annotations

import logging
from pathlib import Path

from mqi.errors import DiskProblem
from mqi.renaming import replace
from mqi.store import Store

# When a database that was used before came back: Unix seconds, in `meta`.
OLDER_SINCE = "database is older since"

log = logging.getLogger("mqi.age")


def _noted(note: Path) -> int:
    try:
        return int(note.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return 0  # never noted, or unreadable: the hosts were asked when the database was made


def notice_older_database(store: Store, note: Path) -> None:
    """Forget what the hosts are known to hold when this database is older than the one used last."""
    noted = _noted(note)  # before the event: another process may add one and note it in between
    if store.newest_event() >= noted:
        return
    log.warning("the database is older than the one used last; every host is asked which runs it holds")
    with store.together():
        for row in store.hosts():
            store.put_host(row.name, inventoried_at=None)
        store.put_meta(OLDER_SINCE, str(store.now()))
    # Only now: the forgetting is committed, and survives when this process is killed here.
    note_newest_event(store, note)


def note_newest_event(store: Store, note: Path) -> None:
    """Note the newest event, after intents are committed and before any of them is carried out.

    Raises DiskProblem: without the note nothing may be handed to a host.
    """
    newest = store.newest_event()
    if newest == _noted(note):
        return
    part = note.with_name(note.name + ".part")
    try:
        part.write_text(f"{newest}\n", encoding="utf-8")
        replace(part, note)
    except OSError as error:
        raise DiskProblem(
            f"the newest event cannot be noted beside the configuration: {error.strerror or error}",
            f"let the account that runs mqi write {note}; nothing is submitted until then",
        ) from error
