"""Future, and the functions that wait for several of them.

A Future is a `concurrent.futures.Future`, so everything that accepts those accepts ours. `as_completed`, `wait` and
the constants are the standard library's own; they take Futures of different executors together.
"""

from __future__ import annotations

import concurrent.futures
from collections.abc import Callable, Iterable
from concurrent.futures import ALL_COMPLETED, FIRST_COMPLETED, FIRST_EXCEPTION, as_completed, wait
from typing import Any, TypeVar

__all__ = ["ALL_COMPLETED", "FIRST_COMPLETED", "FIRST_EXCEPTION", "Future", "as_completed", "gather", "wait"]

T = TypeVar("T")

Canceller = Callable[["Future[Any]", bool], bool]
"""Asks the backend to cancel a task (True: even a running one) and says whether it is cancelled."""


class Future(concurrent.futures.Future[T]):
    """The outcome of one call, wherever it runs."""

    id: str = ""
    """Unique among all tasks of the cluster; what `jobrunner task ID` takes."""

    name: str = ""
    """The option `name`, else the function's qualified name."""

    duration: float | None = None
    """Seconds of execution, measured where the task ran; None until it is done, or if it never ran."""

    _canceller: Canceller | None = None

    def cancel(self, *, running: bool = False) -> bool:
        """Cancel the call; True if it will not run (any more), False if it has started or is done.

        `running=True` also stops a call that has started: its process gets SIGINT, then SIGTERM, then SIGKILL, and
        the Future is cancelled once the stop is confirmed. Raises NotSupportedError where that cannot be done
        (threads). On a cluster the answer takes a round trip to the coordinator; without an answer in time (see
        `cancel_wait` in `config`) it is False, though the request stands.
        """
        if self.done():
            return self.cancelled()
        if self._canceller is None:
            return super().cancel()
        return self._canceller(self, running)

    def confirm_cancelled(self) -> None:
        """For backends: the task will not run any more. From any state but a finished one, and once only."""
        with self._condition:
            if self._state in ("CANCELLED_AND_NOTIFIED", "FINISHED"):
                return
            self._state = "CANCELLED_AND_NOTIFIED"
            for waiter in self._waiters:
                waiter.add_cancelled(self)
            self._condition.notify_all()
        self._invoke_callbacks()

    def confirm_running(self) -> None:
        """For backends: the task has started. Does nothing unless the Future is pending."""
        with self._condition:
            if self._state == "PENDING":
                self._state = "RUNNING"

    _state: str
    _waiters: list[Any]
    _condition: Any
    _invoke_callbacks: Callable[[], None]


def gather(futures: Iterable[concurrent.futures.Future[T]], timeout: float | None = None) -> list[T]:
    """The results of all `futures`, in their order; raises the first exception in that order.

    Raises TimeoutError when they are not all done after `timeout` seconds.
    """
    futures = list(futures)
    _, not_done = wait(futures, timeout)
    if not_done:
        raise TimeoutError(f"{len(not_done)} of {len(futures)} futures are not done after {timeout} s")
    return [future.result() for future in futures]
