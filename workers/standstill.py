"""Detection of a task that stands still while calls of its own are unfinished.

A task that waits for a call of its own yields its slot, or the call might never begin. Waits of this package report
themselves (see `jobrunner.nested.wait_hooks`). Others do not: `concurrent.futures.wait`, `asyncio.wrap_future`, a
thread of the task's own, a loop of short sleeps. In all of these the process does nothing for some time while calls
that the task has submitted are unfinished, and this module detects that.

The threads that exchange messages about these calls (that of the connection, those of ZeroMQ) are no sign of progress
of the task, and their time is not counted.
"""

from __future__ import annotations

import os
import sys
import threading
import time
import weakref
from collections.abc import Callable

from jobrunner.nested.wait_hooks import Caller
from jobrunner.system.processor_time import LOOK_EVERY, seconds_of_thread, stands_still

OWN_THREADS = "jobrunner-"
"""The prefix of the names of this package's own threads."""

ZEROMQ_THREADS = b"ZMQbg/"
"""The prefix of the names of ZeroMQ's threads, which are not Python's."""


class Standstill:
    """The detector; the control thread calls `look`.

    The main thread reports each task that begins, and any thread reports calls that are submitted. `clock` and
    `seconds` return the time and the processor time of the task.
    """

    def __init__(
        self,
        wake: Callable[[], object],
        clock: Callable[[], float] | None = None,
        seconds: Callable[[], float] | None = None,
    ) -> None:
        self.task = 0
        """The task that stood still at the last look; 0 if none did."""
        self._wake = wake
        self._clock = clock or time.perf_counter
        self._seconds_of_the_task = seconds or seconds_of_the_task
        self._lock = threading.Lock()
        self._callers: weakref.WeakSet[Caller] = weakref.WeakSet()
        self._earlier: frozenset[str] = frozenset()
        """The unfinished calls of earlier tasks in this process, for which nobody here waits."""
        self._looking = False
        self._number = 0
        """The task of the last look, which was at `_looked_at`, when the task had used `_seconds` of processor
        time."""
        self._looked_at = 0.0
        self._seconds = 0.0

    def watch(self, caller: Caller) -> None:
        """Note that the caller has its first unfinished call."""
        with self._lock:
            self._callers.add(caller)
            wake, self._looking = not self._looking, True
        if wake:
            self._wake()

    def begin(self) -> None:
        """Note that a task begins, so that the calls which are unfinished now are not its own."""
        if self._callers:
            self._earlier = self._unfinished()

    def look(self, number: int) -> float | None:
        """Look at the task `number` (0 if none runs); return the seconds until the next look, or None to be woken."""
        if not self._looking:
            return None
        now = self._clock()
        passed = now - self._looked_at
        if number == self._number and passed < LOOK_EVERY:
            return LOOK_EVERY - passed
        with self._lock:  # a call that is submitted after this wakes the control thread again
            self._looking = False
        unfinished = self._unfinished()
        if not unfinished:
            self.task = self._number = 0
            return None
        self._looking = True
        seconds = self._seconds_of_the_task()
        still = number == self._number and stands_still(
            seconds - self._seconds, passed, before=self.task == number
        )
        self.task = number if still and not unfinished <= self._earlier else 0
        self._number, self._looked_at, self._seconds = number, now, seconds
        return LOOK_EVERY

    def _unfinished(self) -> frozenset[str]:
        with self._lock:
            callers = list(self._callers)
        return frozenset(call for caller in callers for call in caller.unfinished_calls())


def seconds_of_the_task() -> float:
    """Return the processor time of this process without the calling thread and threads that carry messages."""
    seconds = time.process_time() - time.thread_time()
    return seconds - sum(map(seconds_of_thread, message_threads()))


def message_threads() -> set[int]:
    """Return the kernel's numbers of this package's threads and ZeroMQ's, without the calling one."""
    if sys.platform != "linux":
        return set()
    found = {
        each.native_id
        for each in threading.enumerate()
        if each.name.startswith(OWN_THREADS) and each.native_id is not None
    }
    for thread in os.listdir("/proc/self/task") if os.path.isdir("/proc/self/task") else ():
        try:
            with open(f"/proc/self/task/{thread}/comm", "rb") as file:
                if file.read().startswith(ZEROMQ_THREADS):
                    found.add(int(thread))
        except OSError:
            pass  # the thread has ended
    return found - {threading.get_native_id()}
