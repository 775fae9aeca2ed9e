"""Where to look next: adaptive evaluates a function where it is interesting, on the workers of an Executor.

    pip install adaptive
    python examples/08_adaptive.py
    JOBRUNNER_BACKEND=cluster python examples/08_adaptive.py --points 200

The function has a narrow peak. As each value arrives, adaptive decides on the next place, so that most of the points
end up at the peak and few on the plain.
"""

from __future__ import annotations

import argparse

import adaptive

from jobrunner import Executor

PEAK, WIDTH = 0.3, 0.02


def measure(x: float) -> float:
    """As if it took an hour."""
    return x + WIDTH**2 / (WIDTH**2 + (x - PEAK) ** 2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--backend", help="threads, processes, cluster or tcp://HOST:PORT (default: configured)"
    )
    parser.add_argument("--points", type=int, default=100, help="to measure (default: 100)")
    options = parser.parse_args()

    learner = adaptive.Learner1D(measure, bounds=(-1, 1))
    with Executor(options.backend) as executor:
        # adaptive knows how many workers the standard pools have; of others it wants to be told.
        adaptive.BlockingRunner(
            learner, npoints_goal=options.points, executor=executor, ntasks=executor.max_workers
        )
    near = sum(abs(x - PEAK) < 5 * WIDTH for x in learner.data)
    highest = max(learner.data, key=learner.data.__getitem__)
    print(f"{learner.npoints} points, {near} of them near the peak, which is at {highest:.2f}")


if __name__ == "__main__":
    main()
