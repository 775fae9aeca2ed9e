"""What one run of the edge does, decided by its seed alone. Pure."""

from __future__ import annotations

import dataclasses
import random
from dataclasses import dataclass

BACKENDS = ("threads", "processes", "cluster")

FAULTS = {
    "callbacks": "callbacks of Futures raise, some of them what is no Exception",
    "descriptors": "the system gives few file descriptors",
    "folders": "the folder for temporary files has a long path, or takes nothing, or goes away while calls run",
    "forks": "the program forks, between calls and while others submit; children exit at once, later, or live on",
    "engine": "the thread that all outcomes come through ends at a chosen line, as if the interpreter had failed there",
    "interrupts": "KeyboardInterrupt is raised at chosen lines in the main thread, and the program goes on",
    "kills": "processes of calls are killed",
    "settles": "the program gives Futures their results itself",
    "switches": "threads are switched every few microseconds",
    "threads": "several threads of the program use the executor at once",
}
"""By name, what goes wrong."""

ONLY_APART = frozenset(("descriptors", "engine", "folders", "kills"))
"""Those that mean nothing where calls run in the program's own process."""

ENDINGS = ("shutdown", "cancel", "exit", "drop")
"""shutdown() that waits; one that cancels what waits; the end of the program with the executor open; the executor is
let go of, and the program ends."""

MOST_STEPS = 40
MOST_LINES = 3000
"""Up to which of the main thread's lines in the project's code an interrupt comes."""

DESCRIPTORS = (48, 64, 96, 160, 256)
INTERVALS = (1e-6, 1e-5, 1e-4)
FOLDERS = ("long", "unwritable", "vanishing")


@dataclass(frozen=True)
class Plan:
    """One run. Each thread of the program draws its steps from `seed` and its own number."""

    seed: int
    backend: str
    workers: int
    faults: tuple[str, ...]
    steps: int
    ending: str
    threads: int = 1
    descriptors: int | None = None
    """The limit on open files."""
    interval: float | None = None
    """Seconds between switches of threads."""
    folder: str | None = None
    """What is wrong with the folder for temporary files."""
    interrupts: tuple[int, ...] = ()
    """The numbers of the lines at which KeyboardInterrupt is raised."""
    engine: int | None = None
    """The number of the line at which the executor's own thread ends."""

    def __str__(self) -> str:
        fields = dataclasses.asdict(self)
        given = [f"{name}={value!r}" for name, value in fields.items() if value not in (None, ())]
        return f"Plan({', '.join(given)})"


def plan_of(seed: int, backend: str | None = None, fault: str | None = None) -> Plan:
    """The plan of a seed; with `backend` or `fault`, one of that kind."""
    rng = random.Random(f"edge {seed}")
    chosen = rng.choice(BACKENDS)
    backend = backend or chosen
    possible = [name for name in FAULTS if backend != "threads" or name not in ONLY_APART]
    faults = set(rng.sample(possible, rng.randint(0, 3)))
    if fault is not None:
        faults.add(fault)
    return Plan(
        seed=seed,
        backend=backend,
        workers=rng.randint(1, 3),
        faults=tuple(sorted(faults)),
        steps=rng.randint(5, MOST_STEPS),
        ending=rng.choice(ENDINGS),
        threads=rng.randint(2, 4) if "threads" in faults else 1,
        descriptors=rng.choice(DESCRIPTORS) if "descriptors" in faults else None,
        interval=rng.choice(INTERVALS) if "switches" in faults else None,
        folder=rng.choice(FOLDERS) if "folders" in faults else None,
        interrupts=tuple(sorted(rng.sample(range(MOST_LINES), rng.randint(1, 6))))
        if "interrupts" in faults
        else (),
        engine=int(rng.lognormvariate(8, 2)) if "engine" in faults else None,
    )
