"""The elements of a `map`: how its input is read, and what a chunk of them gave.

Arguments are kept as columns, one list per iterable, and results as values and failures apart. Neither is a tuple per
element: a list of plain values is what is read, pickled, sent and handed out fastest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, TypeAlias

Columns: TypeAlias = "Sequence[list[Any]]"
"""The arguments of some elements: one list per iterable, all of the same length."""


class Input:
    """The iterables of one `map`, read part by part. As for the built-in `map`, the shortest decides."""

    def __init__(self, iterables: Sequence[Iterable[Any]]) -> None:
        self._single = len(iterables) == 1
        self._elements: Iterator[Any] = iter(iterables[0]) if self._single else zip(*iterables)  # noqa: B905

    def take(self, limit: int) -> Columns:
        """The next elements, at most `limit`; no columns at the end. Raises what the input raises."""
        part = list(islice(self._elements, limit))
        if not part:
            return []
        return [part] if self._single else [list(column) for column in zip(*part, strict=True)]


def rows(columns: Columns, start: int, stop: int) -> Iterator[tuple[Any, ...]]:
    """The argument tuples of the elements [start, stop)."""
    return zip(*[column[start:stop] for column in columns], strict=True)


@dataclass(slots=True)
class ElementResults:
    """`values` has one entry per element, in order: None for those whose index is in `failures`."""

    values: list[Any]
    failures: dict[int, BaseException] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.values)

    def add_failure(self, failure: BaseException) -> None:
        """The next element has failed."""
        self.failures[len(self.values)] = failure
        self.values.append(None)

    def part(self, start: int, stop: int) -> ElementResults:
        """Those of the elements [start, stop)."""
        failures = {i - start: failure for i, failure in self.failures.items() if start <= i < stop}
        return ElementResults(self.values[start:stop], failures)


def all_failed(failure: BaseException, count: int) -> ElementResults:
    return ElementResults([None] * count, dict.fromkeys(range(count), failure))


def run_elements(fn: Callable[..., Any], elements: Iterable[tuple[Any, ...]]) -> ElementResults:
    """Call `fn` for each; one that raises costs the others nothing."""
    results = ElementResults([])
    for args in elements:
        try:
            results.values.append(fn(*args))
        except BaseException as exc:
            results.add_failure(exc)
    return results
