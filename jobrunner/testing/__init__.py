"""For tests of code that uses jobrunner: a simulated cluster, and pytest fixtures in `jobrunner.testing.fixtures`."""

from jobrunner.testing.cluster import SimulatedCluster

__all__ = ["SimulatedCluster"]
