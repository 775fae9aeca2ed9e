"""The parts of a simulated cluster, and the events that will happen to it; all are drawn from the seed."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import NamedTuple

from jobrunner.testing.simulation.network import Conditions

PROFILES = ("calm", "lossy", "partitions", "crashes", "everything")

KILL_SLOT = "kill slot"

MODULES = ("m0", "m1")


class Incident(NamedTuple):
    """An accident at a time `at`, which is over `duration` seconds later."""

    at: float
    kind: str
    duration: float


NETWORK_INCIDENTS = ("partition", "one way", "loss")
PROCESS_INCIDENTS = (
    "crash worker",
    "crash worker",
    "crash client",
    "crash coordinator",
    "stop coordinator",
    "drain worker",
    "freeze worker",
    "freeze client",
    "freeze coordinator",
    "leave client",
    KILL_SLOT,
    KILL_SLOT,
)


@dataclass
class Scenario:
    """The parts and events of a simulation. Times are in seconds.

    `workers` has the number of slots of each worker, and `tasks` is the number of calls per client.
    """

    profile: str = "calm"
    workers: list[int] = field(default_factory=lambda: [2, 2])
    clients: int = 1
    tasks: int = 0
    conditions: Conditions = field(default_factory=Conditions)
    incidents: list[Incident] = field(default_factory=list)
    faults_until: float = 5.0
    crash_limit: int = 3
    client_grace: float = 5.0
    window_tasks: int = 100_000
    window_bytes: int = 1 << 28
    peer_timeout: float = 10.0
    resources: dict[str, float] = field(default_factory=dict)
    stop_grace: float = 1.0
    drain_timeout: float = 5.0
    slot_start: float = 0.05
    start_failures: float = 0.0
    shortages: float = 0.0
    """Share of starts of slots for which their host has no resources while another slot has them."""
    spoils: bool = False
    """Whether some interrupted tasks leave a process that must run no other task."""
    blocking: bool = False
    remembered: int = 256
    """Number of functions that a client assumes the coordinator to know."""
    result_cache: int = 1 << 20
    dependencies: bool = False
    """Whether tasks depend on results of others, and clients watch each other's tasks."""
    detached: bool = False
    """Whether some tasks outlive their clients."""
    journal: bool = False
    journal_delay: float = 0.0
    """Maximum time in seconds of a write to the journal; 0: it is done at once, as in production."""
    journal_failures: float = 0.0
    """Share of entries that cannot be written to the journal."""
    bundles: bool = False
    """Whether some calls travel in bundles."""
    owners: int = 0
    """Number of keys that the clients have in turn; 0: nobody has a proved identity."""
    attackers: int = 0
    """Number of malicious peers with keys of their own; only if there are owners."""
    functions: int = 4
    """Number of different functions that all clients call; 0: each call has one of its own."""
    missing_modules: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """By worker ("w0", "w1" ...), those of MODULES that it cannot import; if empty, functions require none."""

    nests: bool = False
    """Whether some calls make calls of their own, and wait for them."""
    stalls: float = 0.0
    """Share of turns that come late, because the machine is busy with something else."""
    holds: float = 0.0
    """Share of calls that keep all else in their process from running."""
    epochs: bool = False
    """Whether programs reload modules, so that their calls need slots that have not served earlier ones."""
    max_tasks_per_slot: int | None = None
    """Number of calls after which a slot's process is replaced."""

    @property
    def has_wide_windows(self) -> bool:
        """Whether no call waits in its client."""
        defaults = Scenario()
        return (self.window_tasks, self.window_bytes) == (defaults.window_tasks, defaults.window_bytes)

    @property
    def workers_are_safe(self) -> bool:
        """Whether no attempt is ever lost, so that crashes can be counted exactly."""
        harmless = (KILL_SLOT, "crash client", "leave client")
        return self.conditions.perfect and all(incident.kind in harmless for incident in self.incidents)


def draw_scenario(rng: random.Random, profile: str | None = None) -> Scenario:
    """Draw a scenario of one of PROFILES."""
    scenario = Scenario(
        profile=profile or rng.choice(PROFILES),
        workers=[rng.randint(1, 4) for _ in range(rng.randint(1, 4))],
        clients=rng.randint(1, 3),
        tasks=rng.choice((5, 20, 40, 80)),
        faults_until=rng.uniform(3, 25),
        client_grace=rng.uniform(2, 10),
        peer_timeout=rng.choice((1.0, 1.0, 3.0, 10.0)),
        resources=rng.choice(({}, {}, {"gpu": 1.0}, {"gpu": 2.0, "licence": 1.0})),
        slot_start=rng.choice((0.01, 0.05, 0.3)),
        blocking=rng.random() < 0.3,
        remembered=rng.choice((1, 3, 256)),
        functions=rng.choice((1, 4, 4, 20, 0)),
        crash_limit=rng.choice((1, 2, 3, 3)),
    )
    if rng.random() < 0.25:
        scenario.window_tasks = rng.randint(1, 10)
    if rng.random() < 0.1:
        scenario.window_bytes = rng.randint(100, 50_000)
    scenario.dependencies = rng.random() < 0.5
    scenario.detached = rng.random() < 0.4
    scenario.result_cache = rng.choice((0, 2_000, 1 << 20))
    scenario.journal = rng.random() < 0.5
    if scenario.journal and scenario.profile != "calm":
        scenario.journal_delay = rng.choice((0.0, 0.0, 0.05))
        scenario.journal_failures = rng.choice((0.0, 0.0, 0.1))
    scenario.conditions.latency = rng.choice((0.0001, 0.001, 0.02))
    scenario.conditions.jitter = rng.choice((0.0, 0.0002, 0.005))
    if scenario.profile != "calm":
        _draw_faults(rng, scenario)
    scenario.owners = rng.choice((0, 1, 2, 3))
    scenario.bundles = rng.random() < 0.6
    if rng.random() < 0.4:
        for number in range(len(scenario.workers)):
            scenario.missing_modules[f"w{number}"] = tuple(name for name in MODULES if rng.random() < 0.4)
    aside = random.Random()  # a generator of its own, so that all else of a seed stays what it was
    aside.setstate(rng.getstate())
    if aside.random() < 0.3:
        scenario.max_tasks_per_slot = aside.choice((1, 2, 5, 20))
    scenario.epochs = aside.random() < 0.3
    scenario.stalls = aside.choice((0.0, 0.0, 0.02, 0.2))
    if scenario.profile in ("crashes", "everything"):
        scenario.shortages = aside.choice((*[0.0] * 8, 0.1, 0.7))
    if scenario.owners:
        scenario.attackers = aside.choice((0, 0, 1, 2))
    scenario.holds = aside.choice((0.0, 0.0, 0.0, 0.1, 0.5))
    scenario.spoils = scenario.profile != "calm" and aside.random() < 0.2
    # Not if a window may be full of calls that wait for those which it keeps back.
    scenario.nests = aside.random() < 0.3 and scenario.has_wide_windows
    return scenario


def _draw_faults(rng: random.Random, scenario: Scenario) -> None:
    profile, conditions = scenario.profile, scenario.conditions
    kinds: list[str] = []
    if profile in ("lossy", "everything"):
        level = rng.choice((0.01, 0.05, 0.2))
        conditions.drop = rng.choice((0.0, level))
        conditions.duplicate = rng.choice((0.0, level))
        conditions.reorder = rng.choice((0.0, level))
        conditions.late = rng.choice((0.0, level / 4))
        conditions.latest = rng.choice((1.0, 20.0))
        conditions.unreachable = rng.choice((0.0, level / 4))
        conditions.silent = rng.choice((0.0, 0.5))
    if profile in ("partitions", "everything"):
        kinds += NETWORK_INCIDENTS
    if profile in ("crashes", "everything"):
        kinds += PROCESS_INCIDENTS
        scenario.start_failures = rng.choice((0.0, 0.03))
    for _ in range(rng.randint(1, 15) if kinds else 0):
        longest = rng.choice((0.5, 3.0, 3 * scenario.peer_timeout, 3 * scenario.peer_timeout))
        at = rng.uniform(0.0, scenario.faults_until)
        scenario.incidents.append(Incident(at, rng.choice(kinds), rng.uniform(0, longest)))
