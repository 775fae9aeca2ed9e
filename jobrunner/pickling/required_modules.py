"""The modules to which a function's pickle refers, as the pickler itself finds them.

A pickle names classes, functions and modules that its reader must import. Looking for them in the finished pickle takes
longer than creating it; but the pickler asks about every object that is not of a built-in type. So the objects are
collected on the way, and examined only if the pickle is a new one.
"""

from __future__ import annotations

import io
import pickle
import sys
from collections.abc import Callable, Collection, Iterable
from operator import itemgetter
from types import BuiltinFunctionType, FunctionType, ModuleType
from typing import Any

from jobrunner.pickling.function_fingerprint import is_of

PROTOCOL = 5

EVERYWHERE = frozenset((*sys.stdlib_module_names, "jobrunner", "cloudpickle", "__main__", "__mp_main__"))
"""Top-level modules that every worker has, or that are never imported there."""

MAX_NAMED = 32
MAX_NAMED_LENGTH = 100
"""Maximum number of modules of one function, and maximum length of their names; further ones are only missed later."""


def pickle_plainly(
    value: Any,
    referenced: list[Any],
    callback: Callable[[pickle.PickleBuffer], bool],
    objects: list[Any] | None = None,
) -> bytes | None:
    """Return the result of plain pickle, or None if it fails or refers to the script.

    `referenced` takes the objects that the pickle may contain by name alone, and `objects` those of `objects_in`.
    """
    file = io.BytesIO()
    pickler = _PlainPickler(file, PROTOCOL, buffer_callback=callback)
    pickler.referenced = referenced
    try:
        pickler.dump(value)
    except Exception:  # the other pickler may succeed, or else it gives the reason
        return None
    stream = file.getvalue()
    if b"__main__" in stream or b"__mp_main__" in stream:
        return None
    if objects is not None:
        objects += objects_in(pickler)
    return stream


def objects_in(pickler: Any) -> list[Any]:
    """Return the objects that the pickler has written and could refer to, in the order of their numbers."""
    return [value for _, value in sorted(pickler.memo.copy().values(), key=_FIRST)]


_FIRST = itemgetter(0)


def required_modules(referenced: Iterable[Any], by_value: Collection[str] = ()) -> tuple[str, ...]:
    """Return the sorted top-level modules that must be imported for these objects, without EVERYWHERE.

    `by_value` are modules that are pickled by value themselves, with their submodules.
    """
    found: dict[str, None] = {}
    name: str | None
    for value in referenced:
        if is_of(value, ModuleType):
            name = value.__name__
            if name not in sys.modules or any(f"{name}.".startswith(f"{module}.") for module in by_value):
                continue  # it is part of the pickle
        elif is_of(value, (type, FunctionType, BuiltinFunctionType)):
            name = getattr(value, "__module__", None)
        else:
            name = place_of(value)
        if isinstance(name, str):
            found[name.partition(".")[0]] = None
    names = [name for name in found if name not in EVERYWHERE and 0 < len(name) <= MAX_NAMED_LENGTH]
    return tuple(sorted(names)[:MAX_NAMED])


def place_of(value: Any) -> str | None:
    """Return the module in which an object is found under its name, or None.

    numpy's functions, for example, are such objects, but not functions to Python.
    """
    try:
        module, name = value.__module__, value.__name__
        return module if getattr(sys.modules[module], name) is value else None
    except Exception:  # usually the object has no name; and it may be of any type
        return None


class _PlainPickler(pickle.Pickler):
    referenced: list[Any]

    def reducer_override(self, value: Any) -> Any:
        self.referenced.append(value)
        return NotImplemented
