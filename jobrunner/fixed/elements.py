"""The elements of a `map`: how its input is read, and what a chunk of them gave.

Arguments are kept as columns, one list per iterable, and results as values and failures apart. Neither is a tuple per
element: a list of plain values is what is read, pickled, sent and handed out fastest.
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
"""Types of iterables whose elements are numbers or strings, whatever they hold; and the type of these."""

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
"""Iterables that run no code of the program's while they are read."""


class Input:
    """The iterables of one `map`, read part by part. As for the built-in `map`, the shortest decides."""

    def __init__(self, iterables: Sequence[Iterable[Any]]) -> None:
        self.single = len(iterables) == 1
        self.still = all(map(_is_still, iterables))
        """Nothing can change while elements are taken."""
        self.atoms = [_OF_ATOMS.get(type(one)) for one in iterables]
        """The type of all elements of each iterable, where its own type tells it."""
        self._elements: Iterator[Any] = iter(iterables[0]) if self.single else zip(*iterables)  # noqa: B905
        self._failure: Exception | None = None

    def take(self, limit: int) -> Columns:
        """The next elements, at most `limit`; no columns at the end. Where the input raises, it ends: see `check`."""
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
        """The input has raised that. What it has yielded before is mapped, as the standard library does."""
        self._failure = failure

    def check(self) -> None:
        """Raise what the input has raised, once."""
        failure, self._failure = self._failure, None
        if failure is not None:
            try:
                raise failure
            finally:
                del failure  # it knows this frame, which would know it


def _is_still(iterable: Any) -> bool:
    array = getattr(
        sys.modules.get("numpy"), "ndarray", None
    )  # it is in part there while another thread imports it
    return type(iterable) in STILL or type(iterable) is array


def rows(columns: Any, start: int, stop: int) -> Iterator[Sequence[Any]]:
    """The arguments of the elements [start, stop), of `Columns`, or of what `fixed.load_elements` gives."""
    if hasattr(columns, "rows"):
        return columns.rows(start, stop)  # type: ignore[no-any-return]
    return zip(*[column[start:stop] for column in columns], strict=True)


class Unloadable(Exception):
    """The arguments of one element cannot be had. Its only argument says why: the failure of that element."""


@dataclass(slots=True)
class ElementResults:
    """`values` has one entry per element, in order: None for those whose index is in `failures`."""

    values: list[Any]
    failures: dict[int, BaseException] = field(default_factory=dict)
    final: set[int] | None = None
    """Those of `failures` after which the call must not be tried again, as was told where it raised; None where nobody
    has looked."""

    def __len__(self) -> int:
        return len(self.values)

    def add_failure(self, failure: BaseException) -> None:
        """The next element has failed."""
        self.failures[len(self.values)] = failure
        self.values.append(None)

    def part(self, start: int, stop: int) -> ElementResults:
        """Those of the elements [start, stop)."""
        failures = {i - start: failure for i, failure in self.failures.items() if start <= i < stop}
        final = None if self.final is None else {i - start for i in self.final if start <= i < stop}
        return ElementResults(self.values[start:stop], failures, final)


def all_failed(failure: BaseException, count: int) -> ElementResults:
    return ElementResults([None] * count, dict.fromkeys(range(count), failure))


def run_elements(fn: Callable[..., Any], elements: Iterable[Sequence[Any]]) -> ElementResults:
    """Call `fn` for each, where calls share objects with the program; one that raises costs the others nothing."""
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
