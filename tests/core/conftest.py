"""Builders shared by the tests of pure functions."""

from __future__ import annotations

from typing import Any

import pytest

from mqi.case import State
from mqi.rows import Case

_DEFAULTS: dict[str, Any] = {
    "case_id": 1, "room": "G1", "path": "P1", "case_path": "/cases/P1", "fraction": "", "revision": 1,
    "results_name": "P1", "workflow": "default_qa", "status": State.WAITING, "status_updated_at": 1000.0,
    "reason": "", "hint": "", "needs_operator": False, "folder_note": "", "progress": 0.0, "current_step": "",
    "priority": 0, "held": False, "snapshot": "", "snapshot_at": 0.0, "judged_snapshot": "", "folders": "[]",
    "looked_at": 0.0, "next_look_at": None, "beams": '[[2,"TX"],[3,"TY"]]', "plan_uid": "", "run_key": None,
    "run_digest": None, "host": "", "pueue_group": "", "plan": None, "plan_serial": 0, "host_serial": 0,
    "cancel_requested_at": None, "retry": None, "attempts": 0, "next_try_at": None, "first_seen_at": 900.0,
    "ready_at": None, "submitted_at": None, "started_at": None, "completed_at": None, "released_at": None,
    "purged_at": None, "results_path": "", "verdict": "",
}  # fmt: skip


def make_case(**changes: Any) -> Case:
    """A case row with everything at its default but `changes`."""
    return Case(**{**_DEFAULTS, **changes})


@pytest.fixture
def a_case() -> Any:
    return make_case
