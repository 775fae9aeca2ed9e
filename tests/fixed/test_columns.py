from __future__ import annotations

import math

import numpy
import pytest

from jobrunner.fixed.columns import length, packed_column, unpacked_column


@pytest.mark.parametrize(
    ("column", "changes"),
    [
        ([0.1 * x for x in range(1000)], True),
        ([math.inf, -0.0, 5e-324, 1e308] * 100, True),
        ([str(x) for x in range(100)], True),
        (["", "\n", "\udc80", "\U0001f600", "ü"] * 10, True),
        ([""] * 20, True),
        (["a\0b", "c"] * 10, False),
        ([1.5], False),
        (list(range(-50, 50)), False),
        (list(range(-500, 500)), True),
        ([2**31, -(2**31)] * 200, True),
        ([2**63 - 1, -(2**63)] * 200, True),
        ([2**63, 1] * 200, False),
        ([True] * 1000, False),
    ],
)
def test_columns_return(column, changes):
    packed = packed_column(column, type(column[0]))
    assert (packed is not column) is changes
    returned = unpacked_column(packed)
    assert returned == column
    assert [*map(repr, returned)] == [*map(repr, column)]
    assert length(packed) == len(column)
    assert unpacked_column(packed, 1, 7) == column[1:7]


def test_columns_of_several_kinds_stay():
    column = [1.5, "a"] * 20
    assert packed_column(column, None) is column


ALIKE = {
    "of floats": lambda i: numpy.arange(5.0) + i,
    "of two dimensions": lambda i: numpy.full((2, 3), i, dtype="i2"),
    "of text": lambda i: numpy.array(["a", f"b{i}"], dtype=TEXT),
    "of times": lambda i: numpy.array([i, 1], dtype=TIMES),
    "of no number": lambda i: numpy.array([numpy.nan, i]),
}
TEXT = numpy.dtype("U4")
TIMES = numpy.dtype("M8[s]")

UNLIKE = {
    "of one shape and another": lambda i: numpy.zeros(3 + i % 2),
    "of one dtype and another": lambda i: numpy.zeros(3, dtype="i4" if i % 2 else "u4"),
    "of another order": lambda i: numpy.zeros((3, 4), order="F"),
    "that are read-only": lambda i: read_only(numpy.zeros(3)),
    "of another byte order": lambda i: numpy.zeros(3, dtype=SWAPPED),
    "of objects": lambda i: numpy.array([None, i]),
    "of records": lambda i: numpy.zeros(3, dtype=RECORDS),
    "without an item": lambda i: numpy.zeros((0, 3)),
    "without a dimension": lambda i: numpy.array(1.5),
    "that are large": lambda i: numpy.zeros(9000),
}
SWAPPED = numpy.dtype("f8").newbyteorder()
RECORDS = numpy.dtype([("a", "i4"), ("b", "f8")])


def read_only(array):
    array.flags.writeable = False
    return array


@pytest.mark.parametrize("make", ALIKE.values(), ids=ALIKE.keys())
def test_arrays_that_are_alike_travel_as_one_and_return_as_many(make):
    column = [make(i) for i in range(20)]
    packed = packed_column(column, numpy.ndarray)
    assert packed is not column
    returned = unpacked_column(packed)
    for before, after in zip(column, returned, strict=True):
        assert (after.dtype, after.shape) == (before.dtype, before.shape)
        numpy.testing.assert_array_equal(after, before)
        assert after.flags.writeable
        assert after.flags.owndata
        assert not numpy.shares_memory(after, packed)
    assert length(packed) == len(column)
    numpy.testing.assert_array_equal(unpacked_column(packed, 3, 5), column[3:5])


@pytest.mark.parametrize("make", UNLIKE.values(), ids=UNLIKE.keys())
def test_arrays_that_are_not_alike_stay(make):
    column = [make(i) for i in range(20)]
    assert packed_column(column, numpy.ndarray) is column


@pytest.mark.parametrize("kind", ["float64", "float32", "int8", "uint64", "bool_", "complex64", "longdouble"])
def test_scalars_of_numpy_return(kind):
    column = [*map(getattr(numpy, kind), range(20))]
    packed = packed_column(column, type(column[0]))
    assert packed is not column
    returned = unpacked_column(packed)
    assert [*map(type, returned)] == [*map(type, column)]
    assert returned == column


def test_scalars_whose_dtype_depends_on_their_value_stay():
    column = [numpy.datetime64(2000 + i, "Y") for i in range(10)] + [numpy.datetime64(1, "s")] * 10
    assert packed_column(column, numpy.datetime64) is column
