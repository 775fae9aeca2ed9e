"""The cluster's real state machines under simulated time, network, slots and faults; a seed decides everything.

    run_seeds(0, 200)       many scenarios; the failures, each with its seed and its history
    run_seed(17)            the same one again
    World(seed, scenario)   one that a test has written itself

After every step the invariants of the core that moved are checked, and what really happened is compared with what
clients were told: every accepted task ends once, with what its slot returned · no slot runs two tasks · nothing runs
after a confirmed cancel · a stale attempt changes nothing · after the faults stop, all work drains within a bound ·
memory returns to its baseline.
"""

from jobrunner.testing.simulation.laws import Violation
from jobrunner.testing.simulation.network import Conditions
from jobrunner.testing.simulation.runner import Failure, run_seed, run_seeds
from jobrunner.testing.simulation.scenario import PROFILES, Incident, Scenario
from jobrunner.testing.simulation.simulated_calls import Call
from jobrunner.testing.simulation.world import World

__all__ = [
    "PROFILES",
    "Call",
    "Conditions",
    "Failure",
    "Incident",
    "Scenario",
    "Violation",
    "World",
    "run_seed",
    "run_seeds",
]
