"""The elements of a `map` as they were: arguments when they were taken, results when their call returned.

Chunks are an affair of transport: a call must see what it would see if it travelled alone. So no two elements share an
object, whatever the input yields and the function returns, a single list that changes in between included. Atoms (see
`atoms`) travel many in one pickle. Every other value is pickled by itself, at that moment, and loaded for its element
alone. The arguments of one element are pickled together: what they share stays shared.

An array of plain numbers holds no other object, so that it needs no pickle of its own. It only has to be there once,
and must not be changed until it is pickled together with the others.
"""

from __future__ import annotations

import pickle
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from typing import Any, TypeAlias
from weakref import getweakrefcount

from jobrunner import serialization
from jobrunner.atoms import (
    ATOMS,
    CONTAINERS,
    copied,
    depends_on_value,
    is_array,
    is_atom,
    is_of_numbers,
    travel_together,
)
from jobrunner.columns import packed_column, unpacked_column
from jobrunner.elements import Columns, ElementResults, Input, Unloadable, rows
from jobrunner.own_pickles import OwnPickles, SharedClasses, load_own
from jobrunner.payloads import Buffer, Payload, buffers_of
from jobrunner.serialization import Store

Buffers: TypeAlias = "dict[int, tuple[Buffer, ...]]"
"""By row, the large buffers of a value that has a pickle of its own."""


@dataclass(slots=True)
class FixedElements:
    """Arguments of elements, as `columns`.

    `own` has the rows with a pickle of their own, and for each the columns whose values are in it. The first of these
    columns holds the pickle, the others None.
    """

    columns: list[list[Any]]
    own: dict[int, tuple[int, ...]] = field(default_factory=dict)
    buffers: Buffers = field(default_factory=dict)
    classes: list[bytes] = field(default_factory=list)
    kinds: list[type | None] = field(default_factory=list)
    """By column, the type of all its values, where there is but one; empty where nobody has looked."""

    def __len__(self) -> int:
        return len(self.columns[0]) if self.columns else 0

    def part(self, start: int, stop: int) -> FixedElements:
        """The elements [start, stop)."""
        return FixedElements(
            [column[start:stop] for column in self.columns],
            {row - start: columns for row, columns in self.own.items() if start <= row < stop},
            {row - start: parts for row, parts in self.buffers.items() if start <= row < stop},
            self.classes,
            self.kinds,
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return load_elements, (_in_bytes(dump_elements(self, snapshot=False)),)


# --- arguments: taking them ------------------------------------------------------------------------------


class FixingInput:
    """The iterables of one `map`, for backends that copy: `take` fixes what it takes."""

    def __init__(self, elements: Input) -> None:
        self._elements = elements
        self._pickles = OwnPickles()
        self._last: tuple[bytes, tuple[Buffer, ...]] = b"", ()
        """The last pickle and its buffers, for the case that the next is equal, as with itertools.repeat."""

    def take(self, limit: int) -> tuple[FixedElements, dict[int, Exception]]:
        """The next elements, at most `limit`, and by row why one could not be pickled. Raises what the input raises."""
        if self._pickles.classes or self._last[0]:
            self._pickles = OwnPickles()  # each pack is complete by itself
            self._last = b"", ()
        fixed = FixedElements([], classes=self._pickles.classes)
        failures: dict[int, Exception] = {}
        if self._elements.still:
            # Nothing of the program runs while these are taken, so all are pickled at the moment of the last.
            fixed.columns.extend(self._elements.take(limit))
            loose = self._loose(fixed)
            if len(loose) == 1:
                self._fix_column(fixed, failures, loose)
            elif loose:
                for row, args in enumerate(zip(*[fixed.columns[index] for index in loose], strict=True)):
                    self._fix(fixed, failures, row, args, loose, False)
        elif self._elements.single:
            self._take_moving_single(limit, fixed, failures)
        else:
            self._take_moving(limit, fixed, failures)
        return fixed, failures

    def _loose(self, fixed: FixedElements) -> tuple[int, ...]:
        """The columns whose values need pickles of their own."""
        loose, mutable = [], []
        columns, known = fixed.columns, fixed.kinds
        for index, column in enumerate(columns):
            atom = self._elements.atoms[index]
            kinds = set(map(type, column)) if atom is None else {atom}
            known.append(next(iter(kinds)) if len(kinds) == 1 else None)
            if not travel_together(column, kinds):
                loose.append(index)
            elif not kinds <= ATOMS and not is_atom(column[0]):
                mutable.append(index)
        if mutable:
            ids = set(chain.from_iterable(map(id, columns[index]) for index in mutable))
            if loose or len(ids) < len(mutable) * len(columns[0]):
                loose += mutable  # arguments of one element may share objects, those of two must not
        return tuple(sorted(loose))

    def _take_moving(self, limit: int, fixed: FixedElements, failures: dict[int, Exception]) -> None:
        """Take from iterables that may change between two elements what they have yielded."""
        columns = fixed.columns
        for args in self._elements.each(limit):
            if not columns:
                columns.extend([] for _ in args)
            for column, value in zip(columns, args, strict=True):
                column.append(value)
            loose = tuple(
                index for index, value in enumerate(args) if type(value) not in ATOMS and not is_atom(value)
            )
            if len(loose) == 1 and (copy := copied(args[loose[0]], type(args[loose[0]]))) is not None:
                columns[loose[0]][-1] = copy
            elif loose:
                row = len(columns[0]) - 1
                values = tuple(args[index] for index in loose)
                self._fix(fixed, failures, row, values, loose, row < limit - 1)

    def _take_moving_single(self, limit: int, fixed: FixedElements, failures: dict[int, Exception]) -> None:
        """As `_take_moving`, from one iterable."""
        column: list[Any] = []
        append = column.append
        fixed.columns.append(column)
        kind: type | None = None
        others = 0
        for value in self._elements.each(limit):
            if type(value) is kind:
                append(value)
                continue
            now = type(value)
            others += 1
            if now in ATOMS:
                kind = now
                append(value)
            elif is_atom(value):
                append(value)
            elif (copy := copied(value, now)) is not None:
                append(copy)
            else:
                append(None)
                row = len(column) - 1
                self._fix(fixed, failures, row, (value,), (0,), row < limit - 1)
        if others == 1:
            fixed.kinds.append(kind)

    def _fix_column(
        self, fixed: FixedElements, failures: dict[int, Exception], loose: tuple[int, ...]
    ) -> None:
        """As `_fix` for each element, of one column: the shortest way for values without large buffers."""
        pickles, column = self._pickles, fixed.columns[loose[0]]
        dump = pickles.dump
        last = b""
        for row, value in enumerate(column):
            try:
                stream = dump(value)
            except Exception:
                self._fix(fixed, failures, row, (value,), loose, False)
                continue
            if pickles.buffers:
                self._fix(fixed, failures, row, (value,), loose, False)
            elif stream == last:
                column[row] = last  # it travels once
            else:
                column[row] = last = stream
        self._last = last or self._last[0], self._last[1]
        fixed.own = dict.fromkeys(range(len(column)), loose)

    def _fix(
        self,
        fixed: FixedElements,
        failures: dict[int, Exception],
        row: int,
        args: Sequence[Any],
        loose: tuple[int, ...],
        copy: bool,
    ) -> None:
        """Pickle `args`, the arguments of that row at the columns `loose`. `copy` the buffers: the input goes on."""
        pickles, columns = self._pickles, fixed.columns
        try:
            stream = pickles.dump(args[0] if len(args) == 1 else args)
        except Exception as exc:
            named = [(f"argument {index}", value) for index, value in zip(loose, args, strict=True)]
            failures[row] = serialization.not_pickled(named, "the arguments", exc)
            stream = b""
        else:
            if pickles.buffers:
                fixed.buffers[row] = self._shared(pickles.buffers, copy)
            if stream == self._last[0]:
                stream = self._last[0]  # it travels once
            self._last = stream, fixed.buffers.get(row, ())
        fixed.own[row] = loose
        columns[loose[0]][row] = stream
        for index in loose[1:]:
            columns[index][row] = None

    def _shared(self, raw: Sequence[memoryview], copy: bool) -> tuple[Buffer, ...]:
        """These buffers; where they equal those of the element before, these."""
        last = self._last[1]
        parts: list[Buffer] = []
        for index, view in enumerate(raw):
            before = last[index] if index < len(last) else bytearray()
            if isinstance(before, memoryview):
                # Both are of one moment: nothing can have changed it since.
                same = view.obj is before.obj and view.nbytes == before.nbytes
                parts.append(before if same else view)
            elif not copy and len(before) != view.nbytes:
                parts.append(view)
            else:
                copied = bytearray(view)
                parts.append(before if copied == before else copied)
        return tuple(parts)


# --- arguments: to bytes, and back -----------------------------------------------------------------------


def dump_elements(elements: FixedElements, *, snapshot: bool, store: Store | None = None) -> Payload:
    """A pack. `snapshot` copies large buffers: the program may change them afterwards."""
    if not elements.own:
        columns = [*map(packed_column, elements.columns, elements.kinds)] or elements.columns
        return serialization.dump_plain(columns, snapshot, store)
    spans, parts = _numbered(elements.buffers)
    return serialization.dump_plain(
        (elements.columns, elements.own, spans, parts, elements.classes), snapshot, store
    )


def load_elements(payload: Payload) -> LoadedElements | list[list[Any]]:
    """What `dump_elements` was given, for `calls` and `rows`: columns, if none has a pickle of its own.

    Raises SerializationError.
    """
    whole = serialization.load_plain(payload, "the elements of a chunk")
    return [*map(unpacked_column, whole)] if isinstance(whole, list) else LoadedElements(*whole)


class LoadedElements:
    """Arguments of elements, of which each is unpickled when it is asked for."""

    def __init__(
        self,
        columns: list[list[Any]],
        own: dict[int, tuple[int, ...]],
        spans: dict[int, list[int]],
        parts: list[Buffer],
        classes: list[bytes],
    ) -> None:
        self._columns = columns
        self._own = own
        self._buffers = _LoadedBuffers(spans, parts)
        self._classes = SharedClasses(classes) if classes else None

    def __len__(self) -> int:
        return len(self._columns[0])

    def streams(self, start: int, stop: int) -> list[bytes] | None:
        """The pickles of [start, stop), if these are all there is to the arguments."""
        if len(self._columns) > 1 or len(self._own) < len(self._columns[0]) or self._classes or self._buffers:
            return None
        return self._columns[0][start:stop]

    def arguments(self, row: int) -> list[Any]:
        """Those of one element; to be asked for once. Raises SerializationError, or what the program's code raises."""
        args = [column[row] for column in self._columns]
        own = self._own.get(row)
        if own is not None:
            try:
                value = load_own(args[own[0]], self._buffers.of(row), self._classes)
            except Exception as exc:
                raise serialization.load_error("the arguments", exc) from exc
            if len(own) == 1:
                args[own[0]] = value
            else:
                for index, one in zip(own, value, strict=True):
                    args[index] = one
        return args

    def rows(self, start: int, stop: int) -> Iterator[list[Any]]:
        """The arguments of the elements [start, stop). Raises Unloadable for one that cannot be had, and goes on."""
        return _Rows(self, start, stop)


def _call_with(fn: Callable[[Any], Any], stream: bytes) -> Any:
    try:
        value = pickle.loads(stream)
    except Exception as exc:
        raise serialization.load_error("the arguments", exc) from exc
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


class _LoadedBuffers:
    """Large buffers, where they have arrived. What several values refer to is copied for each."""

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
        """Those of that row, writable, and nobody else's."""
        return [
            bytearray(part) if self._uses[number] > 1 or memoryview(part).readonly else part
            for number in self._spans.get(row, ())
            for part in (self._parts[number],)
        ]


def _numbered(buffers: Buffers) -> tuple[dict[int, list[int]], list[pickle.PickleBuffer]]:
    """By row the numbers of its buffers, and these, each once."""
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


def _in_bytes(payload: Payload) -> Payload:
    """The payload in a form that can be pickled."""
    return payload if isinstance(payload, bytes) else tuple(map(bytes, buffers_of(payload)))


# --- calls -----------------------------------------------------------------------------------------------


def calls(
    fn: Callable[..., Any], elements: LoadedElements | Columns, start: int, stop: int
) -> tuple[list[Any], Callable[[Any], Any]]:
    """A list of stop - start items, and what to call with each of them to have `fn` called with those elements."""
    if isinstance(elements, LoadedElements):
        streams = elements.streams(start, stop)
        if streams is not None:
            return streams, partial(_call_with, fn)
        arguments = elements.arguments
        return list(range(start, stop)), lambda row: fn(*arguments(row))
    if len(elements) == 1:
        return elements[0][start:stop], fn
    return list(rows(elements, start, stop)), lambda args: fn(*args)


def run_fixed(
    fn: Callable[..., Any],
    elements: LoadedElements | Columns,
    start: int,
    stop: int,
    retry_on: bytes | None = None,
    interrupted: Callable[[], object] = bool,
) -> FixedResults:
    """Call `fn` for the elements [start, stop), where calls share nothing with the program; one that raises costs the
    others nothing.

    `interrupted` says whether an exception is that of the chunk, and no element's: then it is raised.
    """
    results = FixedResults(__file__, retry_on, stop - start)
    items, call = calls(fn, elements, start, stop)
    for item in items:
        try:
            value = call(item)
            results.add(value)
        except BaseException as exc:
            if interrupted():
                raise
            results.add_failure(exc)
    return results


# --- results ---------------------------------------------------------------------------------------------


class FixedResults:
    """Results, each as it was when its call returned."""

    def __init__(self, file: str, retry_on: bytes | None, count: int) -> None:
        """Of `count` calls that the code in `file` makes; `retry_on` are the exceptions after which they may be made
        again, see serialization.dump_classes."""
        self.values: list[Any] = []
        """A value that has a pickle of its own is this pickle, one that failed None. An atom may be appended here."""
        self._keep = self.values.append
        self._own: list[int] = []
        self._added = 0
        """Calls of `add`, 2 for more. After one alone all values are of `_first_kind`."""
        self._first_kind: type | None = None
        self._own_kind: type | None = None
        """A kind of which every value needs a pickle of its own: that of the last such value."""
        self._dtype: Any = None
        """The last dtype of numbers."""
        self._buffers: Buffers = {}
        self._failures: dict[int, serialization.EncodedException] = {}
        self._final: set[int] = set()
        self._pickles = OwnPickles()
        self._file = file
        self._retry_on = retry_on
        self._last = count - 1

    def add(self, value: Any) -> type | None:
        """The next call has returned `value`. Its type, if all values of that type are atoms.

        Raises SerializationError; then `add_failure` is due.
        """
        kind = type(value)
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
            references = _references(value)
            copy = value if self._is_nobody_elses(value, references) else copied(value, kind)
        else:
            copy = value if is_atom(value) else None
        if copy is not None:
            self._keep(copy)
        else:
            self._add_own(value)
            if not depends_on_value(kind):
                self._own_kind = kind
        return None

    def _is_nobody_elses(self, array: Any, references: int) -> bool:
        """Whether nobody can change an array of numbers before it is pickled with the others."""
        dtype = array.dtype
        if dtype is not self._dtype:
            if not is_of_numbers(dtype):
                return False
            self._dtype = dtype
        return len(self.values) == self._last or (
            references <= _FRESH and array.base is None and not getweakrefcount(array) and array.flags.owndata
        )

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
        """The next call has failed."""
        row = len(self.values)
        if self._retry_on is not None and not serialization.is_one_of(failure, self._retry_on):
            self._final.add(row)
        inside = serialization.without_frames_of(self._file, failure)
        self._added = 2
        self._failures[row] = serialization.encode_exception(
            serialization.without_frames_of(__file__, inside)
        )
        self.values.append(None)

    def dump(self, store: Store | None = None) -> Payload:
        """For `load_element_results`."""
        own = None
        if self._own:
            own = self._own, *_numbered(self._buffers), self._pickles.classes
        values = packed_column(self.values, self._first_kind if self._added == 1 else None)
        return serialization.dump_plain((values, self._failures, self._final, own), False, store)

    def __len__(self) -> int:
        return len(self.values)

    def __reduce__(self) -> tuple[Any, ...]:
        return load_element_results, (_in_bytes(self.dump()),)


def load_element_results(payload: Payload) -> ElementResults:
    """The results. One that cannot be unpickled has failed. Raises SerializationError."""
    values, encoded, final, own = serialization.load_plain(payload, "the results of a chunk")
    failures = {row: serialization.decode_exception(*parts) for row, parts in encoded.items()}
    values = unpacked_column(values)
    if own is not None:
        rows_, spans, parts, streams = own
        buffers = _LoadedBuffers(spans, parts)
        classes = SharedClasses(streams) if streams else None
        plainly = not buffers and classes is None
        for row in rows_:
            try:
                if plainly:
                    values[row] = pickle.loads(values[row])
                else:
                    values[row] = load_own(values[row], buffers.of(row), classes)
            except BaseException as exc:
                values[row] = None
                failures[row] = (
                    serialization.load_error("the result", exc) if isinstance(exc, Exception) else exc
                )
                failures[row].__cause__ = exc
    return ElementResults(values, failures, final)


def _references(value: Any) -> int:
    return sys.getrefcount(value)


def _references_in(value: Any) -> int:
    return _references(value)


def _references_of_fresh() -> int:
    value = [0]
    return _references_in(value)


_FRESH = _references_of_fresh()
"""References that FixedResults.add counts where nobody but its caller has the value."""
