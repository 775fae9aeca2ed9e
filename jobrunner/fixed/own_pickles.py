"""Pickles of single values, one after the other: each is what it is at its moment, and shares no object with others.

A class that goes by value, for instance one that a function makes, is in none of them: it is pickled once, and the
values refer to it by its number. To pickle it anew with each value would take longer than all the rest.
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
"""Classes that are referred to by the prefix of a pickle. There are seldom more of them in a value."""


class OwnPickles:
    """Makes them. `classes` are the pickles of the classes that they refer to."""

    def __init__(self, mode: Mode = PLAIN) -> None:
        self._mode = mode
        self.names: Names = {}
        """Globals of the script that code in the pickles needs."""
        self.classes: list[bytes] = []
        self.buffers: list[memoryview] = []
        """The large buffers of the value that was pickled last; they are not in its pickle."""
        self._numbers: dict[type, int | None] = {}
        """Of classes; None for those that others import."""
        self._numbered_kind: type | None = None
        """The last kind of a value that could not be pickled plainly: others of it are, once the classes are known."""
        self._knowing: Any = None
        """The pickler for these, what it is to take for pickled before, and the mark of such pickles."""
        self._known: Any = None
        self._mark = b""
        self._parts: list[bytes] = []

    def dump(self, value: Any) -> bytes:
        """The pickle of `value`. Raises whatever pickling raises."""
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
        except Exception:  # whatever it was, the other pickler may be able to, or else says why not
            pass
        return self._dump_by_value(value)

    def _dump_knowing(self, value: Any) -> bytes:
        """The pickle of a value whose classes are numbered already, with a mark that says so."""
        pickler, parts = self._knowing, self._parts
        parts[:] = [self._mark]
        pickler.memo = self._known
        pickler.dump(value)
        return b"".join(parts)

    def _dump_by_value(self, value: Any) -> bytes:
        before = len(self.classes)
        try:
            stream = self._dump_numbering(value)
        except Exception:  # as above
            stream = SCRIPT
        if SCRIPT in stream or CONNECTION in stream:
            stream = self._dump_with_code(value)
        if len(self.classes) > before:
            # The next value is most likely of these classes, too.
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
        """Have the pickler take the classes for known, as if it had pickled them before: its pickles need `prefix`."""
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
        """Which of `classes` it is; None where it goes by reference."""
        if kind not in self._numbers:
            stream = serialization.dump_class_by_value(kind)
            self._numbers[kind] = None if stream is None else len(self.classes)
            if stream is not None:
                self.classes.append(stream)
        return self._numbers[kind]


class _Sink:
    """What a pickler takes for a file: nearly every pickle is written in one piece, which then is not copied again."""

    def __init__(self, write: Callable[[bytes], object]) -> None:
        self.write = write


class _NumberingPickler(pickle.Pickler):
    """Refers to classes that go by value by their numbers, and pickles all else plainly."""

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
    """What has to stand before a pickle that takes so many classes for known: it puts them into the memo, and no more.

    Such a pickle is marked by their number, before its first byte.
    """
    name = __name__.encode()
    return b"\x80\x05" + b"".join(b"c%b\nclass_numbered\nK%c\x85R\x940" % (name, i) for i in range(count))


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
    if stream[0] <= MAX_KNOWN:
        stream = prefix(stream[0]) + stream[1:]
    before, _loading.classes = _loading.classes, classes
    try:
        return pickle.loads(stream, buffers=buffers)
    finally:
        _loading.classes = before
