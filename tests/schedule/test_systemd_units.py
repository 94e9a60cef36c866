"""Units of systemd: golden files, systemd's own opinion, hostile paths, drift, and what systemctl answers."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mqi.errors import ConfigurationProblem
from mqi.schedule import systemd
from mqi.schedule.order import Order
from mqi.schedule.place import Place
from tests.schedule.conftest import LINUX_PLACE, POSIX, needs

SYSTEM = Order("systemd", 60, "mqi")
USER = Order("systemd-user", 60)
JOBS = replace(LINUX_PLACE, runs_jobs=True, uses_network=False)
GPUS = replace(JOBS, uses_gpus=True)
HOME = replace(LINUX_PLACE, python="/home/kim/mqi/bin/python", config="/home/kim/my mqi/한글.yaml", folder="/home/kim/my mqi")

SERVICES: dict[str, tuple[Order, Place]] = {
    # The whole set of the facts: a control PC that reaches its hosts by network.
    "remote": (SYSTEM, LINUX_PLACE),
    "local-jobs": (SYSTEM, JOBS),
    "local-gpus": (SYSTEM, GPUS),
    "user": (USER, HOME),
    "user-local-jobs": (USER, JOBS),
    "on-failure": (replace(SYSTEM, on_failure="mail@%n.service"), LINUX_PLACE),
}


@pytest.mark.parametrize("name", SERVICES)
def test_golden_services(name: str, golden: Callable[[str, str], None]) -> None:
    golden(f"{name}.service", systemd.service(*SERVICES[name], "cycle"))


@pytest.mark.parametrize(("name", "every_s"), [("1min", 60), ("10s", 10), ("90s", 90), ("1day", 86400)])
def test_golden_timers(name: str, every_s: int, golden: Callable[[str, str], None]) -> None:
    golden(f"{name}.timer", systemd.timer(replace(SYSTEM, every_s=every_s), LINUX_PLACE, "sync"))


def verify(folder: Path, order: Order, place: Place) -> str:
    """Everything that `systemd-analyze verify` prints about the units of this order."""
    needs("systemd-analyze")
    paths = []
    for text, name in zip(
        (systemd.service(order, place, "cycle"), systemd.timer(order, place, "cycle")),
        systemd.unit_names("cycle"),
        strict=True,
    ):
        (folder / name).write_text(text, encoding="utf-8")
        paths.append(str(folder / name))
    mode = ["--user"] if order.backend == "systemd-user" else []
    done = subprocess.run(
        ["systemd-analyze", *mode, "verify", *paths],
        capture_output=True,
        text=True,
        check=False,
        env={"XDG_RUNTIME_DIR": str(folder), "PATH": "/usr/bin:/bin", "SYSTEMD_LOG_COLOR": "0"},
    )
    return done.stdout + done.stderr


def real(place: Place, folder: Path) -> Place:
    """The place with a program and folders that exist, in `folder`."""
    program = folder / "python"
    program.write_text("#!/bin/sh\n", encoding="utf-8")
    program.chmod(0o755)
    return replace(
        place,
        python=str(program),
        config=str(folder / "mqi.yaml"),
        folder=str(folder),
        folders=(str(folder),),
        writes=(str(folder),),
        results=str(folder / "results"),
    )


@pytest.mark.parametrize("name", [name for name in SERVICES if name != "on-failure"])
def test_systemd_has_nothing_to_say(name: str, tmp_path: Path) -> None:
    order, place = SERVICES[name]
    # Not its exit code: that is 0 for an unknown key and for a bad Type (measured).
    assert verify(tmp_path, order, real(place, tmp_path)) == ""


@pytest.mark.parametrize("every_s", [10, 60, 90, 86400])
def test_systemd_has_nothing_to_say_about_timers(every_s: int, tmp_path: Path) -> None:
    assert verify(tmp_path, replace(SYSTEM, every_s=every_s), real(LINUX_PLACE, tmp_path)) == ""


@POSIX
@pytest.mark.parametrize("name", ["a b", "한글", "100%", "a&b", 'a"b', "it's", "$HOME", "a\\b", "a;b", "~a", "%h", "-a", "a#b", "a, b"])
def test_systemd_takes_hostile_paths(name: str, tmp_path: Path) -> None:
    folder = tmp_path / name / "mqi"
    folder.mkdir(parents=True)
    place = replace(real(JOBS, folder), watch=(str(folder / "in"),))
    if set(name) & set("\"'\\"):
        with pytest.raises(ConfigurationProblem, match="no program whose path"):
            systemd.service(SYSTEM, place, "cycle")
        # systemd refuses such a program, and takes everything else.
        place = replace(place, python="/bin/true")
    assert verify(tmp_path, SYSTEM, place) == ""


def test_systemd_would_notice(tmp_path: Path) -> None:
    assert "python" in verify(tmp_path, SYSTEM, LINUX_PLACE)  # a program that is not there


@pytest.mark.parametrize(("name", "worst"), [("remote", 1.5), ("local-jobs", 1.9), ("local-gpus", 2.6)])
def test_the_exposure_is_low(name: str, worst: float, tmp_path: Path) -> None:
    needs("systemd-analyze")
    order, place = SERVICES[name]
    path = tmp_path / "mqi-cycle.service"
    path.write_text(systemd.service(order, real(place, tmp_path), "cycle"), encoding="utf-8")
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--no-pager", str(path)],
        capture_output=True,
        text=True,
        check=False,
    )
    score = re.search(r"Overall exposure level.*: ([0-9.]+)", done.stdout)
    assert score is not None, done.stdout + done.stderr
    assert float(score[1]) <= worst


def keys(order: Order, place: Place) -> dict[str, str]:
    return {
        line.split("=", 1)[0]: line.split("=", 1)[1]
        for line in systemd.service(order, place, "cycle").splitlines()
        if "=" in line and not line.startswith("#")
    }


def test_jobs_of_a_local_host_outlive_a_run() -> None:
    found = keys(SYSTEM, JOBS)
    assert found["KillMode"] == "process"
    # Each of these, measured on systemd 252, would take something from a job of an earlier run.
    assert {found[name] for name in ("PrivateTmp", "RemoveIPC", "PrivateUsers")} == {"no"}
    # The agent reads /proc/sys/kernel/random/boot_id.
    assert found["ProcSubset"] == "all"
    assert keys(SYSTEM, LINUX_PLACE)["KillMode"] == "mixed"


def test_without_privileges_only_what_needs_no_namespace() -> None:
    # Each of these puts a run of a user's unit into a user namespace, in which it cannot see earlier jobs, or
    # fails with 218 for want of capabilities (measured on systemd 252).
    forbidden = {
        "ProtectSystem", "ReadWritePaths", "ReadOnlyPaths", "ProtectHome", "PrivateTmp", "PrivateDevices",
        "PrivateUsers", "ProtectKernelTunables", "ProtectKernelModules", "ProtectKernelLogs",
        "ProtectControlGroups", "ProtectClock", "ProtectHostname", "ProtectProc", "ProcSubset",
        "CapabilityBoundingSet",
    }  # fmt: skip
    assert not forbidden & keys(USER, JOBS).keys()
    assert forbidden <= keys(USER, HOME).keys()


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, "yes"),
        ({"python": "/home/kim/venv/bin/python"}, "read-only"),
        ({"reads": ("/root/.pyenv",)}, "read-only"),
        ({"watch": ("/home/share/cases",)}, "read-only"),
        ({"folder": "/homes/kim", "writes": ("/homes/kim",)}, "yes"),
    ],
)
def test_homes_are_hidden_unless_mqi_lies_in_one(changes: dict[str, Any], expected: str) -> None:
    assert keys(SYSTEM, replace(LINUX_PLACE, **changes))["ProtectHome"] == expected


def test_a_watch_folder_that_must_be_written_is_not_read_only() -> None:
    # A configuration that lies in the watch folder itself.
    place = replace(LINUX_PLACE, watch=("/etc/mqi", "/mnt/in"))
    assert keys(SYSTEM, place)["ReadOnlyPaths"] == "-/mnt/in"
    assert "ReadOnlyPaths" not in keys(SYSTEM, replace(LINUX_PLACE, watch=("/etc/mqi",)))


@pytest.mark.parametrize("folder", ["/a\\", " /a", "/a "])
def test_folders_that_systemd_cannot_be_told(folder: str) -> None:
    with pytest.raises(ConfigurationProblem):
        systemd.service(SYSTEM, replace(LINUX_PLACE, folder=folder), "cycle")


def unquote(line: str) -> list[str]:
    """Words as systemd.syntax(7) and systemd.service(5) say: quotes, backslashes, `%%`, and `$$` after the first."""
    words = [
        re.sub(r"\\(.)", r"\1", match[1]) if match[1] is not None else match[0]
        for match in re.finditer(r'"((?:[^"\\]|\\.)*)"|[^ ]+', line)
    ]
    words = [word.replace("%%", "%") for word in words]
    return [words[0], *(word.replace("$$", "$") for word in words[1:])]


PATHS = st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1, max_size=30).map(
    lambda name: "/" + name.replace("\u2028", "").replace("\u2029", "").replace("/", "|")
)


@given(PATHS.map(lambda path: re.sub(r"""["'\\]""", "_", path)), PATHS, PATHS)
def test_paths_arrive_as_they_are(python: str, config: str, results: str) -> None:
    place = replace(LINUX_PLACE, python=python, config=f"{config}.yaml", results=results)
    text = systemd.service(SYSTEM, place, "cycle")
    found = {line.split("=", 1)[0]: line.split("=", 1)[1] for line in text.split("\n") if "=" in line}
    assert unquote(found["ExecStart"]) == [
        python, "-X", "utf8", "-I", "-m", "mqi", "--config", f"{config}.yaml", "cycle",
    ]  # fmt: skip
    assert systemd.owner(text) == f"{config}.yaml"


# --- drift -----------------------------------------------------------------------------------------------


def test_comments_and_spaces_are_no_drift() -> None:
    text = systemd.service(SYSTEM, LINUX_PLACE, "cycle")
    changed = "# mine\n" + text.replace("Type=oneshot", "Type = oneshot  ").replace("\n\n", "\n; a remark\n\n\n")
    assert systemd.differences(text, changed) == ()


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("User=mqi", "User=root", "[Service] User is root, expected mqi"),
        ("UMask=0077\n", "", "[Service] UMask is absent, expected 0077"),
        ("UMask=0077\n", "UMask=0077\nNice=5\n", "[Service] Nice is 5, expected absent"),
        ("CapabilityBoundingSet=\n", "CapabilityBoundingSet=CAP_SYS_ADMIN\n", "CapabilityBoundingSet is CAP_SYS_ADMIN, expected empty"),
        ("SystemCallFilter=@system-service\n", "", "is ~@privileged @resources, expected @system-service and ~@privileged @resources"),
    ],
)
def test_drift_is_named(old: str, new: str, said: str) -> None:
    text = systemd.service(SYSTEM, LINUX_PLACE, "cycle")
    assert old in text
    lines = systemd.differences(text, text.replace(old, new))
    assert len(lines) == 1
    assert said in lines[0]


def test_a_unit_of_somebody_else_is_not_ours() -> None:
    assert systemd.owner("[Service]\nExecStart=/usr/bin/mqi cycle\n") is None
    assert systemd.owner("") is None


# --- systemctl -------------------------------------------------------------------------------------------

# Measured on systemd 252.
SHOW = """\
Result=success
ExecMainStartTimestampMonotonic=85000000
ExecMainExitTimestampMonotonic=90000000
ExecMainCode=1
ExecMainStatus=75
Id=mqi-cycle.service
LoadState=loaded
ActiveState=inactive
DropInPaths=/etc/systemd/system/mqi-cycle.service.d/x.conf
UnitFileState=static
NeedDaemonReload=no

NextElapseUSecMonotonic=1h 31min 23.591584s
Result=success
Id=mqi-cycle.timer
LoadState=loaded
ActiveState=active
DropInPaths=
UnitFileState=enabled
NeedDaemonReload=no
"""


def test_what_systemctl_shows() -> None:
    state = systemd.unit_state(systemd.parse_show(SHOW), "cycle")
    assert state == systemd.UnitState(
        running=False,
        active=True,
        enabled=True,
        result="success",
        ended_by="exited",
        status=75,
        started_at=85.0,
        ended_at=90.0,
        next_at=pytest.approx(5483.591584),  # type: ignore[arg-type]
        drop_ins=("/etc/systemd/system/mqi-cycle.service.d/x.conf",),
        needs_reload=False,
    )


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("ActiveState=inactive", "ActiveState=activating", {"running": True}),
        ("ExecMainCode=1", "ExecMainCode=0", {"ended_by": ""}),  # not since the computer started
        ("ExecMainCode=1", "ExecMainCode=2", {"ended_by": "killed"}),
        ("ExecMainExitTimestampMonotonic=90000000", "ExecMainExitTimestampMonotonic=0", {"ended_at": None}),
        ("ActiveState=active", "ActiveState=inactive", {"active": False}),
        ("UnitFileState=enabled", "UnitFileState=disabled", {"enabled": False}),
        ("NextElapseUSecMonotonic=1h 31min 23.591584s", "NextElapseUSecMonotonic=infinity", {"next_at": None}),
        ("NeedDaemonReload=no", "NeedDaemonReload=yes", {"needs_reload": True}),
    ],
)
def test_every_property_counts(old: str, new: str, expected: dict[str, Any]) -> None:
    state = systemd.unit_state(systemd.parse_show(SHOW.replace(old, new)), "cycle")
    assert state is not None
    assert {name: getattr(state, name) for name in expected} == expected


def test_units_that_systemd_does_not_know() -> None:
    assert systemd.unit_state(systemd.parse_show(SHOW.replace("LoadState=loaded", "LoadState=not-found")), "cycle") is None
    assert systemd.unit_state(systemd.parse_show(""), "cycle") is None
    assert systemd.unit_state(systemd.parse_show(SHOW), "scan") is None


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("5s", 5), ("1min 2.5s", 62.5), ("1w 1d", 691200), ("500ms", 0.5), ("3us", 3e-6), ("1month", 2629800),
        ("0", None), ("infinity", None), ("", None), ("5 parsecs", None),
    ],
)  # fmt: skip
def test_spans(text: str, seconds: float | None) -> None:
    assert systemd.parse_span(text) == (None if seconds is None else pytest.approx(seconds))
