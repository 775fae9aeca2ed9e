"""Calls on threads that wait for calls of their own in a way that tells nobody, as `concurrent.futures.wait` does.

Waits of this package say that they wait, see `blocking`. For others, the calls that a call has submitted are its
*nest*; while one of them is unfinished, a thread looks every now and then whether the one that runs the call stands
still. Only calls that surely are its own count: submitted in its thread, or through its `current_executor()`.
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
    """A call under way and those that it has submitted; made in the thread that runs it."""

    def __init__(self, tell: Callable[[bool], None]) -> None:
        self.still = False
        self._tell = tell
        self._thread = threading.get_native_id()
        self._calls: deque[weakref.ref[Future[Any]]] = deque()  # weakly, for a result may be large
        self._over = False
        self._looked_at = time.perf_counter()
        self._seconds = seconds_of_thread(self._thread)

    def add(self, call: Future[Any]) -> None:
        self._calls.append(weakref.ref(call))

    def end(self) -> None:
        """The call has ended, or is about to."""
        self._over = True

    def has_unfinished(self) -> bool:
        """Whether there is something to look for; forgets what is done."""
        while self._calls and not self._over:
            call = self._calls[0]()
            if call is not None and not call.done():
                return True
            self._calls.popleft()
        return False

    def look(self) -> None:
        """Tell whether the thread stands still, where that has changed."""
        now, seconds = time.perf_counter(), seconds_of_thread(self._thread)
        passed = now - self._looked_at
        if passed < LOOK_EVERY / 2:
            return
        self.set_still(stands_still(seconds - self._seconds, passed, self.still))
        self._looked_at, self._seconds = now, seconds

    def set_still(self, still: bool) -> None:
        if still != self.still and not self._over:  # else the thread may run another call by now
            self.still = still
            self._tell(still)


class Nests:
    """Those of one pool. All is done with the pool's lock held, which has to be reentrant."""

    def __init__(self, lock: threading.RLock) -> None:
        self._lock = lock
        self._nests: list[Nest] = []
        self._news = conditions.Condition(lock)
        self._watcher: threading.Thread | None = None

    def add(self, nest: Nest, call: Future[Any]) -> None:
        """Note a call of that nest, and look after it."""
        with self._lock:
            nest.add(call)
            if nest not in self._nests:
                self._nests.append(nest)
            if self._watcher is None:
                watcher = threading.Thread(target=self._watch, name="jobrunner-nests", daemon=True)
                try:
                    watcher.start()
                except RuntimeError:
                    return  # at the interpreter's end no thread starts, nor would one that stood in
                self._watcher = watcher

    def hurry(self) -> None:
        """Look now: there may be nothing more to look after."""
        with self._lock:
            self._news.notify_all()

    def join(self) -> None:
        """Wait for the end of the thread that looks, once no call runs any more; without the lock."""
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
