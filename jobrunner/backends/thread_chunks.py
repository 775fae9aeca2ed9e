"""A chunk of `map` whose elements the threads of a pool take one by one, so that no element waits behind another.

Therefore elements that wait for each other, for example at a barrier, run in all threads of the pool, however the input
was cut. A chunk is still one call with one Future, so a chunk of many small elements adds little to their cost.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from operator import length_hint
from time import perf_counter
from typing import Any

from jobrunner.fixed.elements import Columns, ElementResults, rows


class SharedChunk:
    """The elements [start, stop) of some columns; several threads may call `work` at the same time."""

    def __init__(self, fn: Callable[..., Any], columns: Columns, start: int, stop: int) -> None:
        self._fn = fn
        self._elements: list[Any] = (
            columns[0][start:stop] if len(columns) == 1 else list(rows(columns, start, stop))
        )
        self._single = len(columns) == 1
        self._values: list[Any] = [None] * (stop - start)
        self._failures: dict[int, BaseException] = {}
        self._left = iter(range(stop - start))
        """The indices of elements that no thread has taken; `next` runs no Python code, so it is atomic."""
        self._lock = threading.Lock()
        self._at_work = 0
        self._ended = False
        self.seconds = 0.0
        """The time in seconds that all threads together have spent on the chunk."""

    @property
    def has_more(self) -> bool:
        """Whether there are elements that no thread has taken."""
        return length_hint(self._left) > 0

    def work(self) -> bool:
        """Run elements until none is left; return True to one thread only, after all elements have ended."""
        with self._lock:
            self._at_work += 1
        started = perf_counter()
        self._run()
        with self._lock:
            self._at_work -= 1
            self.seconds += perf_counter() - started
            ends = not (self._at_work or self._ended or self.has_more)
            self._ended = self._ended or ends
        del self  # the exception of an element refers to this frame, which must not keep the chunk
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
        """Return the results of all elements; call this once all have ended."""
        return ElementResults(self._values, dict(sorted(self._failures.items())))
