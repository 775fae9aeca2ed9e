"""A map through a `submit` that the program has replaced or overridden in a subclass, call by call.

`concurrent.futures` works this way, and wrappers that count, limit or show calls rely on it. If `chunksize` is given
and calls run in other processes, a call of `submit` runs a whole chunk, as in ProcessPoolExecutor.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from functools import partial
from typing import Any

from jobrunner.errors import wait_timeout
from jobrunner.fixed import FixedResults, FixingInput, LoadedColumns, LoadedElements, run_fixed
from jobrunner.fixed.elements import ElementResults, Input, all_failed
from jobrunner.system import forks


class SubmittedMap:
    """One call of `Executor.map`, with the same methods as `mapping.run.MapRun`."""

    def __init__(
        self, submit: Callable[..., Future[Any]], fn: Callable[..., Any], chunksize: int = 1
    ) -> None:
        self._submit = submit
        self._fn = fn
        self._chunksize = chunksize
        self._chunks: FixingInput | None = None
        self._futures: deque[tuple[Future[Any], int]] = deque()
        self._taken_out = 0
        self.taken = 0
        self.done = 0
        self.complete = False
        self.on_progress: Callable[[int], None] | None = None
        self._lock = forks.lock()

    # --- taking the input -----------------------------------------------------------------------------------

    def take_all(self, elements: Input) -> None:
        """Take the whole input, until it ends or raises (see `Input.check`). Raises whatever `submit` raises."""
        while not self.complete:
            self._take(elements)

    def _take(self, elements: Input) -> None:
        if self._chunksize > 1:
            self._take_chunk(elements)
            return
        columns = elements.take(1)
        if not columns:
            self.complete = True
            return
        self._watch(self._submit(self._fn, *[column[0] for column in columns]), 1)

    def _take_chunk(self, elements: Input) -> None:
        if self._chunks is None:
            self._chunks = FixingInput(elements)
        fixed, failures = self._chunks.take(self._chunksize)
        count = len(fixed)
        self.complete = count < self._chunksize
        start = 0
        for row, failure in sorted(failures.items()):
            if start < row:
                self._watch(self._submit(partial(run_chunk, self._fn), fixed.part(start, row)), row - start)
            failed: Future[Any] = Future()
            failed.set_result(all_failed(failure, 1))
            self._watch(failed, 1)
            start = row + 1
        if start < count:
            self._watch(self._submit(partial(run_chunk, self._fn), fixed.part(start, count)), count - start)

    def _watch(self, future: Future[Any], count: int) -> None:
        self.taken += count
        self._futures.append((future, count))
        future.add_done_callback(partial(self._count, count))

    def _count(self, count: int, _: Future[Any]) -> None:
        with self._lock:
            self.done += count
            done = self.done
        on_progress = self.on_progress
        if on_progress is not None:
            on_progress(done)

    # --- the consumer ---------------------------------------------------------------------------------------

    def results(self, deadline: float | None, refill: Callable[[int], None] | None = None) -> Iterator[Any]:
        """Yield the results in input order, like MapRun.results."""
        position = 0
        try:
            while self._futures:
                future, count = self._futures[0]
                outcome = self._outcome(future, deadline)
                self._futures.popleft()
                self._taken_out = position + count
                values, failures = outcome.values, outcome.failures
                del future, outcome
                values.reverse()  # so that each is released when it is delivered
                for index in range(count):
                    position += 1
                    if index in failures:
                        raise failures.pop(index)
                    if refill is not None:
                        refill(position)
                    yield values.pop()
        finally:
            self.cancel()

    def _outcome(self, future: Future[Any], deadline: float | None) -> ElementResults:
        value, late = None, False
        try:
            value = future.result(None if deadline is None else deadline - time.monotonic())
        except (TimeoutError, FutureTimeoutError):
            if future.done():  # the call itself raised it
                raise
            late = True
        if late:  # raised outside of the except clause, so that it has no context
            unfinished = self.taken - self.done
            raise wait_timeout(f"{unfinished} of {self.taken} calls of map are not done in time")
        return value if isinstance(value, ElementResults) and self._chunksize > 1 else ElementResults([value])

    def buffered_results(self, elements: Input, buffersize: int, deadline: float | None) -> Iterator[Any]:
        """Yield the results while the input is read, like MapRun.buffered_results."""

        def refill(handed_out: int) -> None:
            while not self.complete and self.taken - handed_out + self._chunksize <= buffersize:
                self._take(elements)
            if handed_out:
                elements.check()

        refill(0)
        return self.results(deadline, refill)

    def ready(self, position: int) -> bool:
        """Return whether the result after `position` is there, like MapRun.ready."""
        return position < self._taken_out or not self._futures or self._futures[0][0].done()

    def at_end_of_chunk(self, position: int) -> bool:
        """Return whether `position` is at the end of a chunk, like MapRun.at_end_of_chunk."""
        return position == self._taken_out

    def cancel(self) -> None:
        """Cancel all calls that have not started."""
        while self._futures:
            self._futures.pop()[0].cancel()

    def abandon(self) -> None:
        """Cancel all calls that have not started."""
        self.cancel()


def run_chunk(fn: Callable[..., Any], elements: LoadedElements | LoadedColumns) -> FixedResults:
    """Run a chunk in one call; the program receives its result as an ElementResults."""
    return run_fixed(fn, elements, 0, len(elements))
