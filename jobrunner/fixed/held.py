"""Arguments of a `map` that share objects with what is called.

A method of a graph, say, that is called for each of its nodes: in each call the node has to be one of the graph's. The
object that is called travels once, and is unpickled anew for each call; elements that have some of its objects refer to
these by their places in its pickle.

That pickle is of the moment at which `map` was called. Where the program has changed the object since, an element that
has some of its objects brings the object along as it is now: else it would find itself there as it was.
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
    """Those of what is called."""

    def __init__(self, held: Held) -> None:
        self._held = held
        self._places: dict[int, int] | None = None
        """By id; None until the first argument comes that may be one of them."""
        self._apart: set[int] = set()
        """The ids of those of which it was found out that calls can tell them from copies."""
        self._is_current: bool | None = None
        """Whether what is called is as it was pickled; None while nobody has asked."""

    def has(self, value: Any) -> bool:
        """Whether this very object is one of them."""
        return self._matters(id(value)) if id(value) in self._by_id() else False

    @property
    def value(self) -> Any:
        """What is called."""
        return self._held.value

    def may_have_changed(self) -> None:
        """Code of the program has run since the last element was taken."""
        self._is_current = None

    def is_current(self) -> bool:
        """Whether what is called is as it was pickled."""
        if self._is_current is None:
            from jobrunner.errors import SerializationError  # here: a slot never needs it, and starts sooner

            try:
                self._is_current = dump_function(self._held.value).key == self._held.key
            except SerializationError:
                self._is_current = False
        return self._is_current

    def has_one_of(self, ids: set[int]) -> bool:
        """Whether one of the objects with these ids is one of them."""
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
        except Exception:  # the other picklers may be able to, or else say why not
            buffers.clear()
            return None
        stream = file.getvalue()
        if CONNECTION in stream or (self._held.has_parts and SCRIPT in stream):
            # With the globals of the script, which it needs then, the object that is called is pickled otherwise.
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
    """Whether nobody can tell it from what its pickle gives."""
    if isinstance(value, (type, FunctionType, BuiltinFunctionType, ModuleType, re.Pattern)) or is_atom(value):
        return True
    for module, name in (("enum", "Enum"), ("logging", "Logger"), ("numpy", "dtype")):
        kind = getattr(sys.modules.get(module), name, None)
        if kind is not None and isinstance(value, kind):
            return True
    return place_of(value) is not None


class _Nowhere:
    """What a pickler takes for a file."""

    def write(self, data: bytes) -> int:
        return len(data)


def _is_in_band(buffer: pickle.PickleBuffer) -> bool:
    return False  # nobody wants to have it


class _SharingPickler(pickle.Pickler):
    places: dict[int, int]

    def persistent_id(self, value: Any) -> int | None:
        return self.places.get(id(value))


class _SharingUnpickler(pickle.Unpickler):
    objects: dict[int, Any]

    def persistent_load(self, place: int) -> Any:
        return self.objects[place]


def load_with(stream: bytes, buffers: Sequence[Buffer], objects: dict[int, Any]) -> Any:
    """The value; `objects` are those of what is called, by their places. Raises whatever unpickling raises."""
    unpickler = _SharingUnpickler(io.BytesIO(stream), buffers=buffers)
    unpickler.objects = objects
    return unpickler.load()
