"""What the database remembers of study folders; their fractions are rows of `cases`."""

from __future__ import annotations

import json
from typing import NamedTuple

from mqi.case import SETTLED, UNPROMISED
from mqi.rows import Case, case_from
from mqi.store import Store

# Fractions that settled longer ago are compared by the times of their folders only.
_OLD_S = 7 * 86400.0


class StudyRow(NamedTuple):
    """One row of `studies`; see schema_2.sql."""

    room: str
    path: str
    top_snapshot: str = ""
    top_since: float = 0.0
    plan_path: str = ""
    plan_sha256: str = ""
    folders: str = "[]"
    looked_at: float = 0.0


def study(store: Store, room: str, path: str) -> StudyRow:
    """What is known of this study; an empty row when that is nothing."""
    rows = store.database.read("SELECT * FROM studies WHERE room = ? AND path = ?", (room, path))
    return StudyRow(**dict(rows[0])) if rows else StudyRow(room, path)


def put_study(store: Store, row: StudyRow) -> None:
    """Insert or replace it."""
    with store.database.write() as connection:
        connection.execute(
            "INSERT OR REPLACE INTO studies VALUES (?,?,?,?,?,?,?,?)",
            (row.room, row.path, row.top_snapshot, row.top_since, row.plan_path, row.plan_sha256, row.folders,
             row.looked_at),
        )  # fmt: skip


def fractions(store: Store, room: str, path: str) -> list[Case]:
    """Every row of a study, the revisions of a fraction in order, without the frozen plans (they are large)."""
    columns = ", ".join("NULL AS plan" if name == "plan" else name for name in Case._fields)
    rows = store.database.read(
        f"SELECT {columns} FROM cases WHERE room = ? AND path = ? ORDER BY fraction, revision", (room, path)
    )
    return [case_from(row) for row in rows]


def settled_studies(store: Store, room: str, looked_after: float) -> dict[str, str]:
    """Path -> folder times (JSON) of the studies with nothing open that were looked at after `looked_after`.

    In one query: those that are no longer on disk have not been looked at lately, and are left out.
    """
    still_open = {
        case.path for case in store.cases(*UNPROMISED) if case.room == room and case.run_key is None
    }
    rows = store.database.read(
        "SELECT path, folders FROM studies WHERE room = ? AND looked_at > ? AND folders <> '[]'",
        (room, looked_after),
    )
    return {row["path"]: row["folders"] for row in rows if row["path"] not in still_open}


def known_deliveries(store: Store, room: str, path: str, looked_after: float) -> dict[str, int]:
    """Deliveries of submitted or settled fractions whose files need no look, with their folders' times."""
    known: dict[str, int] = {}
    for case in fractions(store, room, path):
        if case.promised and (case.looked_at > looked_after or is_old(case, store.now())):
            known |= {str(name): int(stamp) for name, stamp, _listing in json.loads(case.folders)}
        else:  # an open revision of the same fraction needs their files
            known = {name: stamp for name, stamp in known.items() if name not in case.delivery_names}
    return known


def is_old(case: Case, now: float) -> bool:
    """Whether a fraction ended so long ago that only the times of its folders are still compared."""
    return case.status in SETTLED and case.status_updated_at < now - _OLD_S
