"""What a function that travels by value depends on, so that one which is as it was need not be pickled again.

cloudpickle takes some 50 us for a lambda, and the same lambda is often sent thousands of times. Its pickle holds the
code, the defaults, what the closure holds and the globals that the code names. `function_fingerprint` collects these
objects. Where all of them are of kinds that cannot change inside (numbers, strings, modules, functions that are
importable or are looked into themselves), the same objects mean the same pickle. Where any other is among them, a list
say, there is no fingerprint, and the function is pickled at each call: a changed closure never runs stale.
"""

from __future__ import annotations

import sys
from operator import is_
from types import BuiltinFunctionType, CodeType, FunctionType, ModuleType
from typing import Any

Fingerprint = list[Any]
"""Objects, to be compared by identity, in an order that depends on the code alone."""

ATOMS = frozenset((int, float, complex, bool, str, bytes, type(None), type(...)))

MAX_DEPTH = 4
"""Functions inside of functions that are looked into."""

_MOST = 255
_COUNTS = tuple(object() for _ in range(_MOST + 1))
"""Stand for how many of something follow; so many values of one kind are not taken for another's."""

_MISSING = object()
_ITSELF = object()


class _Changeable(Exception):
    """Something in it may change without being another object."""


def function_fingerprint(fn: FunctionType, by_value: frozenset[str]) -> Fingerprint | None:
    """All that the pickle of `fn` depends on; None if there is more to it than can be told by identity.

    `by_value` are the modules that are not to be taken for importable.
    """
    # Which submodules of a package are imported is part of a pickle.
    fingerprint: Fingerprint = [len(sys.modules)]
    try:
        _add_function(fn, fingerprint, (), by_value)
    except _Changeable:
        return None
    return fingerprint


def same(first: Fingerprint, second: Fingerprint) -> bool:
    return len(first) == len(second) and first[0] == second[0] and all(map(is_, first[1:], second[1:]))


def is_of(value: Any, kinds: type | tuple[type, ...]) -> bool:
    """`isinstance`, but for what the value says of itself: a proxy has the `__class__` of another object, or none."""
    return issubclass(type(value), kinds)


def attribute_of(value: Any, name: str) -> Any:
    """An attribute of its own, None if it has none. Its `__getattr__` is not asked, which may do and raise anything."""
    get: Any = type.__getattribute__ if is_of(value, type) else object.__getattribute__
    try:
        return get(value, name)
    except Exception:
        return None


def is_importable(value: Any, by_value: frozenset[str]) -> bool:
    """Whether another process finds this very function or class under its module and name."""
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
        except ValueError:  # it is empty
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
            raise _Changeable  # a method of some object
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
    """Names that the code and those inside of it look up, of globals and attributes."""
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
