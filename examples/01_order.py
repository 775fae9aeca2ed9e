"""Who works when: four tasks for three workers.

    python examples/01_order.py                     # local processes
    python examples/01_order.py --backend threads
    python examples/01_order.py --no-wait           # shutdown(wait=False)

The tasks sleep 9, 2, 5 and 6 seconds. "All tasks started." is there at once: submit does not wait. The tasks'
lines come after 2, 5, 8 and 9 seconds, since the fourth task starts when the first worker is free again. With
--no-wait "All tasks done." comes before all of them, because then shutdown returns at once; the program still
does not end before its work has.
"""

from __future__ import annotations

import argparse
import time

from jobrunner import Executor, wait

SLEEPS = (9, 2, 5, 6)


def task(seconds: float, scale: float, since: float) -> None:
    """Sleep, then say so. On processes and clusters the line still appears here, at the client."""
    time.sleep(seconds * scale)
    print(f"Task of {seconds} s is done after {(time.time() - since) / scale:.1f} s.", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--backend", help="threads, processes, cluster or tcp://HOST:PORT (default: configured)"
    )
    parser.add_argument("--scale", type=float, default=1.0, help="multiply all times by this (default: 1)")
    parser.add_argument("--no-wait", action="store_true", help="leave with shutdown(wait=False)")
    options = parser.parse_args()

    executor = Executor(options.backend, max_workers=3)
    # All three workers first start and do something, so that the times below are those of the tasks alone.
    wait([executor.submit(time.sleep, 0.5) for _ in range(3)])

    since = time.time()
    for seconds in SLEEPS:
        executor.submit(task, seconds, options.scale, since)
    print("All tasks started.", flush=True)
    executor.shutdown(wait=not options.no_wait)
    print("All tasks done.", flush=True)


if __name__ == "__main__":
    main()
