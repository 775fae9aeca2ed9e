"""Objects of modules that the script has imported by name: `from random import seed`, `from os import environ`.

A function or class says in which module it is found. These do not, and a copy would not do: what a call adds to
`environ` has to be in `os.environ`, and `seed` and `random` have to be methods of one generator.
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
"""What pickles call for an object without its contents."""


class Place(NamedTuple):
    """The module and the qualified name under which an object is found."""

    module: str
    name: str


def place_of_method(value: Any) -> Place | None:
    """Where a method of a module's own object is found, as `random.seed` is."""
    owner = getattr(value, "__self__", None)
    if owner is None or is_of(owner, (ModuleType, type)) or type(owner).__module__ in NAMES:
        return None
    name = value.__name__
    for module in (value.__module__, type(owner).__module__):
        if isinstance(module, str) and module not in NAMES and _has(module, name, value):
            return Place(module, name)
    return _search(value, name, everywhere=True)


def place_of_object(value: Any, name: str | None, *, everywhere: bool = False) -> Place | None:
    """Return the module and name of another object of the standard library, or of any module if `everywhere`.

    This also holds for locks, of which each process has its own.
    """
    kind = type(value)
    if kind in ATOMS or is_of(value, (type, ModuleType)) or kind.__module__ in NAMES:
        return None  # an instance of a class of the script may be in a module, but is none of its own
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
    """Where an object without contents is found, of any module and under any name: `dataclasses.MISSING`, say.

    Such an object is nothing but itself. Programs ask whether something `is` it, and a copy would never be.
    """
    if not _is_empty(value):
        return None
    place = _places_by_id().get(id(value))
    return place if place is not None and _has(*place, value) else None


def _is_empty(value: Any) -> bool:
    """Whether its pickle says no more than its class."""
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
    except Exception:  # whatever it was, pickling will say so
        return False
    # Python 3.10 has an empty dictionary for a state.
    empty = all(part is None or (type(part) is dict and not part) for part in contents)
    return make is _NEW and len(arguments) == 1 and empty


_COMMON = ATOMS | {tuple, list, dict, set, frozenset, type, FunctionType, BuiltinFunctionType, ModuleType}
"""Kinds of most objects that modules have, none of which is empty as above."""

_places: tuple[int, dict[int, Place]] = 0, {}
"""How many modules there were, and by id where their objects were found. An object may have gone since."""


def _places_by_id() -> dict[int, Place]:
    global _places
    count = len(sys.modules)
    if _places[0] != count:
        modules = [*sys.modules.items()]
        found: dict[int, Place] = {}
        # Many modules may have imported it. Every host has those of the standard library, which therefore go first.
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
    """Of what scripts have under other names, too."""
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
"""By name, the modules that have something under it, and how many modules there were then: a search takes too long for
each submit."""

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
    """Whether it is there, and the module is one that is imported under this name."""
    found = sys.modules.get(module)
    # Not getattr: there are modules that import others when they are asked for something.
    return type(found) is ModuleType and found.__dict__.get(name) is value and found.__spec__ is not None
