"""Is this the database that was used last, with all that it knew? A backup that was restored does not know by itself.

Before anything is handed to a host, the line of this database (a random name) and the id of its newest event are
noted beside the configuration. A database of another line, or with an older newest event, may have forgotten runs:
like a new database, it asks every host what it holds before it submits anything, so that no run is sent to a second
host. From then on it is a line of its own: the one that it left, and every backup of it, know nothing of what comes.
Every command that may add events looks first: later, the new events would hide it.
"""

from __future__ import annotations

import logging
import secrets
from pathlib import Path

from mqi.errors import DiskProblem
from mqi.renaming import replace
from mqi.store import Store

# When a database that was used before came back: Unix seconds, in `meta`.
OLDER_SINCE = "database is older since"
_LINE = "line of the database"

log = logging.getLogger("mqi.age")


def _noted(note: Path) -> tuple[int, str]:
    """Newest event and line; the line is '' in a note of a version of mqi that did not know of lines."""
    try:
        newest, _space, line = note.read_text(encoding="utf-8").strip().partition(" ")
        return int(newest), line
    except (OSError, ValueError):
        return 0, ""  # never noted, or unreadable: the hosts were asked when the database was made


def notice_older_database(store: Store, note: Path) -> None:
    """Forget what the hosts are known to hold when this database is not the one used last."""
    noted, line = _noted(note)  # before the event: another process may add one and note it in between
    if store.newest_event() >= noted and line in ("", store.meta(_LINE)):
        return
    log.warning("the database is older than the one used last; every host is asked which runs it holds")
    with store.together():
        for row in store.hosts():
            store.put_host(row.name, inventoried_at=None)
        store.put_meta(OLDER_SINCE, str(store.now()))
        store.put_meta(_LINE, secrets.token_hex(8))
    # Only now: the forgetting is committed, and survives when this process is killed here.
    note_newest_event(store, note)


def note_newest_event(store: Store, note: Path) -> None:
    """Note the newest event, after intents are committed and before any of them is carried out.

    Raises DiskProblem: without the note nothing may be handed to a host.
    """
    if not store.meta(_LINE):
        with store.together():  # another process may be about to name it, too
            if not store.meta(_LINE):
                store.put_meta(_LINE, secrets.token_hex(8))
    newest, line = store.newest_event(), store.meta(_LINE)
    if (newest, line) == _noted(note):
        return
    part = note.with_name(note.name + ".part")
    try:
        part.write_text(f"{newest} {line}\n", encoding="utf-8")
        replace(part, note)
    except OSError as error:
        raise DiskProblem(
            f"the newest event cannot be noted beside the configuration: {error.strerror or error}",
            f"let the account that runs mqi write {note}; nothing is submitted until then",
        ) from error
