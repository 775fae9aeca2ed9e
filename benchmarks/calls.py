"""What one call costs: rate, latency and CPU time per call, side by side with the standard library's pools.

    python benchmarks/calls.py                      # all of them, 20,000 calls each
    python benchmarks/calls.py --calls 5000 cluster ProcessPoolExecutor

Every row is measured in a fresh interpreter. "cpu" is the user and system time of all processes together (client,
coordinator, worker, slots), divided by the calls. Compare the rows of one run with each other: absolute figures say
more about the machine than about the code. Needs psutil.
"""

from __future__ import annotations

import argparse
import operator
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import Executor as StandardExecutor
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from typing import Any

import psutil

import jobrunner

WORKERS = 2
POOLS: dict[str, Callable[[], StandardExecutor]] = {
    "ThreadPoolExecutor": lambda: ThreadPoolExecutor(WORKERS),
    "ProcessPoolExecutor": lambda: ProcessPoolExecutor(WORKERS),
    "threads": lambda: jobrunner.Executor("threads", max_workers=WORKERS),
    "processes": lambda: jobrunner.Executor("processes", max_workers=WORKERS),
    "cluster": lambda: jobrunner.Executor("cluster", max_workers=WORKERS),
}


def cpu_seconds() -> float:
    """CPU time of this process and all below it."""
    me = psutil.Process()
    total = 0.0
    for process in [me, *me.children(recursive=True)]:
        times = process.cpu_times()
        total += times.user + times.system
    return total


def measure(pool: StandardExecutor, calls: int) -> dict[str, float]:
    def timed(work: Callable[[], Any]) -> float:
        start = time.perf_counter()
        work()
        return time.perf_counter() - start

    one = operator.pos
    for value in range(200):
        pool.submit(one, value).result()
    latencies = [timed(lambda: pool.submit(one, 1).result()) for _ in range(500)]
    cpu, start = cpu_seconds(), time.perf_counter()
    futures = [pool.submit(one, value) for value in range(calls)]
    submitted = time.perf_counter()
    if [future.result() for future in futures] != list(range(calls)):
        raise SystemExit("wrong results")
    done = time.perf_counter()
    return {
        "latency us": statistics.median(latencies) * 1e6,
        "submit/s": calls / (submitted - start),
        "calls/s": calls / (done - start),
        "cpu us": (cpu_seconds() - cpu) / calls * 1e6,
        "map/s": 5 * calls / timed(lambda: list(pool.map(one, range(5 * calls), **map_options(pool)))),
    }


def map_options(pool: StandardExecutor) -> dict[str, int]:
    """The standard library's process pool needs to be told a chunk size; ours finds its own."""
    return {"chunksize": 256} if isinstance(pool, ProcessPoolExecutor) else {}


def run_one(name: str, calls: int) -> None:
    with POOLS[name]() as pool:
        figures = measure(pool, calls)
    print(f"{name:20}" + "".join(f"{value:14,.0f}" for value in figures.values()), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pools", nargs="*", help=f"any of: {', '.join(POOLS)}")
    parser.add_argument("--calls", type=int, default=20_000)
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.here:
        run_one(arguments.pools[0], arguments.calls)
        return
    titles = ("latency us", "submit/s", "calls/s", "cpu us", "map/s")
    print(f"{'':20}" + "".join(f"{title:>14}" for title in titles), flush=True)
    for name in arguments.pools or POOLS:
        command = [sys.executable, __file__, "--here", "--calls", str(arguments.calls), name]
        subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
