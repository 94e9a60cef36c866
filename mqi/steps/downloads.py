"""The downloads of fetch: what finished cases left on a host, in one stream, or case by case."""

from __future__ import annotations

import shutil
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from mqi.errors import AuthenticationProblem, DiskProblem, HostRefused, MqiError, TemporaryProblem
from mqi.host.base import RemoteFile
from mqi.job import Job, JobState
from mqi.results import Output, holds, lay_out, part_folder, run_folder
from mqi.rows import Case
from mqi.site import Site
from mqi.steps import StepReport, about
from mqi.steps.begin import workflow_of
from mqi.workflow import Workflow


def what_is_missing(jobs: Sequence[Job], reply: Mapping[str, Any]) -> str:
    """Why the host cannot give what the good jobs made, or ''. An answer without a job's outputs, or with
    others than it had when it ended, must never be published as a result."""
    if not reply.get("ok"):
        return str(reply.get("message") or "no reason given")
    for job in jobs:
        told = (reply["jobs"].get(job.job_key) or {}) if job.state is JobState.DONE else None
        if told is not None and str((told.get("exit") or {}).get("outputs") or "") != job.outputs:
            return f"the outputs of {job.title()} are not those that it had when it ended"
    return ""


def outputs_to_fetch(workflow: Workflow, jobs: Sequence[Job], told: Mapping[str, Any]) -> list[Output]:
    outputs = []
    for job in jobs:
        step = workflow.find(job.step)
        for file in (told.get(job.job_key) or {}).get("files", ()):
            path = str(file["path"])
            if step is None or step.fetches(path):
                outputs.append(
                    Output(job.job_key, job.step, job.beam, path, int(file["size"]), str(file["sha256"]))
                )
    return outputs


def download_together(
    site: Site, host: str, told: Sequence[tuple[Case, Sequence[Job], Mapping[str, Any]]]
) -> set[Path]:
    """The files of all these cases in one stream; those that have arrived, verified.

    Whatever keeps a case or a file from it is left to that case's own download, which says what is wrong. Only
    a host that falls silent is told of here, since the others need not try it again.
    """
    wanted: list[RemoteFile] = []
    sharing = []
    for case, jobs, reply in told:
        try:
            if what_is_missing(jobs, reply):
                continue
            layout = lay_out(outputs_to_fetch(workflow_of(site, case), jobs, reply["jobs"]))
            if not run_folder(site.settings.paths.results, case, layout).exists():
                part = part_folder(site.settings.paths.results, case)
                wanted += _remote_files(part, {p: o for p, o in layout.items() if not holds(part / p, o)})
                sharing.append(case)
        except MqiError:
            continue
    if len(sharing) < 2 or not wanted:
        return set()
    try:
        _check_room(site, site.settings.paths.results, sum(file.size for file in wanted))
        site.tell(f"fetching {len(wanted)} files of {len(sharing)} cases from {host}")
        outcome = site.download(host, wanted)
    except (DiskProblem, HostRefused):
        return set()  # of one case, perhaps: each is asked for by itself
    except (AuthenticationProblem, TemporaryProblem) as error:
        for case in sharing:
            with about(case):
                site.store.update(case, reason=f"{error}; what has arrived is kept", hint=error.hint)
        raise
    return {file.target for file in outcome.done}


def _remote_files(part: Path, outputs: Mapping[str, Output]) -> list[RemoteFile]:
    return [
        RemoteFile(output.job_key, output.path, output.size, output.sha256, part / path)
        for path, output in outputs.items()
    ]


def download(
    site: Site,
    case: Case,
    layout: Mapping[str, Output],
    part: Path,
    arrived: Collection[Path],
    report: StepReport,
) -> bool:
    """Everything that has not arrived yet into the part folder; True when it is all there and good."""
    missing = {p: o for p, o in layout.items() if part / p not in arrived and not holds(part / p, o)}
    if not missing:
        return True
    _check_room(site, part, sum(output.size for output in missing.values()))
    files = _remote_files(part, missing)
    site.tell(f"fetching {len(files)} files of case {case.case_id} from {case.host}")
    outcome = site.download(case.host, files)
    if outcome.failed:
        _file, why = outcome.failed[0]
        reason = f"{len(outcome.failed)} of {len(files)} files could not be fetched: {why}; tried again"
        site.store.update(case, reason=reason, **site.later(case))
        site.met(TemporaryProblem(f"case {case.case_id}: {reason}"))
        report.add("postponed")
        return False
    if outcome.paused:
        site.store.update(case, reason="its download goes on in the next run")
        report.add("paused")
        return False
    return True


def _check_room(site: Site, part: Path, size: int) -> None:
    try:
        part.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(part).free
    except OSError as error:
        raise DiskProblem(
            f"the results folder cannot be written: {error.strerror or error}",
            "check the results disk; the results are safe on the host until then",
        ) from error
    if free - size < site.settings.transfer.min_free_bytes:
        raise DiskProblem(
            f"the results disk has {free / 2**30:.1f} GiB free; {size / 2**30:.2f} GiB would leave less than "
            f"the limit of {site.settings.transfer.min_free_bytes / 2**30:.1f} GiB",
            "make room on the results disk; the results are safe on the host until then",
        )
