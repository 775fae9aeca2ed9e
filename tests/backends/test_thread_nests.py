"""Calls on threads that wait for calls of their own without a word."""

from __future__ import annotations

import concurrent.futures
import threading

import pytest

from jobrunner import Executor, current_executor
from jobrunner.nested import wait_hooks as blocking
from jobrunner.testing.waiting import until


@pytest.fixture
def pool():
    with Executor("threads", max_workers=1) as executor:
        yield executor


def looking():
    return [thread for thread in threading.enumerate() if thread.name == "jobrunner-nests"]


def test_a_call_that_waits_without_a_word_counts_once(pool):
    begun, go = threading.Event(), threading.Event()

    def inner():
        begun.set()
        go.wait()

    def outer():
        future = current_executor().submit(inner)
        concurrent.futures.wait([future])
        return future.done()

    future = pool.submit(outer)
    assert begun.wait(30)
    assert (pool.status()["running"], pool.status()["waiting"]) == (1, 1)
    go.set()
    assert future.result()
    until(lambda: pool.status()["waiting"] == 0)


def test_a_call_that_leaves_a_wait_open_does_not_yield_its_thread_after_it(pool):
    kept = []

    def leave_open():
        kept.append(blocking.waiting())
        kept[0].__enter__()

    pool.submit(leave_open).result()
    until(lambda: pool.status()["waiting"] == 0)
    del kept[:]
    assert pool.submit(int).result() == 0
    assert pool.status()["waiting"] == 0


def test_a_second_call_waits_in_the_same_thread_as_the_first_one(pool):
    def outer():
        return concurrent.futures.wait([current_executor().submit(int)]).not_done

    assert [pool.submit(outer).result() for _ in range(2)] == [set(), set()]


def test_a_call_that_goes_on_after_its_calls_does_not_share_its_thread(pool):
    """With one thread, calls run one after the other, unless one of them waits."""
    go, order = threading.Event(), []

    def outer():
        future = current_executor().submit(order.append, "inner")
        concurrent.futures.wait([future])
        go.wait()
        order.append("outer")

    first = pool.submit(outer)
    until(lambda: order and pool.status()["waiting"] == 0)
    second = pool.submit(order.append, "second")
    go.set()
    concurrent.futures.wait([first, second])
    assert order == ["inner", "outer", "second"]


def test_the_thread_that_looks_ends_with_the_pool():
    def outer():
        futures = [current_executor().submit(int) for _ in range(2)]
        assert looking()
        concurrent.futures.wait(futures)

    with Executor("threads", max_workers=1) as pool:
        pool.submit(outer).result()
    assert not looking()
