"""The real crontab, for an account that exists only for this."""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
from collections.abc import Iterator

import pytest

from mqi.schedule import cron
from mqi.schedule.order import Order
from mqi.schedule.with_cron import Cron
from tests.schedule.conftest import POSIX, Installed, needs

pytestmark = POSIX


@pytest.fixture
def account() -> Iterator[str]:
    needs("crontab")
    if os.geteuid() != 0 or shutil.which("useradd") is None:
        pytest.skip("needs root, to make an account with a crontab of its own")
    name = f"mqitest{secrets.token_hex(4)}"
    subprocess.run(["useradd", "--no-create-home", "--shell", "/usr/sbin/nologin", name], check=True)
    try:
        yield name
    finally:
        subprocess.run(["crontab", "-u", name, "-r"], check=False, capture_output=True)
        subprocess.run(["userdel", name], check=False, capture_output=True)


def crontab(account: str) -> bytes:
    return subprocess.run(["crontab", "-u", account, "-l"], capture_output=True, check=False).stdout


def test_install_show_remove(installed: Installed, account: str) -> None:
    mine = b'# mine\nMAILTO=""\n0 3 * * * echo "50\\%" # \xff\n'
    subprocess.run(["crontab", "-u", account, "-"], input=mine, check=True)
    arguments = ("schedule", "install", "--backend", "cron", "--user", account)
    done = installed.mqi(*arguments)
    assert done.returncode == 0, done.stderr
    assert crontab(account).startswith(mine)
    assert crontab(account).count(b"\n") == 4
    assert "  the line of cycle: as expected" in installed.mqi("schedule", "show").stdout
    assert installed.mqi(*arguments, "--steps", "--every", "10m").returncode == 0
    assert crontab(account).count(b"*/10 * * * *") == 4
    assert installed.mqi("schedule", "remove").returncode == 0
    assert crontab(account) == mine


def test_the_first_crontab_of_an_account(account: str) -> None:
    scheduler = Cron(account, "/etc/mqi/mqi.yaml")
    assert scheduler.held() == []


@pytest.mark.parametrize("every_s", [60, 300, 3600, 7200, 86400])
def test_cron_takes_every_line_that_we_write(every_s: int, account: str, installed: Installed) -> None:
    from dataclasses import replace

    from tests.schedule.conftest import LINUX_PLACE

    place = replace(LINUX_PLACE, folder=str(installed.folder), config=str(installed.config))
    text = cron.line(Order("cron", every_s), place, "cycle") + "\n"
    done = subprocess.run(["crontab", "-u", account, "-"], input=text.encode(), capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert crontab(account) == text.encode()
