"""The steps' own modules, importable in tests as on the host, and the real plans."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from mqi.resources import remote_scripts

sys.path.insert(0, str(remote_scripts()))

ROOT = Path(__file__).resolve().parents[2]
# Beside the project; a work tree lies one folder deeper.
_DATA = next((up / "shared" / "data" for up in ROOT.parents if (up / "shared" / "data").is_dir()), ROOT)


@pytest.fixture
def real_data() -> Path:
    """The folder with the real plans; the test is skipped where it is absent."""
    if _DATA == ROOT:
        pytest.skip("the real plans are not in shared/data beside the project")
    return _DATA


@pytest.fixture(scope="session")
def mcsquare() -> str:
    """The folder with MCsquare; the test is skipped where it is absent, and fails where a CI runs."""
    from steplib.engines.mcsquare_folder import default_folder, is_complete

    named = os.environ.get("MCSQUARE_FOLDER")
    places = [Path(named)] if named else [ROOT / ".cache" / f"mcsquare-{sys.platform}", default_folder()]
    for place in places:
        if is_complete(place):
            return str(place)
    absent = "MCsquare is not here: scripts/test.py gets it"
    if os.environ.get("CI") == "true":
        pytest.fail(absent)
    pytest.skip(absent)
