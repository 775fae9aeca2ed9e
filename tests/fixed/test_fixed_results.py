from __future__ import annotations

import pickle
import threading
import weakref

import pytest
import zoo

from jobrunner import SerializationError
from jobrunner.calls.serialization import RemoteTraceback, dump_classes
from jobrunner.fixed import (
    FixedResults,
    FixingInput,
    LoadedColumns,
    dump_elements,
    load_element_results,
    load_elements,
    run_fixed,
)
from jobrunner.fixed.elements import ElementResults, Input, rows, run_elements


def results_of(fn, *columns, retry_on=None):
    count = len(columns[0])
    return load_element_results(run_fixed(fn, LoadedColumns(list(columns)), 0, count, retry_on).dump())


def test_results_are_as_they_were_and_nobody_elses():
    kept = [[], {}, [[]], zoo.Box(None), bytearray(b"abc"), set()]

    def change(x):
        index = x % len(kept)
        value = kept[index]
        if index == 0:
            value.append(x)
        elif index == 1:
            value[x] = x
        elif index == 2:
            value[0].append(x)
        elif index == 3:
            value.content = x
        elif index == 4:
            value[0] = x
        else:
            value.add(x)
        return value

    def as_it_is(x):
        return pickle.loads(pickle.dumps(change(x)))

    expected = [as_it_is(x) for x in range(18)]
    kept[:] = [[], {}, [[]], zoo.Box(None), bytearray(b"abc"), set()]
    values = results_of(change, list(range(18))).values
    assert values == expected
    assert len(set(map(id, values))) == 18


@pytest.mark.parametrize("size", [10, 10_000])
def test_arrays_are_copied_unless_nobody_else_has_them(size):
    numpy = pytest.importorskip("numpy")
    buffer = numpy.zeros(size)
    weak = numpy.zeros(size)
    references = []

    def fill(x):
        buffer[:] = x
        return buffer[1:] if x % 2 else buffer

    def fresh(x):
        array = numpy.full(size, x)
        references.append(weakref.ref(array))
        return array if x % 2 else numpy.full(size, x)

    assert [array[-1] for array in results_of(fill, [*range(6)]).values] == [*range(6)]
    assert [array[0] for array in results_of(fresh, [*range(6)]).values] == [*range(6)]
    weak.flags.writeable = False
    values = results_of(lambda _: weak, [*range(6)]).values
    assert [array.shape for array in values] == [weak.shape] * 6


def test_a_fresh_array_is_not_copied():
    numpy = pytest.importorskip("numpy")
    results = FixedResults((__file__,), None, 3)
    value = numpy.zeros(10)
    place = value.ctypes.data
    results.add(value)
    assert results.values[0] is value
    held = [value]
    results.add(value)
    assert results.values[1] is not held[0]
    assert results.values[1].ctypes.data != place


@pytest.mark.parametrize("value", [1, 1.5, "a", (1, "a"), None, [1, 2], [[1]], {"a": 1}])
def test_results_of_one_kind(value):
    assert results_of(lambda _: value, [*range(40)]) == ElementResults([value] * 40, {}, set())


def test_results_of_all_kinds():
    mixed = [1, 1.5, "a", "a\0b", (1, []), None, [1], [[1]], zoo.Box([1]), b"", 2**100, object] * 3
    assert results_of(lambda value: value, mixed).values == mixed


def test_what_cannot_be_pickled_or_unpickled_costs_only_itself():
    values = [1, threading.Lock(), zoo.FailsOnUnpickle(), [4]]
    results = results_of(lambda index: values[index], [0, 1, 2, 3])
    assert results.values == [1, None, None, [4]]
    assert sorted(results.failures) == [1, 2]
    assert all(isinstance(failure, SerializationError) for failure in results.failures.values())
    assert "result, of type _thread.lock" in str(results.failures[1])


def test_an_argument_that_cannot_be_unpickled_costs_only_itself():
    fixed, _ = FixingInput(Input([[1, zoo.FailsOnUnpickle(), [3]]])).take(3)
    loaded = load_elements(dump_elements(fixed, snapshot=True))
    for results in (
        load_element_results(run_fixed(zoo.echo, loaded, 0, 3).dump()),
        run_elements(zoo.echo, rows(loaded, 0, 3)),
    ):
        assert results.values == [1, None, [3]]
        assert isinstance(results.failures[1], SerializationError)


def test_failures_are_judged_where_they_are_raised_and_told_as_they_were():
    error = ValueError(0)

    def fail(x):
        if x == 0:
            raise KeyError(x)
        error.args = (x,)
        raise error

    results = results_of(fail, [0, 1, 2], retry_on=dump_classes((KeyError,)))
    assert results.final == {1, 2}
    assert [failure.args for failure in results.failures.values()] == [(0,), (1,), (2,)]
    cause = results.failures[1].__cause__
    assert isinstance(cause, RemoteTraceback)
    assert "jobrunner" not in str(cause)
    assert results.part(1, 2).final == {0}


def test_an_exception_of_the_chunk_is_no_elements():
    stopped = []

    def stop(x):
        stopped.append(x)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_fixed(stop, LoadedColumns([[1, 2]]), 0, 2, None, lambda: stopped)


def test_fixed_results_are_unpickled_to_element_results():
    results = run_fixed(lambda x: [[x]], LoadedColumns([[1, 2]]), 0, 2)
    assert pickle.loads(pickle.dumps(results)) == ElementResults([[[1]], [[2]]], {}, set())
