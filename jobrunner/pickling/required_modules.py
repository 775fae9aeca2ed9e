"""Which modules a function's pickle refers to, told by the pickler itself while it makes it.

A pickle names classes, functions and modules that its reader has to import. To look for them in the finished pickle
takes longer than to make it; the pickler, though, asks about every object that is not of a built-in kind how it is to
be written. So the objects are collected on the way, and looked at only where the pickle turns out to be a new one.
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
"""Modules that are named for one function, and characters of their names: what they lead to is said early, no more."""


def pickle_plainly(
    value: Any,
    referenced: list[Any],
    callback: Callable[[pickle.PickleBuffer], bool],
    objects: list[Any] | None = None,
) -> bytes | None:
    """The pickle that plain pickle makes; None where it cannot, or where the script is in it.

    `referenced` takes the objects that may be in it by name alone, `objects` those of `objects_in`.
    """
    file = io.BytesIO()
    pickler = _PlainPickler(file, PROTOCOL, buffer_callback=callback)
    pickler.referenced = referenced
    try:
        pickler.dump(value)
    except Exception:  # whatever it was, the other pickler may be able to, or else says why not
        return None
    stream = file.getvalue()
    if b"__main__" in stream or b"__mp_main__" in stream:
        return None
    if objects is not None:
        objects += objects_in(pickler)
    return stream


def objects_in(pickler: Any) -> list[Any]:
    """What it has written, and could refer to from now on; by the numbers that those objects have in the pickle."""
    return [value for _, value in sorted(pickler.memo.copy().values(), key=_FIRST)]


_FIRST = itemgetter(0)


def required_modules(referenced: Iterable[Any], by_value: Collection[str] = ()) -> tuple[str, ...]:
    """Top-level names of the modules that have to be imported for these, in order; without EVERYWHERE.

    `by_value` are modules that go by value themselves, with those inside of them.
    """
    found: dict[str, None] = {}
    name: str | None
    for value in referenced:
        if is_of(value, ModuleType):
            name = value.__name__
            if name not in sys.modules or any(f"{name}.".startswith(f"{module}.") for module in by_value):
                continue  # it is in the pickle
        elif is_of(value, (type, FunctionType, BuiltinFunctionType)):
            name = getattr(value, "__module__", None)
        else:
            name = place_of(value)
        if isinstance(name, str):
            found[name.partition(".")[0]] = None
    names = [name for name in found if name not in EVERYWHERE and 0 < len(name) <= MAX_NAMED_LENGTH]
    return tuple(sorted(names)[:MAX_NAMED])


def place_of(value: Any) -> str | None:
    """The module in which an object is found under its name, as numpy's functions are, which are none to Python."""
    try:
        module, name = value.__module__, value.__name__
        return module if getattr(sys.modules[module], name) is value else None
    except Exception:  # mostly it has no name; and it may be of any kind
        return None


class _PlainPickler(pickle.Pickler):
    referenced: list[Any]

    def reducer_override(self, value: Any) -> Any:
        self.referenced.append(value)
        return NotImplemented
