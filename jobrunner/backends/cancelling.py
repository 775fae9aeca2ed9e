"""Requests to cancel calls of a client, and the threads that wait for the answers."""

from __future__ import annotations

import concurrent.futures
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

from jobrunner.backends.client_thread import ClientThread
from jobrunner.backends.open_state import OpenState
from jobrunner.backends.pending_calls import PendingCalls
from jobrunner.backends.queries import Queries
from jobrunner.futures import CancelWaits, Future
from jobrunner.protocol.effects import CancelRequested
from jobrunner.protocol.wire.ids import TaskId

STOP_WAIT = 20.0
"""Maximum wait in seconds of `cancel(running=True)`, because a stop may take three signals with their pauses."""


class Cancelling:
    """Asks the coordinator to cancel calls. `cancel_wait` is the maximum wait in seconds for its answer."""

    def __init__(
        self,
        state: OpenState,
        pending: PendingCalls,
        waits: CancelWaits,
        queries: Queries,
        thread: ClientThread,
        cancel_wait: float,
    ) -> None:
        self._state = state
        self._pending = pending
        self._waits = waits
        self._queries = queries
        self._thread = thread
        self._cancel_wait = cancel_wait

    def cancel(self, future: Future[Any], running: bool) -> bool:
        """Do what `Future.cancel` of the backend's own calls does."""
        task = TaskId(future.id)
        if (future.running() and not running) or not self._state.is_of_this_process:
            return False  # a forked process has no thread that could ask the coordinator
        ask = partial(self._thread.post, CancelRequested([task], running))
        if self._thread.is_current:
            # This is a callback. The answer comes through this very thread, so the thread cannot wait for it.
            if not future.done():
                ask()
            return future.cancelled()
        with self._waits.one_more(future) as wait:
            if not future.done():  # otherwise no answer would come
                wait.wait(ask, STOP_WAIT if running else self._cancel_wait, running)
        return future.cancelled()

    def cancel_elsewhere(self, future: Future[Any], running: bool) -> bool:
        """Do what `Future.cancel` does for calls that others have submitted."""
        if future.running() and not running:
            return False
        self._queries.ask("cancel", future.id if running else f"{future.id} queued")
        concurrent.futures.wait([future], STOP_WAIT if running else self._cancel_wait)
        return future.cancelled()

    def cancel_all(self, futures: Sequence[Future[Any]], running: bool) -> None:
        """Cancel these calls without a wait for the answers, as `Backend.cancel_all` requires."""
        self._thread.post(CancelRequested([TaskId(future.id) for future in futures], running))

    def cancel_what_waits(self, are_done: Callable[[Iterable[TaskId]], bool], slots: int) -> None:
        """Cancel the calls that have not begun, except those that so many slots can begin now.

        Call this with the backend's lock held. `are_done` tells whether all the given dependencies are done; a call
        that waits for one of its dependencies cannot begin.
        """
        blocked = {task for task, needed in self._pending.dependent() if not are_done(needed)}
        own = self._pending.own()
        self._thread.post(CancelRequested([task for task in own if task in blocked], False))
        self._thread.post(CancelRequested([task for task in own if task not in blocked], False, slots))
