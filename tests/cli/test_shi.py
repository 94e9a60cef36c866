"""The clinic's layout through the commands that a site runs: two fractions of one study, each computed once."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from tests.cli.conftest import Installation
from tests.intake.studies import StudyFolder, stamp

FIRST = (stamp("2026-03-05 17:55", 12), stamp("2026-03-05 17:59"))
SECOND = (stamp("2026-03-06 17:55"), stamp("2026-03-06 17:59"))


@pytest.fixture
def shi_site(site: Installation) -> Installation:
    config = site.root / "mqi.yaml"
    text = config.read_text(encoding="utf-8").replace("room: G1", "room: G1\n    layout: shi")
    config.write_text(text, encoding="utf-8")
    return site


def fraction(study: StudyFolder, names: tuple[str, str]) -> None:
    study.deliver(names[0], 3, [1, 2])
    study.deliver(names[1], 2, [1, 2, 3])


def test_each_fraction_is_computed_once_and_by_itself(shi_site: Installation) -> None:
    site = shi_site
    study = StudyFolder(site.cases, "P001/S1")
    study.put_plan({2: 3, 3: 2})
    study.ready()
    fraction(study, FIRST)
    case = site.cycle_until("completed")
    assert (case["fraction"], case["deliveries"], case["partial"]) == (FIRST[0], list(FIRST), None)
    assert case["name"] == f"P001/S1 {FIRST[0]}"
    fraction(study, SECOND)
    second = site.cycle_until("completed", case_id=2)
    assert second["deliveries"] == list(SECOND)
    steps = Counter(key.split(".", 1)[1] for key in site.ledger())
    assert steps == {"prepare-a1": 2, "simulate.b2-a1": 2, "simulate.b3-a1": 2}
    assert sorted(path.name for path in (site.results / "G1").iterdir()) == [
        f"P001_S1_{FIRST[0]}",
        f"P001_S1_{SECOND[0]}",
    ]
    inputs = {
        entry["path"].partition("/")[0]
        for entry in _provenance(Path(second["results_path"]))["inputs"]
    }
    assert inputs == {"RP.1.dcm", *SECOND}
    shown = site.run("status", SECOND[0]).stdout
    assert "P001/S1" in shown
    assert SECOND[1] in shown
    site.run("cycle")
    assert len(site.status()["cases"]) == 2
    assert "P001" not in site.log_text()


def test_a_fraction_that_lacks_a_beam_says_until_when_it_waits(shi_site: Installation) -> None:
    site = shi_site
    study = StudyFolder(site.cases, "P001/S1")
    study.put_plan({2: 3, 3: 2})
    study.ready()
    study.deliver(FIRST[0], 3, [1, 2])
    for _ in range(3):
        site.run("scan")
    why = site.run("why", FIRST[0]).stdout
    assert "P001/S1" in why
    assert "waits for beam 2 of 2 until " in why
    assert "beam 2 was not delivered" in why
    study.deliver(FIRST[1], 2, [1, 2, 3], DICOM_PATIENT_ID="P002")
    for _ in range(3):
        site.run("scan")
    assert "patient ID" in site.case()["reason"]
    site.run("status", "--check", code=40)
    assert "P00" not in site.log_text()


def _provenance(folder: Path) -> dict[str, list[dict[str, str]]]:
    return dict(json.loads((folder / "provenance.json").read_text(encoding="utf-8")))
