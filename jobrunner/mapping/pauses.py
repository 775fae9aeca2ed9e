"""The pauses of elements of a `map` that raised an exception and will run again.

One timer waits for the pause that ends first; there is no timer while nothing pauses.
"""

from __future__ import annotations

import heapq
import itertools
import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

from jobrunner.system import forks

T = TypeVar("T")


class Pauses(Generic[T]):
    """Items and the times at which they continue. Thread-safe; `resume` is called in a thread of its own."""

    def __init__(
        self, resume: Callable[[list[T]], None], timer: type[threading.Timer] = threading.Timer
    ) -> None:
        self._resume = resume
        self._make_timer = timer
        # The lock is reentrant, because the garbage collector may cancel a map in a thread that holds it.
        self._lock = forks.lock()
        self._numbers = itertools.count()
        self._pausing: list[tuple[float, int, T]] = []
        self._timer: threading.Timer | None = None
        self._timer_at = 0.0

    def add(self, item: T, seconds: float) -> None:
        """Call `resume` with the item after this number of seconds."""
        with self._lock:
            heapq.heappush(self._pausing, (time.monotonic() + seconds, next(self._numbers), item))
            started = self._arm()
        if not started:
            self._resume(self.clear())

    def clear(self) -> list[T]:
        """Remove and return all pausing items, for which `resume` is not called any more."""
        with self._lock:
            items = [item for _, _, item in self._pausing]
            self._pausing.clear()
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
        return items

    def _arm(self) -> bool:
        """Start a timer for the first pause, unless there is one already; the caller holds the lock.

        Returns False if no thread can be started any more, because the interpreter is ending.
        """
        if not self._pausing or (self._timer is not None and self._timer_at <= self._pausing[0][0]):
            return True
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = self._pausing[0][0]
        timer = self._make_timer(max(0.0, self._timer_at - time.monotonic()), lambda: self._ring(timer))
        timer.daemon = True
        timer.name = "jobrunner-pauses"
        try:
            timer.start()
        except RuntimeError:
            self._timer = None
            return False
        self._timer = timer
        return True

    def _ring(self, timer: threading.Timer) -> None:
        with self._lock:
            if self._timer is not timer:
                return  # another timer came before this one
            self._timer = None
            due = []
            now = time.monotonic()
            while self._pausing and self._pausing[0][0] <= now:
                due.append(heapq.heappop(self._pausing)[2])
            if not self._arm():
                due += self.clear()
        if due:
            self._resume(due)
