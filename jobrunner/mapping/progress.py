"""The progress of a `map`: the elements that are taken and done, and the results that wait to be delivered.

Results stay in the chunks in which they came, by the position of their first element. A map has a hold on its
executor's `Lifetime` until its last element is done: results that somebody keeps do not keep an executor open.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import CancelledError

from jobrunner.backends.lifetime import Cancellable, Lifetime
from jobrunner.errors import JobRunnerError, wait_timeout
from jobrunner.fixed.elements import ElementResults
from jobrunner.system import conditions


class Progress:
    """The state of one map that its caller, its consumer and the backend's threads share, guarded by `lock`."""

    def __init__(self, lock: threading.RLock, lifetime: Lifetime) -> None:
        self._lock = lock
        self.lifetime: Lifetime | None = lifetime
        """The lifetime of the executor; None once the last element is done."""
        self.taken = 0
        """Number of elements taken from the input."""
        self.done = 0
        """Number of elements whose result or failure is known."""
        self.complete = False
        """True once the input is known to have ended."""
        self.on_progress: Callable[[int], None] | None = None
        """A function that is called with `done` after each chunk, in the thread that brought its result."""
        self.cancelled = False
        """True if the backend gets nothing more of this map."""
        self.abandoned = False
        """True if all waits have ended, because elements that are not done will never be."""
        self._cause: BaseException | None = None
        """The reason why the map was abandoned, for a consumer who waits."""
        self._results: dict[int, ElementResults] = {}
        self._taken_out = 0
        """The end of the chunk whose results are being delivered."""
        self._arrived = conditions.Condition(lock)
        self._awaited = -1
        """The position that the consumer waits for."""

    @property
    def idle(self) -> bool:
        """Whether there are no unfinished elements for now; see `Lifetime.end`."""
        return self.abandoned or self.done == self.taken

    def take(self, count: int, complete: bool, run: Cancellable) -> int:
        """Note that so many elements were taken, and whether they were the last; return the position of the first.

        Raises RuntimeError after shutdown. `run` is who can cancel them.
        """
        with self._lock:
            # Together with what was taken: else a result that comes now would end the map before that.
            self.complete = complete
            base, was_idle = self.taken, self.taken == self.done
            if not count:
                if was_idle:
                    self.lifetime = None
                return base
            self.taken += (
                count  # first, so that a thread that is about to end this map sees that it continues
            )
            if was_idle:
                assert self.lifetime is not None, "the input had ended"
                try:
                    self.lifetime.begin(run)
                except BaseException:
                    self.taken = base
                    raise
            return base

    def record(self, position: int, results: ElementResults, run: Cancellable) -> None:
        """Note what the elements from this position on gave; the `Lifetime` is told if `run` has no other ones."""
        with self._lock:
            self._results[position] = results
            self.done += len(results)
            is_idle = self.done == self.taken and not self.abandoned
            lifetime = self.lifetime
            if is_idle and self.complete:
                self.lifetime = None
            if self._awaited == position:
                self._arrived.notify_all()
        on_progress = self.on_progress
        if on_progress is not None:
            on_progress(self.done)
        if is_idle and lifetime is not None:
            lifetime.end(run)

    def cancel(self) -> bool:
        """Note that nothing more is to run; return False if that was noted before."""
        with self._lock:
            before, self.cancelled = self.cancelled, True
            return not before

    def blame(self, cause: BaseException | None) -> None:
        """Note why this map is about to be abandoned; None if its consumer does that, and gets to know anyway."""
        self._cause = cause

    def let_go(self, run: Cancellable) -> None:
        """Note that what is not done by now will not be."""
        with self._lock:
            self.cancelled = self.abandoned = True
            lifetime, self.lifetime = self.lifetime, None
            self._arrived.notify_all()
        if lifetime is not None:
            lifetime.end(run)
        on_progress = self.on_progress
        if on_progress is not None:
            on_progress(self.done)

    def why_not(self) -> Exception:
        """Return the failure of an element that will not run any more."""
        cause = self._cause
        if cause is None:
            return CancelledError()
        error = JobRunnerError(f"this map has ended: {cause!r}")
        error.__cause__ = cause
        return error

    # --- the consumer ---------------------------------------------------------------------------------------

    def hand_out(self, position: int) -> ElementResults | None:
        """Remove and return the chunk of results that begins at this position; None if it is not there."""
        chunk = self._results.pop(position, None)
        if chunk is not None:
            self._taken_out = position + len(chunk)
        return chunk

    def has_result(self, position: int) -> bool:
        """Return whether a wait for the chunk that begins at this position would be over."""
        return position in self._results or self.abandoned

    def is_ready(self, position: int) -> bool:
        """Return whether a consumer that was given `position` elements goes on without a wait."""
        return position < self._taken_out or position >= self.taken or self.has_result(position)

    def at_end_of_chunk(self, position: int) -> bool:
        """Return whether `position` elements are all that the chunks had which were handed out."""
        return position == self._taken_out

    def wait(self, position: int, deadline: float | None) -> None:
        """Wait for the chunk that begins at this position, until `deadline` of time.monotonic()."""
        with self._lock:
            self._awaited = position
            while position not in self._results:
                if self.abandoned:
                    raise self.why_not()
                remaining = None if deadline is None else deadline - time.monotonic()
                if remaining is not None and remaining <= 0:
                    unfinished = self.taken - self.done
                    raise wait_timeout(f"{unfinished} of {self.taken} calls of map are not done in time")
                self._arrived.wait(remaining)

    def drop_results(self) -> None:
        """Drop the results, for which nobody will ask."""
        with self._lock:
            self._results.clear()
