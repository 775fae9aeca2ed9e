"""Libraries that take an executor, a pool or a `map`, and know nothing of jobrunner. None needs an adapter."""

from __future__ import annotations

import asyncio

import adaptive
import dask
import dask.array
import dask.bag
import emcee
import nevergrad
import numpy as np
import pytest
import scipy.optimize
import zoo

# --- dask ---------------------------------------------------------------------------------------------------


def test_dask_array(executor):
    matrix = dask.array.random.default_rng(1).normal(size=(400, 300), chunks=(100, 100))
    found, mean = dask.compute((matrix @ matrix.T).sum(), matrix.mean(axis=0), scheduler=executor)
    expected, expected_mean = dask.compute(
        (matrix @ matrix.T).sum(), matrix.mean(axis=0), scheduler="synchronous"
    )
    assert found == expected
    assert np.array_equal(mean, expected_mean)


def test_dask_bag_with_lambdas(executor):
    numbers = dask.bag.from_sequence(range(100), npartitions=7)
    total = numbers.map(lambda x: x + 1).filter(lambda x: x % 2).sum()
    assert total.compute(scheduler=executor) == sum(range(1, 101, 2))


def test_dask_delayed_runs_a_graph_and_raises_what_was_raised(executor):
    three = dask.delayed(zoo.add)(1, 2)
    assert dask.delayed(sum)([three, dask.delayed(zoo.add)(three, 4)]).compute(scheduler=executor) == 10
    with pytest.raises(ZeroDivisionError):
        dask.delayed(zoo.divide)(three, 0).compute(scheduler=executor)


def test_dask_takes_it_as_the_configured_scheduler(executor):
    with dask.config.set(scheduler=executor):
        assert dask.array.ones((10, 10), chunks=5).sum().compute() == 100


# --- optimizers and samplers --------------------------------------------------------------------------------


def parabola(x):
    return float(np.sum(np.square(x)))


def log_probability(x):
    return -0.5 * parabola(x)


def peak(x):
    return x + 0.01 / (0.01 + x * x)


def test_scipy_differential_evolution(executor):
    def minimum(workers):
        return scipy.optimize.differential_evolution(
            parabola, [(-5, 5)] * 3, updating="deferred", maxiter=10, seed=1, workers=workers
        )

    assert np.array_equal(minimum(executor.map).x, minimum(1).x)


def test_scipy_brute(executor):
    grid = (slice(-2, 2, 0.5), slice(-1, 3, 0.5))
    found = scipy.optimize.brute(parabola, grid, finish=None, workers=executor.map)
    assert np.array_equal(found, [0, 0])


def test_emcee(executor):
    start = np.random.default_rng(0).normal(size=(16, 3))

    def chain(pool):
        np.random.seed(3)
        sampler = emcee.EnsembleSampler(16, 3, log_probability, pool=pool)
        sampler.run_mcmc(start, 8)
        return sampler.get_chain()

    assert np.array_equal(chain(executor), chain(None))


def test_adaptive_blocking(executor):
    """It knows how many workers some executors have, and asks to be told of others: `ntasks`."""
    learner = adaptive.Learner1D(peak, bounds=(-1, 1))
    adaptive.BlockingRunner(learner, npoints_goal=30, executor=executor, ntasks=executor.max_workers)
    assert learner.npoints >= 30
    assert all(learner.data[x] == peak(x) for x in learner.data)


def test_adaptive_in_an_event_loop(executor):
    async def main():
        learner = adaptive.Learner1D(peak, bounds=(-1, 1))
        runner = adaptive.AsyncRunner(
            learner, npoints_goal=30, executor=executor, ntasks=executor.max_workers
        )
        await runner.task
        return learner

    assert asyncio.run(main()).npoints >= 30


@pytest.mark.filterwarnings(
    "ignore:Ignoring since timer was stopped:UserWarning"
)  # nevergrad's own, now and then
@pytest.mark.parametrize("batch_mode", [True, False])
def test_nevergrad(executor, batch_mode):
    optimizer = nevergrad.optimizers.TwoPointsDE(
        parametrization=nevergrad.p.Array(shape=(2,)), budget=40, num_workers=executor.max_workers
    )
    found = optimizer.minimize(parabola, executor=executor, batch_mode=batch_mode)
    assert optimizer.num_tell == 40
    assert parabola(found.value) < 1
