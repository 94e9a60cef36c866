"""Whether what operators say is done: checked when a week is over."""

from __future__ import annotations

from dataclasses import dataclass

from mqi.case import Event, State
from tests.week.book import STEPS, Broken
from tests.week.world import Said, World

# mqi and the hosts hear of a wish within this, once everything is healthy.
_HEARD_S = 400.0


@dataclass(frozen=True)
class _Cancel:
    case_id: int
    digest: str


class Wishes:
    """Made when peace begins; `done` is asked when it is complete. Raises Broken."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._peace_at = world.clock.time
        self._last = self._last_words()
        rows = {row["case_id"]: row for row in world.read("SELECT * FROM cases")} if self._last else {}
        self._cancels = [
            _Cancel(case_id, rows[case_id]["run_digest"])
            for case_id, said in self._last.items()
            if said.what == "cancel" and rows[case_id]["cancel_requested_at"] is not None
        ]

    def _last_words(self) -> dict[int, Said]:
        """Case -> the last decision about it, of which this database can know."""
        losses = self._world.book.losses
        since = losses[-1] if losses else 0.0
        return {one.case_id: one for one in self._world.said if one.at > since}

    def done(self) -> None:
        for cancel in self._cancels:
            late = [
                one.key
                for one in self._world.book.executions
                if one.digest == cancel.digest and one.at > self._peace_at + _HEARD_S
            ]
            if late:
                raise Broken(f"case {cancel.case_id} was cancelled, and {late[0]} started all the same")
        for case_id, said in self._last.items():
            if said.what == "retry":
                self._retried(case_id, said)

    def _retried(self, case_id: int, said: Said) -> None:
        events = self._world.read("SELECT * FROM events WHERE case_id = ? AND at >= ?", case_id, said.at)
        again = [event for event in events if event["event"] in (Event.RETRY, Event.LOOK_AGAIN)]
        if all(event["before"] == event["after"] for event in again):
            raise Broken(f"the retry of case {case_id} was forgotten")
        case = self._world.read("SELECT * FROM cases WHERE case_id = ?", case_id)[0]
        if case["status"] != State.COMPLETED or case["run_digest"] != said.digest or said.argument is None:
            return
        from_step, redo_all = said.argument
        first = 0 if redo_all else STEPS.index(from_step) if from_step else len(STEPS)
        for step in STEPS[first:]:
            done = [
                one
                for one in self._world.book.executions
                if (one.digest, one.step, one.kind) == (said.digest, step, "ok") and one.at >= said.at
            ]
            if not done:
                raise Broken(f"case {case_id} is completed, and {step} was not computed again as asked")
