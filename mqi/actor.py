"""Who acts, on which computer: for the audit trail and the notes in locks."""

from __future__ import annotations

import os
from functools import cache


def computer() -> str:
    """This computer's name."""
    if hasattr(os, "uname"):
        return os.uname().nodename
    import socket  # two milliseconds of every start; needed on Windows alone

    return socket.gethostname()


@cache
def actor() -> str:
    """user@computer."""
    import getpass  # only who writes needs it

    try:
        user = getpass.getuser()
    except (OSError, KeyError, ImportError):
        user = "unknown"
    return f"{user}@{computer()}"
