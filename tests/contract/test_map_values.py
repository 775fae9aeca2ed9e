"""Executor.map: with every chunk size, arguments and results are those of a chunk size of 1."""

from __future__ import annotations

import dataclasses
import itertools
import operator
import threading
import time
from concurrent.futures import Future
from functools import partial

import pytest
import zoo

from jobrunner import AsyncExecutor, Executor, SerializationError
from jobrunner.testing.waiting import until

COUNT = 300
SIZES = pytest.mark.parametrize("chunksize", [None, 1, 7, 1000])


# --- results are what they were when their call returned ----------------------------------------------------


@pytest.mark.copies
@SIZES
def test_a_list_that_each_call_fills_anew(executor, chunksize):
    row = [0, 0, 0]

    def filled(x):
        row[:] = [x, x + 1, x + 2]
        return row

    assert list(executor.map(filled, range(COUNT), chunksize=chunksize)) == [
        [x, x + 1, x + 2] for x in range(COUNT)
    ]


@pytest.mark.copies
@pytest.mark.parametrize(
    "make",
    [
        lambda x: {"x": x},
        lambda x: {x},
        lambda x: [[x], {"x": [x]}],
        lambda x: ([x], x),
        lambda x: bytearray(str(x).encode()),
        lambda x: zoo.Box([x]),
    ],
)
def test_objects_of_all_kinds_that_each_call_returns_changed(executor, make):
    kept = [None]

    def again(x):
        new = make(x)
        old = kept[0]
        if old is None or isinstance(old, tuple):
            kept[0] = new
        elif hasattr(old, "content"):
            old.content = new.content
        elif isinstance(old, (dict, set)):
            old.clear()
            old.update(new)
        else:
            old[:] = new
        return kept[0]

    assert list(executor.map(again, range(50), chunksize=25)) == [make(x) for x in range(50)]


@pytest.mark.copies
@SIZES
def test_one_model_that_is_fitted_again_and_again(executor, chunksize):
    results = list(
        executor.map(zoo.Box.filled_with, itertools.repeat(zoo.Box(None)), range(COUNT), chunksize=chunksize)
    )
    assert [box.content for box in results] == list(range(COUNT))
    assert len(set(map(id, results))) == COUNT


@pytest.mark.apart  # in one process, calls that run beside each other share what the function keeps
@pytest.mark.parametrize("size", [10, 20_000])
def test_an_array_that_each_call_fills_anew(executor, size):
    numpy = pytest.importorskip("numpy")

    def filler():
        buffer = numpy.zeros(size)

        def fill(x):
            buffer[:] = x
            return buffer[2:] if x % 2 else buffer

        return fill

    results = list(executor.map(filler(), range(40), chunksize=20))
    assert [(array[0], array[-1], array.size) for array in results] == [
        (x, x, size - 2 * (x % 2)) for x in range(40)
    ]
    results[0][:] = -1
    assert results[2][0] == 2


def test_a_result_that_is_one_of_the_arguments(executor):
    rows = [[x] for x in range(COUNT)]
    assert list(executor.map(zoo.echo, rows, chunksize=50)) == rows


# --- arguments are what they were when they were taken -----------------------------------------------------


@pytest.mark.copies
@SIZES
def test_a_shared_argument_that_calls_take_from(executor, chunksize):
    results = executor.map(
        lambda options, x: options.pop("factor") * x,
        itertools.repeat({"factor": 2}),
        range(COUNT),
        chunksize=chunksize,
    )
    assert list(results) == [2 * x for x in range(COUNT)]


@pytest.mark.copies
@SIZES
def test_a_shared_argument_that_calls_append_to(executor, chunksize):
    def grow(seen, x):
        seen.append(x)
        return len(seen)

    assert list(executor.map(grow, itertools.repeat([]), range(COUNT), chunksize=chunksize)) == [1] * COUNT


@pytest.mark.copies
@SIZES
@pytest.mark.parametrize("nested", [False, True])
def test_an_input_that_yields_one_list_again_and_again(executor, chunksize, nested):
    def moving():
        row = [0, [0]] if nested else [0, 0]
        for x in range(COUNT):
            row[0] = x
            if nested:
                row[1][0] = -x
            else:
                row[1] = -x
            yield row

    expected = [[x, [-x]] if nested else [x, -x] for x in range(COUNT)]
    assert list(executor.map(zoo.echo, moving(), chunksize=chunksize)) == expected
    with_more = executor.map(lambda row, more: (row, more), moving(), itertools.count(), chunksize=chunksize)
    assert list(with_more) == [(row, x) for x, row in enumerate(expected)]


@pytest.mark.copies
@pytest.mark.parametrize("size", [10, 20_000])
@pytest.mark.parametrize("buffersize", [None, 8])
def test_an_input_that_yields_one_array_again_and_again(executor, size, buffersize):
    numpy = pytest.importorskip("numpy")

    def moving():
        buffer = numpy.zeros(size)
        for x in range(40):
            buffer[:] = x
            yield buffer

    def first_and_last(array):
        ends = array[0], array[-1]
        array[:] = -1
        return ends

    results = executor.map(first_and_last, moving(), chunksize=8, buffersize=buffersize)
    assert list(results) == [(x, x) for x in range(40)]


@pytest.mark.copies
@pytest.mark.parametrize("size", [10, 20_000])
def test_one_array_for_all_calls_is_each_calls_own(executor, size):
    numpy = pytest.importorskip("numpy")

    def change(array, x):
        array += x
        return float(array.sum())

    results = executor.map(change, itertools.repeat(numpy.zeros(size)), range(40), chunksize=20)
    assert list(results) == [x * size for x in range(40)]


@pytest.mark.copies
def test_arguments_of_one_call_share_what_they_share(executor):
    rows = [[x] for x in range(60)]
    assert all(executor.map(lambda a, b: a is b, rows, rows, chunksize=30))
    assert all(executor.map(lambda row: row[0] is row[1], [[row, row] for row in rows], chunksize=30))

    def changes(a, b):
        a.append(0)
        b.append(0)
        return len(a), len(b)

    results = list(executor.map(changes, rows, list(reversed(rows)), chunksize=30))
    assert results == [(2, 2)] * 60


@pytest.mark.apart
@pytest.mark.parametrize("chunksize", [None, 1, 7])
@pytest.mark.parametrize("moving", [False, True])
def test_arguments_share_with_what_is_called_what_they_share(executor, chunksize, moving):
    graph = zoo.Graph(12)

    def of(method, values, *more):
        values = (value for value in values) if moving else values
        return list(executor.map(method, values, *more, chunksize=chunksize))

    assert of(graph.place, graph.nodes) == [*range(12)]
    assert of(graph.place, graph.nodes, range(12)) == [*range(12)]
    assert of(graph, [(node, [node]) for node in graph.nodes]) == [*range(12)]
    assert of(partial(zoo.Graph.place, graph), graph.nodes) == [*range(12)]
    assert of(graph.row, graph.rows) == [*range(12)]
    assert of(graph.row, graph.rows, [[1]] * 12) == [*range(12)]
    assert of(partial(operator.is_, graph), [graph, zoo.Graph(1), graph]) == [True, False, True]


@pytest.mark.apart
@pytest.mark.parametrize("chunksize", [None, 1, 7])
@pytest.mark.parametrize("columns", [1, 2])
def test_what_is_called_and_shares_is_as_its_arguments_when_these_are_taken(executor, chunksize, columns):
    graph = zoo.Graph(12)

    def labelled():
        for number, node in enumerate(graph.nodes):
            node.label = f"{number}"
            yield node

    more = [range(12)] * (columns - 1)
    results = list(executor.map(graph.labels, labelled(), *more, chunksize=chunksize))
    assert [label for label, _ in results] == [f"{number}" for number in range(12)]
    assert [len(labels) for _, labels in results] == [*range(1, 13)]


@pytest.mark.apart
def test_what_is_called_and_shares_is_as_it_is_when_more_of_the_input_is_taken(executor):
    graph = zoo.Graph(200)
    found = []
    for label, _ in executor.map(graph.labels, graph.nodes, buffersize=2):
        found.append(label)
        for node in graph.nodes:
            node.label = "seen"
    assert found[:2] == [None, None]
    assert {*found[4:]} == {"seen"}


@pytest.mark.apart
@pytest.mark.parametrize("chunksize", [1, 7])
def test_each_call_has_what_is_called_and_its_arguments_anew(executor, chunksize):
    graph = zoo.Graph(12)
    assert list(executor.map(graph.remove, graph.nodes, chunksize=chunksize)) == [11] * 12
    assert len(graph.nodes) == 12


@pytest.mark.apart
@pytest.mark.parametrize("size", [10, 100_000])
def test_arrays_that_what_is_called_has_too(executor, size):
    numpy = pytest.importorskip("numpy")
    graph = zoo.Graph(3)
    graph.rows = [numpy.full(size, float(x)) for x in range(3)]
    assert list(executor.map(graph.row, graph.rows)) == [0, 1, 2]
    assert list(executor.map(graph.row, graph.rows, graph.nodes)) == [0, 1, 2]


# As deep as pickle goes, which is deeper than functions may call themselves; and one tuple again and again.
@pytest.mark.parametrize(("width", "levels"), [(1, 700), (2, 60)])
def test_tuples_within_tuples(executor, width, levels):
    def nested(levels):
        made = ()
        for _ in range(levels):
            made = (made,) * width
        return made

    def depth(value):
        count = 0
        while value:
            value, count = value[-1], count + 1
        return count

    assert list(executor.map(depth, [nested(levels)] * 2)) == [levels] * 2
    assert [depth(value) for value in executor.map(nested, [levels] * 2)] == [levels] * 2


# --- what fails costs its element --------------------------------------------------------------------------


@pytest.mark.copies
@pytest.mark.parametrize("chunksize", [None, 1, 10])
def test_an_argument_that_does_not_unpickle(executor, chunksize):
    elements = [1, zoo.FailsOnUnpickle(), 2]
    results = executor.map(zoo.echo, elements, chunksize=chunksize)
    assert next(results) == 1
    with pytest.raises(SerializationError, match="will not be unpickled"):
        next(results)
    assert names(outcomes(executor, zoo.echo, elements, chunksize)) == names([1, SerializationError, 2])


@pytest.mark.copies
@pytest.mark.parametrize("chunksize", [None, 1, 10])
def test_a_result_that_does_not_unpickle(executor, chunksize):
    def make(x):
        return zoo.FailsOnUnpickle() if x == 1 else x

    assert names(outcomes(executor, make, range(3), chunksize)) == names([0, SerializationError, 2])


class Refuses(Exception):
    """Attributes cannot be set."""

    def __init__(self, number=0):
        object.__setattr__(self, "number", number)
        super().__init__(number)

    def __setattr__(self, name, value):
        raise AttributeError(f"{name} cannot be set")


@dataclasses.dataclass(frozen=True)
class Frozen(Exception):
    number: int = 0


class OwnCause(Exception):
    @property
    def __cause__(self):
        return None


class NoText(Exception):
    def __str__(self):
        raise ValueError("no text")

    __repr__ = __str__


class NoJourney(Exception):
    def __reduce__(self):
        raise ValueError("it stays here")


ODD = [Refuses, Frozen, OwnCause, NoText, NoJourney]


@pytest.mark.parametrize("error", ODD)
@pytest.mark.parametrize("chunksize", [None, 1, 10])
def test_odd_exceptions_cost_their_element(executor, copies, error, chunksize):
    def fail(x):
        if x == 1:
            raise error()
        return x

    expected = SerializationError if copies and error is NoJourney else error
    assert names(outcomes(executor, fail, range(4), chunksize)) == names([0, expected, 2, 3])


@pytest.mark.parametrize("error", ODD)
def test_odd_exceptions_of_single_calls(executor, copies, error):
    def fail(x):
        if x % 10 == 1:
            raise error()
        return x

    expected = SerializationError if copies and error is NoJourney else error
    assert type(executor.submit(fail, 1).exception()).__name__ == expected.__name__
    futures = [executor.submit(fail, x) for x in range(100)]
    assert names([future.exception() or future.result() for future in futures]) == names(
        [expected() if x % 10 == 1 else x for x in range(100)]
    )


@pytest.mark.copies
def test_one_exception_that_is_raised_twice_says_what_it_said_then(executor):
    error = ValueError(0)

    def fail(x):
        error.args = (x,)
        raise error

    failures = failures_of(executor, fail, range(4), 4)
    assert [failure.args for failure in failures] == [(x,) for x in range(4)]
    assert len(set(map(id, failures))) == 4


def outcomes(executor, fn, elements, chunksize):
    """What each element gives, or the class that it raises."""
    told = failures_of(executor, fn, elements, chunksize)
    return [type(one) if isinstance(one, BaseException) else one for one in told]


def failures_of(executor, fn, elements, chunksize):
    """All outcomes of one map, which iterating would end at the first failure: by the run beneath it."""
    run, _ = executor._begin_map(fn, [elements], None, chunksize, None)
    until(lambda: run.done >= run.taken)
    found = {}
    for position, results in run._progress._results.items():
        for index, value in enumerate(results.values):
            found[position + index] = results.failures.get(index, value)
    return [found[position] for position in sorted(found)]


def names(values):
    return [
        value.__name__
        if isinstance(value, type)
        else type(value).__name__
        if isinstance(value, Exception)
        else value
        for value in values
    ]


# --- retries -----------------------------------------------------------------------------------------------


class HoldsALock(Exception):
    def __init__(self):
        super().__init__()
        self.lock = threading.Lock()


class HoldsAnotherLock(HoldsALock):
    pass


@pytest.mark.promise("options")
@pytest.mark.parametrize("chunksize", [1, 4])
def test_retry_on_is_judged_by_what_was_raised(executor, tmp_path, chunksize):
    def fail(x, folder):
        zoo.append_line(f"{folder}/{x}", "ran")
        raise HoldsALock if x else HoldsAnotherLock

    view = executor.with_options(retries=2, retry_on=HoldsAnotherLock, backoff=0)
    run, _ = view._begin_map(fail, [range(4), [str(tmp_path)] * 4], None, chunksize, None)
    until(lambda: run.done >= 4)
    assert [len((tmp_path / str(x)).read_text().split()) for x in range(4)] == [3, 1, 1, 1]


@pytest.mark.promise("options")
def test_elements_pause_longer_and_longer_before_they_run_again(executor, tmp_path):
    def fail(x, folder):
        zoo.append_line(f"{folder}/{x}", repr(time.time()))
        if x:
            raise ValueError(x)

    view = executor.with_options(retries=2, backoff=0.2)
    with pytest.raises(ValueError, match="1"):
        list(view.map(fail, range(2), [str(tmp_path)] * 2, chunksize=2))
    first, second, third = map(float, (tmp_path / "1").read_text().split())
    assert second - first >= 0.19
    assert third - second >= 0.38


def test_a_map_that_is_given_up_does_not_wait_for_its_pauses(make_executor):
    executor = make_executor()
    results = executor.with_options(retries=3, backoff=1000).map(zoo.divide, [1, 1], [1, 0], chunksize=2)
    run = next(iter(executor._lifetime._maps))
    until(lambda: run._pauses is not None and run._pauses._pausing)
    assert next(results) == 1
    results.close()
    assert run._progress.done == 2
    executor.shutdown(wait=True)


# --- a submit of the program's -----------------------------------------------------------------------------


class Counting(Executor):
    counted = 0

    def submit(self, fn, /, *args, **kwargs):
        self.__dict__.setdefault("seen", []).append(args)
        return super().submit(fn, *args, **kwargs)


@pytest.fixture
def counting(kind, options):
    with Counting(kind, **{**options, "max_workers": 2}) as executor:
        yield executor


def test_map_goes_through_a_submit_that_a_subclass_overrides(counting):
    assert list(counting.map(zoo.add, range(20), range(20))) == [2 * x for x in range(20)]
    assert counting.seen == [(x, x) for x in range(20)]


def test_with_a_chunksize_a_submit_may_stand_for_a_chunk(counting, copies):
    assert list(counting.map(zoo.add, range(20), range(20), chunksize=7)) == [2 * x for x in range(20)]
    assert len(counting.seen) == (3 if copies else 20)


@pytest.mark.parametrize("buffersize", [None, 4])
def test_map_goes_through_a_submit_that_was_replaced(make_executor, buffersize):
    executor = make_executor()
    submit, futures = executor.submit, []

    def counted(fn, /, *args, **kwargs):
        futures.append(submit(fn, *args, **kwargs))
        return futures[-1]

    executor.submit = counted
    assert list(executor.map(zoo.add, range(20), range(20), buffersize=buffersize)) == [
        2 * x for x in range(20)
    ]
    assert len(futures) == 20
    named = executor.with_options(name="named")
    assert list(named.map(zoo.echo, range(3))) == [0, 1, 2]
    assert [future.name for future in futures[20:]] == ["named"] * 3
    results = executor.map(zoo.divide, [1, 1, 1], [1, 0, 1], buffersize=buffersize)
    assert next(results) == 1
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_a_replaced_submit_that_gives_futures_of_its_own(make_executor):
    executor = make_executor()

    def at_once(fn, /, *args, **kwargs):
        future = Future()
        future.set_result(fn(*args, **kwargs))
        return future

    executor.submit = at_once
    assert list(executor.map(zoo.add, [1, 2], [3, 4])) == [4, 6]


def test_time_is_limited_for_a_replaced_submit_too(make_executor, tmp_path):
    executor = make_executor()
    executor.submit = executor.submit
    results = executor.map(zoo.wait_for, [str(tmp_path / "go")] * 3, timeout=0.05)
    with pytest.raises(TimeoutError):
        next(results)
    (tmp_path / "go").touch()


@pytest.mark.promise("async")
@pytest.mark.copies
def test_of_async_executors_too(kind, options):
    import asyncio

    def moving():
        row = [0]
        for x in range(COUNT):
            row[0] = x
            yield row

    async def main():
        async with AsyncExecutor(kind, **{**options, "max_workers": 2}) as executor:
            first = [row async for row in executor.map(zoo.echo, moving(), chunksize=50)]
            executor.executor.submit = executor.executor.submit
            return first, [row async for row in executor.map(zoo.echo, moving())]

    assert asyncio.run(main()) == ([[x] for x in range(COUNT)],) * 2
