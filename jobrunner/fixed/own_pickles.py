"""Pickles of single values, one after the other: each is what it is at its moment, and shares no object with others.

A class that goes by value, for instance one that a script defines, is in none of them: it is pickled once, and the
values refer to it by its number. To pickle it anew with each value would take longer than all the rest.
"""

from __future__ import annotations

import functools
import pickle
import threading
from collections.abc import Callable, Sequence
from typing import Any

from jobrunner import serialization
from jobrunner.payloads import Buffer
from jobrunner.serialization import OUT_OF_BAND, PROTOCOL

MAIN = b"_main__"
"""Is in each pickle that refers to what __main__ or __mp_main__ defines, see serialization.names_main."""


class OwnPickles:
    """Makes them. `classes` are the pickles of the classes that they refer to."""

    def __init__(self) -> None:
        self.classes: list[bytes] = []
        self.buffers: list[memoryview] = []
        """The large buffers of the value that was pickled last; they are not in its pickle."""
        self._numbers: dict[type, int | None] = {}
        """Of classes; None for those that others import."""
        self._begin()

    def dump(self, value: Any) -> bytes:
        """The pickle of `value`. Raises whatever pickling raises."""
        parts, buffers = self._parts, self.buffers
        if buffers:
            buffers = self.buffers = []
        try:
            self._dump(value)
            self._clear_memo()
            stream = parts.pop() if len(parts) == 1 else self._joined()
            if MAIN not in stream:
                return stream
        except BaseException as exc:
            self._begin()
            if not isinstance(exc, Exception):
                raise
            # Whatever it was, cloudpickle may be able to, or else says why not.
        return self._dump_by_value(value)

    def _dump_by_value(self, value: Any) -> bytes:
        self.buffers = []
        pickler = _by_value_pickler()(self._sink, PROTOCOL, buffer_callback=self._in_band)
        pickler.number_of = self._number_of
        try:
            pickler.dump(value)
        except BaseException:
            self._parts.clear()
            raise
        return self._joined()

    def _begin(self) -> None:
        self._parts: list[bytes] = []
        self._sink = _Sink(self._parts.append)
        pickler = pickle.Pickler(self._sink, PROTOCOL, buffer_callback=self._in_band)
        self._dump, self._clear_memo = pickler.dump, pickler.clear_memo

    def _joined(self) -> bytes:
        stream = b"".join(self._parts)
        self._parts.clear()
        return stream

    def _in_band(self, buffer: pickle.PickleBuffer) -> bool:
        raw = buffer.raw()
        if raw.nbytes < OUT_OF_BAND:
            return True
        self.buffers.append(raw)
        return False

    def _number_of(self, kind: type, goes_by_value: Callable[[], bool]) -> int | None:
        """Which of `classes` it is; None where it goes by reference."""
        if kind not in self._numbers:
            number = None
            if goes_by_value():
                self.classes.append(serialization.dump_class(kind))
                number = len(self.classes) - 1
            self._numbers[kind] = number
        return self._numbers[kind]


class _Sink:
    """What a pickler takes for a file: nearly every pickle is written in one piece, which then is not copied again."""

    def __init__(self, write: Callable[[bytes], object]) -> None:
        self.write = write


@functools.cache
def _by_value_pickler() -> Any:
    import cloudpickle

    base = cloudpickle.Pickler
    reduce = base.reducer_override

    class ByValuePickler(base):  # type: ignore[misc, valid-type]
        number_of: Callable[[type, Callable[[], bool]], int | None]

        def reducer_override(self, value: Any) -> Any:
            if not isinstance(value, type):
                return reduce(self, value)
            number = self.number_of(value, lambda: reduce(self, value) is not NotImplemented)
            return NotImplemented if number is None else (class_numbered, (number,))

    return ByValuePickler


class SharedClasses:
    """The classes of some pickles, where these are loaded; each is unpickled when it is first asked for."""

    def __init__(self, streams: Sequence[bytes]) -> None:
        self._streams = streams
        self._loaded: dict[int, type] = {}

    def __getitem__(self, number: int) -> type:
        if number not in self._loaded:
            self._loaded[number] = pickle.loads(self._streams[number])
        return self._loaded[number]


class _Loading(threading.local):
    classes: SharedClasses | None = None


_loading = _Loading()


def class_numbered(number: int) -> type:
    """What stands for a class in the pickles. Works while `load_own` runs."""
    classes = _loading.classes
    if classes is None:
        raise pickle.UnpicklingError("this pickle refers to a class that travels beside it")
    return classes[number]


load_alone = pickle.loads
"""The value of a pickle that has no large buffers, and refers to no class by its number."""


def load_own(stream: bytes, buffers: Sequence[Buffer], classes: SharedClasses | None) -> Any:
    """The value of one of the pickles. Raises whatever unpickling raises."""
    if classes is None:
        return pickle.loads(stream, buffers=buffers) if buffers else pickle.loads(stream)
    before, _loading.classes = _loading.classes, classes
    try:
        return pickle.loads(stream, buffers=buffers)
    finally:
        _loading.classes = before
