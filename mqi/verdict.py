"""The verdict that a run's report gives (`qa.json`), read as the words of a stranger.

`qa.json` was computed on another machine by a script that a site may have changed. Only its verdict and its reason
are taken over, and only when they fit the case; everything else is "not comparable" with a sentence, so that a file
that cannot be understood is never taken for a pass, and never keeps the results from coming home.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mqi.render import one_line
from mqi.results import PROVENANCE, read_json
from mqi.rows import Case

QA_FILE = "qa.json"
REPORT_HTML, REPORT_PDF = "report.html", "report.pdf"
PASS, CONDITIONAL, NOT_COMPARABLE, FAIL = "pass", "conditional", "not comparable", "fail"
# From harmless to worst; the same words as remote_scripts/steplib/verdict.py.
WORDS = (PASS, CONDITIONAL, NOT_COMPARABLE, FAIL)
# A conditional verdict is shown; these two need somebody to act.
NEEDS_OPERATOR = (NOT_COMPARABLE, FAIL)
_MAX_BYTES = 4 << 20
_MAX_REASON = 600


class Verdict(NamedTuple):
    """One of WORDS, and why in one line of printable text."""

    word: str
    reason: str


def verdict_of_run(run: Path, case: Case) -> Verdict | None:
    """The verdict among a published run's results; None when its workflow makes no report."""
    names = report_files(run, QA_FILE)
    if not names:
        return None
    if len(names) > 1:
        return Verdict(NOT_COMPARABLE, f"its results hold {len(names)} files {QA_FILE}; one is expected")
    try:
        with (run / names[0]).open("rb") as file:
            content = file.read(_MAX_BYTES + 1)
    except OSError as error:
        return Verdict(NOT_COMPARABLE, f"its {QA_FILE} cannot be read: {error.strerror or 'no reason given'}")
    return verdict_in(content, beams=case.beam_numbers, plan_uid=case.plan_uid)


def report_files(run: Path, name: str) -> list[str]:
    """Where the files lie, relative to the run's folder, that the steps of this run wrote as `name`."""
    outputs = (read_json(run / PROVENANCE) or {}).get("outputs", [])
    return [str(entry["file"]) for entry in outputs if entry.get("name") == name]


def verdict_in(content: bytes, *, beams: Sequence[int], plan_uid: str) -> Verdict:
    """The verdict that the bytes of a qa.json give for a case with these treatment beams and this plan."""
    if len(content) > _MAX_BYTES:
        return Verdict(NOT_COMPARABLE, f"its {QA_FILE} is larger than {_MAX_BYTES >> 20} MiB")
    try:
        value = json.loads(content.decode("utf-8"))
    except (ValueError, RecursionError):
        return Verdict(NOT_COMPARABLE, f"its {QA_FILE} is not JSON")
    if not isinstance(value, dict) or value.get("format") != 1:
        return Verdict(NOT_COMPARABLE, f"its {QA_FILE} is not of a format that this mqi knows")
    word, reason = value.get("verdict"), value.get("reason")
    if not isinstance(word, str) or word not in WORDS or not isinstance(reason, str):
        return Verdict(NOT_COMPARABLE, f"its {QA_FILE} gives no verdict that this mqi knows")
    contradiction = _contradiction(value, word, beams, plan_uid)
    if contradiction:
        return Verdict(NOT_COMPARABLE, f"its {QA_FILE} says {word}, but {contradiction}")
    return Verdict(word, one_line(reason.strip(), _MAX_REASON))


def _contradiction(value: dict[str, Any], word: str, beams: Sequence[int], plan_uid: str) -> str:
    entries = value.get("beams")
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        return "not of which beams"
    numbers = [entry.get("number") for entry in entries]
    if not all(type(number) is int for number in numbers) or sorted(numbers) != sorted(beams):
        return "of other beams than those of the case"
    words = [entry.get("verdict") for entry in entries]
    if not all(isinstance(each, str) and each in WORDS for each in words):
        return "not what of every beam"
    if any(WORDS.index(each) > WORDS.index(word) for each in words):
        return "a beam's verdict is worse"
    plan = value.get("plan")
    told = plan.get("sop_instance_uid") if isinstance(plan, dict) else None
    if plan_uid and told != plan_uid:
        return "of another plan than that of the case"
    return ""


def columns(verdict: Verdict | None, case_id: int) -> dict[str, Any]:
    """What the case's row says of a verdict."""
    if verdict is None:
        return {}
    found: dict[str, Any] = {"verdict": verdict.word}
    if verdict.word in NEEDS_OPERATOR:
        found["needs_operator"] = 1
        found["hint"] = (
            f'look at it: mqi report {case_id}; then: mqi report {case_id} --reviewed --reason "…", or with '
            f'other criteria: mqi retry {case_id} --from report --reason "…"'
        )
    return found


def words(verdict: Verdict | None, otherwise: str) -> str:
    """The case's reason: the verdict's, or `otherwise` without one."""
    return otherwise if verdict is None else f"verdict {verdict.word}: {verdict.reason}"
