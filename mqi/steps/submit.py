"""submit: take new cases within the hosts' capacity, upload what the host lacks, hand over the plans.

`begin` is committed before any effect, and every effect after it may be repeated: the same names carry
the same bytes. What a killed run left behind is taken up by the next one on the same path.
"""

from __future__ import annotations

from mqi.age import note_newest_event
from mqi.case import State
from mqi.site import Site
from mqi.steps import StepReport


def submit(site: Site) -> StepReport:
    """Begin what fits, then bring everything that is `submitting` to its host."""
    report = StepReport("submit")
    if not site.store.cases(State.NEW, State.SUBMITTING):
        return report
    # Imported only now: most runs find nothing to submit, and loading these takes longer than asking.
    from mqi.steps.deliver import deliver
    from mqi.steps.place import place_new_cases

    place_new_cases(site, report)
    note_newest_event(site.store, site.settings.paths.newest_event)
    for host in site.settings.hosts:
        # A case that an operator cancels meanwhile is seen through by sync.
        submitting = site.store.cases(State.SUBMITTING, host=host.name)
        cases = [case for case in submitting if case.cancel_requested_at is None]
        if cases and not site.resting(host.name):
            deliver(site, host.name, cases, report)
    return report
