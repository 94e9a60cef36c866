"""What a command keeps about its hosts: restarts, failures and strikes. A real agent, and a clock of the test's."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from mqi.config import load_settings
from mqi.errors import ConfigurationProblem, HostRefused
from mqi.host.base import Host
from mqi.installation import installation_id, name_at, note_lost, times_lost
from mqi.site import Site
from mqi.steps.lost_host import declare_lost
from mqi.store import Store
from tests.agent.bench import BenchLocalHost
from tests.cli.conftest import install

START = 1_000_000.0


class Clock:
    def __init__(self) -> None:
        self.time = START

    def __call__(self) -> float:
        return self.time


class OneHost(Site):
    """A site whose host `here` reads the id of its boot from a file of the test's."""

    boot_id: Path

    def host(self, name: str) -> Host:
        name_there = name_at(self.settings.paths.installation, name)
        host = BenchLocalHost(self.host_settings(name), name_there)
        host.extra = {"boot_id_file": str(self.boot_id)}
        return host


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def site(tmp_path: Path, clock: Clock) -> Iterator[OneHost]:
    installation = install(tmp_path / "site")
    settings = load_settings(installation.root / "mqi.yaml", os.environ)
    opened = OneHost(settings, Store(settings.paths.database, now=clock), now=clock)
    opened.boot_id = tmp_path / "boot_id"
    opened.boot_id.write_text("first")
    yield opened
    opened.close()


def test_a_restart_of_a_host_is_noticed_once(site: OneHost, clock: Clock) -> None:
    site.ask("here", [])
    site.ask("here", [])
    row = site.store.host("here")
    assert row is not None
    assert (row.boot_id, row.restarted_at) == ("first", None)
    clock.time += 60
    site.boot_id.write_text("second")
    site.ask("here", [])
    clock.time += 60
    site.ask("here", [])
    row = site.store.host("here")
    assert row is not None
    assert (row.boot_id, row.restarted_at) == ("second", START + 60)


def test_strikes_rest_a_host_for_a_growing_time_then_one_case_tries_it(site: OneHost, clock: Clock) -> None:
    site.ask("here", [])
    waits = []
    for _number in range(3):
        site.strike("here", "its uploads break off")
        row = site.store.host("here")
        assert row is not None
        waits.append((row.no_cases_until or 0.0) - clock.time)
        clock.time += waits[-1]
    assert waits == [1.0, 2.0, 2.0], "backoff_first and backoff_max of this installation"
    site.ask("here", [])
    row = site.store.host("here")
    assert row is not None
    assert row.strikes == 3, "an answer alone proves nothing"
    site.trial("here")
    row = site.store.host("here")
    assert row is not None
    assert row.no_cases_until == clock.time + 2.0, "no second case before the first has told something"
    site.praise("here")
    row = site.store.host("here")
    assert row is not None
    assert (row.strikes, row.strike_reason, row.no_cases_until) == (0, "", None)


def test_a_lost_host_is_told_another_name(site: OneHost) -> None:
    path = site.settings.paths.installation
    site.ask("here", [])
    before = site.store.host("here")
    declare_lost(site, "here")
    assert name_at(path, "here") == installation_id(path) + ".1"
    assert name_at(path, "other") == installation_id(path)
    with pytest.raises(HostRefused, match="has come back with the work directory that was declared lost"):
        site.ask("here", [])
    row = site.store.host("here")
    assert row is not None
    assert row.lost_at is not None
    (Path(site.host_settings("here").work_dir) / "host.json").rename(path.with_name("old-host.json"))
    site.ask("here", [])
    row = site.store.host("here")
    assert row is not None
    assert before is not None
    assert row.lost_at is None
    assert row.inventoried_at is None, "it is asked what it holds before anything goes there"
    assert row.work_id != before.work_id


def test_a_note_of_lost_hosts_that_cannot_be_read_stops_everything(site: OneHost) -> None:
    path = site.settings.paths.installation
    note_lost(path, "here")
    note_lost(path, "here")
    assert times_lost(path, "here") == 2
    path.with_suffix(".lost").write_text("[broken")
    with pytest.raises(ConfigurationProblem, match="which hosts were declared lost"):
        site.ask("here", [])
