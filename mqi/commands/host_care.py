"""host list, hold, release, lost: what is known of the execution hosts, and what operators say about them."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from mqi.commands.invocation import Invocation, invocation
from mqi.errors import HOST_ERRORS, HostRefused, UsageProblem

if TYPE_CHECKING:
    from mqi.site import Site

NAME = Annotated[str, typer.Argument(metavar="NAME", help="The host's name in mqi.yaml.")]


def add_to_group(group: typer.Typer) -> None:
    """Register the commands below `mqi host`."""
    group.command("list")(list_hosts)
    group.command()(hold)
    group.command()(release)
    group.command()(lost)


def list_hosts(context: typer.Context) -> None:
    """Show the hosts: which are used, which are left alone and why, their disks, queues and GPUs."""
    from mqi.render_hosts import host_json, hosts_table, resource_json, resources_table
    from mqi.rows import HostRow

    invoked = invocation(context)
    zone = invoked.settings.timezone
    min_free = {host.name: host.min_free_bytes for host in invoked.settings.hosts}
    with invoked.store() as store:
        now, resources = store.now(), store.resources()
        known = {row.name: row for row in store.hosts()}
    never = {name: HostRow(name, "", 0, None, None, None, 0, None, "", "{}", 0.0) for name in min_free}
    rows = list({**never, **known}.values())
    parts = [hosts_table(rows, min_free, now, zone, wide=True)]
    if resources:
        parts.append(resources_table(resources, now, zone, wide=True))
    value = {
        "hosts": [host_json(row, min_free.get(row.name, 0), now, zone) for row in rows],
        "gpu_resources": [resource_json(row, zone) for row in resources],
    }
    invoked.print("\n\n".join(parts), value)


def hold(context: typer.Context, name: NAME) -> None:
    """Send no new cases to a host; what is there goes on."""
    invoked = invocation(context)
    with invoked.site() as site:
        _configured(invoked, name)
        site.store.put_host(name, held=1)
    invoked.print(
        f"host {name}: no new cases go there; undo: mqi host release {name}", {"name": name, "held": True}
    )


def release(
    context: typer.Context,
    name: NAME,
    gpu: Annotated[
        str | None, typer.Option("--gpu", metavar="UUID", help="End the quarantine of this GPU of the host.")
    ] = None,
) -> None:
    """Use a host again that is held or left alone, from the next run on; with --gpu, one of its GPUs."""
    invoked = invocation(context)
    _configured(invoked, name)
    with invoked.site() as site:
        if gpu is not None:
            said = _lift(site, name, gpu)
        else:
            site.store.put_host(
                name, held=0, next_try_at=None, strikes=0, strike_reason="", no_cases_until=None
            )
            said = "it is asked by the next run, and used again when it answers"
    invoked.print(f"host {name}: {said}", {"name": name, "gpu": gpu, "message": said})


def _lift(site: Site, name: str, gpu: str) -> str:
    reply = site.ask(name, [{"verb": "lift", "gpu": gpu}]).replies[0]
    if not reply.get("ok"):
        raise HostRefused(f"host {name}: {reply.get('message')}", str(reply.get("code")))
    return (
        f"the GPU {gpu} is used again" if reply.get("lifted") else f"nothing was held against the GPU {gpu}"
    )


def lost(
    context: typer.Context,
    name: NAME,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Give up a host that will never answer again: its cases are computed anew on other hosts.

    Its work directory is not used any more, should it come back: it has to be emptied first.
    """
    from mqi.steps.lost_host import cases_at, declare_lost

    invoked = invocation(context)
    with invoked.site() as site:
        _refuse_living(site, invoked, name)
        waiting = cases_at(site, name)
        question = (
            f"{len(waiting)} cases that are on host {name} will be computed anew elsewhere, and what it computed is "
            f"given up. Is it certain that nothing of it runs any more?"
        )
        if not yes and (sys.stdin is None or not sys.stdin.isatty()):
            raise UsageProblem(f"nothing was done. {question}", f"if so: mqi host lost {name} --yes")
        if not yes and not typer.confirm(question):
            invoked.print("nothing was done", {"name": name, "cases": []})
            return
        let_go = declare_lost(site, name)
    lines = [f"case {case.case_id}: {case.reason}" for case in let_go]
    lines.append(f"host {name} is given up; to use it again, remove its work directory first")
    invoked.print("\n".join(lines), {"name": name, "cases": [case.case_id for case in let_go]})


def _refuse_living(site: Site, invoked: Invocation, name: str) -> None:
    """A host that answers is not lost: its jobs would go on beside their successors."""
    if invoked.settings.host(name) is None:
        return  # not in the configuration any more: it cannot be asked
    try:
        site.ask(name, [])
    except HostRefused as error:
        if error.code == "foreign_installation":
            return  # what is there now is not ours
    except HOST_ERRORS:
        return
    raise UsageProblem(
        f"host {name} has just answered, so it is not lost",
        f"to send nothing new there: mqi host hold {name}; to end a case there: mqi cancel CASE",
    )


def _configured(invoked: Invocation, name: str) -> None:
    if invoked.settings.host(name) is None:
        known = ", ".join(host.name for host in invoked.settings.hosts)
        raise UsageProblem(f"the configuration has no host {name!r}", f"its hosts: {known}")
