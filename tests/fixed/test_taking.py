from __future__ import annotations

import itertools
import threading

import pytest

from jobrunner import SerializationError
from jobrunner.fixed import FixingInput, LoadedColumns, LoadedElements, calls, dump_elements, load_elements
from jobrunner.fixed.elements import Input
from jobrunner.protocol.wire.payloads import payload_size


def taken(*iterables, limit=100, snapshot=True):
    """The argument tuples, as they arrive; and the pack."""
    fixed, failures = FixingInput(Input(iterables)).take(limit)
    assert not failures
    payload = dump_elements(fixed, snapshot=snapshot)
    items, call = calls(lambda *args: args, load_elements(payload), 0, len(fixed))
    return [call(item) for item in items], payload


def moving(make, change, count=5):
    value = make()
    for index in range(count):
        change(value, index)
        yield value


def test_atoms_travel_as_columns():
    rows, payload = taken(range(50), "ab" * 25, [0.5] * 50, itertools.repeat(None))
    assert rows == [(x, "ab"[x % 2], 0.5, None) for x in range(50)]
    assert isinstance(load_elements(payload), LoadedColumns)


@pytest.mark.parametrize("wrap", [list, iter])
def test_elements_share_nothing(wrap):
    shared = [1]
    rows, _ = taken(wrap([shared, shared, [shared, shared]]), wrap([shared, [2], {"a": shared}]))
    assert rows == [([1], [1]), ([1], [2]), ([[1], [1]], {"a": [1]})]
    assert rows[0][0] is rows[0][1]
    assert rows[2][0][0] is rows[2][0][1] is rows[2][1]["a"]
    assert len({id(one) for one in (*rows[0][:1], *rows[1], *rows[2], rows[2][0][0])}) == 6


@pytest.mark.parametrize(
    ("make", "change"),
    [
        (list, list.append),
        (lambda: [[]], lambda value, x: value[0].append(x)),
        (dict, lambda value, x: value.update({str(x): x})),
        (bytearray, lambda value, x: value.append(x)),
        (lambda: bytearray(100_000), lambda value, x: value.__setitem__(0, x)),
    ],
)
def test_each_is_as_it_was_when_it_was_taken(make, change):
    expected = []
    for index in range(5):
        value = make()
        for x in range(index + 1):
            change(value, x)
        expected.append(value)
    rows, _ = taken(moving(make, change))
    assert [row[0] for row in rows] == expected
    rows, _ = taken(moving(make, change), itertools.count())
    assert rows == list(zip(expected, range(5), strict=True))


def test_the_last_element_of_a_pack_is_as_it_was_before_the_next_is_taken():
    numpy = pytest.importorskip("numpy")
    buffer = numpy.zeros(20_000)

    def change(_, x):
        buffer[:] = x

    elements = FixingInput(Input([moving(lambda: buffer, change, 6)]))
    packs = [dump_elements(elements.take(2)[0], snapshot=True) for _ in range(3)]
    values = []
    for pack in packs:
        items, call = calls(lambda array: array[0], load_elements(pack), 0, 2)
        values += [call(item) for item in items]
    assert values == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("wrap", [itertools.repeat, lambda value, times: iter([value] * times)])
def test_a_large_array_for_all_travels_once_and_is_each_calls_own(wrap):
    numpy = pytest.importorskip("numpy")
    array = numpy.zeros(100_000)
    rows, payload = taken(wrap(array, 20), range(20))
    assert payload_size(payload) < 2 * array.nbytes
    for one, x in rows:
        one += x
    assert [one[0] for one, _ in rows] == list(range(20))
    assert array[0] == 0


def test_a_large_object_for_all_travels_once():
    rows, payload = taken(itertools.repeat({"a": ["b" * 50_000]}, 20), range(20))
    assert payload_size(payload) < 100_000
    assert len({id(one["a"]) for one, _ in rows}) == 20


def test_arrays_of_a_list_travel_in_one_pickle():
    numpy = pytest.importorskip("numpy")
    arrays = [numpy.arange(10.0) + x for x in range(20)]
    fixed, _ = FixingInput(Input([arrays])).take(20)
    assert not fixed.own
    twice = FixingInput(Input([[arrays[0], arrays[0]]])).take(2)[0]
    assert len(twice.own) == 2
    apart = FixingInput(Input([arrays, arrays[::-1]])).take(20)[0]
    assert len(apart.own) == 20


@pytest.mark.parametrize("wrap", [list, iter])
@pytest.mark.parametrize("more", [(), (itertools.count(),)])
def test_what_cannot_be_pickled_is_told_by_its_row(wrap, more):
    fixed, failures = FixingInput(Input([wrap([1, threading.Lock(), [[2]]]), *more])).take(10)
    assert list(failures) == [1]
    assert isinstance(failures[1], SerializationError)
    assert "argument 0, of type _thread.lock" in str(failures[1])
    assert isinstance(failures[1].__cause__, TypeError)
    rest = fixed.part(2, 3)
    items, call = calls(lambda *args: args, load_elements(dump_elements(rest, snapshot=True)), 0, 1)
    assert call(items[0])[0] == [[2]]


def test_a_part_has_its_own_rows_and_buffers():
    large = [[bytearray(70_000)], 1, [bytearray(b"x" * 70_000)], [[3]]]
    fixed, _ = FixingInput(Input([large])).take(4)
    part = fixed.part(2, 4)
    items, call = calls(lambda value: value, load_elements(dump_elements(part, snapshot=True)), 0, 2)
    assert [call(item) for item in items] == large[2:]


def test_fixed_elements_can_be_pickled():
    import pickle

    fixed, _ = FixingInput(Input([[[[x]] for x in range(5)]])).take(5)
    arrived = pickle.loads(pickle.dumps(fixed))
    assert isinstance(arrived, LoadedElements)
    assert [list(row) for row in arrived.rows(1, 3)] == [[[[1]]], [[[2]]]]
