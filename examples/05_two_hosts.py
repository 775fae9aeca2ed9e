"""Which host did what: the same program, on this machine or on several.

Without a cluster it shows this host alone:

    python examples/05_two_hosts.py

With one, first on host A (its address is 10.0.0.5 here), then on A, B and any other:

    jobrunner coordinator start --host 10.0.0.5
    jobrunner worker start -             # asks for the line that the coordinator printed for workers

and from any of them (other hosts: after `jobrunner join -`, which asks for the line for programs):

    JOBRUNNER_BACKEND=tcp://10.0.0.5:7077 python examples/05_two_hosts.py

README.md beside this file says more, and how to try it with three terminals on one machine.
"""

from __future__ import annotations

import argparse
import os
import socket
import time
from collections import Counter

from jobrunner import Executor, as_completed


def where_am_i(number: int, seconds: float) -> tuple[int, str, int]:
    """Take a while; then say who did it. Workers need no copy of this file: the function travels to them."""
    time.sleep(seconds)
    return number, socket.gethostname(), os.getpid()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--backend", help="threads, processes, cluster or tcp://HOST:PORT (default: configured)"
    )
    parser.add_argument("--tasks", type=int, default=40, help="how many (default: 40)")
    parser.add_argument("--seconds", type=float, default=0.1, help="how long each takes (default: 0.1)")
    options = parser.parse_args()

    done: Counter[tuple[str, int]] = Counter()
    started = time.perf_counter()
    with Executor(options.backend) as executor:
        futures = [executor.submit(where_am_i, number, options.seconds) for number in range(options.tasks)]
        for future in as_completed(futures):
            _, host, pid = future.result()
            done[host, pid] += 1
    for (host, pid), count in sorted(done.items()):
        print(f"{host}, process {pid}: {count} tasks")
    print(f"{done.total()} tasks on {len(done)} processes in {time.perf_counter() - started:.1f} s")


if __name__ == "__main__":
    main()
