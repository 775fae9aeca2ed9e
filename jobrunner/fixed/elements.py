"""The elements of a `map`: its input, and the results of a chunk.

Arguments are kept as columns, one list per iterable, and results as values and failures. There is no tuple per element,
because lists of plain values are read, pickled, sent and delivered fastest.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice, repeat
from typing import Any, TypeAlias

Columns: TypeAlias = "Sequence[list[Any]]"
"""The arguments of some elements: one list per iterable, all of the same length."""


_OF_ATOMS: dict[type, type] = {
    type(one): kind
    for empty, kind in ((range(0), int), ("", str), (b"", int))
    for one in (empty, iter(empty))
}
"""Types of iterables whose elements are always integers or strings, and the type of the elements."""

_CONTAINERS: tuple[Any, ...] = ([], (), {}, set(), frozenset(), bytearray(), deque())
_VIEWS: tuple[Any, ...] = ({}.keys(), {}.values(), {}.items())
STILL = frozenset(
    (
        *_OF_ATOMS,
        *(kind for empty in _CONTAINERS for kind in (type(empty), type(iter(empty)))),
        *(kind for view in _VIEWS for kind in (type(view), type(iter(view)))),
        type(reversed([])),
        repeat,
    )
)
"""Types of iterables that run no code of the program while they are read."""


class Input:
    """The iterables of one `map`, read part by part.

    The shortest one determines the end, as with the built-in `map`.
    """

    def __init__(self, iterables: Sequence[Iterable[Any]]) -> None:
        self.single = len(iterables) == 1
        self.still = all(map(_is_still, iterables))
        """True if nothing can change while elements are taken."""
        self.atoms = [_OF_ATOMS.get(type(one)) for one in iterables]
        """The type of all elements of each iterable, if it follows from the iterable's type."""
        self._elements: Iterator[Any] = iter(iterables[0]) if self.single else zip(*iterables)  # noqa: B905
        self._failure: Exception | None = None

    def take(self, limit: int) -> Columns:
        """Return at most `limit` next elements, or no columns at the end.

        An exception of the input ends the input, see `check`.
        """
        part: list[Any] = []
        try:
            part.extend(islice(self._elements, limit))
        except Exception as exc:
            self.fail(exc)
        if not part:
            return []
        return [part] if self.single else [list(column) for column in zip(*part, strict=True)]

    def each(self, limit: int) -> Iterator[Any]:
        """Return an iterator of at most `limit` next elements: values if the input is `single`, else tuples.

        It raises the exceptions of the input, which the caller passes to `fail`.
        """
        return islice(self._elements, limit)

    def fail(self, failure: Exception) -> None:
        """Note an exception of the input. Elements that it yielded before are mapped, as in the standard library."""
        self._failure = failure

    def check(self) -> None:
        """Raise the exception of the input, once."""
        failure, self._failure = self._failure, None
        if failure is not None:
            try:
                raise failure
            finally:
                del failure  # its traceback has this frame, which would refer to it


def _is_still(iterable: Any) -> bool:
    # The module is incomplete while another thread imports it.
    array = getattr(sys.modules.get("numpy"), "ndarray", None)
    return type(iterable) in STILL or type(iterable) is array


def rows(columns: Any, start: int, stop: int) -> Iterator[Sequence[Any]]:
    """Return an iterator over the arguments of the elements [start, stop); `columns` may be loaded elements."""
    if hasattr(columns, "rows"):
        return columns.rows(start, stop)  # type: ignore[no-any-return]
    return zip(*[column[start:stop] for column in columns], strict=True)


class Unloadable(Exception):
    """The error that the arguments of one element cannot be loaded; its only argument is that element's failure."""


@dataclass(slots=True)
class ElementResults:
    """The results of elements.

    `values` has one entry per element, in order, which is None if the element's index is in `failures`.
    """

    values: list[Any]
    failures: dict[int, BaseException] = field(default_factory=dict)
    final: set[int] | None = None
    """The indices in `failures` after which the call must not be tried again, as found where it raised; None: unknown.
    """

    def __len__(self) -> int:
        return len(self.values)

    def add_failure(self, failure: BaseException) -> None:
        """Add the failure of the next element."""
        self.failures[len(self.values)] = failure
        self.values.append(None)

    def part(self, start: int, stop: int) -> ElementResults:
        """Return the results of the elements [start, stop)."""
        failures = {i - start: failure for i, failure in self.failures.items() if start <= i < stop}
        final = None if self.final is None else {i - start for i in self.final if start <= i < stop}
        return ElementResults(self.values[start:stop], failures, final)


def all_failed(failure: BaseException, count: int) -> ElementResults:
    return ElementResults([None] * count, dict.fromkeys(range(count), failure))


def run_elements(fn: Callable[..., Any], elements: Iterable[Sequence[Any]]) -> ElementResults:
    """Call `fn` for each element, where calls share objects with the program.

    An element that raises does not affect the others.
    """
    results = ElementResults([])
    left = iter(elements)
    while True:
        try:
            for args in left:
                try:
                    results.values.append(fn(*args))
                except BaseException as exc:
                    results.add_failure(exc)
            return results
        except Unloadable as exc:
            results.add_failure(exc.args[0])
