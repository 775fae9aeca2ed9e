"""The input of a `map` on backends that copy arguments."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Any

from jobrunner.calls import serialization
from jobrunner.fixed.arguments import FixedElements
from jobrunner.fixed.atoms import ATOMS, copied, is_array, is_atom, travel_together
from jobrunner.fixed.elements import Input
from jobrunner.fixed.held import HeldObjects
from jobrunner.fixed.own_pickles import OwnPickles
from jobrunner.pickling.loading import Held
from jobrunner.protocol.wire.payloads import Buffer


class FixingInput:
    """The iterables of one `map`. `take` fixes the elements that it takes."""

    def __init__(self, elements: Input, held: Held | None = None) -> None:
        """Create the input. `held` is the called object, if elements may share objects with it."""
        self._elements = elements
        self._held = None if held is None else HeldObjects(held)
        self._pickles = OwnPickles()
        self._last: tuple[bytes, tuple[Buffer, ...]] = b"", ()
        """The last pickle and its buffers, because the next may be equal, as with `itertools.repeat`."""

    def take(self, limit: int) -> tuple[FixedElements, dict[int, Exception]]:
        """Return at most `limit` next elements, and by row the reason why an element could not be pickled.

        An exception of the input ends the input, see `Input.check`.
        """
        if self._pickles.classes or self._pickles.names or self._last[0]:
            self._pickles = OwnPickles()  # each pack is complete by itself
            self._last = b"", ()
        fixed = FixedElements([], classes=self._pickles.classes, names=self._pickles.names)
        failures: dict[int, Exception] = {}
        if self._held is not None:
            self._held.may_have_changed()
        if self._elements.still:
            # No code of the program runs while these are taken, so all are pickled after the last one.
            fixed.columns.extend(self._elements.take(limit))
            loose = self._loose(fixed)
            if len(loose) == 1 and self._held is None:
                self._fix_column(fixed, failures, loose)
            elif loose:
                for row, args in enumerate(zip(*[fixed.columns[index] for index in loose], strict=True)):
                    self._fix(fixed, failures, row, args, loose, False)
        else:
            take = self._take_moving_single if self._elements.single else self._take_moving
            try:
                take(limit, fixed, failures)
            except Exception as exc:
                self._elements.fail(exc)
        return fixed, failures

    def _loose(self, fixed: FixedElements) -> tuple[int, ...]:
        """Return the columns whose values need pickles of their own."""
        loose, mutable = [], []
        columns, known = fixed.columns, fixed.kinds
        for index, column in enumerate(columns):
            atom = self._elements.atoms[index]
            kinds = set(map(type, column)) if atom is None else {atom}
            known.append(next(iter(kinds)) if len(kinds) == 1 else None)
            if kinds <= ATOMS:
                continue
            if not travel_together(column, kinds):
                loose.append(index)
            elif not is_atom(column[0]):
                mutable.append(index)
        if mutable:
            ids = set(chain.from_iterable(map(id, columns[index]) for index in mutable))
            held = self._held is not None and self._held.has_one_of(ids)
            if loose or held or len(ids) < len(mutable) * len(columns[0]):
                # arguments of one element may share objects, but those of two elements must not
                loose += mutable
        return tuple(sorted(loose)) if loose else ()

    def _copied(self, value: Any) -> Any:
        """Return `copied(value)`, and None for an object that is inside of the called object."""
        held = self._held
        return copied(value, type(value)) if held is None or not held.has(value) else None

    def _take_moving(self, limit: int, fixed: FixedElements, failures: dict[int, Exception]) -> None:
        """Take elements from iterables that may change earlier elements while they yield further ones."""
        columns = fixed.columns
        for args in self._elements.each(limit):
            if not columns:
                columns.extend([] for _ in args)
            for column, value in zip(columns, args, strict=True):
                column.append(value)
            loose = tuple(
                index for index, value in enumerate(args) if type(value) not in ATOMS and not is_atom(value)
            )
            if len(loose) == 1 and (copy := self._copied(args[loose[0]])) is not None:
                columns[loose[0]][-1] = copy
            elif loose:
                row = len(columns[0]) - 1
                values = tuple(args[index] for index in loose)
                self._fix(fixed, failures, row, values, loose, row < limit - 1)

    def _take_moving_single(self, limit: int, fixed: FixedElements, failures: dict[int, Exception]) -> None:
        """Take elements like `_take_moving`, from a single iterable."""
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
            elif (copy := self._copied(value)) is not None:
                append(copy)
            else:
                append(None)
                row = len(column) - 1
                self._fix(fixed, failures, row, (value,), (0,), row < limit - 1)
        if others == 1:
            fixed.kinds.append(kind)
        elif others == len(column) and column and is_array(type(column[0])):
            kinds = set(map(type, column))
            fixed.kinds.append(kinds.pop() if len(kinds) == 1 else None)

    def _fix_column(
        self, fixed: FixedElements, failures: dict[int, Exception], loose: tuple[int, ...]
    ) -> None:
        """Fix each element of a single column.

        This is `_fix` in the shortest form, for values without large buffers.
        """
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
                column[row] = last  # equal pickles travel once
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
        """Pickle `args`, the arguments of that row at the columns `loose`.

        `copy` copies the buffers, because the input may change them before they are sent.
        """
        pickles, columns, held = self._pickles, fixed.columns, self._held
        value = args[0] if len(args) == 1 else args
        buffers: list[memoryview] = []
        try:
            stream = None if held is None else held.dump(value, buffers)
            if held is None or stream is None:
                stream, buffers = pickles.dump(value), pickles.buffers
            elif self._is_current(held):
                fixed.together.add(row)
            else:
                stream, buffers = pickles.dump((held.value, value)), pickles.buffers
                fixed.with_called.add(row)
        except Exception as exc:
            named = [(f"argument {index}", value) for index, value in zip(loose, args, strict=True)]
            failures[row] = serialization.not_pickled(named, "the arguments", exc)
            stream = b""
        else:
            if buffers:
                fixed.buffers[row] = self._shared(buffers, copy)
            if stream == self._last[0]:
                stream = self._last[0]  # equal pickles travel once
            self._last = stream, fixed.buffers.get(row, ())
        fixed.own[row] = loose
        columns[loose[0]][row] = stream
        for index in loose[1:]:
            columns[index][row] = None

    def _is_current(self, held: HeldObjects) -> bool:
        if not self._elements.still:
            held.may_have_changed()
        return held.is_current()

    def _shared(self, raw: Sequence[memoryview], copy: bool) -> tuple[Buffer, ...]:
        """Return the buffers, or those of the previous element if they are equal."""
        last = self._last[1]
        parts: list[Buffer] = []
        for index, view in enumerate(raw):
            before = last[index] if index < len(last) else bytearray()
            if isinstance(before, memoryview):
                # Both are views of the same moment, so neither has changed.
                same = view.obj is before.obj and view.nbytes == before.nbytes
                parts.append(before if same else view)
            elif not copy and len(before) != view.nbytes:
                parts.append(view)
            else:
                copied = bytearray(view)
                parts.append(before if copied == before else copied)
        return tuple(parts)
