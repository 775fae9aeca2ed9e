"""scipy on all CPUs, or a cluster: an Executor's `map` is what scipy calls `workers`.

    pip install scipy
    python examples/06_scipy.py
    python examples/06_scipy.py --backend tcp://10.0.0.5:7077

A curve through noisy points is found by differential evolution, which tries a whole generation of curves at a time.
"""

from __future__ import annotations

import argparse

import numpy as np
from scipy.optimize import differential_evolution

from jobrunner import Executor

TRUE = (2.0, 0.7, 1.5)
"""Height, decay and frequency of a swing that dies away."""


def curve(parameters: np.ndarray | tuple[float, ...], times: np.ndarray) -> np.ndarray:
    height, decay, frequency = parameters
    return height * np.exp(-decay * times) * np.cos(2 * np.pi * frequency * times)


def distance(parameters: np.ndarray, times: np.ndarray, measured: np.ndarray) -> float:
    """Sum of the squared differences: what is made small."""
    return float(np.sum((curve(parameters, times) - measured) ** 2))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--backend", help="threads, processes, cluster or tcp://HOST:PORT (default: configured)"
    )
    parser.add_argument("--generations", type=int, default=60, help="at most (default: 60)")
    options = parser.parse_args()

    times = np.linspace(0, 5, 500)
    measured = curve(TRUE, times) + np.random.default_rng(1).normal(scale=0.05, size=times.size)
    with Executor(options.backend) as executor:
        found = differential_evolution(
            distance,
            bounds=[(0.1, 5), (0.1, 2), (0.5, 3)],
            args=(times, measured),
            maxiter=options.generations,
            updating="deferred",  # a whole generation at a time: what can run in parallel
            workers=executor.map,
        )
    print("found:", ", ".join(f"{value:.3f}" for value in found.x), f"after {found.nfev} curves")
    print("true: ", ", ".join(f"{value:.3f}" for value in TRUE))


if __name__ == "__main__":
    main()
