"""Which modules a function's pickle refers to, told by the pickler itself while it makes it.

A pickle names classes, functions and modules that its reader has to import. To look for them in the finished pickle
takes longer than to make it; the pickler, though, asks about every object that is not of a built-in kind how it is to
be written. So the objects are collected on the way, and looked at only where the pickle turns out to be a new one.
"""

from __future__ import annotations

import functools
import io
import pickle
import sys
from collections.abc import Callable, Collection, Iterable
from types import BuiltinFunctionType, FunctionType, ModuleType
from typing import Any

PROTOCOL = 5

EVERYWHERE = frozenset((*sys.stdlib_module_names, "jobrunner", "cloudpickle", "__main__", "__mp_main__"))
"""Top-level modules that every worker has, or that are never imported there."""

MOST_NAMED = 32
LONGEST_NAMED = 100
"""Modules that are named for one function, and characters of their names: what they lead to is said early, no more."""


def pickle_noting(
    value: Any, noted: list[Any], *, plainly: bool, buffers: list[memoryview], large: int
) -> tuple[bytes, bool]:
    """The pickle, and whether cloudpickle made it. Raises whatever pickling raises.

    `noted` takes the objects that may be in it by name alone, `buffers` those of at least `large` bytes. `plainly`:
    without cloudpickle, if that is possible.
    """

    def in_band(buffer: pickle.PickleBuffer) -> bool:
        raw = buffer.raw()
        if raw.nbytes >= large:
            buffers.append(raw)
        return raw.nbytes < large

    if plainly:
        try:
            stream = _dump(_PlainPickler, value, noted, in_band)
            if b"__main__" not in stream and b"__mp_main__" not in stream:
                return stream, False
        except Exception:  # whatever it was, cloudpickle may be able to, or else says why not
            pass
        noted.clear()
        buffers.clear()
    return _dump(_by_value_pickler(), value, noted, in_band), True


def modules_of(noted: Iterable[Any], by_value: Collection[str] = ()) -> tuple[str, ...]:
    """Top-level names of the modules that have to be imported for these, in order; without EVERYWHERE.

    `by_value` are modules that go by value themselves, with those inside of them.
    """
    found: dict[str, None] = {}
    name: str | None
    for value in noted:
        if isinstance(value, ModuleType):
            name = value.__name__
            if name not in sys.modules or any(f"{name}.".startswith(f"{module}.") for module in by_value):
                continue  # it is in the pickle
        elif isinstance(value, (type, FunctionType, BuiltinFunctionType)):
            name = getattr(value, "__module__", None)
        else:
            name = _place_of(value)
        if isinstance(name, str):
            found[name.partition(".")[0]] = None
    names = [name for name in found if name not in EVERYWHERE and 0 < len(name) <= LONGEST_NAMED]
    return tuple(sorted(names)[:MOST_NAMED])


def _place_of(value: Any) -> str | None:
    """The module in which an object is found under its name, as numpy's functions are, which are none to Python."""
    try:
        module, name = value.__module__, value.__name__
        return module if getattr(sys.modules[module], name) is value else None
    except Exception:  # mostly it has no name; and it may be of any kind
        return None


def _dump(
    pickler: Any, value: Any, noted: list[Any], in_band: Callable[[pickle.PickleBuffer], bool]
) -> bytes:
    file = io.BytesIO()
    made = pickler(file, PROTOCOL, buffer_callback=in_band)
    made.noted = noted
    made.dump(value)
    return file.getvalue()


class _PlainPickler(pickle.Pickler):
    noted: list[Any]

    def reducer_override(self, value: Any) -> Any:
        self.noted.append(value)
        return NotImplemented


@functools.cache
def _by_value_pickler() -> Any:
    import cloudpickle

    base = cloudpickle.Pickler
    reduce = base.reducer_override

    class ByValuePickler(base):  # type: ignore[misc, valid-type]
        noted: list[Any]

        def reducer_override(self, value: Any) -> Any:
            reduced = reduce(self, value)
            if reduced is NotImplemented:
                self.noted.append(value)
            return reduced

    return ByValuePickler
