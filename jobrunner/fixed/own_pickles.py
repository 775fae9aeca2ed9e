"""Pickles of single values, which show the state of each value at its moment and share no objects.

A class that is pickled by value, for example one that a function creates, is in none of them. It is pickled once, and
the values refer to it by its number, because pickling it with each value would take longer than all the rest.
"""

from __future__ import annotations

import functools
import pickle
import threading
from collections.abc import Callable, Sequence
from typing import Any

from jobrunner.calls import serialization
from jobrunner.calls.serialization import CONNECTION, HINT, PROTOCOL, SCRIPT, Names
from jobrunner.protocol.wire.payloads import OUT_OF_BAND, Buffer
from jobrunner.script.modes import PLAIN, Mode

MAX_KNOWN = 8
"""Maximum number of classes in the prefix of a pickle; a value seldom has more."""


class OwnPickles:
    """A pickler for single values. `classes` are the pickles of the classes to which the values refer."""

    def __init__(self, mode: Mode = PLAIN) -> None:
        self._mode = mode
        self.names: Names = {}
        """Globals of the script that code in the pickles needs."""
        self.classes: list[bytes] = []
        self.buffers: list[memoryview] = []
        """The large buffers of the value that was pickled last; they are not in its pickle."""
        self._numbers: dict[type, int | None] = {}
        """The number of each class, or None for a class that receivers import."""
        self._numbered_kind: type | None = None
        """The type of the last value that plain pickle could not pickle.

        It can, as soon as the classes have numbers.
        """
        self._knowing: Any = None
        """The pickler for values of that type, the memo with which it starts, and the mark of its pickles."""
        self._known: Any = None
        self._mark = b""
        self._parts: list[bytes] = []

    def dump(self, value: Any) -> bytes:
        """Return the pickle of `value`. Raises whatever pickling raises."""
        if self.buffers:
            self.buffers = []
        try:
            if type(value) is self._numbered_kind:
                stream = self._dump_knowing(value)
            else:
                stream = pickle.dumps(value, PROTOCOL, buffer_callback=self._in_band)
            if HINT not in stream or (
                CONNECTION not in stream
                and (SCRIPT not in stream or not self._mode.result or serialization.all_is_known())
            ):
                return stream
        except Exception:  # the other pickler may succeed, or else it gives the reason
            pass
        return self._dump_by_value(value)

    def _dump_knowing(self, value: Any) -> bytes:
        """Return the pickle of a value whose classes have numbers already, with the mark of such pickles."""
        pickler, parts = self._knowing, self._parts
        parts[:] = [self._mark]
        pickler.memo = self._known
        pickler.dump(value)
        return b"".join(parts)

    def _dump_by_value(self, value: Any) -> bytes:
        before = len(self.classes)
        try:
            stream = self._dump_numbering(value)
        except Exception:  # the next pickler may succeed, or else it gives the reason
            stream = SCRIPT
        if SCRIPT in stream or CONNECTION in stream:
            stream = self._dump_with_code(value)
        if len(self.classes) > before:
            # The next value probably has these classes, too.
            self._know_classes()
            self._numbered_kind = type(value)
        return stream

    def _dump_numbering(self, value: Any) -> bytes:
        self.buffers = []
        parts: list[bytes] = []
        pickler = _NumberingPickler(_Sink(parts.append), PROTOCOL, buffer_callback=self._in_band)
        pickler.number_of = self._number_of
        pickler.dump(value)
        return b"".join(parts)

    def _dump_with_code(self, value: Any) -> bytes:
        self.buffers = []
        parts: list[bytes] = []
        pickler = _script_pickler()(_Sink(parts.append), PROTOCOL, self._in_band)
        pickler.prepare(self._mode, None, None)
        pickler.number_of = self._number_of
        pickler.dump(value)
        self.names.update(pickler.names)
        return b"".join(parts)

    def _know_classes(self) -> None:
        """Enter the classes in the memo of a pickler, as if it had pickled them before; its pickles need `prefix`."""
        known = [kind for kind, number in self._numbers.items() if number is not None][:MAX_KNOWN]
        self._knowing = pickle.Pickler(_Sink(self._parts.append), PROTOCOL, buffer_callback=self._in_band)
        self._knowing.memo = {id(kind): (index, kind) for index, kind in enumerate(known)}
        self._known = self._knowing.memo.copy()
        self._mark = bytes((len(known),))

    def _in_band(self, buffer: pickle.PickleBuffer) -> bool:
        raw = buffer.raw()
        if raw.nbytes < OUT_OF_BAND:
            return True
        self.buffers.append(raw)
        return False

    def _number_of(self, kind: type) -> int | None:
        """Return the index of the class in `classes`, or None if it is pickled by reference."""
        if kind not in self._numbers:
            stream = serialization.dump_class_by_value(kind)
            self._numbers[kind] = None if stream is None else len(self.classes)
            if stream is not None:
                self.classes.append(stream)
        return self._numbers[kind]


class _Sink:
    """A file for a pickler. Nearly every pickle is written in one piece, so it is not copied again."""

    def __init__(self, write: Callable[[bytes], object]) -> None:
        self.write = write


class _NumberingPickler(pickle.Pickler):
    """A pickler that refers to classes by their numbers if they go by value, and pickles all else plainly."""

    number_of: Callable[[type], int | None]

    def reducer_override(self, value: Any) -> Any:
        number = self.number_of(value) if isinstance(value, type) else None
        return NotImplemented if number is None else (class_numbered, (number,))


@functools.cache
def _script_pickler() -> Any:
    from jobrunner.script.pickler import ScriptPickler

    class NumberingScriptPickler(ScriptPickler):
        number_of: Callable[[type], int | None]

        def local_class(self, value: type) -> Any:
            number = self.number_of(value)
            return super().local_class(value) if number is None else (class_numbered, (number,))

    return NumberingScriptPickler


@functools.cache
def prefix(count: int) -> bytes:
    """Return the opcodes that put this number of classes into the memo, and which must precede such a pickle.

    Such a pickle is marked by that number, before its first byte.
    """
    name = __name__.encode()
    return b"\x80\x05" + b"".join(b"c%b\nclass_numbered\nK%c\x85R\x940" % (name, i) for i in range(count))


class SharedClasses:
    """The classes to which pickles refer, at the receiver; each is unpickled when it is first needed."""

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
    """Return the class to which a pickle refers by this number. Works only while `load_own` runs."""
    classes = _loading.classes
    if classes is None:
        raise pickle.UnpicklingError("this pickle refers to a class that is not in it; load it with load_own")
    return classes[number]


load_alone = pickle.loads
"""The function that loads a pickle without large buffers and without references to classes by numbers."""


def load_own(stream: bytes, buffers: Sequence[Buffer], classes: SharedClasses | None) -> Any:
    """Return the value of one of the pickles. Raises whatever unpickling raises."""
    if classes is None:
        return pickle.loads(stream, buffers=buffers) if buffers else pickle.loads(stream)
    if stream[0] <= MAX_KNOWN:
        stream = prefix(stream[0]) + stream[1:]
    before, _loading.classes = _loading.classes, classes
    try:
        return pickle.loads(stream, buffers=buffers)
    finally:
        _loading.classes = before
