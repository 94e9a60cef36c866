"""Lines of cron: golden files, a real shell behind cron's own reading, and other people's lines."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mqi.errors import ConfigurationProblem
from mqi.schedule import cron
from mqi.schedule.order import COMMANDS, STEPS, Order
from tests.schedule.conftest import LINUX_PLACE, POSIX

ORDER = Order("cron", 60)
HOSTILE = replace(
    LINUX_PLACE, config="/srv/it's \"한글\" & 100%/$HOME.yaml", folder="/srv/it's \"한글\" & 100%", notes="/srv/100% a"
)


def test_golden(golden: Callable[[str, str], None]) -> None:
    golden("cycle.crontab", cron.line(ORDER, LINUX_PLACE, "cycle") + "\n")
    golden("hostile.crontab", cron.line(ORDER, HOSTILE, "cycle") + "\n")
    steps = Order("cron", 300, steps=True)
    golden("steps.crontab", "".join(f"{cron.line(steps, LINUX_PLACE, step)}\n" for step in STEPS))


@pytest.mark.parametrize(
    ("every_s", "times"),
    [
        (60, "* * * * *"), (120, "*/2 * * * *"), (1800, "*/30 * * * *"), (3600, "0 * * * *"),
        (7200, "0 */2 * * *"), (43200, "0 */12 * * *"), (86400, "0 0 * * *"),
    ],
)  # fmt: skip
def test_times(every_s: int, times: str) -> None:
    assert cron.line(replace(ORDER, every_s=every_s), LINUX_PLACE, "scan").startswith(f"{times} cd ")


def as_cron_reads(line: str) -> str:
    """The command that cron gives to the shell: the sixth field, to the first bare %, with \\% as %."""
    command = line.split(" ", 5)[5]
    return re.split(r"(?<!\\)%", command)[0].replace("\\%", "%")


@POSIX
def test_a_shell_does_what_the_line_says(tmp_path: Path) -> None:
    folder = tmp_path / "it's \"한글\" & 100%; $(touch pwned) `touch pwned`"
    folder.mkdir()
    report = tmp_path / "report"
    program = folder / "python"
    program.write_text(
        f"#!{sys.executable}\nimport json, os, sys\n"
        f"open({str(report)!r}, 'w').write(json.dumps([os.getcwd(), sys.argv[1:]]))\nsys.exit(75)\n",
        encoding="utf-8",
    )
    program.chmod(0o755)
    place = replace(
        LINUX_PLACE, python=str(program), config=str(folder / "mqi.yaml"), folder=str(folder), notes=str(folder)
    )
    line = cron.line(ORDER, place, "cycle")
    done = subprocess.run(["/bin/sh", "-c", as_cron_reads(line)], capture_output=True, check=False, cwd="/")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")  # nothing for cron to mail
    import json

    assert json.loads(report.read_text(encoding="utf-8")) == [
        str(folder),
        ["-X", "utf8", "-I", "-m", "mqi", "--config", str(folder / "mqi.yaml"), "cycle"],
    ]
    assert (folder / "cycle.exit").read_text(encoding="utf-8") == "75\n"
    assert not list(tmp_path.rglob("pwned"))


NAMES = st.text(st.characters(exclude_categories=("Cs", "Cc"), exclude_characters="/\\"), min_size=1, max_size=20)


@given(NAMES, NAMES)
def test_paths_arrive_as_they_are(folder: str, name: str) -> None:
    place = replace(LINUX_PLACE, folder=f"/srv/{folder}", config=f"/srv/{folder}/{name}")
    line = cron.line(ORDER, place, "cycle")
    command = as_cron_reads(line).split(" # mqi schedule ")[0]
    words = shlex.split(command)
    assert words[:2] == ["cd", place.folder]
    assert words[words.index("--config") + 1] == place.config
    assert cron.find(line) == [("cycle", place.config, line)]


# --- other people's lines --------------------------------------------------------------------------------

OTHERS = st.lists(
    st.one_of(
        st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\n"), max_size=60).filter(
            lambda text: "# mqi schedule" not in text
        ),
        st.sampled_from(
            [
                "", "# a comment", "MAILTO=ops@example.org", "0 3 * * * /usr/bin/backup 100\\%",
                cron.line(ORDER, HOSTILE, "cycle"),  # another configuration of ours is somebody else's too
            ]
        ),
    ),
    max_size=8,
)  # fmt: skip


@given(OTHERS, st.booleans(), st.sampled_from(COMMANDS))
def test_only_our_own_lines_are_replaced(others: list[str], ends: bool, command: str) -> None:
    before = "\n".join(others) + ("\n" if ends and others else "")
    line = cron.line(ORDER, LINUX_PLACE, command)
    once = cron.merged(before, [line], LINUX_PLACE.config)
    assert cron.merged(once, [line], LINUX_PLACE.config) == once
    assert [text for _command, owner, text in cron.find(once) if owner == LINUX_PLACE.config] == [line]
    changed = cron.merged(once, [cron.line(Order("cron", 300), LINUX_PLACE, "scan")], LINUX_PLACE.config)
    assert line not in changed
    gone = cron.without(once, {line})
    # A crontab must end with a line break, so one may have been added.
    assert gone in (before, before + "\n")


def test_a_line_that_somebody_moved_or_switched_off_is_still_ours() -> None:
    line = cron.line(ORDER, LINUX_PLACE, "cycle")
    assert cron.find(f"MAILTO=x\n#{line}\n") == [("cycle", LINUX_PLACE.config, f"#{line}")]
    assert cron.differences(line, f"#{line}") == ("the line is commented out",)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("* * * * *", "*/5 * * * *", "the times are */5 * * * *, expected * * * * *"),
        ("* * * * *", "@hourly", "the times are @hourly, expected * * * * *"),
        ("/opt/mqi/bin/python", "/usr/bin/python3", "the command is cd /etc/mqi && /usr/bin/python3"),
    ],
)
def test_drift_is_named(old: str, new: str, said: str) -> None:
    line = cron.line(ORDER, LINUX_PLACE, "cycle")
    lines = cron.differences(line, line.replace(old, new))
    assert len(lines) == 1
    assert said in lines[0]
    assert cron.differences(line, line) == ()


def test_what_cron_cannot_hold() -> None:
    with pytest.raises(ConfigurationProblem, match="backslash"):
        cron.line(ORDER, replace(LINUX_PLACE, folder="/a\\b"), "cycle")
    with pytest.raises(ConfigurationProblem, match="990"):
        cron.line(ORDER, replace(LINUX_PLACE, config=f"/{'한' * 200}/mqi.yaml"), "cycle")


@POSIX
@pytest.mark.parametrize("place", [LINUX_PLACE, HOSTILE])
def test_grep_finds_exactly_our_lines(place: object, tmp_path: Path) -> None:
    # The administrator's command takes our lines out with grep.
    assert isinstance(place, type(LINUX_PLACE))
    other = replace(place, config=place.config.replace("mqi", "xqi").replace("HOME", "HOMF"))
    ours, others = cron.line(ORDER, place, "cycle"), cron.line(ORDER, other, "cycle")
    crontab = tmp_path / "crontab"
    crontab.write_bytes(f"{ours}\n{others}\n# caf\n".encode() + b"0 0 * * * echo \xff\n")
    done = subprocess.run(
        ["grep", "-avE", cron.own_lines(place.config), str(crontab)],
        capture_output=True,
        env={"LC_ALL": "C", "PATH": "/usr/bin:/bin"},
        check=False,
    )
    assert done.stdout == f"{others}\n# caf\n".encode() + b"0 0 * * * echo \xff\n"
