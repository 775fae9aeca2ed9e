"""Sampling with emcee: an Executor is its `pool`.

    pip install emcee
    python examples/07_emcee.py
    python examples/07_emcee.py --backend cluster --steps 1000

How likely is a slope, and how sure is that? Walkers wander through the plausible lines through some noisy points; where
each goes next is decided by a probability that takes time to compute, for all walkers at once.
"""

from __future__ import annotations

import argparse

import emcee
import numpy as np

from jobrunner import Executor

POINTS = np.array([[0.0, 1.1], [1.0, 2.9], [2.0, 5.2], [3.0, 6.8], [4.0, 9.1]])
NOISE = 0.2
"""Standard deviation of the second column, about the line 1 + 2 x."""


def log_probability(line: np.ndarray) -> float:
    """Of an intercept and a slope, up to a constant."""
    off = POINTS[:, 1] - (line[0] + line[1] * POINTS[:, 0])
    return float(-0.5 * np.sum((off / NOISE) ** 2))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--backend", help="threads, processes, cluster or tcp://HOST:PORT (default: configured)"
    )
    parser.add_argument("--walkers", type=int, default=32, help="at least 4 (default: 32)")
    parser.add_argument("--steps", type=int, default=400, help="of each walker (default: 400)")
    options = parser.parse_args()

    start = np.random.default_rng(1).normal(loc=1.0, scale=0.5, size=(options.walkers, 2))
    with Executor(options.backend) as executor:
        sampler = emcee.EnsembleSampler(options.walkers, 2, log_probability, pool=executor)
        sampler.run_mcmc(start, options.steps)
    samples = sampler.get_chain(discard=options.steps // 4, flat=True)
    for name, column in zip(("intercept", "slope"), samples.T, strict=True):
        print(f"{name}: {column.mean():.2f} ± {column.std():.2f}")


if __name__ == "__main__":
    main()
