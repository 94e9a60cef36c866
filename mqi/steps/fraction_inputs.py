"""The files of a fraction when it is submitted: its plan and its deliveries, as they were judged."""

from __future__ import annotations

from mqi.intake.listing import list_unit
from mqi.intake.study import fraction_snapshot, sort_out
from mqi.intake.unit import FileStat
from mqi.rows import Case
from mqi.settings import WatchFolder
from mqi.site import Site
from mqi.steps.scan_study import claims_of, groups_of, known_plans
from mqi.studies import fractions, study


def fraction_files(site: Site, watch: WatchFolder, case: Case) -> tuple[tuple[FileStat, ...], str]:
    """(the files, "") or ((), why the fraction is not what was judged).

    This is where membership is promised: only `submit` does so, under its lock, and each time with what the
    study and the other fractions are now, so no delivery is ever promised to two of them.
    """
    names = case.delivery_names
    unit = list_unit(watch, case.path)
    if unit is None or unit.placeholder:
        return (), "its folder has vanished"
    found = sort_out(unit)
    row = study(site.store, watch.room, case.path)
    if any(name not in found.deliveries for name in names):
        return (), "a delivery folder has vanished"
    plan = [file for file in found.top if file.path == row.plan_path]
    files = (*plan, *found.files_of(names))
    if case.run_key is not None:
        return files, ""  # a retry: the run key tells whether these are the inputs of then
    if unit.problem or unit.temporary:
        return (), unit.problem or "something is still being written"
    others = [one for one in fractions(site.store, watch.room, case.path) if one.case_id != case.case_id]
    mine = [
        one for one in groups_of(site, watch, found, claims_of(others)) if set(names) & set(one.deliveries)
    ]
    if len(mine) != 1 or mine[0].deliveries != names or mine[0].contested:
        return (), "another delivery has come to it"
    stamps = found.stamps_of(names, {})
    if fraction_snapshot(stamps) != case.snapshot or found.top_snapshot != row.top_snapshot or not plan:
        return (), "its folder changed after it was complete"
    known = known_plans(others)
    if row.plan_sha256 != case.plan_sha256 or (known and case.plan_sha256 not in known):
        return (), "the RT Ion Plan changed after it was complete"
    return files, ""
