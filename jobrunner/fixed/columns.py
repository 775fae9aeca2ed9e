"""Columns of a `map` whose values are all numbers, strings or arrays of one kind.

They are packed in a form that is faster than their pickle.
"""

from __future__ import annotations

import struct
import sys
from operator import attrgetter, methodcaller
from typing import Any

from jobrunner.fixed.atoms import DTYPE, SMALL_ARRAY, is_array, is_of_numbers, is_scalar_of_numpy

SHORTEST = 16
"""Minimum number of values for which packing is faster."""

SHORTEST_OF_NUMBERS = 256
"""Minimum number of Python numbers for which packing is faster; their pickle is nearly as fast."""

FLOAT, SHORT, LONG = "d", "i", "q"
"""Codes of `struct` for floats, and for integers of 4 and 8 bytes."""

CODES: dict[type, tuple[str, ...]] = {float: (FLOAT,), int: (SHORT, LONG)}

NUMERIC = frozenset("biufc")
"""Kinds of numpy's dtypes in which all scalars of one type have the same dtype, whatever their value."""

_SEPARATOR = "\0"
_SHAPE = attrgetter("shape")
_IS_PLAIN = attrgetter("flags.carray")
"""A function that returns whether an array is in C order, aligned and writable."""
_COPY = methodcaller("copy")


def packed_column(column: list[Any], kind: type | None) -> Any:
    """Return the column in a packed form if that is faster; `kind` is the type of all its values, or None."""
    if kind is None or len(column) < SHORTEST:
        return column
    if kind is str:
        joined = _SEPARATOR.join(column)
        return joined if joined.count(_SEPARATOR) == len(column) - 1 else column
    if kind in CODES:
        return column if len(column) < SHORTEST_OF_NUMBERS else _packed_numbers(column, CODES[kind])
    if is_array(kind):
        return _packed_arrays(column)
    if is_scalar_of_numpy(kind) and column[0].dtype.kind in NUMERIC:
        return sys.modules["numpy"].array(column)
    return column


def unpacked_column(column: Any, start: int = 0, stop: int | None = None) -> list[Any]:
    """Return the values [start, stop) of the column that `packed_column` was given.

    The returned arrays share no memory with each other or with `column`. A column that was not packed is itself
    returned if all its values are requested.
    """
    if isinstance(column, list):
        return column if start == 0 and stop is None else column[start:stop]
    if isinstance(column, str):
        return column.split(_SEPARATOR)[start:stop]
    if isinstance(column, tuple):
        code, size, stream = column
        end = len(stream) // size if stop is None else stop
        return list(struct.unpack_from(f"<{end - start}{code}", stream, start * size))
    part = column[start:stop]
    return list(part) if part.ndim == 1 else list(map(_COPY, part))


def length(column: Any) -> int:
    """Return the number of values in a column that `packed_column` has returned."""
    if isinstance(column, tuple):
        return len(column[2]) // column[1]  # type: ignore[no-any-return]
    return column.count(_SEPARATOR) + 1 if isinstance(column, str) else len(column)


def _packed_numbers(column: list[Any], codes: tuple[str, ...]) -> Any:
    for code in codes:
        try:
            return code, struct.calcsize(f"<{code}"), struct.pack(f"<{len(column)}{code}", *column)
        except struct.error:  # one of the integers is too large
            pass
    return column


def _packed_arrays(column: list[Any]) -> Any:
    """Return one array with an additional dimension, if the arrays differ only in their items."""
    first = column[0]
    shape, dtype = first.shape, first.dtype
    alike = (
        shape
        and 0 < first.nbytes < SMALL_ARRAY
        and is_of_numbers(dtype)
        and dtype.isnative  # because numpy's join is native, too
        and set(map(_SHAPE, column)) == {shape}
        and set(map(id, map(DTYPE, column))) == {id(dtype)}
        and all(map(_IS_PLAIN, column))
    )
    if not alike:
        return column
    return sys.modules["numpy"].concatenate(column).reshape(len(column), *shape)
