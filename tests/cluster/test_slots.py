"""What a worker's slots are told about calls: initializers that fail there, and how many calls a process makes."""

from __future__ import annotations

import collections

import pytest
from support import calls

from jobrunner import Executor, InitializerError, NotSupportedError
from jobrunner.cli.app import main
from jobrunner.testing.waiting import BOUND


@pytest.fixture
def opened(address):
    executors = []

    def make(**settings):
        executors.append(Executor(address, **settings))
        return executors[-1]

    yield make
    for executor in executors:
        executor._lifetime.kill()


@pytest.mark.parametrize("initializer", [calls.fail_on, calls.die_on])
def test_an_initializer_that_fails_on_one_worker(cluster, address, opened, initializer):
    cluster.worker(address, "bad", slots=2)
    cluster.worker(address, "good")
    executor = opened(initializer=initializer, initargs=("bad",))
    futures = [executor.submit(calls.where_and_own_pid) for _ in range(10)]
    assert {future.result(BOUND)[0] for future in futures} == {"good"}
    assert {where for where, _ in executor.map(calls.where_and_own_pid, range(10))} == {"good"}


@pytest.mark.parametrize("initializer", [calls.fail_on, calls.die_on])
def test_an_initializer_that_fails_on_every_worker(cluster, address, opened, initializer):
    cluster.worker(address, "bad", slots=2)
    executor = opened(initializer=initializer, initargs=("bad",))
    with pytest.raises(InitializerError, match="initializer"):
        executor.submit(calls.square, 1).result(BOUND)
    with pytest.raises(InitializerError, match="initializer"):
        executor.submit(calls.square, 1)
    assert opened().submit(calls.square, 3).result(BOUND) == 9


def test_no_process_of_such_a_worker_makes_more_calls(cluster, address, opened):
    cluster.worker(address, "w", "--max-tasks-per-slot", "5", slots=2)
    executor = opened()
    counts = collections.Counter(executor.submit(calls.own_pid).result(BOUND) for _ in range(20))
    for chunksize in (None, 7):
        results = executor.map(calls.where_and_own_pid, range(40), chunksize=chunksize)
        counts.update(pid for _, pid in results)
    futures = [executor.submit(calls.own_pid) for _ in range(200)]
    counts.update(future.result(BOUND) for future in futures)
    assert sum(counts.values()) == 300
    assert max(counts.values()) <= 5


def test_a_client_cannot_ask_for_it(cluster, address):
    cluster.worker(address, "w")
    with pytest.raises(NotSupportedError, match="--max-tasks-per-slot N"):
        Executor(address, max_tasks_per_child=3)


@pytest.mark.parametrize("number", ["0", "-1"])
def test_a_number_that_cannot_be_is_refused(capfd, number):
    assert main(["worker", "start", "--max-tasks-per-slot", number]) == 2
    assert "max_tasks_per_slot" in capfd.readouterr().err
