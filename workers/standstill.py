"""Whether a slot's task stands still while calls of its own are unfinished.

A task that waits for a call of its own yields its slot, or the call might never begin. Waits of this package say so
themselves (see `jobrunner.nested.wait_hooks`). Others do not: `concurrent.futures.wait`, `asyncio.wrap_future`, a
thread of the task's own, a loop of short sleeps. They have in common that time passes in which the process does
nothing, while calls that the task has submitted are unfinished; so that is what is looked for.

What this process needs to exchange messages about these calls (the thread of the connection, those of ZeroMQ) is no
progress of the task, and does not count.
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
"""What the names of this package's own threads begin with."""

ZEROMQ_THREADS = b"ZMQbg/"
"""As OWN_THREADS, of ZeroMQ's: they are none of Python's."""


class Standstill:
    """The control thread looks; the main thread tells of each task that begins, any thread of calls that are submitted.

    `clock` and `seconds` give the time and the processor time of the task.
    """

    def __init__(
        self,
        wake: Callable[[], object],
        clock: Callable[[], float] | None = None,
        seconds: Callable[[], float] | None = None,
    ) -> None:
        self.task = 0
        """The task that stood still when it was last looked at; 0: none."""
        self._wake = wake
        self._clock = clock or time.perf_counter
        self._seconds_of_the_task = seconds or seconds_of_the_task
        self._lock = threading.Lock()
        self._callers: weakref.WeakSet[Caller] = weakref.WeakSet()
        self._earlier: frozenset[str] = frozenset()
        """Unfinished calls of earlier tasks in this process; nobody waits for them here."""
        self._looking = False
        self._number = 0
        """The task that was looked at last, at `_looked_at`, when it had taken `_seconds` of processors."""
        self._looked_at = 0.0
        self._seconds = 0.0

    def watch(self, caller: Caller) -> None:
        """It has an unfinished call, and had none before."""
        with self._lock:
            self._callers.add(caller)
            wake, self._looking = not self._looking, True
        if wake:
            self._wake()

    def begin(self) -> None:
        """A task begins. What is unfinished now is none of its calls."""
        if self._callers:
            self._earlier = self._unfinished()

    def look(self, number: int) -> float | None:
        """Look at the task `number`, 0 if none runs. After how many seconds to come again; None: when woken."""
        if not self._looking:
            return None
        now = self._clock()
        passed = now - self._looked_at
        if number == self._number and passed < LOOK_EVERY:
            return LOOK_EVERY - passed
        with self._lock:  # a call that is submitted from here on wakes again
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
    """Processor time of this process without the calling thread's, and others' that only carry messages."""
    seconds = time.process_time() - time.thread_time()
    return seconds - sum(map(seconds_of_thread, message_threads()))


def message_threads() -> set[int]:
    """The kernel's numbers of this package's threads and ZeroMQ's, but for the calling one."""
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
            pass  # it has ended
    return found - {threading.get_native_id()}
