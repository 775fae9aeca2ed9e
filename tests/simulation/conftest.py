"""Makes `simulation.seeking` importable from the tests of this folder, and gives each test its time."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

SECONDS = 240
"""All of it is computing, so that on a busy machine each takes several times what it takes on a quiet one."""


def pytest_collection_modifyitems(items):
    for item in items:
        if item.path.parent == HERE and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(SECONDS))
