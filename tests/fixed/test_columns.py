from __future__ import annotations

import math

import pytest

from jobrunner.fixed.columns import packed_column, unpacked_column


@pytest.mark.parametrize(
    ("column", "changes"),
    [
        ([0.1 * x for x in range(100)], True),
        ([math.inf, -0.0, 5e-324, 1e308] * 10, True),
        ([str(x) for x in range(100)], True),
        (["", "\n", "\udc80", "\U0001f600", "ü"] * 10, True),
        ([""] * 20, True),
        (["a\0b", "c"] * 10, False),
        ([1.5], False),
        (list(range(100)), False),
        ([True] * 100, False),
    ],
)
def test_columns_return(column, changes):
    packed = packed_column(column, type(column[0]))
    assert (packed is not column) is changes
    returned = unpacked_column(packed)
    assert returned == column
    assert [*map(repr, returned)] == [*map(repr, column)]


def test_columns_of_several_kinds_stay():
    column = [1.5, "a"] * 20
    assert packed_column(column, None) is column
