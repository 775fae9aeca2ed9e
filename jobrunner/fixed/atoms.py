"""Atoms: values that elements of a `map` can share without a visible difference.

They never change, and refer to nothing that may change. Elements of these kinds travel together in one pickle; every
other value is pickled by itself (see `fixed`), so that no two elements ever share an object. Only the exact type
counts, because an instance of a subclass may have attributes.
"""

from __future__ import annotations

import sys
from collections.abc import Collection
from itertools import chain
from operator import attrgetter
from typing import Any

ATOMS: set[type] = {int, float, complex, bool, str, bytes, range, type(None), type(...), type(NotImplemented)}
"""The types of atoms; those of KNOWN, and numpy's scalars, are added when they are first met."""

KNOWN = frozenset(
    (
        ("datetime", "date"),
        ("datetime", "timedelta"),
        ("datetime", "timezone"),
        ("decimal", "Decimal"),
        ("fractions", "Fraction"),
        ("uuid", "UUID"),
        ("pathlib", "PosixPath"),
        ("pathlib", "PurePosixPath"),
        ("pathlib._local", "PosixPath"),
        ("pathlib._local", "PurePosixPath"),
        ("zoneinfo", "ZoneInfo"),
    )
)
"""Module and name of further atoms. If nobody has imported the module, no value of the type exists."""

ZONED = frozenset((("datetime", "datetime"), ("datetime", "time")))
"""Module and name of types whose values are atoms if their time zone is one."""

_zoned: set[type] = set()
"""The types of ZONED that have been met."""

CONTAINERS = frozenset((list, dict, set))
"""Types whose values are fixed by a copy if they contain only atoms."""

NUMBERS = frozenset("biufcmMSU")
"""Kinds of numpy's dtypes whose values are in the array itself, and which have no field names."""

SMALL_ARRAY = 64 * 1024
"""Size in bytes below which an array is copied instead of pickled. Larger ones have buffers beside the pickle."""

MAX_BY_LOOP = 4
"""Maximum number of items for which a loop is faster than the set of their types."""


def is_atom(value: Any) -> bool:
    """Return whether the value is an atom, or a tuple or frozenset of atoms."""
    kind = type(value)
    if kind in ATOMS:
        return True
    if kind is tuple or kind is frozenset:
        return holds_atoms(value) or _holds_atoms_deep_inside(value)
    if kind in _zoned:
        return is_atom(value.tzinfo)
    if kind in CONTAINERS:
        return False
    place = kind.__module__, kind.__qualname__
    if place in ZONED and _is_at(kind, place):
        _zoned.add(kind)
        return is_atom(value.tzinfo)
    if (place in KNOWN and _is_at(kind, place)) or is_scalar_of_numpy(kind):
        ATOMS.add(kind)
        return True
    return False


def _holds_atoms_deep_inside(value: Collection[Any]) -> bool:
    """Return whether a tuple or frozenset is an atom.

    Pickle accepts tuples that are nested deeper than functions may call each other, and visits each of them once, even
    if it occurs several times. This function does the same.
    """
    met = {id(value)}
    waiting = [value]
    while waiting:
        for item in waiting.pop():
            kind = type(item)
            if kind in ATOMS:
                continue
            if kind is not tuple and kind is not frozenset:
                if not is_atom(item):
                    return False
            elif id(item) not in met:
                met.add(id(item))
                waiting.append(item)
    return True


def holds_atoms(values: Collection[Any]) -> bool:
    """Return whether the types of all values are in ATOMS."""
    if len(values) > MAX_BY_LOOP:
        return set(map(type, values)) <= ATOMS
    for value in values:  # noqa: SIM110  (a generator takes twice as long)
        if type(value) not in ATOMS:
            return False
    return True


def copied(value: Any, kind: type) -> Any:
    """Return a copy of a container of atoms or of a small array of numbers, and None for anything else.

    `kind` is the value's type.
    """
    if kind is dict:
        for key, item in value.items():
            if type(item) not in ATOMS or type(key) not in ATOMS:
                return None
        return value.copy()
    if kind in CONTAINERS:
        return value.copy() if holds_atoms(value) else None
    if is_array(kind) and value.nbytes < SMALL_ARRAY and is_of_numbers(value.dtype) and value.flags.writeable:
        return value.copy(order="A")
    return None


def depends_on_value(kind: type) -> bool:
    """Return whether values of that type may be atoms or be fixed by a copy, depending on their contents."""
    return kind is tuple or kind is frozenset or kind in CONTAINERS or kind in _zoned or is_array(kind)


def travel_together(column: list[Any], kinds: set[type]) -> bool:
    """Return whether values can be in one pickle as long as no two are the same object; `kinds` are their types.

    This is so for atoms, for containers of atoms that are all of one type, and for arrays of numbers.
    """
    if kinds <= ATOMS:
        return True
    if len(kinds) == 1:
        (kind,) = kinds
        if kind is tuple or kind in CONTAINERS:
            items = set(map(type, chain.from_iterable(column)))
            if kind is dict:
                items.update(map(type, chain.from_iterable(map(dict.values, column))))
            if items <= ATOMS:
                return True
        elif is_array(kind):
            # Arrays of the same numbers usually share one dtype object, so there are few to check.
            dtypes = {id(dtype): dtype for dtype in map(DTYPE, column)}
            return all(map(is_of_numbers, dtypes.values()))
    return all(map(is_atom, column))


DTYPE = attrgetter("dtype")

_array: type | None = None
"""The type of numpy's arrays, once it has been met."""


def is_array(kind: type) -> bool:
    """Return whether the type is that of numpy's arrays."""
    global _array
    if kind is _array:
        return True
    if kind.__name__ != "ndarray" or kind is not getattr(sys.modules.get("numpy"), "ndarray", None):
        return False
    _array = kind
    return True


def is_of_numbers(dtype: Any) -> bool:
    """Return whether the dtype is that of numbers, times or text, so that the array refers to no other object."""
    return dtype.kind in NUMBERS and dtype.metadata is None


def _is_at(kind: type, place: tuple[str, str]) -> bool:
    """Return whether the type is found at its own module and name."""
    return getattr(sys.modules.get(place[0]), place[1], None) is kind


def is_scalar_of_numpy(kind: type) -> bool:
    if kind.__module__ != "numpy" or not _is_at(kind, ("numpy", kind.__name__)):
        return False
    numpy = sys.modules["numpy"]
    bases = [getattr(numpy, name, None) for name in ("number", "bool_", "datetime64")]
    return issubclass(kind, tuple(base for base in bases if base is not None))
