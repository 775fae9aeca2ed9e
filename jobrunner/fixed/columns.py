"""Columns of a `map` whose values are all floats or all strings, in a form that is quicker than their pickle."""

from __future__ import annotations

import struct
import sys
from typing import Any

SHORTEST = 16
"""Values from which it pays."""

_SEPARATOR = "\0"


def packed_column(column: list[Any], kind: type | None) -> Any:
    """The column in another form, where `kind` is the type of all its values and that form is better."""
    if len(column) < SHORTEST:
        return column
    if kind is str:
        joined = _SEPARATOR.join(column)
        return joined if joined.count(_SEPARATOR) == len(column) - 1 else column
    return struct.pack(f"<{len(column)}d", *column) if kind is float else column


def unpacked_column(column: Any) -> list[Any]:
    """What `packed_column` was given."""
    if isinstance(column, list):
        return column
    if isinstance(column, str):
        return column.split(_SEPARATOR)
    from array import array  # here: most slots never need it

    values = array("d", column)
    if sys.byteorder == "big":
        values.byteswap()
    return values.tolist()
