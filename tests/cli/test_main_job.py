"""The main job from folder to verified results, as a user runs it."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

from tests.cli.conftest import Installation


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_the_shipped_workflow_from_folder_to_result(real_site: Installation) -> None:
    folder = real_site.sample("PATIENT-4711")
    case = real_site.cycle_until("completed", "failed")
    assert case["state"] == "completed", case["reason"]
    assert case["progress"] == 100.0
    assert [(job["step"], job["beam"], job["state"]) for job in case["jobs"]] == [
        ("interpreter", None, "done"),
        ("moquisim", 2, "done"),
        ("moquisim", 3, "done"),
        ("report", None, "done"),
    ]
    # There is no delivery record in this folder: nothing to compare is no pass.
    assert case["verdict"] == "not comparable"
    results = Path(case["results_path"])
    assert results.parent.parent == real_site.results / "G1"
    for name in ("dose_planned.npz", "RD_beam_2_planned.dcm", "depth_dose.png", "summary.json"):
        assert (results / "moquisim" / "beam_2" / name).stat().st_size > 0
    provenance = json.loads((results / "provenance.json").read_text(encoding="utf-8"))
    for entry in provenance["inputs"]:
        assert sha256(folder / entry["path"]) == entry["sha256"]
    for entry in provenance["outputs"]:
        assert sha256(results / entry["file"]) == entry["sha256"]
    assert provenance["complete"] is True
    assert {job["definition"] for job in provenance["jobs"]} == {
        job["definition"] for job in provenance["jobs"]
    }
    latest = json.loads((results.parent / "latest.json").read_text(encoding="utf-8"))
    assert latest["run"] == results.name
    assert not list(results.parent.glob(".part*"))
    # Nothing that names a patient leaves the database, the results and the screen.
    outside = real_site.log_text() + "".join(
        path.read_text(encoding="utf-8", errors="replace")
        for path in (real_site.root / "work").rglob("*")
        if path.is_file()
        and path.name not in ("inputs.json", "plan.json")
        and path.stat().st_size < 1e6
        and "store" not in path.parts
        and "in" not in path.parts
    )
    assert "PATIENT-4711" not in outside
    assert "PATIENT-4711" not in "".join(str(path) for path in (real_site.root / "work").rglob("*"))


def test_the_steps_one_by_one_and_twice_each(site: Installation) -> None:
    site.sample()
    for _round in range(40):
        for step in ("scan", "submit", "sync", "fetch"):
            site.run(step)
            site.run(step)
        if site.case()["state"] == "completed":
            break
        time.sleep(0.1)
    assert site.case()["state"] == "completed"
    assert len(site.ledger()) == len(set(site.ledger())) == 3


def test_many_cycles_at_once_do_the_work_once(site: Installation) -> None:
    for number in range(4):
        site.sample(f"P{number}", seed=number)

    def cycles() -> None:
        for _round in range(6):
            site.run("cycle", code=None)

    threads = [threading.Thread(target=cycles) for _number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for case_id in range(1, 5):
        site.cycle_until("completed", case_id=case_id)
    assert max(Counter(site.ledger()).values()) == 1
    assert len(site.ledger()) == 12


def test_an_idle_cycle_does_nothing(site: Installation) -> None:
    site.sample()
    site.cycle_until("completed")
    site.run("cycle")  # releases the run
    before = (site.root / "work" / "seq").read_text(encoding="utf-8")
    events = len(json.loads(site.run("--json", "status", "1").stdout)["history"])
    assert site.run("cycle").stdout == ""
    assert (site.root / "work" / "seq").read_text(encoding="utf-8") == before, "an idle cycle asked the host"
    assert len(json.loads(site.run("--json", "status", "1").stdout)["history"]) == events


def test_a_failed_beam_keeps_the_good_one_and_retry_redoes_only_it(site: Installation) -> None:
    site.behave(b3={"exit": 3, "why": "the range of beam 3 is off by 5 mm"})
    site.sample()
    case = site.cycle_until("failed", "completed")
    assert case["state"] == "failed"
    assert "the range of beam 3 is off by 5 mm" in case["reason"]
    assert "1 of 2 beams of simulate" in case["reason"]
    good, bad = case["jobs"][1], case["jobs"][2]
    assert (good["state"], bad["state"], bad["exit_code"]) == ("done", "failed", 3)
    first = Path(case["results_path"])
    assert "simulating 3" in Path(bad["log"]).read_text(encoding="utf-8")
    assert bad["log"] in site.run("status", "1").stdout
    assert (first / "simulate" / "beam_2" / "dose.txt").is_file()
    assert not (first / "simulate" / "beam_3").exists()
    assert json.loads((first / "provenance.json").read_text(encoding="utf-8"))["complete"] is False
    assert "simulating 3" in site.run("logs", "1").stdout
    assert "simulating 2" in site.run("logs", "1", "--job", "simulate.b2").stdout
    assert site.run("status", "--check", code=40)
    site.behave()
    site.run("retry", "1", "--reason", "the machine file was wrong")
    case = site.cycle_until("completed")
    assert Counter(key.split(".", 1)[1] for key in site.ledger()) == {
        "prepare-a1": 1, "simulate.b2-a1": 1, "simulate.b3-a1": 1, "simulate.b3-a2": 1,
    }  # fmt: skip
    second = Path(case["results_path"])
    assert second != first
    assert first.is_dir(), "an older result is never touched"
    assert (second / "simulate" / "beam_3" / "dose.txt").is_file()
    assert json.loads((second.parent / "latest.json").read_text(encoding="utf-8"))["run"] == second.name
    history = json.loads(site.run("--json", "status", "1").stdout)["history"]
    assert "the machine file was wrong" in [event["reason"] for event in history]


def test_a_transient_exit_gets_next_attempts_by_itself_up_to_the_limit(site: Installation) -> None:
    site.behave(b2={"exit": 75, "why": "the licence is taken"})
    site.sample()
    case = site.cycle_until("failed", "completed")
    assert case["state"] == "failed"
    assert "the licence is taken" in case["reason"]
    assert [key.split(".", 1)[1] for key in site.ledger() if ".b2-" in key] == [
        "simulate.b2-a1", "simulate.b2-a2", "simulate.b2-a3",
    ]  # fmt: skip


def test_progress_reaches_the_screen(site: Installation) -> None:
    site.behave(b2={"sleep": 30}, b3={"sleep": 30})
    site.sample()
    site.cycle_until("running")
    for _attempt in range(50):
        site.run("sync")
        case = site.case()
        if case["jobs"][1]["message"] == "half way":
            break
        time.sleep(0.1)
    assert case["jobs"][1]["progress"] == 50.0
    assert 30 < case["progress"] < 95
    assert "half way" in site.run("status").stdout
    assert "simulating" in site.run("logs", "1").stdout
    assert "logs 1 -f" in site.run("why", "1").stdout


def test_cancel_ends_what_runs_and_says_so_until_the_host_confirms(site: Installation) -> None:
    site.behave(b2={"sleep": 60}, b3={"sleep": 60})
    site.sample()
    site.cycle_until("running")
    while len(site.ledger()) < 3:
        time.sleep(0.1)
    said = site.run("cancel", "1", "--reason", "wrong patient").stdout
    assert "when it has confirmed" in said
    case = site.case()
    assert case["state"] == "running"
    assert "being cancelled" in case["reason"]
    site.cycle_until("cancelled", limit_s=30)
    executed = len(site.ledger())
    site.run("cycle")
    assert len(site.ledger()) == executed
    site.behave()
    site.run("retry", "1")
    site.cycle_until("completed")
    assert max(Counter(site.ledger()).values()) == 1
    assert "simulate.b2-a2" in {key.split(".", 1)[1] for key in site.ledger()}
    assert "prepare-a2" not in {key.split(".", 1)[1] for key in site.ledger()}, "what was good is reused"


def test_a_cancelled_run_does_not_stay_on_the_host_for_ever(site: Installation) -> None:
    site.behave(b2={"sleep": 60}, b3={"sleep": 60})
    site.sample()
    run_key = site.cycle_until("running")["run_key"]
    site.run("cancel", "1")
    site.cycle_until("cancelled", limit_s=30)
    config = site.root / "mqi.yaml"
    config.write_text(config.read_text(encoding="utf-8") + "retention: {host_runs: 0s}\n", encoding="utf-8")
    site.run("cycle")
    site.run("cycle")
    assert not (site.root / "work" / "runs" / run_key).exists()
    site.behave()
    site.run("retry", "1")
    site.cycle_until("completed")
    assert max(Counter(site.ledger()).values()) == 1


def test_cancel_then_retry_before_the_host_has_heard_of_either(site: Installation) -> None:
    site.behave(b2={"sleep": 60}, b3={"sleep": 60})
    site.sample()
    site.cycle_until("running")
    site.run("cancel", "1")
    site.run("retry", "1")
    site.behave()
    site.cycle_until("completed")
    assert max(Counter(site.ledger()).values()) == 1


def test_hold_and_release(site: Installation) -> None:
    site.sample()
    site.run("scan")
    site.run("hold", "P1")
    for _round in range(3):
        site.run("cycle")
    case = site.case()
    assert (case["state"], case["held"]) == ("new", True)
    assert "held" in case["reason"]
    site.run("release", "P1")
    site.cycle_until("completed")


def test_priority_decides_who_goes_first(site: Installation) -> None:
    config = site.root / "mqi.yaml"
    config.write_text(
        config.read_text(encoding="utf-8").replace("work_dir: work", "work_dir: work\n    max_cases: 1"),
        encoding="utf-8",
    )
    site.sample("A", seed=1)
    site.sample("B", seed=2)
    site.run("scan")
    site.run("scan")
    site.run("priority", "B", "5")
    site.run("submit")
    states = {case["name"]: case["state"] for case in site.status()["cases"]}
    assert states == {"A": "new", "B": "queued"}
    assert "as many cases as it may have" in site.run("why", "A").stdout


def test_a_changed_folder_is_a_new_revision_and_a_touched_one_is_not(site: Installation) -> None:
    folder = site.sample()
    site.cycle_until("completed")
    some_file = next(path for path in folder.rglob("*") if path.is_file())
    some_file.touch()
    site.run("scan")
    expire_looks(site)
    site.run("scan")
    assert len(site.status()["cases"]) == 1, "only a time changed"
    (folder / "late.log").write_text("more", encoding="utf-8")
    site.cycle_until("completed", case_id=2)
    first, second = site.case(1), site.case(2)
    assert (first["state"], second["revision"]) == ("completed", 2)
    assert first["results_path"] != second["results_path"]
    (folder / "late.log").unlink()
    case = site.cycle_until("skipped", case_id=3)
    assert "same contents as case 1" in case["reason"]
    assert len(site.ledger()) == 6


def expire_looks(site: Installation) -> None:
    """Let an hour pass for the scan: every file is looked at again."""
    code = (
        "import sys, pathlib; from mqi.store import Store; s = Store(pathlib.Path(sys.argv[1]));\n"
        "with s.database.write() as c: c.execute('UPDATE cases SET looked_at = 0')"
    )
    subprocess.run([sys.executable, "-c", code, str(site.root / "mqi.db")], check=True)


def test_a_lost_database_costs_history_and_no_second_simulation(site: Installation) -> None:
    site.sample()
    case = site.cycle_until("completed")
    for path in site.root.glob("mqi.db*"):
        if path.is_file():
            path.unlink()
    again = site.cycle_until("completed")
    assert again["run_key"] == case["run_key"]
    assert len(site.ledger()) == 3
    assert Path(again["results_path"]).is_dir()


def test_a_database_lost_while_jobs_run(site: Installation) -> None:
    site.behave(b2={"sleep": 3}, b3={"sleep": 3})
    site.sample()
    site.cycle_until("running")
    for path in site.root.glob("mqi.db*"):
        if path.is_file():
            path.unlink()
    site.cycle_until("completed")
    assert max(Counter(site.ledger()).values()) == 1
    assert len(site.ledger()) == 3


def test_results_that_are_gone_are_not_shown_as_right(site: Installation) -> None:
    site.sample()
    case = site.cycle_until("completed")
    site.run("cycle")
    for path in site.root.glob("mqi.db*"):
        if path.is_file():
            path.unlink()
    dose = Path(case["results_path"]) / "simulate" / "beam_2" / "dose.txt"
    dose.write_text("another dose", encoding="utf-8")
    after = site.cycle_until("completed", "failed")
    assert after["state"] == "completed"
    anew = Path(after["results_path"])
    assert anew.name == Path(case["results_path"]).name + ".2"
    assert (anew / "simulate" / "beam_2" / "dose.txt").read_text(encoding="utf-8") == "dose of beam 2"
    assert dose.read_text(encoding="utf-8") == "another dose", "what lies there is evidence, and stays"
    assert len(site.ledger()) == 3


def test_an_emptied_work_directory_is_said_and_a_retry_computes_all_of_it(site: Installation) -> None:
    site.behave(b2={"sleep": 60}, b3={"sleep": 60})
    site.sample()
    site.cycle_until("running")
    site.stop_everything()
    shutil.rmtree(site.root / "work")
    case = site.cycle_until("failed")
    assert "has no such run" in case["reason"]
    site.behave()
    site.run("retry", "1")
    site.cycle_until("completed")
    assert "prepare-a2" in {key.split(".", 1)[1] for key in site.ledger()}


def test_baseline_skips_what_is_there_and_takes_what_comes(site: Installation) -> None:
    old = site.sample("OLD", seed=1)
    asked = site.run("scan", "--baseline").stdout
    assert "1 cases would be marked" in asked
    site.run("scan", "--baseline", "--yes")
    site.run("cycle")
    assert site.case(1)["state"] == "skipped"
    site.sample("NEW", seed=2)
    site.cycle_until("completed", case_id=2)
    assert site.case(1)["state"] == "skipped"
    (old / "fraction2.log").write_text("a new fraction of an old patient", encoding="utf-8")
    expire_looks(site)
    site.cycle_until("completed", case_id=3)
    assert site.case(3)["revision"] == 2


def test_purge_removes_what_was_fetched_long_enough_ago(site: Installation) -> None:
    site.sample()
    case = site.cycle_until("completed")
    site.run("cycle")
    run = site.root / "work" / "runs" / case["run_key"]
    assert run.is_dir()
    assert "0 runs due" in site.run("purge", "--dry-run").stdout
    config = site.root / "mqi.yaml"
    config.write_text(config.read_text(encoding="utf-8") + "retention: {host_runs: 0s}\n", encoding="utf-8")
    assert "1 runs due" in site.run("purge", "--dry-run").stdout
    assert run.is_dir()
    site.run("purge")
    assert not run.exists()
    assert (site.root / "work" / "receipts" / f"{case['run_key']}.json").is_file()
    site.run("retry", "1", "--all", "--reason", "once more after the purge")
    site.cycle_until("completed")
    assert Counter(key.split(".", 1)[1] for key in site.ledger())["prepare-a2"] == 1


def test_skip_and_its_undoing(site: Installation) -> None:
    site.sample()
    site.run("scan")
    site.run("skip", "1", "--reason", "a phantom")
    site.run("cycle")
    site.run("cycle")
    assert site.case()["state"] == "skipped"
    site.run("retry", "1")
    site.cycle_until("completed")
