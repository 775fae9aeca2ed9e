"""Clusters of real processes, with short timeouts, so that losses are found in time."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from support.daemons import Cluster, Daemon

from jobrunner.admin import ClusterAdmin
from jobrunner.testing.waiting import BOUND


@pytest.fixture(autouse=True)
def _short_timeouts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JOBRUNNER_PEER_TIMEOUT", "2")


@pytest.fixture
def cluster(_short_timeouts: None) -> Iterator[Cluster]:
    cluster = Cluster()
    yield cluster
    cluster.end()


@pytest.fixture
def coordinator(cluster: Cluster) -> Daemon:
    return cluster.coordinator()


@pytest.fixture
def address(coordinator: Daemon) -> str:
    return coordinator.address


@pytest.fixture
def admin(address: str) -> Iterator[ClusterAdmin]:
    with ClusterAdmin(address, BOUND) as admin:
        yield admin
