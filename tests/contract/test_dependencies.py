"""Futures among the arguments of a call."""

from __future__ import annotations

import concurrent.futures
import threading
from concurrent.futures import CancelledError

import pytest
import zoo

from jobrunner import DependencyError, Executor


def add(*numbers, **named):
    return sum(numbers) + sum(named.values())


def flatten(value):
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        return [item for part in value for item in flatten(part)]
    return [value]


def fail(*_):
    raise LookupError("the first cause")


def test_a_future_stands_for_its_result(executor):
    one, two = executor.submit(add, 1), executor.submit(add, 2)
    assert executor.submit(add, one, 10, two, more=one).result() == 14


def test_in_lists_tuples_and_dicts(executor):
    one, two = executor.submit(add, 1), executor.submit(add, 2)
    nested = [one, (two, {"a": one, "b": [two, 5]}), ()]
    assert executor.submit(flatten, nested).result() == [1, 2, 1, 2, 5]
    assert nested[0] is one  # the caller's own list is as it was


def test_of_a_call_that_is_done_already(executor):
    done = executor.submit(add, 20, 1)
    assert done.result() == 21
    assert executor.submit(add, done, done).result() == 42


def test_the_same_result_twice_is_the_same_object(executor):
    made = executor.submit(list, "ab")
    assert executor.submit(lambda a, b: a is b, made, [made][0]).result()


def test_a_graph(executor):
    layer = [executor.submit(add, i) for i in range(20)]
    for _ in range(10):
        layer = [executor.submit(add, layer[i], layer[(i + 1) % 20]) for i in range(20)]
    assert executor.submit(add, *layer).result() == sum(range(20)) * 2**10


def test_a_long_chain(executor):
    future = executor.submit(add, 0)
    for _ in range(2000):
        future = executor.submit(add, future, 1)
    assert future.result() == 2000


def test_a_failure_is_the_cause_of_what_needs_it(executor):
    bad = executor.submit(fail)
    dependent = executor.submit(add, 1, [bad])
    failure = dependent.exception()
    assert isinstance(failure, DependencyError)
    assert isinstance(failure.__cause__, LookupError)
    assert "fail" in str(failure)
    assert isinstance(
        executor.submit(add, bad).exception(), DependencyError
    )  # also when it has failed before


def test_a_long_chain_fails_with_the_first_cause(executor, tmp_path):
    future = executor.submit(fail)
    trace = str(tmp_path / "trace")
    for _ in range(500):
        future = executor.submit(zoo.append_line, trace, future)
    failure = future.exception()
    assert isinstance(failure, DependencyError)
    assert isinstance(failure.__cause__, LookupError)
    assert not (tmp_path / "trace").exists()  # none of them ran


@pytest.mark.promise("cancel")
def test_a_cancelled_call_fails_what_needs_it(make_executor, tmp_path, eventually):
    executor = make_executor(max_workers=1)
    started, go = tmp_path / "started", tmp_path / "go"
    running = executor.submit(zoo.announce_and_wait, str(started), str(go), 5)
    eventually(started.exists)
    queued = executor.submit(zoo.echo, 1)
    dependent = executor.submit(zoo.echo, queued)
    assert queued.cancel()
    go.touch()
    assert isinstance(dependent.exception().__cause__, CancelledError)
    assert running.result() == 5


@pytest.mark.promise("cancel")
def test_what_waits_for_another_can_be_cancelled(make_executor, tmp_path):
    executor = make_executor(max_workers=1)
    go = tmp_path / "go"
    first = executor.submit(zoo.wait_for, str(go), 5)
    dependent = executor.submit(zoo.echo, first)
    assert dependent.cancel()
    go.touch()
    assert first.result() == 5


def test_it_takes_no_slot_while_it_waits(make_executor, tmp_path):
    executor = make_executor(max_workers=2)
    go = tmp_path / "go"
    first = executor.submit(zoo.wait_for, str(go), 5)
    dependents = [executor.submit(add, first, 1) for _ in range(5)]
    assert executor.submit(zoo.echo, "between").result() == "between"
    go.touch()
    assert [future.result() for future in dependents] == [6] * 5


def test_shutdown_completes_what_waits(make_executor, tmp_path):
    executor = make_executor()
    go = tmp_path / "go"
    first = executor.submit(zoo.wait_for, str(go), 5)
    chain = [first]
    for _ in range(5):
        chain.append(executor.submit(add, chain[-1], 1))
    executor.shutdown(wait=False)
    go.touch()
    executor.shutdown()
    assert [future.result() for future in chain] == [5, 6, 7, 8, 9, 10]


def test_a_future_of_another_executor(executor):
    with Executor("threads", max_workers=1) as other:
        go = threading.Event()
        slow = other.submit(lambda: go.wait(30) and 7)
        dependent = executor.submit(add, slow, 1)
        assert not dependent.done()
        go.set()
        assert dependent.result() == 8
        assert executor.submit(add, other.submit(add, 3), 1).result() == 4


def test_a_future_of_the_standard_library(executor):
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        assert executor.submit(add, pool.submit(add, 1), pool.submit(add, 2)).result() == 3
        assert isinstance(executor.submit(add, pool.submit(fail)).exception().__cause__, LookupError)


def test_large_results_are_passed_on(executor):
    large = executor.submit(bytes, 3_000_000)
    assert executor.submit(len, large).result() == 3_000_000


@pytest.mark.promise("crashes")
@pytest.mark.crashes
def test_the_death_of_a_process_is_a_cause_too(make_executor):
    executor = make_executor()
    dependent = executor.submit(add, executor.submit(zoo.exit_hard, 3))
    failure = dependent.exception()
    assert isinstance(failure, DependencyError)
    assert type(failure.__cause__).__name__ in ("CrashLimitError", "TaskLostError")


def test_a_cancelled_call_whose_argument_never_comes_holds_nobody_up(make_executor):
    never: concurrent.futures.Future = concurrent.futures.Future()
    executor = make_executor()
    waiting = executor.submit(zoo.echo, never)
    assert waiting.cancel()
    executor.shutdown()
    assert waiting.cancelled()
