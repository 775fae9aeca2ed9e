"""The arguments of elements, in the state in which they were taken; at the sender and at the receiver."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeAlias

from jobrunner.calls import serialization
from jobrunner.calls.serialization import Names
from jobrunner.fixed.columns import length, packed_column, unpacked_column
from jobrunner.fixed.elements import Columns, Unloadable
from jobrunner.fixed.held import load_with
from jobrunner.fixed.own_pickles import SharedClasses, load_alone, load_own
from jobrunner.pickling.loading import FreshCall, load_error
from jobrunner.protocol.wire.payloads import Buffer, Payload, Store, buffers_of

FILE = __file__
"""The file whose frames are removed from tracebacks, because they are not the program's."""

Buffers: TypeAlias = "dict[int, tuple[Buffer, ...]]"
"""By row, the large buffers of a value that has a pickle of its own."""


@dataclass(slots=True)
class FixedElements:
    """The arguments of elements, as `columns`.

    `own` has the rows with a pickle of their own, and for each row the columns whose values are in the pickle. The
    first of these columns holds the pickle, and the others hold None.
    """

    columns: list[list[Any]]
    own: dict[int, tuple[int, ...]] = field(default_factory=dict)
    buffers: Buffers = field(default_factory=dict)
    classes: list[bytes] = field(default_factory=list)
    names: Names = field(default_factory=dict)
    """Globals of the script that code in the pickles needs."""
    together: set[int] = field(default_factory=set)
    """The rows in `own` that share objects with the called object, see `held`."""
    with_called: set[int] = field(default_factory=set)
    """The rows in `own` whose pickle includes the called object, because it has changed since `map` was called."""
    kinds: list[type | None] = field(default_factory=list)
    """By column, the type of all values if there is only one; empty if the types were not determined."""

    def __len__(self) -> int:
        return len(self.columns[0]) if self.columns else 0

    def part(self, start: int, stop: int) -> FixedElements:
        """Return the elements [start, stop)."""
        return FixedElements(
            [column[start:stop] for column in self.columns],
            {row - start: columns for row, columns in self.own.items() if start <= row < stop},
            {row - start: parts for row, parts in self.buffers.items() if start <= row < stop},
            self.classes,
            self.names,
            {row - start for row in self.together if start <= row < stop},
            {row - start for row in self.with_called if start <= row < stop},
            self.kinds,
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return load_elements, (in_bytes(dump_elements(self, snapshot=False)),)


# --- arguments: to bytes, and back -----------------------------------------------------------------------


def dump_elements(
    elements: FixedElements, *, snapshot: bool, store: Store | None = None, names: Names | None = None
) -> Payload:
    """Return a payload with the elements.

    `snapshot` copies large buffers, because the program may change them afterwards. `names` takes the globals of the
    script to which the payload refers, as in `serialization.dump_call`.
    """
    if not elements.own:
        columns = [*map(packed_column, elements.columns, elements.kinds)] or elements.columns
        return serialization.dump_plain(columns, snapshot, store, names)
    spans, parts = numbered(elements.buffers)
    if names is not None:
        names.update(elements.names)
    return serialization.dump_plain(
        (
            elements.columns,
            elements.own,
            spans,
            parts,
            elements.classes,
            elements.together,
            elements.with_called,
        ),
        snapshot,
        store,
        names,
    )


def load_elements(payload: Payload) -> LoadedElements | LoadedColumns:
    """Return the elements of a payload of `dump_elements`; as columns if no element has a pickle of its own.

    Raises SerializationError.
    """
    whole = serialization.load_plain(payload, "the elements of a chunk")
    return LoadedColumns(whole) if isinstance(whole, list) else LoadedElements(*whole)


class LoadedColumns:
    """The arguments of elements without pickles of their own; a chunk unpacks only its part of them."""

    def __init__(self, packed: list[Any]) -> None:
        self._packed = packed

    def __len__(self) -> int:
        return length(self._packed[0])

    def columns(self, start: int, stop: int) -> Columns:
        """Return the columns of the elements [start, stop)."""
        return [unpacked_column(column, start, stop) for column in self._packed]

    def rows(self, start: int, stop: int) -> Iterator[Sequence[Any]]:
        """Return the arguments of the elements [start, stop), one element at a time."""
        return zip(*self.columns(start, stop), strict=True)


class LoadedElements:
    """The arguments of elements, each of which is unpickled when it is asked for."""

    def __init__(
        self,
        columns: list[list[Any]],
        own: dict[int, tuple[int, ...]],
        spans: dict[int, list[int]],
        parts: list[Buffer],
        classes: list[bytes],
        together: set[int],
        with_called: set[int],
    ) -> None:
        self._together = together
        self._with_called = with_called
        self._columns = columns
        self._own = own
        self._buffers = LoadedBuffers(spans, parts)
        self.classes = SharedClasses(classes) if classes else None

    def __len__(self) -> int:
        return len(self._columns[0])

    def streams(self, start: int, stop: int) -> list[bytes] | None:
        """Return the pickles of the elements [start, stop) if they are all that the arguments consist of, else None."""
        if len(self._columns) > 1 or len(self._own) < len(self._columns[0]) or self._buffers:
            return None
        if self.share_with_called:
            return None
        return self._columns[0][start:stop]

    @property
    def share_with_called(self) -> bool:
        """Whether some elements share objects with the called object, so that `call` must call it."""
        return bool(self._together or self._with_called)

    def call(self, fn: Callable[..., Any], row: int) -> Any:
        """Return the result of `fn` for that element.

        Raises SerializationError, or whatever the program's code raises.
        """
        if row in self._together:
            assert isinstance(fn, FreshCall)
            fn, objects = fn.unpickled()
            return fn(*self._placed(row, self._loaded(row, objects)))
        if row in self._with_called:
            fn, value = self._loaded(row)
            return fn(*self._placed(row, value))
        return fn(*self.arguments(row))

    def arguments(self, row: int) -> list[Any]:
        """Return the arguments of an element that shares nothing with the called object; ask only once for each.

        Raises SerializationError, or whatever the program's code raises.
        """
        return self._placed(row, self._loaded(row) if row in self._own else None)

    def _loaded(self, row: int, objects: dict[int, Any] | None = None) -> Any:
        """Return the content of that element's pickle; `objects` are those of the called object."""
        stream, buffers = self._columns[self._own[row][0]][row], self._buffers.of(row)
        try:
            if objects is None:
                return load_own(stream, buffers, self.classes)
            return load_with(stream, buffers, objects)
        except Exception as exc:
            raise load_error("the arguments", exc) from exc

    def _placed(self, row: int, value: Any) -> list[Any]:
        """Return the arguments of an element, of which those in `value` were pickled by themselves."""
        args = [column[row] for column in self._columns]
        own = self._own.get(row, ())
        if len(own) == 1:
            args[own[0]] = value
        else:
            for index, one in zip(own, value or (), strict=True):
                args[index] = one
        return args

    def rows(self, start: int, stop: int) -> Iterator[list[Any]]:
        """Return an iterator over the arguments of the elements [start, stop).

        It raises Unloadable for an element whose arguments cannot be loaded, and continues with the next one.
        """
        return _Rows(self, start, stop)


def _call_with(fn: Callable[[Any], Any], load: Callable[[bytes], Any], stream: bytes) -> Any:
    try:
        value = load(stream)
    except Exception as exc:
        raise load_error("the arguments", exc) from exc
    return fn(value)


class _Rows:
    def __init__(self, elements: LoadedElements, start: int, stop: int) -> None:
        self._elements = elements
        self._left = iter(range(start, stop))

    def __iter__(self) -> _Rows:
        return self

    def __next__(self) -> list[Any]:
        row = next(self._left)
        try:
            return self._elements.arguments(row)
        except BaseException as exc:
            raise Unloadable(exc) from exc


class LoadedBuffers:
    """Large buffers at the receiver. A buffer that several values use is copied for each."""

    def __init__(self, spans: dict[int, list[int]], parts: list[Buffer]) -> None:
        self._spans = spans
        self._parts = parts
        self._uses = [0] * len(parts)
        for numbers in spans.values():
            for number in numbers:
                self._uses[number] += 1

    def __bool__(self) -> bool:
        return bool(self._parts)

    def of(self, row: int) -> list[Buffer]:
        """Return that row's buffers, which are writable and belong to nobody else."""
        return [
            bytearray(part) if self._uses[number] > 1 or memoryview(part).readonly else part
            for number in self._spans.get(row, ())
            for part in (self._parts[number],)
        ]


def numbered(buffers: Buffers) -> tuple[dict[int, list[int]], list[pickle.PickleBuffer]]:
    """Return by row the numbers of its buffers, and the buffers, each once."""
    numbers: dict[int, int] = {}
    parts: list[pickle.PickleBuffer] = []
    spans: dict[int, list[int]] = {}
    for row, of_row in buffers.items():
        spans[row] = []
        for part in of_row:
            if id(part) not in numbers:
                numbers[id(part)] = len(parts)
                parts.append(pickle.PickleBuffer(part))
            spans[row].append(numbers[id(part)])
    return spans, parts


def in_bytes(payload: Payload) -> Payload:
    """Return the payload in a form that can be pickled."""
    return payload if isinstance(payload, bytes) else tuple(map(bytes, buffers_of(payload)))


# --- calls -----------------------------------------------------------------------------------------------


def calls(
    fn: Callable[..., Any], elements: LoadedElements | LoadedColumns, start: int, stop: int
) -> tuple[list[Any], Callable[[Any], Any]]:
    """Return a list of stop - start items, and a function that calls `fn` with the element of an item."""
    if isinstance(elements, LoadedColumns):
        columns = elements.columns(start, stop)
        if len(columns) == 1:
            return columns[0], fn
        return list(zip(*columns, strict=True)), lambda args: fn(*args)
    streams = elements.streams(start, stop)
    if streams is not None:
        classes = elements.classes
        load = load_alone if classes is None else lambda stream: load_own(stream, (), classes)
        return streams, partial(_call_with, fn, load)
    if elements.share_with_called:
        return list(range(start, stop)), partial(elements.call, fn)
    arguments = elements.arguments
    return list(range(start, stop)), lambda row: fn(*arguments(row))
