"""Arguments of a `map` that share objects with the called object.

For example, a method of a graph is called for each of its nodes: in each call the node must be one of the graph's own.
The called object travels once, and is unpickled anew for each call; elements that contain some of its objects refer to
them by their places in its pickle.

That pickle has the state at the time when `map` was called. If the program has changed the object since, an element
that contains some of its objects brings along the called object in its present state; otherwise the element would find
itself there in its old state.
"""

from __future__ import annotations

import io
import pickle
import re
import sys
from collections.abc import Sequence
from types import BuiltinFunctionType, FunctionType, ModuleType
from typing import Any

from jobrunner.calls.serialization import CONNECTION, PROTOCOL, SCRIPT, dump_function
from jobrunner.fixed.atoms import is_atom
from jobrunner.pickling.loading import Held, apart_from
from jobrunner.pickling.required_modules import place_of
from jobrunner.protocol.wire.payloads import OUT_OF_BAND, Buffer


class HeldObjects:
    """The objects inside of the called object."""

    def __init__(self, held: Held) -> None:
        self._held = held
        self._places: dict[int, int] | None = None
        """The places of these objects, by id; None until the first argument comes that may be one of them."""
        self._apart: set[int] = set()
        """The ids of those that calls can distinguish from copies."""
        self._is_current: bool | None = None
        """Whether the called object is still in the state of its pickle; None if that is not known."""

    def has(self, value: Any) -> bool:
        """Return whether this very object is inside of the called object."""
        return self._matters(id(value)) if id(value) in self._by_id() else False

    @property
    def value(self) -> Any:
        """The called object."""
        return self._held.value

    def may_have_changed(self) -> None:
        """Note that code of the program has run since the last element was taken."""
        self._is_current = None

    def is_current(self) -> bool:
        """Return whether the called object is still in the state of its pickle."""
        if self._is_current is None:
            # imported here because slots never need it, and start sooner without it
            from jobrunner.errors import SerializationError

            try:
                self._is_current = dump_function(self._held.value).key == self._held.key
            except SerializationError:
                self._is_current = False
        return self._is_current

    def has_one_of(self, ids: set[int]) -> bool:
        """Return whether an object with one of these ids is inside of the called object."""
        return any(map(self._matters, self._by_id().keys() & ids))

    def dump(self, value: Any, buffers: list[memoryview]) -> bytes | None:
        """Return the pickle of a value, for `load_with`; None if it shares nothing, or if plain pickle refuses it.

        Large buffers are appended to `buffers`.
        """
        places = self._by_id()
        if not places:
            return None
        try:
            met = pickle.Pickler(_Nowhere(), PROTOCOL, buffer_callback=_is_in_band)
            met.dump(value)
            memo: Any = met.memo
            shared = places.keys() & memo.copy().keys()
            if not any(map(self._matters, shared)):
                return None
            file = io.BytesIO()
            pickler = _SharingPickler(file, PROTOCOL, buffer_callback=apart_from(OUT_OF_BAND, buffers))
            pickler.places = places
            pickler.dump(value)
        except Exception:  # other picklers may succeed, or else they give the reason
            buffers.clear()
            return None
        stream = file.getvalue()
        if CONNECTION in stream or (self._held.has_parts and SCRIPT in stream):
            # The object would need globals of the script, with which it is pickled in another way.
            buffers.clear()
            return None
        return stream

    def _by_id(self) -> dict[int, int]:
        if self._places is None:
            self._places = {id(value): place for place, value in enumerate(self._held.objects)}
        return self._places

    def _matters(self, known: int) -> bool:
        if known in self._apart:
            return True
        assert self._places is not None
        value = self._held.objects[self._places[known]]
        if _comes_out_as_itself(value):
            del self._places[known]
            return False
        self._apart.add(known)
        return True


def _comes_out_as_itself(value: Any) -> bool:
    """Return whether the value cannot be distinguished from the result of unpickling it."""
    if isinstance(value, (type, FunctionType, BuiltinFunctionType, ModuleType, re.Pattern)) or is_atom(value):
        return True
    for module, name in (("enum", "Enum"), ("logging", "Logger"), ("numpy", "dtype")):
        kind = getattr(sys.modules.get(module), name, None)
        if kind is not None and isinstance(value, kind):
            return True
    return place_of(value) is not None


class _Nowhere:
    """A file for a pickler whose output is not needed."""

    def write(self, data: bytes) -> int:
        return len(data)


def _is_in_band(buffer: pickle.PickleBuffer) -> bool:
    return False  # large buffers are not needed either


class _SharingPickler(pickle.Pickler):
    places: dict[int, int]

    def persistent_id(self, value: Any) -> int | None:
        return self.places.get(id(value))


class _SharingUnpickler(pickle.Unpickler):
    objects: dict[int, Any]

    def persistent_load(self, place: int) -> Any:
        return self.objects[place]


def load_with(stream: bytes, buffers: Sequence[Buffer], objects: dict[int, Any]) -> Any:
    """Return the value; `objects` are those of the called object, by their places.

    Raises whatever unpickling raises.
    """
    unpickler = _SharingUnpickler(io.BytesIO(stream), buffers=buffers)
    unpickler.objects = objects
    return unpickler.load()
