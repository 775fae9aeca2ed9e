"""Clusters of real processes that lose some of them. The daemons are those of tests/cluster."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

# Under a name of its own: several folders have a module "conftest".
_spec = importlib.util.spec_from_file_location("daemons", HERE.parent / "cluster" / "conftest.py")
assert _spec is not None
assert _spec.loader is not None
daemons = sys.modules["daemons"] = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(daemons)

PEER_TIMEOUT = "1"
"""Seconds; short, so that losses are found in time."""


@pytest.fixture(autouse=True)
def _short_timeouts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JOBRUNNER_PEER_TIMEOUT", PEER_TIMEOUT)


@pytest.fixture
def cluster() -> Iterator[daemons.Cluster]:
    cluster = daemons.Cluster()
    cluster.environment = {
        "JOBRUNNER_PEER_TIMEOUT": PEER_TIMEOUT,
        "PYTHONPATH": os.pathsep.join([str(HERE), str(HERE.parent / "cluster")]),
    }
    yield cluster
    cluster.end()


@pytest.fixture
def notes(tmp_path: Path) -> str:
    """The file in which each execution leaves a line."""
    return str(tmp_path / "executions")
