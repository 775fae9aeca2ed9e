"""The lifetime of a backend, which an Executor, its views and its maps share.

A map continues to submit after `shutdown` has been called, because its elements were accepted before that. So the
backend is shut down by `shutdown` itself, or by the end of the last map that still had work.
"""

from __future__ import annotations

import os
import threading
import weakref
from typing import Protocol

from jobrunner.backends.base import Backend
from jobrunner.backends.borrowed import BorrowedBackend
from jobrunner.nested.task_context import current_task
from jobrunner.nested.wait_hooks import waiting
from jobrunner.system import conditions
from jobrunner.system.atexit_hooks import finish_before_exit


class Cancellable(Protocol):
    """The part of a map's interface that a Lifetime uses."""

    @property
    def idle(self) -> bool:
        """Whether the map is idle; it is False before the map begins anew. The map's lock is not needed."""

    def cancel(self) -> None: ...

    def hold(self) -> object: ...


class Lifetime:
    """The lifetime of one open backend. Thread-safe."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self.closed = False
        self._exiting = False
        self._maps: weakref.WeakSet[Cancellable] = weakref.WeakSet()
        self._begin()
        # This is for an Executor that nobody shut down. Pending work still completes, also at the interpreter's exit,
        # so nothing is left to do then, when the backend may be incomplete.
        self._finalizer = weakref.finalize(self, backend.shutdown, wait=False)
        self._finalizer.atexit = False

    def _begin(self) -> None:
        """Begin without any map, at first and in a forked process, where the results of maps do not arrive."""
        self._pid = os.getpid()
        # The lock is reentrant, because an iterator that the garbage collector closes may end its map in a thread that
        # holds it.
        self._lock = threading.RLock()
        self._idle = conditions.Condition(self._lock)
        self._busy: set[Cancellable] = set()
        """The maps with unfinished elements. Their beginning and end may be reported twice, after a Ctrl-C."""
        # This is called before the backend's own hook, which is older, so the backend still takes work.
        finish_before_exit(self.finish, self.kill)

    def _look_for_a_fork(self) -> None:
        if os.getpid() != self._pid:
            self._begin()

    def check_open(self) -> None:
        """Raise RuntimeError after `shutdown`, with the text of the standard library.

        It is also raised at the interpreter's exit, except for calls that make calls, because work that was begun is
        finished.
        """
        if self.closed or (self._exiting and current_task() is None):
            raise RuntimeError("cannot schedule new futures after shutdown")

    def begin(self, run: Cancellable) -> None:
        """Note that a map has unfinished elements from now on. Raises RuntimeError after `shutdown`."""
        self._look_for_a_fork()
        with self._lock:
            self.check_open()
            self._maps.add(run)
            self._busy.add(run)

    def end(self, run: Cancellable) -> None:
        """Note that a map has no unfinished elements any more, unless it has begun anew, as `run.idle` tells."""
        self._look_for_a_fork()
        with self._lock:
            if not run.idle:
                return
            self._busy.discard(run)
            self._idle.notify_all()
            last = self.closed and not self._busy
        if last:
            self._finalizer()

    def wait_idle(self) -> None:
        """Wait until no map has unfinished elements."""
        self._look_for_a_fork()
        with waiting(), self._lock:
            while self._busy:
                self._idle.wait()

    def finish(self) -> None:
        """Wait for the maps at the interpreter's exit, and accept nothing new.

        New work might come without end, from a thread that continues meanwhile. A borrowed backend belongs to a call,
        and the exit waits for calls.
        """
        self._look_for_a_fork()
        self._exiting = not isinstance(self.backend, BorrowedBackend)
        self.wait_idle()

    def shutdown(self, wait: bool, cancel_futures: bool) -> None:
        """Shut down like `concurrent.futures.Executor.shutdown`; the maps count as accepted work."""
        self._look_for_a_fork()
        wait = wait and self.backend.can_wait
        with self._lock:
            self.closed = True
            maps = list(self._maps)
            busy = bool(self._busy)
        if cancel_futures:
            for run in maps:
                # the backend cancels the calls of the map as it does all others
                run.hold()
        elif busy:
            if not wait:
                return  # the last map shuts the backend down
            self.wait_idle()
        # From now on only the users of the backend keep it alive.
        self._finalizer.detach()
        self.backend.shutdown(wait, cancel_futures=cancel_futures)

    def kill(self) -> None:
        """Stop everything within a limited time."""
        self._look_for_a_fork()
        with self._lock:
            self.closed = True
            maps = list(self._maps)
        for run in maps:
            run.cancel()
        self.backend.kill()
