"""A chunk of `map` whose elements the threads of a pool take one by one, so that none waits behind another.

Elements that wait for each other (at a barrier, say) thus run in as many threads as there are, however the input was
cut. A chunk is still one call, with one Future: that of many small elements costs little more than the elements.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from operator import length_hint
from time import perf_counter
from typing import Any

from jobrunner.fixed.elements import Columns, ElementResults, rows


class SharedChunk:
    """The elements [start, stop) of some columns; any thread may `work` at it, and several at the same time."""

    def __init__(self, fn: Callable[..., Any], columns: Columns, start: int, stop: int) -> None:
        self._fn = fn
        self._elements: list[Any] = (
            columns[0][start:stop] if len(columns) == 1 else list(rows(columns, start, stop))
        )
        self._single = len(columns) == 1
        self._values: list[Any] = [None] * (stop - start)
        self._failures: dict[int, BaseException] = {}
        self._left = iter(range(stop - start))
        """The indices that are left; its next step runs no other code, so it is one step for all threads."""
        self._lock = threading.Lock()
        self._at_work = 0
        self._ended = False
        self.seconds = 0.0
        """Time in seconds that all threads together have spent on it."""

    @property
    def has_more(self) -> bool:
        """Return whether there are elements that nobody has taken."""
        return length_hint(self._left) > 0

    def work(self) -> bool:
        """Run elements until none is left; return True, once, if all have ended."""
        with self._lock:
            self._at_work += 1
        started = perf_counter()
        self._run()
        with self._lock:
            self._at_work -= 1
            self.seconds += perf_counter() - started
            ends = not (self._at_work or self._ended or self.has_more)
            self._ended = self._ended or ends
        del self  # the exception of an element knows the frames that led to it
        return ends

    def _run(self) -> None:
        fn, elements, values, failures = self._fn, self._elements, self._values, self._failures
        single, left = self._single, self._left
        del self
        if single:
            for index in left:
                try:
                    values[index] = fn(elements[index])
                except BaseException as exc:
                    failures[index] = exc
        else:
            for index in left:
                try:
                    values[index] = fn(*elements[index])
                except BaseException as exc:
                    failures[index] = exc
        del failures

    def results(self) -> ElementResults:
        """Return the results of all elements, once they have ended."""
        return ElementResults(self._values, dict(sorted(self._failures.items())))
