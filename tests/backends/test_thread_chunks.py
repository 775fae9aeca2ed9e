"""Chunks whose elements several threads take one by one."""

from __future__ import annotations

import sys
import threading

import pytest

from jobrunner import Executor
from jobrunner.backends.thread_chunks import SharedChunk


def raise_odd(x):
    if x % 2:
        raise ValueError(x)
    return x


def chunk_of(fn, *columns, start=0, stop=None):
    return SharedChunk(fn, columns, start, len(columns[0]) if stop is None else stop)


def test_one_thread_runs_it_all():
    chunk = chunk_of(abs, [9, -1, -2, -3, 9], start=1, stop=4)
    assert chunk.has_more
    assert chunk.work()
    assert not chunk.has_more
    assert chunk.results().values == [1, 2, 3]
    assert not chunk.work(), "its end is told once"


def test_several_columns_and_failures():
    results = chunk_of(pow, [2, 3], [3, 2])
    assert results.work()
    assert results.results().values == [8, 9]
    failing = chunk_of(raise_odd, [0, 1, 2, 3])
    assert failing.work()
    assert failing.results().values == [0, None, 2, None]
    assert {index: exc.args for index, exc in failing.results().failures.items()} == {1: (1,), 3: (3,)}


def test_the_last_thread_to_leave_tells_the_end():
    first, go = threading.Event(), threading.Event()

    def wait_at_zero(x):
        if x == 0:
            first.set()
            go.wait()
        return x

    chunk, told = chunk_of(wait_at_zero, [0, 1, 2]), []
    thread = threading.Thread(target=lambda: told.append(chunk.work()))
    thread.start()
    first.wait()
    assert not chunk.work(), "the first element still runs"
    go.set()
    thread.join()
    assert told == [True]
    assert chunk.results().values == [0, 1, 2]


def test_every_element_runs_once_however_many_threads_take_them():
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for _ in range(20):
            seen, ends = [], []
            chunk = chunk_of(seen.append, list(range(500)))
            threads = [threading.Thread(target=lambda: ends.append(chunk.work())) for _ in range(4)]  # noqa: B023
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert sorted(seen) == list(range(500))
            assert ends.count(True) == 1
    finally:
        sys.setswitchinterval(before)


@pytest.mark.parametrize("chunksize", [None, 4, 1000])
def test_elements_that_wait_for_each_other_have_a_thread_each(chunksize):
    together = threading.Barrier(4, timeout=30)

    def meet(x):
        if x >= 1000:
            together.wait()
        return x

    with Executor("threads", max_workers=4) as executor:
        assert list(executor.map(meet, range(1004), chunksize=chunksize)) == list(range(1004))


def test_threads_that_help_leave_nothing_behind():
    class Value:
        alive = 0

        def __init__(self, x):
            Value.alive += 1

        def __del__(self):
            Value.alive -= 1

    with Executor("threads", max_workers=3) as executor:
        for value in executor.map(Value, range(300), chunksize=50):
            del value
        assert Value.alive == 0
        assert executor.status()["queued"] == 0
