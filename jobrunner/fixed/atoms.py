"""Atoms: values that can be shared between the elements of a `map` without anybody's noticing.

They never change, and hold nothing that may change. Elements of these kinds travel many in one pickle; every other
value is pickled by itself (see `fixed`), so that no two elements ever share an object. Kinds are told by their exact
type: an instance of a subclass may have attributes.
"""

from __future__ import annotations

import sys
from collections.abc import Collection
from itertools import chain
from operator import attrgetter
from typing import Any

ATOMS: set[type] = {int, float, complex, bool, str, bytes, range, type(None), type(...), type(NotImplemented)}
"""Grows by the kinds of KNOWN, and by numpy's scalars, as they are met."""

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
"""Module and name of more atoms. Where nobody has imported the module, no value of the kind can come."""

ZONED = frozenset((("datetime", "datetime"), ("datetime", "time")))
"""Atoms, if their time zone is one."""

_zoned: set[type] = set()
"""The kinds of ZONED that were met."""

CONTAINERS = frozenset((list, dict, set))
"""Kinds that are fixed by a copy where all that they hold are atoms."""

NUMBERS = frozenset("biufcmMSU")
"""Kinds of numpy's dtypes whose values are in the array itself, and have no names."""

SMALL_ARRAY = 64 * 1024
"""Bytes below which an array is copied rather than pickled to fix it: larger ones have buffers beside the pickle."""

MAX_BY_LOOP = 4
"""Items up to which a loop over them is faster than to have the set of their types."""


def is_atom(value: Any) -> bool:
    """Whether it is one, or a tuple or frozenset of atoms."""
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
    """Whether all are of a kind in ATOMS."""
    if len(values) > MAX_BY_LOOP:
        return set(map(type, values)) <= ATOMS
    for value in values:  # noqa: SIM110  (a generator takes twice as long)
        if type(value) not in ATOMS:
            return False
    return True


def copied(value: Any, kind: type) -> Any:
    """A copy that nobody else has, of a container of atoms or a small array of numbers; None where it is neither.

    `kind` is its type.
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
    """Whether values of that kind may be atoms, or be fixed by a copy, though others are not."""
    return kind is tuple or kind is frozenset or kind in CONTAINERS or kind in _zoned or is_array(kind)


def travel_together(column: list[Any], kinds: set[type]) -> bool:
    """Whether values can be in one pickle, as long as no two of them are the same object; `kinds` are their types.

    That is so for atoms, for containers of atoms that are all of one kind, and for arrays of numbers.
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
            # Arrays of one kind of numbers have the same object for it.
            dtypes = {id(dtype): dtype for dtype in map(DTYPE, column)}
            return all(map(is_of_numbers, dtypes.values()))
    return all(map(is_atom, column))


DTYPE = attrgetter("dtype")

_array: type | None = None
"""That type, once it was met."""


def is_array(kind: type) -> bool:
    """Whether it is the type of numpy's arrays."""
    global _array
    if kind is _array:
        return True
    if kind.__name__ != "ndarray" or kind is not getattr(sys.modules.get("numpy"), "ndarray", None):
        return False
    _array = kind
    return True


def is_of_numbers(dtype: Any) -> bool:
    """Whether it is the dtype of numbers, times or text: such an array refers to no other object."""
    return dtype.kind in NUMBERS and dtype.metadata is None


def _is_at(kind: type, place: tuple[str, str]) -> bool:
    """Whether it is what it says it is."""
    return getattr(sys.modules.get(place[0]), place[1], None) is kind


def is_scalar_of_numpy(kind: type) -> bool:
    if kind.__module__ != "numpy" or not _is_at(kind, ("numpy", kind.__name__)):
        return False
    numpy = sys.modules["numpy"]
    bases = [getattr(numpy, name, None) for name in ("number", "bool_", "datetime64")]
    return issubclass(kind, tuple(base for base in bases if base is not None))
