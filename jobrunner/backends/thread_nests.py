"""Calls on threads that wait for calls of their own without a report of it, as `concurrent.futures.wait` does.

Waits of this package report themselves, see `wait_hooks`. To detect other waits, the calls that a call has submitted
are recorded as its *nest*. While one of them is unfinished, a thread checks at intervals whether the call's thread
stands still. Only calls that certainly belong to it are recorded: those that were submitted in its thread, or through
its `current_executor()`.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from typing import Any

from jobrunner.futures import Future
from jobrunner.system import conditions
from jobrunner.system.processor_time import LOOK_EVERY, seconds_of_thread, stands_still


class Nest:
    """A running call and the calls that it has submitted; created in the thread that runs it."""

    def __init__(self, tell: Callable[[bool], None]) -> None:
        self.still = False
        self._tell = tell
        self._thread = threading.get_native_id()
        # weak references, because a result may be large
        self._calls: deque[weakref.ref[Future[Any]]] = deque()
        self._over = False
        self._looked_at = time.perf_counter()
        self._seconds = seconds_of_thread(self._thread)

    def add(self, call: Future[Any]) -> None:
        self._calls.append(weakref.ref(call))

    def end(self) -> None:
        """Note that the call has ended, or is about to."""
        self._over = True

    def has_unfinished(self) -> bool:
        """Return whether there are unfinished calls, and drop the calls that are done."""
        while self._calls and not self._over:
            call = self._calls[0]()
            if call is not None and not call.done():
                return True
            self._calls.popleft()
        return False

    def look(self) -> None:
        """Check whether the thread stands still, and report a change."""
        now, seconds = time.perf_counter(), seconds_of_thread(self._thread)
        passed = now - self._looked_at
        if passed < LOOK_EVERY / 2:
            return
        self.set_still(stands_still(seconds - self._seconds, passed, self.still))
        self._looked_at, self._seconds = now, seconds

    def set_still(self, still: bool) -> None:
        if still != self.still and not self._over:  # otherwise the thread may run another call by now
            self.still = still
            self._tell(still)


class Nests:
    """The nests of one pool. All work is done with the pool's lock held, which must be reentrant."""

    def __init__(self, lock: threading.RLock) -> None:
        self._lock = lock
        self._nests: list[Nest] = []
        self._news = conditions.Condition(lock)
        self._watcher: threading.Thread | None = None

    def add(self, nest: Nest, call: Future[Any]) -> None:
        """Add a call to a nest, and watch the nest."""
        with self._lock:
            nest.add(call)
            if nest not in self._nests:
                self._nests.append(nest)
            if self._watcher is None:
                watcher = threading.Thread(target=self._watch, name="jobrunner-nests", daemon=True)
                try:
                    watcher.start()
                except RuntimeError:
                    return  # at the interpreter's end no thread starts, and no stand-in would either
                self._watcher = watcher

    def hurry(self) -> None:
        """Have the watching thread check at once, because there may be nothing more to watch."""
        with self._lock:
            self._news.notify_all()

    def join(self) -> None:
        """Wait for the end of the watching thread, once no call runs any more; the lock must not be held."""
        self.hurry()
        watcher = self._watcher
        if watcher is not None and watcher is not threading.current_thread():
            watcher.join()

    def _watch(self) -> None:
        with self._lock:
            while True:
                for nest in [*self._nests]:
                    if nest.has_unfinished():
                        nest.look()
                    else:
                        nest.set_still(False)
                        self._nests.remove(nest)
                if not self._nests:
                    self._watcher = None
                    return
                self._news.wait(LOOK_EVERY)
