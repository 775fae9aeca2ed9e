"""What the coordinator's journal costs: the rate at which calls are accepted, and done, with it and without.

    python benchmarks/journal.py
    python benchmarks/journal.py --calls 20000 --rounds 7

In each round a coordinator with a journal and one without take turns, each a process of its own with an empty journal.
"accepted" is the time from the first `submit` until the coordinator has all calls (no worker is there yet); "done" that
of as many calls with one worker of two slots. The ratios count: absolute figures say more about the machine.
"""

from __future__ import annotations

import argparse
import operator
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from jobrunner import Executor
from jobrunner.admin import ClusterAdmin


@contextmanager
def daemon(*arguments: str) -> Iterator[str]:
    """A `jobrunner` command in the background; the first line that it prints."""
    process = subprocess.Popen(
        [sys.executable, "-m", "jobrunner", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout is not None
    try:
        yield process.stdout.readline() if arguments[0] == "coordinator" else ""
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()


def measure(calls: int, journal: Path | None, size: int) -> tuple[float, float]:
    """Calls accepted per second, and calls done per second."""
    keeping = ["--no-journal"] if journal is None else ["--journal", str(journal)]
    argument = b"x" * size
    with daemon("coordinator", "start", "--port", "0", *keeping) as line:
        found = re.search(r"tcp://\S+", line)
        assert found, line
        address = found[0]
        with Executor(address) as executor, ClusterAdmin(address) as admin:
            start = time.perf_counter()
            futures = [executor.submit(len, argument) for _ in range(calls)]
            while admin.status()["tasks"]["queued"] < calls:
                time.sleep(0.002)
            accepted = calls / (time.perf_counter() - start)
            with daemon("worker", "start", address, "--slots", "2"):
                for future in futures:
                    future.result()
                start = time.perf_counter()
                futures = [executor.submit(operator.pos, value) for value in range(calls)]
                for future in futures:
                    future.result()
                done = calls / (time.perf_counter() - start)
    return accepted, done


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--calls", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--size", type=int, default=100, help="bytes of each argument")
    options = parser.parse_args()
    ratios: dict[str, list[float]] = {"accepted": [], "done": []}
    print(f"{'':8}{'accepted/s':>24}{'done/s':>24}\n{'':8}" + f"{'without':>12}{'with':>12}" * 2)
    for round_ in range(options.rounds):
        with tempfile.TemporaryDirectory() as folder:
            without = measure(options.calls, None, options.size)
            kept = measure(options.calls, Path(folder) / "journal", options.size)
        ratios["accepted"].append(kept[0] / without[0])
        ratios["done"].append(kept[1] / without[1])
        print(f"{round_ + 1:<8}{without[0]:12,.0f}{kept[0]:12,.0f}{without[1]:12,.0f}{kept[1]:12,.0f}")
    for name, values in ratios.items():
        print(f"{name}: with the journal {statistics.median(values):.0%} of the rate without (median)")


if __name__ == "__main__":
    main()
