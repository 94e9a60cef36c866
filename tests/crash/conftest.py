from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.crash.crashes import Crashes

# The tests here look for processes in /proc.
collect_ignore_glob = [] if sys.platform == "linux" else ["test_*.py"]

# A process that is killed loses nothing that it has written: whether there is a real disk below is no matter
# here, and without one these tests take half the time.
MEMORY = Path("/dev/shm")
ROOM = 1 << 30


@pytest.fixture(scope="session")
def crashes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Crashes]:
    from tests.crash.crashes import Crashes
    from tests.crash.lab import Lab

    if MEMORY.is_dir() and shutil.disk_usage(MEMORY).free > ROOM:
        base = Path(tempfile.mkdtemp(prefix="mqi-crash-", dir=MEMORY))
    else:
        base = tmp_path_factory.mktemp("crash")
    lab = Lab(base)
    try:
        yield Crashes(lab)
    finally:
        lab.close()
