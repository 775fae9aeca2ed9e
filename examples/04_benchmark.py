"""What does it bring? The same calls with the built-in map, on threads, on processes and on a cluster.

    python examples/04_benchmark.py --scale 20      # a twentieth of the work: some seconds
    python examples/04_benchmark.py                 # all of it: minutes
    python examples/04_benchmark.py --backend tcp://10.0.0.5:7077

Threads do not help pure Python code, because only one of them runs at a time (the GIL); processes do, as far
as there are CPUs. Four processes on two CPUs are at best twice as fast. `jobrunner demo` is this example with
a progress bar.
"""

from __future__ import annotations

import argparse
import time

from jobrunner import Executor

NUMBERS = (34567890, 5432198, 44444444, 22222222, 56565656, 43236653, 23545353, 32425262)


def pi(factors: int) -> float:
    """Twice the product of the first `factors` factors of 2/1 * 2/3 * 4/3 * 4/5 * 6/5 * ..."""
    product = 1.0
    numerator, denominator = 2, 1
    for index in range(factors):
        product *= numerator / denominator
        if index % 2:
            numerator += 2
        else:
            denominator += 2
    return 2 * product


def measure(backend: str, numbers: list[int], workers: int) -> tuple[float, list[float]]:
    """Seconds and results. The start of processes is left out: a program pays it once, not per call."""
    if backend == "built-in":
        started = time.perf_counter()
        results = list(map(pi, numbers))
        return time.perf_counter() - started, results
    with Executor(backend, max_workers=None if "://" in backend else workers) as executor:
        list(executor.map(pi, [1] * workers, chunksize=1))
        started = time.perf_counter()
        results = list(executor.map(pi, numbers, chunksize=1))
        return time.perf_counter() - started, results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--backend", action="append", help="only this, and the built-in map; may be repeated (default: all)"
    )
    parser.add_argument("--workers", type=int, default=4, help="of each local backend (default: 4)")
    parser.add_argument("--scale", type=float, default=1.0, help="divide the numbers by this (default: 1)")
    options = parser.parse_args()

    numbers = [max(1, round(number / options.scale)) for number in NUMBERS]
    expected, base = None, 0.0
    for backend in ("built-in", *(options.backend or ("threads", "processes", "cluster"))):
        seconds, results = measure(backend, numbers, options.workers)
        if expected is None:
            expected, base = results, seconds
        verdict = "same results" if results == expected else "OTHER RESULTS"
        print(
            f"{backend:<12} {seconds:8.2f} s   {base / seconds:5.2f} times the built-in   {verdict}",
            flush=True,
        )


if __name__ == "__main__":
    main()
