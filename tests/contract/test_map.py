"""Executor.map, everywhere."""

from __future__ import annotations

import itertools

import pytest
import zoo

from jobrunner import SerializationError, TaskLostError


@pytest.mark.parametrize("chunksize", [None, 1, 7, 1000])
def test_results_are_those_of_the_builtin_map(executor, chunksize):
    assert list(executor.map(zoo.add, range(500), itertools.count(3), chunksize=chunksize)) == list(
        map(zoo.add, range(500), itertools.count(3))
    )


def test_many_tiny_calls(executor):
    assert sum(executor.map(abs, range(50_000))) == sum(range(50_000))


@pytest.mark.parametrize("buffersize", [1, 3, 64])
def test_an_endless_input(executor, buffersize):
    results = executor.map(zoo.echo, itertools.count(), buffersize=buffersize)
    assert list(itertools.islice(results, 200)) == list(range(200))
    results.close()


def test_results_stream_while_later_calls_run(make_executor, tmp_path):
    go = tmp_path / "go"

    def slow_from_third(index):
        return index if index < 2 else zoo.wait_for(str(go), index)

    results = make_executor().map(slow_from_third, range(4), chunksize=1)
    assert next(results) == 0
    assert next(results) == 1
    go.touch()
    assert list(results) == [2, 3]


def test_timeout(make_executor, tmp_path):
    results = make_executor().map(zoo.wait_for, [str(tmp_path / "go")] * 2, timeout=0.05)
    with pytest.raises(TimeoutError):
        next(results)
    (tmp_path / "go").touch()


@pytest.mark.parametrize("chunksize", [None, 1, 7])
@pytest.mark.parametrize("more", [[], [itertools.count()]])
def test_what_an_input_has_yielded_before_it_raises_is_mapped(
    executor, eventually, tmp_path, chunksize, more
):
    def broken():
        yield from range(20)
        raise LookupError("no more")

    def write(index, *_):
        (tmp_path / str(index)).touch()

    with pytest.raises(LookupError, match="no more"):
        executor.map(write, broken(), *more, chunksize=chunksize)
    eventually(lambda: len(list(tmp_path.iterdir())) == 20)


@pytest.mark.parametrize("buffersize", [3, 6, 100])
def test_an_endless_input_that_raises(executor, buffersize):
    def broken():
        yield from range(10)
        raise LookupError("no more")

    results = []

    def take():
        results.extend(executor.map(zoo.echo, broken(), buffersize=buffersize))

    with pytest.raises(LookupError, match="no more"):
        take()
    assert results == list(range(len(results)))


@pytest.mark.parametrize("chunksize", [None, 1, 10])
def test_iteration_raises_what_the_call_raised(executor, chunksize):
    results = executor.map(zoo.divide, [1] * 5, [1, 1, 0, 1, 1], chunksize=chunksize)
    assert [next(results), next(results)] == [1, 1]
    with pytest.raises(ZeroDivisionError):
        next(results)


@pytest.mark.parametrize("chunksize", [None, 1, 10])
def test_an_element_that_cannot_be_pickled(executor, copies, chunksize):
    results = executor.map(zoo.echo, [1, zoo.FailsOnPickle(), 2], chunksize=chunksize)
    assert next(results) == 1
    if copies:
        with pytest.raises(SerializationError, match="will not be pickled"):
            next(results)
    else:
        assert isinstance(next(results), zoo.FailsOnPickle)


@pytest.mark.parametrize("chunksize", [None, 1, 10])
def test_a_result_that_cannot_be_pickled(executor, copies, chunksize):
    results = executor.map(zoo.make_lock_if, [1, 2, 3], [2] * 3, chunksize=chunksize)
    assert next(results) == 1
    if copies:
        with pytest.raises(SerializationError):
            next(results)
    else:
        assert next(results).acquire()
        assert next(results) == 3


@pytest.mark.promise("crashes")
@pytest.mark.crashes
@pytest.mark.parametrize("chunksize", [None, 1, 10])
def test_a_crash_costs_only_the_guilty_element(make_executor, tmp_path, chunksize):
    trace = str(tmp_path / "trace")

    def poison(value):
        zoo.exit_hard_if(value, 6)
        zoo.append_line(trace, str(value))
        return value

    results = make_executor().map(poison, range(10), chunksize=chunksize)
    assert list(itertools.islice(results, 6)) == list(range(6))
    with pytest.raises(TaskLostError):
        next(results)


def test_without_iterating_everything_runs(make_executor, tmp_path):
    with make_executor() as executor:
        executor.map(zoo.append_line, [str(tmp_path / "trace")] * 300, map(str, range(300)))
    lines = (tmp_path / "trace").read_text().split()
    assert sorted(map(int, lines)) == list(range(300))


def test_results_are_there_after_the_block(make_executor):
    with make_executor() as executor:
        results = executor.map(zoo.echo, range(1000))
    assert list(results) == list(range(1000))


@pytest.mark.promise("options")
def test_retries_repeat_only_what_raised(make_executor, tmp_path):
    def flaky(index):
        trace = tmp_path / f"trace{index}"
        zoo.append_line(str(trace), "x")
        if index in (2, 5) and len(trace.read_text().split()) < 3:
            raise ValueError(index)
        return index

    for chunksize in (None, 1, 4):
        for trace in tmp_path.glob("trace*"):
            trace.unlink()
        results = make_executor().with_options(retries=2).map(flaky, range(8), chunksize=chunksize)
        assert list(results) == list(range(8))
        counts = [len((tmp_path / f"trace{index}").read_text().split()) for index in range(8)]
        assert counts == [1, 1, 3, 1, 1, 3, 1, 1]
