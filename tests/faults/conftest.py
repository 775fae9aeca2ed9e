"""Clusters of real processes that lose some of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.daemons import Cluster

PEER_TIMEOUT = "1"
"""Seconds; short, so that losses are found in time."""


@pytest.fixture(autouse=True)
def _short_timeouts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JOBRUNNER_PEER_TIMEOUT", PEER_TIMEOUT)


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    cluster = Cluster(PEER_TIMEOUT)
    yield cluster
    cluster.end()


@pytest.fixture
def notes(tmp_path: Path) -> str:
    """The file in which each execution leaves a line."""
    return str(tmp_path / "executions")
