"""The verdict from qa.json to the operator's screen, and `mqi report`, as a user runs them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mqi.verdict import verdict_in
from tests.cli.conftest import Installation

REPORT = """\
  - name: report
    run: ["{python}", "-c", "import pathlib, shutil, sys; shutil.copy(sys.argv[1], 'qa.json'); pathlib.Path('report.html').write_text('<p>' + sys.argv[2]); pathlib.Path('report.pdf').write_text('%PDF')", "QA", "{level}"]
    needs: [simulate]
    group: cpu
    outputs: ["qa.json", "report.html", "report.pdf"]
    parameters: {level: "LEVEL"}
"""


def qa_text(verdict: str, reason: str = "beam 2: gamma 87.1 % is below 90 %") -> str:
    """A qa.json that fits the sample case."""
    beams = [{"number": number, "verdict": verdict} for number in (2, 3)]
    plan: dict[str, Any] = {"sop_instance_uid": SAMPLE_UID}
    return json.dumps({"format": 1, "verdict": verdict, "reason": reason, "plan": plan, "beams": beams})


def sample_uid() -> str:
    from mqi.sample import sample_beams, sample_plan

    return str(sample_plan(1, sample_beams(1)).SOPInstanceUID)


SAMPLE_UID = sample_uid()


def with_report(site: Installation, qa: str, level: str = "first") -> None:
    """Adds the report step to the quick workflow; its qa.json is a file that the test may change."""
    (site.root / "qa.json").write_text(qa, encoding="utf-8")
    path = site.root / "default_qa.yaml"
    head = path.read_text(encoding="utf-8").split("  - name: report")[0]
    step = REPORT.replace("QA", (site.root / "qa.json").as_posix()).replace("LEVEL", level)
    path.write_text(head + step, encoding="utf-8")


def test_a_failed_verdict_is_a_completed_case_that_needs_an_operator(site: Installation) -> None:
    with_report(site, qa_text("fail"))
    site.sample()
    case = site.cycle_until("completed", "failed")
    assert (case["state"], case["verdict"], case["needs_operator"]) == ("completed", "fail", True)
    assert case["reason"] == "verdict fail: beam 2: gamma 87.1 % is below 90 %"
    shown = site.run("status").stdout
    assert "verdict" in shown
    assert "completed!" in shown
    check = site.run("status", "--check", code=40)
    assert "1 cases need an operator" in check.stderr
    first = Path(site.run("report", "1", "--print-path").stdout.strip())
    assert first.read_text(encoding="utf-8") == "<p>first"
    assert site.run("report", "1", "--print-path", "--pdf").stdout.strip().endswith("report.pdf")

    # Other criteria: the same doses, another report; the old one is kept.
    before = site.ledger()
    with_report(site, qa_text("pass", "all good"), level="second")
    site.run("retry", "1", "--from", "report", "--reason", "other criteria")
    assert site.case()["verdict"] is None, "a verdict of results that the case no longer stands for"
    case = site.cycle_until("completed", "failed")
    assert (case["verdict"], case["needs_operator"]) == ("pass", False)
    assert site.ledger() == before, "a new report computed the doses again"
    second = Path(site.run("report", "1", "--print-path").stdout.strip())
    assert second.read_text(encoding="utf-8") == "<p>second"
    assert first.read_text(encoding="utf-8") == "<p>first"
    both = json.loads(site.run("--json", "report", "1", "--all").stdout)
    assert [(Path(each["report"]), each["verdict"]) for each in both] == [(second, "pass"), (first, "fail")]


def test_a_reviewed_verdict_stays_and_asks_no_more(site: Installation) -> None:
    with_report(site, qa_text("not comparable", "there is no delivery record"))
    site.sample()
    site.cycle_until("completed", "failed")
    site.run("status", "--check", code=40)
    assert "needs a reason" in site.run("report", "1", "--reviewed", code=2).stderr
    site.run("report", "1", "--reviewed", "--reason", "measured instead")
    case = site.case()
    assert (case["verdict"], case["needs_operator"]) == ("not comparable", False)
    assert "measured instead" in site.run("status", "1").stdout
    site.run("status", "--check")


@pytest.mark.parametrize("qa", ["", "{", "[" * 100_000, '{"format": 1, "verdict": "pass", "reason": "x", "beams": []}'])
def test_a_qa_file_that_cannot_be_understood_comes_home_as_not_comparable(site: Installation, qa: str) -> None:
    with_report(site, qa)
    site.sample()
    case = site.cycle_until("completed", "failed")
    assert (case["state"], case["verdict"], case["needs_operator"]) == ("completed", "not comparable", True)
    assert "its qa.json" in case["reason"]


def test_no_report_is_made_when_a_beam_failed(site: Installation) -> None:
    with_report(site, qa_text("pass"))
    site.behave(b3={"exit": 3, "why": "no dose"})
    site.sample()
    case = site.cycle_until("failed", "completed")
    assert (case["state"], case["verdict"]) == ("failed", None)
    assert not list(Path(case["results_path"]).rglob("qa.json"))
    assert "no report is made of a part of its beams" in site.run("report", "1", code=2).stderr


def test_report_says_why_there_is_none(site: Installation) -> None:
    assert "no case is called" in site.run("report", "nobody", code=2).stderr
    site.sample()
    site.run("scan")
    assert "has no results yet" in site.run("report", "1", code=2).stderr
    case = site.cycle_until("completed")
    assert case["verdict"] is None
    assert "its workflow makes none" in site.run("report", "1", code=2).stderr
    assert "has no verdict" in site.run("report", "1", "--reviewed", "--reason", "x", code=2).stderr


GOOD: dict[str, Any] = {
    "format": 1, "verdict": "pass", "reason": "fine", "plan": {"sop_instance_uid": "1.2"},
    "beams": [{"number": 2, "verdict": "pass"}, {"number": 3, "verdict": "pass"}],
}  # fmt: skip


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({}, "pass"),
        ({"reason": "a\nb\x1b[31m\ud800"}, "pass"),
        ({"reason": None}, "not comparable"),
        ({"verdict": "PASS"}, "not comparable"),
        ({"verdict": ["pass"]}, "not comparable"),
        ({"verdict": "fail"}, "fail"),
        ({"format": 2}, "not comparable"),
        ({"beams": [{"number": 2, "verdict": "pass"}]}, "not comparable"),
        ({"beams": [{"number": 2, "verdict": "pass"}] * 2}, "not comparable"),
        ({"beams": [{"number": 2, "verdict": "pass"}, {"number": 3, "verdict": "fail"}]}, "not comparable"),
        ({"beams": [{"number": 2, "verdict": {}}, {"number": 3, "verdict": "pass"}]}, "not comparable"),
        ({"beams": [{"number": True, "verdict": "pass"}, {"number": 3, "verdict": "pass"}]}, "not comparable"),
        ({"plan": {"sop_instance_uid": "1.3"}}, "not comparable"),
        ({"plan": []}, "not comparable"),
        ({"pad": "x" * (5 << 20)}, "not comparable"),
    ],
)
def test_what_is_taken_for_a_verdict(change: dict[str, Any], word: str) -> None:
    found = verdict_in(json.dumps({**GOOD, **change}).encode(), beams=[2, 3], plan_uid="1.2")
    assert found.word == word
    assert found.reason.isprintable()
    assert len(found.reason) <= 600
