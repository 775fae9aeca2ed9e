"""The fingerprint of a function that is sent by value: the objects that its pickle depends on.

A function is not pickled again while they are the same. cloudpickle takes some 50 us for a lambda, and the same lambda
is often sent thousands of times. Its pickle contains the code, the defaults, the contents of the closure and the
globals that the code names; `function_fingerprint` collects these objects. If all of them are of kinds that cannot
change inside (numbers, strings, modules, functions that are importable or are examined themselves), the same objects
mean the same pickle. If another object is among them, such as a list, there is no fingerprint, and the function is
pickled at each call, so a changed closure never runs in its old state.
"""

from __future__ import annotations

import sys
from operator import is_
from types import BuiltinFunctionType, CodeType, FunctionType, ModuleType
from typing import Any

Fingerprint = list[Any]
"""Objects that are compared by identity; their order depends on the code alone."""

ATOMS = frozenset((int, float, complex, bool, str, bytes, type(None), type(...)))

MAX_DEPTH = 4
"""Maximum depth of functions inside of functions that are examined."""

_MOST = 255
_COUNTS = tuple(object() for _ in range(_MOST + 1))
"""Markers for the number of values that follow, so that values of one kind are not taken for those of another."""

_MISSING = object()
_ITSELF = object()


class _Changeable(Exception):
    """The signal that a value may change without becoming another object."""


def function_fingerprint(fn: FunctionType, by_value: frozenset[str]) -> Fingerprint | None:
    """Return all objects that the pickle of `fn` depends on, or None if identity does not suffice.

    `by_value` are the modules that do not count as importable.
    """
    # A pickle depends on which submodules of a package are imported.
    fingerprint: Fingerprint = [len(sys.modules)]
    try:
        _add_function(fn, fingerprint, (), by_value)
    except _Changeable:
        return None
    return fingerprint


def same(first: Fingerprint, second: Fingerprint) -> bool:
    return len(first) == len(second) and first[0] == second[0] and all(map(is_, first[1:], second[1:]))


def is_of(value: Any, kinds: type | tuple[type, ...]) -> bool:
    """Return whether the value's real type is one of `kinds`.

    `isinstance` also asks the value: a proxy has the `__class__` of another object, or none.
    """
    return issubclass(type(value), kinds)


def attribute_of(value: Any, name: str) -> Any:
    """Return an attribute of the value itself, or None.

    The value's `__getattr__` is not called, because it may do and raise anything.
    """
    get: Any = type.__getattribute__ if is_of(value, type) else object.__getattribute__
    try:
        return get(value, name)
    except Exception:
        return None


def is_importable(value: Any, by_value: frozenset[str]) -> bool:
    """Return whether another process finds this very function or class under its module and name."""
    module, name = getattr(value, "__module__", None), value.__qualname__
    if module is None or module in ("__main__", "__mp_main__") or module not in sys.modules:
        return False
    found: Any = sys.modules[module]
    for part in name.split("."):
        found = getattr(found, part, None)
    return found is value and not (by_value and _is_in(module, by_value))


def _is_in(module: str, by_value: frozenset[str]) -> bool:
    return any(module == name or module.startswith(f"{name}.") for name in by_value)


def _add_function(
    fn: FunctionType, fingerprint: Fingerprint, inside: tuple[Any, ...], by_value: frozenset[str]
) -> None:
    if len(inside) == MAX_DEPTH or fn.__dict__ or getattr(fn, "__type_params__", None):
        raise _Changeable
    inside = (*inside, fn)
    code, variables = fn.__code__, fn.__globals__
    fingerprint += (code, variables, fn.__name__, fn.__qualname__, fn.__module__, fn.__doc__)
    annotations = fn.__annotations__
    fingerprint += annotations
    for value in annotations.values():
        _add(value, fingerprint, inside, by_value)
    for values in (annotations, fn.__defaults__ or (), fn.__kwdefaults__ or ()):
        fingerprint.append(_COUNTS[min(len(values), _MOST)])
    for value in fn.__defaults__ or ():
        _add(value, fingerprint, inside, by_value)
    for name, value in (fn.__kwdefaults__ or {}).items():
        fingerprint.append(name)
        _add(value, fingerprint, inside, by_value)
    for cell in fn.__closure__ or ():
        try:
            value = cell.cell_contents
        except ValueError:  # the cell is empty
            value = _MISSING
        _add(value, fingerprint, inside, by_value)
    for name in _names_in(code):
        _add(variables.get(name, _MISSING), fingerprint, inside, by_value)


def _add(value: Any, fingerprint: Fingerprint, inside: tuple[Any, ...], by_value: frozenset[str]) -> None:
    kind = type(value)
    if kind in ATOMS or value is _MISSING:
        fingerprint.append(value)
    elif isinstance(value, ModuleType):
        if (
            kind is not ModuleType
            or sys.modules.get(value.__name__) is not value
            or _is_in(value.__name__, by_value)
        ):
            raise _Changeable
        fingerprint.append(value)
    elif kind is BuiltinFunctionType:
        if not isinstance(getattr(value, "__self__", None), (ModuleType, type(None))):
            raise _Changeable  # a method of an object
        fingerprint.append(value)
    elif kind is FunctionType:
        if any(value is outer for outer in inside):
            fingerprint += (_ITSELF, next(outer for outer in inside if outer is value).__code__)
        elif is_importable(value, by_value):
            fingerprint.append(value)
        else:
            _add_function(value, fingerprint, inside, by_value)
    elif (kind is type and is_importable(value, by_value)) or (
        kind is tuple and all(type(item) in ATOMS for item in value)
    ):
        fingerprint.append(value)
    else:
        raise _Changeable


_names: dict[CodeType, tuple[str, ...]] = {}
MAX_CODES = 1000


def _names_in(code: CodeType) -> tuple[str, ...]:
    """Return the names of globals and attributes that the code, including nested code, looks up."""
    known = _names.get(code)
    if known is None:
        found = dict.fromkeys(code.co_names)
        for constant in code.co_consts:
            if isinstance(constant, CodeType):
                found.update(dict.fromkeys(_names_in(constant)))
        if len(_names) >= MAX_CODES:
            _names.clear()
        known = _names[code] = tuple(found)
    return known
