"""The simulated cluster for tests of users."""

from __future__ import annotations

import threading

import pytest

from jobrunner import SerializationError, as_completed, wait
from jobrunner.testing import SimulatedCluster

pytest_plugins = ["jobrunner.testing.fixtures"]

ran = []
lock = threading.Lock()


def square(x):
    ran.append(x)
    return x * x


def fail(x):
    raise ValueError(x)


def history(seed):
    """What happens under that seed: the order of the executions, and the time that it takes."""
    ran.clear()
    with SimulatedCluster(seed, drop=0.05, duplicate=0.1, late=0.05, kill_workers=4) as cluster:
        executor = cluster.executor()
        assert [f.result() for f in [executor.submit(square, i) for i in range(60)]] == [
            i * i for i in range(60)
        ]
        return list(ran), cluster.now, cluster.executions("square")


def test_a_seed_decides_everything():
    assert history(3) == history(3)
    assert history(3)[0] != history(4)[0]


def test_calls_are_executed_again_where_their_worker_was_killed():
    assert any(history(seed)[2] > 60 for seed in range(5))
    ran.clear()
    with SimulatedCluster() as cluster:
        assert list(cluster.executor().map(square, range(50))) == [i * i for i in range(50)]
    assert sorted(ran) == list(range(50))


def test_everything_that_waits_lets_time_pass(simulated_cluster):
    executor = simulated_cluster.executor()
    futures = [executor.submit(square, i) for i in range(5)]
    assert {f.result() for f in as_completed(futures)} == {0, 1, 4, 9, 16}
    done, pending = wait([executor.submit(square, 2)])
    assert (len(done), len(pending)) == (1, 0)
    assert isinstance(executor.submit(fail, 1).exception(), ValueError)
    assert simulated_cluster.now > 0.1


def test_futures_as_arguments(faulty_executor):
    executor = faulty_executor
    squares = [executor.submit(square, i) for i in range(10)]
    assert executor.submit(sum, squares).result() == 285
    assert executor.submit(max, squares[2], executor.submit(square, squares[1])).result() == 4


def test_what_cannot_be_pickled_fails_alone(simulated_cluster):
    executor = simulated_cluster.executor()
    assert isinstance(executor.submit(square, lock).exception(), SerializationError)


def test_cancel(simulated_cluster):
    executor = simulated_cluster.executor()
    futures = [executor.submit(square, i) for i in range(10)]
    assert futures[-1].cancel()
    assert futures[0].cancel(running=True)
    assert futures[1].result() == 1


@pytest.mark.parametrize("number", range(10))
def test_the_fixture_with_faults(faulty_executor, number):
    assert list(faulty_executor.map(square, range(100), chunksize=3)) == [i * i for i in range(100)]
    with pytest.raises(ValueError, match="7"):
        faulty_executor.with_options(retries=2).submit(fail, 7).result()
