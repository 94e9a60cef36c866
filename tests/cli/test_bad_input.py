"""Bad input: a clear sentence, the right exit code, and nothing lost."""

from __future__ import annotations

import shutil
import sqlite3
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Installation

pydicom = pytest.importorskip("pydicom")


def say(done: Any) -> str:
    return str(done.stdout + done.stderr)


# --- configuration and database ------------------------------------------------------------------------


def test_five_mistakes_are_all_named_with_line_and_key(site: Installation) -> None:
    (site.root / "mqi.yaml").write_text(
        "timezone: Asia/Soul\n"
        "watch:\n"
        "  - {path: cases, room: G1, quite: 30s}\n"
        "  - {path: other, room: g1, depth: minus one}\n"
        "hosts:\n"
        "  - {name: here, type: telnet}\n",
        encoding="utf-8",
    )
    said = say(site.run("status", code=78))
    for words in ("Asia/Soul", "quite", "quiet", "depth", "telnet", "g1", "3", "6"):
        assert words in said, f"{words}\n{said}"


def test_no_configuration(tmp_path: Path, site: Installation) -> None:
    (site.root / "mqi.yaml").unlink()
    assert "mqi.yaml" in say(site.run("status", code=78))


def test_a_configuration_that_is_no_yaml(site: Installation) -> None:
    (site.root / "mqi.yaml").write_bytes(b"watch: [\xff\xfe")
    site.run("cycle", code=78)


def test_a_newer_and_a_damaged_database(site: Installation) -> None:
    site.run("status")
    connection = sqlite3.connect(site.root / "mqi.db")
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    assert "version 99" in say(site.run("cycle", code=78))
    (site.root / "mqi.db").write_bytes(b"garbage" * 1000)
    for leftover in ("mqi.db-wal", "mqi.db-shm"):
        (site.root / leftover).unlink(missing_ok=True)
    assert "damaged" in say(site.run("status", code=78))


def test_a_locked_database_is_temporary(site: Installation) -> None:
    site.run("status")
    config = site.root / "mqi.yaml"
    config.write_text(
        config.read_text(encoding="utf-8").replace("timing: {", "timing: {database_wait: 1s, "),
        encoding="utf-8",
    )
    connection = sqlite3.connect(site.root / "mqi.db", isolation_level=None)
    connection.execute("BEGIN EXCLUSIVE")
    try:
        assert "locked" in say(site.run("scan", code=75)) or "writing" in say(site.run("scan", code=75))
    finally:
        connection.execute("ROLLBACK")
        connection.close()
    site.run("scan")


def test_a_missing_watch_folder(site: Installation) -> None:
    site.cases.rmdir()
    assert "G1" in say(site.run("cycle", code=75))
    assert "G1" in say(site.run("status"))
    site.run("status", "--check", code=40)
    site.cases.mkdir()
    site.run("cycle")
    site.run("status", "--check")


@pytest.mark.parametrize(
    "arguments",
    [
        ("retry", "nobody"), ("why", "99"), ("logs", "x"), ("cancel", "1"), ("status", "--state", "dead"),
        ("status", "--since", "yesterday"), ("nonsense",), ("priority", "1", "high"), ("status", "--no-such"),
    ],
)  # fmt: skip
def test_wrong_use(site: Installation, arguments: tuple[str, ...]) -> None:
    assert say(site.run(*arguments, code=2))


def test_an_ambiguous_name_lists_the_candidates(site: Installation) -> None:
    site.sample("P10")
    site.sample("P11", seed=2)
    site.run("scan")
    said = say(site.run("why", "P1", code=2))
    assert "P10" in said
    assert "P11" in said
    site.run("why", "P11")


# --- folders -------------------------------------------------------------------------------------------


def waiting_reason(site: Installation, case_id: int = 1) -> str:
    """The reason after enough scans; the case still waits, `why` says so, and no step went wrong."""
    site.run("cycle")
    site.run("cycle")
    case = site.case(case_id)
    assert case["state"] == "waiting", case
    assert case["reason"][:20] in site.run("why", str(case_id)).stdout
    return str(case["reason"])


def plan_of(folder: Path) -> Path:
    for path in folder.rglob("*.dcm"):
        if pydicom.dcmread(path, stop_before_pixels=True).get("Modality") == "RTPLAN":
            return path
    raise AssertionError("no plan")


def change_plan(folder: Path, change: Any) -> None:
    path = plan_of(folder)
    plan = pydicom.dcmread(path)
    change(plan)
    plan.save_as(path)


def test_an_empty_folder(site: Installation) -> None:
    (site.cases / "P1").mkdir()
    assert "empty" in waiting_reason(site)


def test_no_plan(site: Installation) -> None:
    folder = site.sample()

    def into_ct(plan: Any) -> None:
        plan.SOPClassUID = plan.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.2"
        plan.Modality = "CT"

    change_plan(folder, into_ct)
    assert "no RT Ion Plan" in waiting_reason(site)
    assert site.run("status", "--check", code=40)


def test_a_plan_that_is_not_dicom(site: Installation) -> None:
    folder = site.sample()
    plan_of(folder).write_text("not DICOM", encoding="utf-8")
    assert waiting_reason(site)


def test_a_truncated_plan(site: Installation) -> None:
    folder = site.sample()
    path = plan_of(folder)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert waiting_reason(site)


def test_two_plans(site: Installation) -> None:
    folder = site.sample()
    shutil.copy(plan_of(folder), folder / "second.dcm")
    assert "two" in waiting_reason(site).lower() or "2" in waiting_reason(site)


def test_a_photon_plan(site: Installation) -> None:
    folder = site.sample()

    def photon(plan: Any) -> None:
        plan.SOPClassUID = plan.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.481.5"

    change_plan(folder, photon)
    assert "photon" in waiting_reason(site).lower()


def test_a_plan_without_a_treatment_beam(site: Installation) -> None:
    folder = site.sample()

    def only_setup(plan: Any) -> None:
        for beam in plan.IonBeamSequence:
            beam.TreatmentDeliveryType = "SETUP"

    change_plan(folder, only_setup)
    assert "treatment beam" in waiting_reason(site)


def test_a_corrected_folder_goes_on_by_itself(site: Installation) -> None:
    folder = site.sample()
    second = folder / "second.dcm"
    shutil.copy(plan_of(folder), second)
    waiting_reason(site)
    second.unlink()
    site.cycle_until("completed")
    assert len(site.status()["cases"]) == 1


@pytest.mark.skipif(sys.platform == "win32", reason="making links needs a privilege on Windows")
def test_one_bad_folder_does_not_stop_the_others(site: Installation) -> None:
    bad = site.sample("BAD", seed=2)
    plan_of(bad).write_text("not DICOM", encoding="utf-8")
    (site.cases / "LINK").mkdir()
    (site.cases / "LINK" / "out.dcm").symlink_to("/etc/passwd")
    site.sample("GOOD")
    for _round in range(3):
        site.run("cycle")
    by_name = {case["name"]: case for case in site.status()["cases"]}
    site.cycle_until("completed", case_id=by_name["GOOD"]["case_id"])
    assert by_name["BAD"]["state"] == by_name["LINK"]["state"] == "waiting"
    assert "link" in by_name["LINK"]["reason"]


HOSTILE = [
    "with space", "quo'te", 'dou"ble', "new\nline", "semi;colon", "$(touch pwned)", "`touch pwned`", "..hidden",
    "김철수", "x" * 200, "CON", "aux.txt", "trailing.", "trailing ", "a:b", "a*b?", "-rf", "%PATH%", "tab\there", "&&",
]  # fmt: skip


@pytest.mark.skipif(sys.platform == "win32", reason="such names exist on POSIX only")
def test_hostile_names_of_cases_and_files(site: Installation) -> None:
    # One job for each case: jobs know no names, and their results come home as one folder.
    workflow = site.root / "default_qa.yaml"
    workflow.write_text(workflow.read_text(encoding="utf-8").partition("  - name: simulate")[0], encoding="utf-8")
    for number, name in enumerate(HOSTILE):
        folder = site.sample(name, seed=number)
        (folder / f"{name}.log").write_text(name, encoding="utf-8")
    for _round in range(200):
        site.run("cycle", code=None)
        cases = site.status()["cases"]
        if {case["state"] for case in cases} == {"completed"}:
            break
    assert {case["name"]: case["state"] for case in cases} == dict.fromkeys(HOSTILE, "completed")
    folders = {Path(case["results_path"]).parent for case in cases}
    assert len({folder.name.casefold() for folder in folders}) == len(HOSTILE)
    for folder in folders:
        assert folder.parent == site.results / "G1"
        assert not set(folder.name) & set('<>:"/\\|?*\n\t')
        assert not folder.name.endswith((".", " "))
    assert not list(site.root.rglob("pwned"))
    site.run("status")
    log = site.log_text()
    assert "김철수" not in log
    assert "touch pwned" not in log


@pytest.mark.skipif(sys.platform == "win32", reason="they are one name on Windows")
def test_names_that_differ_only_in_case_keep_their_results_apart(site: Installation) -> None:
    site.sample("abc", seed=1)
    site.sample("ABC", seed=2)
    for case_id in (1, 2):
        site.cycle_until("completed", case_id=case_id)
    folders = [Path(case["results_path"]).parent.name.casefold() for case in site.status()["cases"]]
    assert len(set(folders)) == 2


# --- disks ---------------------------------------------------------------------------------------------


def test_results_that_cannot_be_written_wait_on_the_host(site: Installation) -> None:
    # A file where the folder should be: root may write into read-only folders, but not into this.
    site.results.write_text("in the way", encoding="utf-8")
    site.sample()
    site.cycle_until("fetching")
    done = site.run("fetch", code=75)
    assert "results folder" in say(done)
    assert site.case()["state"] == "fetching"
    assert "results" in site.case()["reason"]
    site.results.unlink()
    site.cycle_until("completed")
    assert len(site.ledger()) == 3


def test_a_full_results_disk(site: Installation, tmp_path: Path) -> None:
    config = site.root / "mqi.yaml"
    text = config.read_text(encoding="utf-8").replace("min_free: 1 MiB", "min_free: 900 TiB")
    site.sample()
    for _round in range(100):
        for step in ("scan", "submit", "sync"):
            site.run(step)
        if site.state_of(1) == "fetching":
            break
    config.write_text(text, encoding="utf-8")
    done = site.run("fetch", code=75)
    assert "GiB free" in say(done)
    config.write_text(text.replace("900 TiB", "1 MiB"), encoding="utf-8")
    site.cycle_until("completed")
    assert len(site.ledger()) == 3
