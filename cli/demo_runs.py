"""The runs of `jobrunner demo`: the same calls on several backends, timed and compared, without printing."""

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
    """One row of the table; `backend` is the argument of Executor, or None for the built-in map without an executor.

    `max_workers` is None where the cluster is somebody else's and has the slots that it has.
    """

    name: str
    backend: str | None = None
    max_workers: int | None = None


@dataclass(frozen=True)
class Run:
    """The result of one backend, with times in seconds; `startup` is the time until the first small calls were done."""

    name: str
    startup: float
    seconds: float
    results: list[float]


class Reporter(Protocol):
    """The receiver of reports about the progress of the demo."""

    def start(self, name: str, total: int) -> None: ...
    def note(self, text: str) -> None: ...
    def advance(self, factors: int) -> None: ...
    def finish(self, run: Run) -> None: ...


def plans(
    workers: int, address: str | None, *, builtin: bool, threads: bool, processes: bool, cluster: bool
) -> list[Plan]:
    """Return the rows of the table, in their order."""
    remote = Plan(address, address) if address else Plan(CLUSTER, CLUSTER, workers)
    wanted = [
        (builtin, Plan(BUILTIN)),
        (threads, Plan(THREADS, THREADS, workers)),
        (processes, Plan(PROCESSES, PROCESSES, workers)),
        (cluster, remote),
    ]
    return [plan for chosen, plan in wanted if chosen]


def run_all(plans: Sequence[Plan], numbers: Sequence[int], reporter: Reporter) -> list[Run]:
    """Run one backend after the other, because they would compete for the CPUs."""
    runs = []
    for plan in plans:
        reporter.start(plan.name, sum(numbers))
        runs.append(run(plan, numbers, reporter))
        reporter.finish(runs[-1])
    return runs


def run(plan: Plan, numbers: Sequence[int], reporter: Reporter) -> Run:
    """Compute pi for each of `numbers` on the backend of the plan."""
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
    # After Ctrl-C the calls, which may take half a minute each, are stopped instead of awaited.
    with Executor(plan.backend, max_workers=plan.max_workers) as executor:
        if plan.max_workers is None and executor.status().get("slots") == 0:
            reporter.note(f"{plan.name} has no workers yet; waiting for the first")
        # There is one small call per slot, because the table shows the start of processes beside the calls.
        gather([executor.submit(pi, WARM_UP_FACTORS) for _ in range(plan.max_workers or 1)])
        ready = time.perf_counter()
        results = collect(executor, numbers, reporter)
        seconds = time.perf_counter() - ready
    return Run(plan.name, ready - started, seconds, results)


def collect(executor: Executor, numbers: Sequence[int], reporter: Reporter) -> list[float]:
    """Return the results in the order of `numbers`, and report each one when it arrives."""
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
    """Return the names of the backends whose results differ from those of the first one in any bit."""
    return [run.name for run in runs[1:] if run.results != runs[0].results]


def speedup(run: Run, runs: Sequence[Run]) -> float | None:
    """Return the speed relative to the built-in map; None if that was not run."""
    base = next((other.seconds for other in runs if other.name == BUILTIN), None)
    return base / run.seconds if base is not None and run.seconds > 0 else None


def document(runs: Sequence[Run], numbers: Sequence[int], workers: int) -> dict[str, Any]:
    """Return the document of the whole demo, for --json."""
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
