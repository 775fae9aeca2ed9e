"""pytest fixtures; `pytest_plugins = ["jobrunner.testing.fixtures"]` in your conftest.py provides them."""

from __future__ import annotations

import zlib
from collections.abc import Iterator

import pytest

from jobrunner.executor import Executor
from jobrunner.testing.cluster import SimulatedCluster


@pytest.fixture
def simulated_cluster() -> Iterator[SimulatedCluster]:
    """A simulated cluster without faults."""
    with SimulatedCluster() as cluster:
        yield cluster


@pytest.fixture
def faulty_cluster(request: pytest.FixtureRequest) -> Iterator[SimulatedCluster]:
    """A simulated cluster in which workers and slots are killed, and messages lost, duplicated and delayed.

    The events are the same each time, and depend on the name of the test.
    """
    seed = zlib.crc32(request.node.nodeid.rpartition("::")[2].encode())
    with SimulatedCluster(
        seed, drop=0.05, duplicate=0.1, late=0.1, kill_workers=3, kill_slots=5, kill_coordinator=1
    ) as cluster:
        yield cluster


@pytest.fixture
def faulty_executor(faulty_cluster: SimulatedCluster) -> Executor:
    """An Executor on `faulty_cluster`."""
    return faulty_cluster.executor()
