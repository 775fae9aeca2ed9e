"""Looking in now and then: `wait` with a timeout, so that the program can do something else meanwhile.

python examples/03_polling.py
python examples/03_polling.py --every 0.2 --scale 0.1
"""

from __future__ import annotations

import argparse
import time

from jobrunner import Executor, wait

SLEEPS = (6.5, 0.5, 2.5, 1.5, 3.5)


def sleep_for(seconds: float, scale: float) -> float:
    time.sleep(seconds * scale)
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--backend", help="threads, processes, cluster or tcp://HOST:PORT (default: configured)"
    )
    parser.add_argument("--every", type=float, default=1.0, help="seconds between two looks (default: 1)")
    parser.add_argument(
        "--scale", type=float, default=1.0, help="multiply the tasks' times by this (default: 1)"
    )
    options = parser.parse_args()

    with Executor(options.backend, max_workers=3) as executor:
        left = {executor.submit(sleep_for, seconds, options.scale) for seconds in SLEEPS}
        look = 0
        while left:
            # Returns when all are done, at the latest after the timeout; unlike result(timeout=...) it never
            # raises.
            done, left = wait(left, timeout=options.every)
            look += 1
            found = ", ".join(f"{result:g} s" for result in sorted(future.result() for future in done))
            print(f"look {look}: done {found or 'nothing'}; {len(left)} left", flush=True)


if __name__ == "__main__":
    main()
