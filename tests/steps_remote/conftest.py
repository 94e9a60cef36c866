"""The steps' own modules, importable in tests as on the host, and the real plans."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from mqi.resources import remote_scripts

sys.path.insert(0, str(remote_scripts()))

_DATA = Path(__file__).resolve().parents[3] / "shared" / "data"


@pytest.fixture
def real_data() -> Path:
    """The folder with the real plans; the test is skipped where it is absent."""
    if not _DATA.is_dir():
        pytest.skip(f"the real plans are not in {_DATA}")
    return _DATA
