"""Whether a slot has yielded its turn: the worker hears when the running task waits for calls, and when it goes on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from jobrunner.nested.wait_hooks import AwaitedCalls
from jobrunner.workers.framing import BLOCKED
from jobrunner.workers.interrupts import RunningTask
from jobrunner.workers.outbox import Outbox
from jobrunner.workers.standstill import Standstill
from jobrunner.workers.waits import Waits


class Yielding:
    """The turn of a slot, which its task yields while it waits; `wake` wakes the control thread."""

    def __init__(self, running: RunningTask, outbox: Outbox, wake: Callable[[], object]) -> None:
        self._running = running
        self._outbox = outbox
        self.standstill = Standstill(wake)
        self.waits = Waits(outbox)
        self._nested = 0
        """The number of waits that the main thread is in."""
        self.told = False
        """Whether the worker was told that the turn is free; under the outbox's lock."""

    @contextmanager
    def waiting(self, awaited: AwaitedCalls | None = None) -> Iterator[None]:
        """Yield the turn during a wait of the main thread; this is the hook of `wait_hooks`."""
        self._nested += 1
        wait = self.waits.enter(awaited)
        try:
            self.tell()
            yield
        finally:
            if not self._outbox.forked:  # a thread that the fork lacks may have held the lock
                self.waits.leave(wait, self._running.number)
            self._nested = max(0, self._nested - 1)  # the wait may be that of an earlier task
            self.tell()

    def look(self, number: int) -> list[float | None]:
        """Look at the task `number`, in the control thread; return the times in seconds until the next looks."""
        times = [self.standstill.look(number), self.waits.look(number)]
        self.tell()
        return times

    def take_back(self) -> None:
        """Take the turn back from a task that stood still to its end, or has left a wait open."""
        self._nested = 0
        self.tell()

    def tell(self) -> None:
        """Tell the worker whether the turn is free, if that has changed."""
        if self._outbox.forked:
            return
        with self._outbox.lock:
            number = self._running.number
            free = self._nested > 0 or (number > 0 and self.standstill.task == number)
            if free != self.told:
                self.told = free  # this comes first, so that an interrupt between the two lines does no harm
                self._outbox.tell([BLOCKED, int(free)])
