"""Objects that the script has imported from a module by name: `from random import seed`, `from os import environ`.

A function or class knows the module in which it is found. These objects do not, and a copy would be wrong: what a call
adds to `environ` must be in `os.environ`, and `seed` and `random` must be methods of the same generator.
"""

from __future__ import annotations

import copyreg
import os
import sys
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any, NamedTuple

from jobrunner.pickling.function_fingerprint import ATOMS, attribute_of, is_of
from jobrunner.pickling.required_modules import PROTOCOL
from jobrunner.script.current import NAMES

_NEW: Any = vars(copyreg)["__newobj__"]
"""The function that pickles call to create an object without its contents."""


class Place(NamedTuple):
    """The module and the qualified name under which an object is found."""

    module: str
    name: str


def place_of_method(value: Any) -> Place | None:
    """Return the place of a method of a module's own object, such as `random.seed`."""
    owner = getattr(value, "__self__", None)
    if owner is None or is_of(owner, (ModuleType, type)) or type(owner).__module__ in NAMES:
        return None
    name = value.__name__
    for module in (value.__module__, type(owner).__module__):
        if isinstance(module, str) and module not in NAMES and _has(module, name, value):
            return Place(module, name)
    return _search(value, name, everywhere=True)


def place_of_object(value: Any, name: str | None, *, everywhere: bool = False) -> Place | None:
    """Return the place of another object of the standard library, or of any module if `everywhere`.

    This includes locks, because each process has its own.
    """
    kind = type(value)
    if kind in ATOMS or is_of(value, (type, ModuleType)) or kind.__module__ in NAMES:
        return None  # an instance of a class of the script does not belong to the module that has it
    if kind is MethodType or kind is BuiltinFunctionType:
        return place_of_method(value)
    place = place_of_known(value)
    if place is not None or name is None:
        return place
    if not _modules_with(name):
        return None
    everywhere = everywhere or kind.__module__ in ("_thread", "threading")
    return _search(value, name, everywhere)


def place_of_empty(value: Any) -> Place | None:
    """Return the place of an object without contents, in any module and under any name, such as `dataclasses.MISSING`.

    Programs compare such an object by `is`, so a copy would never be equal.
    """
    if not _is_empty(value):
        return None
    place = _places_by_id().get(id(value))
    return place if place is not None and _has(*place, value) else None


def _is_empty(value: Any) -> bool:
    """Return whether the object's pickle consists of its class alone."""
    kind: Any = type(value)
    if kind is object:
        return True
    if (
        attribute_of(value, "__dict__")
        or kind.__reduce_ex__ is not object.__reduce_ex__
        or kind.__reduce__ is not object.__reduce__
        or kind in copyreg.dispatch_table
        or kind.__module__ in NAMES
    ):
        return False
    try:
        make, arguments, *contents = value.__reduce_ex__(PROTOCOL)
    except Exception:  # pickling will raise the same error
        return False
    # The state of such an object is an empty dictionary in Python 3.10.
    empty = all(part is None or (type(part) is dict and not part) for part in contents)
    return make is _NEW and len(arguments) == 1 and empty


_COMMON = ATOMS | {tuple, list, dict, set, frozenset, type, FunctionType, BuiltinFunctionType, ModuleType}
"""Kinds of most objects in modules; none of them is an object without contents."""

_places: tuple[int, dict[int, Place]] = 0, {}
"""The number of modules at the last search, and the places found then by the objects' ids.

An object may have been deleted since.
"""


def _places_by_id() -> dict[int, Place]:
    global _places
    count = len(sys.modules)
    if _places[0] != count:
        modules = [*sys.modules.items()]
        found: dict[int, Place] = {}
        # Several modules may have imported the object. Those of the standard library go first, because every host has
        # them.
        modules.sort(key=lambda item: item[0].partition(".")[0] not in sys.stdlib_module_names)
        for module, it in modules:
            if type(it) is not ModuleType or module in NAMES:
                continue
            for name, value in [*it.__dict__.items()]:
                kind = type(value)
                if kind not in _COMMON and (
                    id(value) not in found or attribute_of(kind, "__module__") == module
                ):
                    found[id(value)] = Place(module, name)
        _places = count, found
    return _places[1]


def place_of_known(value: Any) -> Place | None:
    """Return the place of an object that scripts may also have under another name."""
    if value is os.environ:
        return Place("os", "environ")
    if value is sys.path:
        return Place("sys", "path")
    if value is sys.modules:
        return Place("sys", "modules")
    if value is sys.argv:
        return Place("sys", "argv")
    return Place("sys", "stdin") if value is sys.stdin else None


def _search(value: Any, name: str, everywhere: bool) -> Place | None:
    for module in _modules_with(name):
        if (everywhere or module.partition(".")[0] in sys.stdlib_module_names) and _has(module, name, value):
            return Place(module, name)
    return None


_modules: dict[str, tuple[int, tuple[str, ...]]] = {}
"""By name, the number of modules at the last search and the modules that had the name.

A search takes too long to be repeated at each submit.
"""

MAX_NAMES = 1000


def _modules_with(name: str) -> tuple[str, ...]:
    count = len(sys.modules)
    known = _modules.get(name)
    if known is None or known[0] != count:
        found = [
            module for module, it in [*sys.modules.items()] if type(it) is ModuleType and name in it.__dict__
        ]
        if len(_modules) >= MAX_NAMES:
            _modules.clear()
        known = _modules[name] = count, tuple(module for module in found if module not in NAMES)
    return known[1]


def _has(module: str, name: str, value: Any) -> bool:
    """Return whether the module has the value under this name, and is itself imported under its own name."""
    found = sys.modules.get(module)
    # Some modules import others in `__getattr__`, so `getattr` would have effects.
    return type(found) is ModuleType and found.__dict__.get(name) is value and found.__spec__ is not None
