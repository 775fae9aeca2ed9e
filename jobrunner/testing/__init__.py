"""Tools for tests of your code: a simulated cluster, and pytest fixtures in `jobrunner.testing.fixtures`."""

from jobrunner.testing.cluster import SimulatedCluster

__all__ = ["SimulatedCluster"]
