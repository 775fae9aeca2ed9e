"""What keys cost: the same calls and payloads through a coordinator with keys and one without, in turns.

    python benchmarks/encryption.py --rounds 5

Starts a coordinator of each kind on loopback, each with a worker of two slots. Prints medians, and their ratio.
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable

from jobrunner import Executor


def double(x: int) -> int:
    return 2 * x


def size(data: bytes) -> int:
    return len(data)


def start(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "jobrunner", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )


def started(*options: str) -> tuple[str, list[subprocess.Popen[str]]]:
    """A cluster's address and its processes."""
    coordinator = start("coordinator", "start", "--port", "0", "--no-journal", *options)
    assert coordinator.stdout is not None
    found = re.search(r"coordinator at (\S+)", coordinator.stdout.readline())
    assert found is not None
    return found[1], [coordinator, start("worker", "start", found[1], "--slots", "2")]


def calls(executor: Executor) -> float:
    """Calls per second, one by one."""
    count = 10_000
    began = time.perf_counter()
    for future in [executor.submit(double, n) for n in range(count)]:
        future.result()
    return count / (time.perf_counter() - began)


def elements(executor: Executor) -> float:
    """Elements of a map per second."""
    count = 100_000
    began = time.perf_counter()
    assert sum(1 for _ in executor.map(double, range(count))) == count
    return count / (time.perf_counter() - began)


def payloads(executor: Executor) -> float:
    """Megabytes per second, in arguments of 32 MB."""
    data = os.urandom(32_000_000)
    began = time.perf_counter()
    for future in [executor.submit(size, data) for _ in range(8)]:
        future.result()
    return 8 * 32 / (time.perf_counter() - began)


def round_trip(executor: Executor) -> float:
    """Calls per second where each waits for the one before."""
    count = 500
    began = time.perf_counter()
    for n in range(count):
        executor.submit(double, n).result()
    return count / (time.perf_counter() - began)


MEASURES: dict[str, Callable[[Executor], float]] = {
    "calls/s": calls,
    "map elements/s": elements,
    "one after the other/s": round_trip,
    "MB/s of arguments": payloads,
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    processes: list[subprocess.Popen[str]] = []
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_CONFIG_HOME"] = folder
        try:
            executors = {}
            for kind, options in (("keys", ()), ("none", ("--insecure",))):
                os.environ["JOBRUNNER_INSECURE"] = str(int(bool(options)))
                address, more = started(*options)
                processes += more
                executors[kind] = Executor(address)
                executors[kind].submit(double, 1).result()
            figures: dict[tuple[str, str], list[float]] = {}
            for _ in range(rounds):
                for name, measure in MEASURES.items():
                    for kind, executor in executors.items():
                        figures.setdefault((name, kind), []).append(measure(executor))
            print(f"{'':24}{'with keys':>12}{'without':>12}{'ratio':>8}")
            for name in MEASURES:
                keys, none = (statistics.median(figures[name, kind]) for kind in ("keys", "none"))
                print(f"{name:24}{keys:12,.0f}{none:12,.0f}{keys / none:8.2f}")
            for executor in executors.values():
                executor.shutdown()
        finally:
            for process in processes:
                process.terminate()
            for process in processes:
                process.wait()


if __name__ == "__main__":
    main()
