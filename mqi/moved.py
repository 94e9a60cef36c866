"""Is this the computer that used this database last? A control PC that was copied does not know by itself.

Two copies go by one name at their hosts, and the job keys keep them from computing anything twice; but each carries
out what the other's operator undoes. So whichever notices says so.
"""

from __future__ import annotations

import logging
import platform

from mqi.store import Store

# In `meta`: the name of the computer that used the database last; and the one before, with the time of the change.
_COMPUTER, _BEFORE, _SINCE = "computer", "computer before", "computer since"

log = logging.getLogger("mqi.moved")


def notice_other_computer(store: Store) -> None:
    """Note the name of this computer, and the one before when it is another."""
    here, known = platform.node(), store.meta(_COMPUTER)
    if not here or here == known:
        return
    with store.together():
        if known:
            log.warning("this installation was used on another computer before")
            store.put_meta(_BEFORE, known)
            store.put_meta(_SINCE, str(store.now()))
        store.put_meta(_COMPUTER, here)


def moved_from(store: Store) -> tuple[str, float] | None:
    """The computer that used this database before this one, and since when this one does (Unix seconds)."""
    since = store.meta(_SINCE)
    return (store.meta(_BEFORE), float(since)) if since else None
