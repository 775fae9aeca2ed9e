"""What one run of the edge does, decided by its seed alone. Pure."""

from __future__ import annotations

import dataclasses
import random
from dataclasses import dataclass

BACKENDS = ("threads", "processes", "cluster")

FAULTS = {
    "callbacks": "callbacks of Futures raise, some of them what is no Exception",
    "descriptors": "the system gives few file descriptors",
    "disk": "files, shared memory among them, may not grow, or the folder for temporary files is full, for a while",
    "folders": "the folder for temporary files has a long path, or takes nothing, or goes away while calls run",
    "forks": "the program forks, between calls and while others submit; children exit at once, later, or live on",
    "engine": "the thread that all outcomes come through ends at a chosen line, as if the interpreter had failed there",
    "interrupts": "KeyboardInterrupt is raised at chosen lines in the main thread, and the program goes on",
    "kills": "processes of calls are killed",
    "locks": "threads are switched before and after what they do with locks and events, at places that are chosen",
    "memory": "the program, processes of calls or the embedded cluster get no more memory, for a while",
    "settles": "the program gives Futures their results itself",
    "signals": "another process sends SIGINT or SIGTERM, or stops processes for a while",
    "switches": "threads are switched every few microseconds",
    "threads": "several threads of the program use the executor at once",
}
"""By name, what goes wrong."""

ONLY_APART = frozenset(("descriptors", "disk", "engine", "folders", "kills"))
"""Those that mean nothing where calls run in the program's own process."""

ENDINGS = ("shutdown", "cancel", "exit", "drop")
"""shutdown() that waits; one that cancels what waits; the end of the program with the executor open; the executor is
let go of, and the program ends."""

MAX_STEPS = 40
MAX_LINES = 3000
"""Up to which of the main thread's lines in the project's code an interrupt comes."""

DESCRIPTORS = (48, 64, 96, 160, 256)
INTERVALS = (1e-6, 1e-5, 1e-4)
FOLDERS = ("long", "unwritable", "vanishing")

PROGRAM, CALLS, CLUSTER = "program", "calls", "cluster"
"""Processes: the program's, those of its calls, and that of the embedded cluster."""

HEADROOMS = (1, 8, 32, 128)
"""MiB of address space that processes get beyond what they have."""

FILE_SIZES = (0, 4096, 100_000, 600_000)
"""Bytes that a file may have; segments of shared memory count."""

DISK_SIZES = ("256k", "1m", "4m")

GOES_ON, ENDS, EXITS, DIES = "goes on", "ends", "exits", "dies"
"""What a signal does: a KeyboardInterrupt that the program catches, or one that it does not; a SystemExit out of a
handler; the end by SIGTERM, without a word."""

MAX_STOP_SECONDS = 1.5
VERY_LONG_STOP = 11.0
"""Seconds; after 10 the others of a cluster take a process for lost."""


@dataclass(frozen=True)
class Shortage:
    """For a while there is too little of something: in the first thread's steps from `start` to `stop`."""

    processes: tuple[str, ...]
    start: int
    stop: int
    amount: int
    """MiB of memory, or bytes of a file."""


@dataclass(frozen=True)
class Blow:
    """A signal from outside."""

    wait: float
    """Seconds after the one before."""
    process: str
    name: str
    pause: float = 0.0
    """Seconds until SIGCONT follows."""


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
    memory: Shortage | None = None
    disk: Shortage | None = None
    """Where it has no processes: the folder for temporary files is on a disk of its own, which is full then."""
    disk_size: str | None = None
    """Of that disk."""
    signals: tuple[Blow, ...] = ()
    group: bool = False
    """SIGINT goes to the whole process group, as from a terminal."""
    on_signal: str = GOES_ON
    pauses: float | None = None
    """The part of the places with locks at which threads are switched."""

    def __str__(self) -> str:
        fields = dataclasses.asdict(self)
        given = [f"{name}={value!r}" for name, value in fields.items() if value not in (None, (), False)]
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
    steps = rng.randint(5, MAX_STEPS)
    plan = Plan(
        seed=seed,
        backend=backend,
        workers=rng.randint(1, 3),
        faults=tuple(sorted(faults)),
        steps=steps,
        ending=rng.choice(ENDINGS),
        threads=rng.randint(2, 4) if "threads" in faults else 1,
        descriptors=rng.choice(DESCRIPTORS) if "descriptors" in faults else None,
        interval=rng.choice(INTERVALS) if "switches" in faults else None,
        folder=rng.choice(FOLDERS) if "folders" in faults else None,
        interrupts=tuple(sorted(rng.sample(range(MAX_LINES), rng.randint(1, 6))))
        if "interrupts" in faults
        else (),
        engine=int(rng.lognormvariate(8, 2)) if "engine" in faults else None,
        memory=_shortage(rng, backend, steps, HEADROOMS) if "memory" in faults else None,
        pauses=rng.choice((0.02, 0.1, 0.4)) if "locks" in faults else None,
    )
    if "disk" in faults:
        plan = _with_disk(plan, rng)
    return _with_signals(plan, rng) if "signals" in faults else plan


def _processes(backend: str) -> list[str]:
    return [PROGRAM] + [CALLS] * (backend != "threads") + [CLUSTER] * (backend == "cluster")


def _shortage(rng: random.Random, backend: str, steps: int, amounts: tuple[int, ...]) -> Shortage:
    processes = _processes(backend)
    start = rng.randrange(steps)
    return Shortage(
        tuple(rng.sample(processes, rng.randint(1, len(processes)))),
        start,
        rng.randint(start + 1, steps + 5),  # those beyond the last step last until everything has ended
        rng.choice(amounts),
    )


def _with_disk(plan: Plan, rng: random.Random) -> Plan:
    shortage = _shortage(rng, plan.backend, plan.steps, FILE_SIZES)
    if plan.folder is None and rng.random() < 0.5:
        return dataclasses.replace(
            plan, disk=dataclasses.replace(shortage, processes=()), disk_size=rng.choice(DISK_SIZES)
        )
    return dataclasses.replace(plan, disk=shortage)


def _with_signals(plan: Plan, rng: random.Random) -> Plan:
    """A KeyboardInterrupt that comes in Python code around a lock may leave it locked: there are none with "locks"."""
    ways = [GOES_ON, DIES] if plan.pauses is not None else [GOES_ON, GOES_ON, ENDS, EXITS, DIES]
    way = rng.choice(ways)
    blows = [
        Blow(
            rng.uniform(0.0, 0.3),
            rng.choice(_processes(plan.backend)),
            "SIGSTOP",
            VERY_LONG_STOP if rng.random() < 0.02 else rng.uniform(0.0, MAX_STOP_SECONDS),
        )
        for _ in range(rng.randint(0, 3))
    ]
    if way != GOES_ON or plan.pauses is None:
        name = "SIGINT" if way in (GOES_ON, ENDS) else "SIGTERM"
        count = rng.randint(1, 8) if way == GOES_ON else 1
        blows += [Blow(rng.uniform(0.0, 0.3), PROGRAM, name) for _ in range(count)]
        rng.shuffle(blows)
    return dataclasses.replace(plan, signals=tuple(blows), group=rng.random() < 0.5, on_signal=way)
