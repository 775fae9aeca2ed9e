"""Gives each test its time."""

from __future__ import annotations

from pathlib import Path

import pytest

HERE = Path(__file__).parent

SECONDS = 240
"""All of it is computing, so that on a busy machine each takes several times what it takes on a quiet one."""


def pytest_collection_modifyitems(items):
    for item in items:
        if item.path.parent == HERE and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(SECONDS))
