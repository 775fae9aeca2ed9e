"""Results of elements, each in its state when its call returned."""

from __future__ import annotations

from collections.abc import Callable
from sys import getrefcount
from time import perf_counter
from typing import Any
from weakref import getweakrefcount

from jobrunner.calls import serialization
from jobrunner.fixed import arguments
from jobrunner.fixed.arguments import (
    Buffers,
    LoadedBuffers,
    LoadedColumns,
    LoadedElements,
    calls,
    in_bytes,
    numbered,
)
from jobrunner.fixed.atoms import (
    ATOMS,
    CONTAINERS,
    copied,
    depends_on_value,
    is_array,
    is_atom,
    is_of_numbers,
)
from jobrunner.fixed.columns import packed_column, unpacked_column
from jobrunner.fixed.elements import ElementResults
from jobrunner.fixed.own_pickles import OwnPickles, SharedClasses, load_alone, load_own
from jobrunner.pickling.loading import load_error
from jobrunner.protocol.wire.payloads import Payload, Store
from jobrunner.script.modes import RESULT


def run_fixed(
    fn: Callable[..., Any],
    elements: LoadedElements | LoadedColumns,
    start: int,
    stop: int,
    retry_on: bytes | None = None,
    interrupted: Callable[[], object] = bool,
    seconds: float | None = None,
) -> FixedResults:
    """Call `fn` for the elements [start, stop) in a process whose calls share no objects with the program.

    An element that raises does not affect the others. `interrupted` returns whether an exception belongs to the chunk
    instead of an element; such an exception is raised. After `seconds` no further element begins, and there are fewer
    results.
    """
    until = None if seconds is None else perf_counter() + seconds
    results = FixedResults((__file__,), retry_on, stop - start)
    items, call = calls(fn, elements, start, stop)
    for item in items:
        try:
            value = call(item)
            results.add(value)
        except BaseException as exc:
            if interrupted():
                raise
            results.add_failure(exc)
        if until is not None and perf_counter() >= until:
            break
    return results


class FixedResults:
    """Results of calls, each in its state when its call returned."""

    def __init__(self, files: tuple[str, ...], retry_on: bytes | None, count: int) -> None:
        """Create the results of `count` calls, which the code in `files` makes.

        `retry_on` are the exceptions after which a call may be repeated, see `serialization.dump_classes`.
        """
        self.values: list[Any] = []
        """By call, the value, its own pickle, or None for a failed call. The caller may append an atom here."""
        self._keep = self.values.append
        self._own: list[int] = []
        self._added = 0
        """The number of calls of `add`, where 2 stands for more. After one call all values are of `_first_kind`."""
        self._first_kind: type | None = None
        self._own_kind: type | None = None
        """The type of the last value that needed a pickle of its own, if every value of that type needs one."""
        self._array_kind: type | None = None
        self._dtype: Any = None
        """The dtype of the last array that was checked. Arrays with it need no pickle of their own if they are new."""
        self._arrays = 0
        """The number of arrays of numbers among the values."""
        self._buffers: Buffers = {}
        self._failures: dict[int, serialization.EncodedException] = {}
        self._final: set[int] = set()
        self._pickles = OwnPickles(RESULT)
        self._files = *files, arguments.FILE
        self._retry_on = retry_on
        self._last = count - 1

    def add(self, value: Any) -> type | None:
        """Add the value that the next call has returned; return its type if all values of that type are atoms.

        Raises SerializationError, after which `add_failure` must be called.
        """
        kind = type(value)
        if (
            kind is self._array_kind
            and getrefcount(value) <= _FRESH
            and value.dtype is self._dtype
            and _owns_memory(value)
        ):  # nobody else can change the array before it is pickled with the others
            self._keep(value)
            self._arrays += 1
            return None
        if kind is tuple or kind is list:
            self._added = 2
            for item in value:
                if type(item) not in ATOMS:
                    break
            else:
                self._keep(value if kind is tuple else value[:])
                return None
        elif kind is self._own_kind:
            self._add_own(value)
            return None
        elif kind in ATOMS:
            self._keep(value)
            if len(self.values) == 1:
                self._first_kind = kind
            self._added += 1
            return kind
        self._added = 2
        if kind in CONTAINERS:
            copy = copied(value, kind)
        elif is_array(kind):
            is_fresh = getrefcount(value) <= _FRESH
            copy = self._fixed_array(value, kind, is_fresh)
        else:
            copy = value if is_atom(value) else None
        if copy is not None:
            self._keep(copy)
        else:
            self._add_own(value)
            if not depends_on_value(kind):
                self._own_kind = kind
        return None

    def _fixed_array(self, value: Any, kind: type, is_fresh: bool) -> Any:
        """Return the array, or a copy, that nobody will change, and None if it needs a pickle of its own."""
        if not is_of_numbers(value.dtype):
            return None
        self._array_kind, self._dtype = kind, value.dtype
        is_last = len(self.values) == self._last
        copy = value if is_last or (is_fresh and _owns_memory(value)) else copied(value, kind)
        if copy is not None:
            self._arrays += 1
        return copy

    def _add_own(self, value: Any) -> None:
        pickles, row = self._pickles, len(self.values)
        try:
            stream = pickles.dump(value)
        except Exception as exc:
            raise serialization.result_not_pickled(value, exc) from exc
        if pickles.buffers:
            is_last = row == self._last
            self._buffers[row] = tuple(part if is_last else bytearray(part) for part in pickles.buffers)
        self._own.append(row)
        self.values.append(stream)

    def add_failure(self, failure: BaseException) -> None:
        """Add the failure of the next call."""
        row = len(self.values)
        if self._retry_on is not None and not serialization.is_one_of(failure, self._retry_on):
            self._final.add(row)
        self._added = 2
        self._failures[row] = serialization.encode_exception(
            serialization.without_frames_of(self._files, failure)
        )
        self.values.append(None)

    def dump(self, store: Store | None = None) -> Payload:
        """Return the payload for `load_element_results`."""
        own = None
        if self._own:
            own = self._own, *numbered(self._buffers), self._pickles.classes
        values = packed_column(self.values, self._kind_of_all())
        return serialization.dump_plain((values, self._failures, self._final, own), False, store)

    def _kind_of_all(self) -> type | None:
        """Return the type of all values, and None if types differ or a value has a pickle of its own."""
        if self._arrays:
            return self._array_kind if self._arrays == len(self.values) else None
        return self._first_kind if self._added == 1 else None

    def __len__(self) -> int:
        return len(self.values)

    def __reduce__(self) -> tuple[Any, ...]:
        return load_element_results, (in_bytes(self.dump()),)


def load_element_results(payload: Payload) -> ElementResults:
    """Return the results; one that cannot be unpickled becomes a failure. Raises SerializationError."""
    values, encoded, final, own = serialization.load_plain(payload, "the results of a chunk")
    failures = {row: serialization.decode_exception(*parts) for row, parts in encoded.items()}
    values = unpacked_column(values)
    if own is not None:
        rows_, spans, parts, streams = own
        buffers = LoadedBuffers(spans, parts)
        classes = SharedClasses(streams) if streams else None
        plainly = not buffers and classes is None
        for row in rows_:
            try:
                if plainly:
                    values[row] = load_alone(values[row])
                else:
                    values[row] = load_own(values[row], buffers.of(row), classes)
            except BaseException as exc:
                values[row] = None
                failures[row] = exc
                if isinstance(exc, Exception) and not isinstance(exc, MemoryError):
                    failures[row] = load_error("the result", exc)
                    failures[row].__cause__ = exc
    return ElementResults(values, failures, final)


def _owns_memory(array: Any) -> bool:
    """Return whether the array shares its memory with nobody and has no weak references."""
    return array.base is None and not getweakrefcount(array) and bool(array.flags.owndata)


class _Probe:
    def add(self, value: Any) -> int:
        return getrefcount(value)


def _references_of_fresh() -> int:
    probe, value = _Probe(), [0]
    return probe.add(value)


_FRESH = _references_of_fresh()
"""The reference count that FixedResults.add sees if only its caller has the value."""
