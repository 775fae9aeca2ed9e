"""How long a backend lives: what an Executor, its views and its maps share.

A map goes on submitting after `shutdown` has been called, since its elements were handed over before that. So
the backend is shut down by whoever comes last: `shutdown` itself, or the last map that still had work.
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
    """A map, seen from here."""

    @property
    def idle(self) -> bool:
        """Asked without its lock: false from before it begins anew."""

    def cancel(self) -> None: ...

    def hold(self) -> object: ...


class Lifetime:
    """One open backend. Thread-safe."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self.closed = False
        self._exiting = False
        self._maps: weakref.WeakSet[Cancellable] = weakref.WeakSet()
        self._begin()
        # An Executor that nobody shut down. Pending work still completes, also at the interpreter's exit, so
        # nothing is left to do then (and the backend may be half gone).
        self._finalizer = weakref.finalize(self, backend.shutdown, wait=False)
        self._finalizer.atexit = False

    def _begin(self) -> None:
        """Without any map: at first, and in a process that was forked, where nobody brings the results of a map."""
        self._pid = os.getpid()
        # Reentrant: an iterator that the garbage collector closes may end its map in a thread that is in
        # here.
        self._lock = threading.RLock()
        self._idle = conditions.Condition(self._lock)
        self._busy: set[Cancellable] = set()
        """Maps with unfinished elements. That one begins or ends may be said again, where Ctrl-C came in between."""
        # Called before the backend's own hook, which is older: the backend still takes work.
        finish_before_exit(self.finish, self.kill)

    def _look_for_a_fork(self) -> None:
        if os.getpid() != self._pid:
            self._begin()

    def check_open(self) -> None:
        """Raises RuntimeError after `shutdown`, in the words of the standard library.

        And at the interpreter's exit, but for calls that make calls: what was begun is finished.
        """
        if self.closed or (self._exiting and current_task() is None):
            raise RuntimeError("cannot schedule new futures after shutdown")

    def begin(self, run: Cancellable) -> None:
        """A map has unfinished elements from now on. Raises RuntimeError after `shutdown`."""
        self._look_for_a_fork()
        with self._lock:
            self.check_open()
            self._maps.add(run)
            self._busy.add(run)

    def end(self, run: Cancellable) -> None:
        """A map has no unfinished elements any more, unless it has begun anew meanwhile, which `run.idle` says."""
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
        """At the interpreter's exit: wait for the maps, and take nothing new.

        It might come without end, from a thread that goes on meanwhile. What a call has borrowed is the call's, and the
        exit waits for calls.
        """
        self._look_for_a_fork()
        self._exiting = not isinstance(self.backend, BorrowedBackend)
        self.wait_idle()

    def shutdown(self, wait: bool, cancel_futures: bool) -> None:
        """As `concurrent.futures.Executor.shutdown`; the maps count as work that was handed over."""
        self._look_for_a_fork()
        wait = wait and self.backend.can_wait
        with self._lock:
            self.closed = True
            maps = list(self._maps)
            busy = bool(self._busy)
        if cancel_futures:
            for run in maps:
                run.hold()  # of what the backend has of them, it cancels what it cancels of all calls
        elif busy:
            if not wait:
                return  # the last map shuts the backend down
            self.wait_idle()
        # From now on nothing holds the backend but those who use it.
        self._finalizer.detach()
        self.backend.shutdown(wait, cancel_futures=cancel_futures)

    def kill(self) -> None:
        """Stop everything, within a bound."""
        self._look_for_a_fork()
        with self._lock:
            self.closed = True
            maps = list(self._maps)
        for run in maps:
            run.cancel()
        self.backend.kill()
