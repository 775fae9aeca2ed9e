"""Atoms: values that can be shared between the elements of a `map` without anybody's noticing.

They never change, and hold nothing that may change. Elements of these kinds travel many in one pickle; every other
value is pickled by itself (see `fixed`), so that no two elements ever share an object. Kinds are told by their exact
type: an instance of a subclass may have attributes.
"""

from __future__ import annotations

import sys
from collections.abc import Collection
from itertools import chain
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

MOST_BY_LOOP = 8
"""Items of a tuple up to which a loop over them is faster than a set of their types."""


def is_atom(value: Any) -> bool:
    """Whether it is one, or a tuple or frozenset of atoms."""
    kind = type(value)
    if kind in ATOMS:
        return True
    if kind is tuple and len(value) <= MOST_BY_LOOP:
        for item in value:  # noqa: SIM110  (a generator takes twice as long)
            if type(item) not in ATOMS and not is_atom(item):
                return False
        return True
    if kind is tuple or kind is frozenset:
        return are_atoms(value)
    place = kind.__module__, kind.__qualname__
    if place in ZONED:
        return _is_at(kind, place) and is_atom(value.tzinfo)
    if (place in KNOWN and _is_at(kind, place)) or _is_scalar_of_numpy(kind):
        ATOMS.add(kind)
        return True
    return False


def are_atoms(values: Collection[Any]) -> bool:
    """Whether all are."""
    kinds = set(map(type, values))
    if kinds <= ATOMS:
        return True
    if kinds == {tuple} and set(map(type, chain.from_iterable(values))) <= ATOMS:
        return True
    return all(map(is_atom, values))


def is_plain_array(value: Any, kind: type) -> bool:
    """Whether it is an array of numpy's numbers, which refers to no other object, `kind` being its type."""
    numpy = sys.modules.get("numpy")
    return (
        numpy is not None
        and kind is numpy.ndarray
        and value.dtype.isbuiltin == 1
        and not value.dtype.hasobject
    )


def are_distinct_arrays(values: Collection[Any]) -> bool:
    """Whether all are plain arrays, and none is there twice."""
    numpy = sys.modules.get("numpy")
    if numpy is None or set(map(type, values)) != {numpy.ndarray}:
        return False
    return len(set(map(id, values))) == len(values) and all(is_plain_array(v, numpy.ndarray) for v in values)


def _is_at(kind: type, place: tuple[str, str]) -> bool:
    """Whether it is what it says it is."""
    module = sys.modules.get(place[0])
    return getattr(module, place[1], None) is kind


def _is_scalar_of_numpy(kind: type) -> bool:
    numpy = sys.modules.get("numpy")
    if numpy is None or kind.__module__ != "numpy":
        return False
    return (
        issubclass(kind, (numpy.number, numpy.bool_, numpy.datetime64))
        and getattr(numpy, kind.__name__, None) is kind
    )
