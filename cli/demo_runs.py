"""What `jobrunner demo` does: the same calls on several backends, timed and compared; prints nothing."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import Future, as_completed
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from jobrunner.cli.workload import pi

if TYPE_CHECKING:
    from jobrunner import Executor

BUILTIN = "built-in map"
THREADS = "threads"
PROCESSES = "processes"
CLUSTER = "cluster"
WARM_UP_FACTORS = 1_000


@dataclass(frozen=True)
class Plan:
    """One row of the table. `backend` is what Executor gets; None is the built-in map, without any executor.

    `max_workers` is None where the cluster is somebody else's and has the slots that it has.
    """

    name: str
    backend: str | None = None
    max_workers: int | None = None


@dataclass(frozen=True)
class Run:
    """What one backend did. Seconds; `startup` is what it took until the first small calls came back."""

    name: str
    startup: float
    seconds: float
    results: list[float]


class Reporter(Protocol):
    """Hears how the demo goes on."""

    def start(self, name: str, total: int) -> None: ...
    def note(self, text: str) -> None: ...
    def advance(self, factors: int) -> None: ...
    def finish(self, run: Run) -> None: ...


def plans(
    workers: int, address: str | None, *, builtin: bool, threads: bool, processes: bool, cluster: bool
) -> list[Plan]:
    """The rows of the table, in their order."""
    remote = Plan(address, address) if address else Plan(CLUSTER, CLUSTER, workers)
    wanted = [
        (builtin, Plan(BUILTIN)),
        (threads, Plan(THREADS, THREADS, workers)),
        (processes, Plan(PROCESSES, PROCESSES, workers)),
        (cluster, remote),
    ]
    return [plan for chosen, plan in wanted if chosen]


def run_all(plans: Sequence[Plan], numbers: Sequence[int], reporter: Reporter) -> list[Run]:
    """One backend after the other, since they would take each other's CPUs."""
    runs = []
    for plan in plans:
        reporter.start(plan.name, sum(numbers))
        runs.append(run(plan, numbers, reporter))
        reporter.finish(runs[-1])
    return runs


def run(plan: Plan, numbers: Sequence[int], reporter: Reporter) -> Run:
    """pi of each of `numbers`, where the plan says."""
    if plan.backend is None:
        return run_builtin(plan.name, numbers, reporter)
    return run_executor(plan, numbers, reporter)


def run_builtin(name: str, numbers: Sequence[int], reporter: Reporter) -> Run:
    started = time.perf_counter()
    results = []
    for number, result in zip(numbers, map(pi, numbers), strict=True):
        results.append(result)
        reporter.advance(number)
    return Run(name, 0.0, time.perf_counter() - started, results)


def run_executor(plan: Plan, numbers: Sequence[int], reporter: Reporter) -> Run:
    from jobrunner import Executor, gather

    started = time.perf_counter()
    # Ctrl-C inside the block stops the calls, which may take half a minute each, rather than wait for them.
    with Executor(plan.backend, max_workers=plan.max_workers) as executor:
        if plan.max_workers is None and executor.status().get("slots") == 0:
            reporter.note(f"{plan.name} has no workers yet; waiting for the first")
        # One small call per slot: the table compares calls, and shows the start of processes beside them.
        gather([executor.submit(pi, WARM_UP_FACTORS) for _ in range(plan.max_workers or 1)])
        ready = time.perf_counter()
        results = collect(executor, numbers, reporter)
        seconds = time.perf_counter() - ready
    return Run(plan.name, ready - started, seconds, results)


def collect(executor: Executor, numbers: Sequence[int], reporter: Reporter) -> list[float]:
    """The results in the order of `numbers`; the reporter hears of each as it comes."""
    futures: dict[Future[float], int] = {
        executor.submit(pi, number): index for index, number in enumerate(numbers)
    }
    results = [0.0] * len(numbers)
    for future in as_completed(futures):
        index = futures[future]
        results[index] = future.result()
        reporter.advance(numbers[index])
    return results


def differing(runs: Sequence[Run]) -> list[str]:
    """The names of the backends whose results are not, to the last bit, those of the first."""
    return [run.name for run in runs[1:] if run.results != runs[0].results]


def speedup(run: Run, runs: Sequence[Run]) -> float | None:
    """How many times faster than the built-in map; None when that was left out."""
    base = next((other.seconds for other in runs if other.name == BUILTIN), None)
    return base / run.seconds if base is not None and run.seconds > 0 else None


def document(runs: Sequence[Run], numbers: Sequence[int], workers: int) -> dict[str, Any]:
    """The whole demo, for --json."""
    return {
        "workers": workers,
        "factors": list(numbers),
        "results": runs[0].results if runs else [],
        "equal": not differing(runs),
        "differing": differing(runs),
        "backends": [
            {"name": run.name, "startup": run.startup, "seconds": run.seconds, "speedup": speedup(run, runs)}
            for run in runs
        ],
    }
