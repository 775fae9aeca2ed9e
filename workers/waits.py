"""What a slot's task waits for: told to the worker where a wait lasts, and where nothing but these calls ends it.

Only waits of this package in the main thread come here (see `jobrunner.nested.wait_hooks`), for only of these it is
known. The worker hears of one that has lasted `TOLD_AFTER`, so that calls of calls that are over soon cost no message.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from jobrunner.nested.wait_hooks import Awaited, AwaitedCalls
from jobrunner.workers.framing import AWAITS
from jobrunner.workers.outbox import Outbox

TOLD_AFTER = 1.0
"""Seconds from the beginning of a wait, and from one look at what it is for to the next."""

MAX_TOLD = 1000
"""Calls. Of a wait for more, where it takes all of them, the others are told as these end."""

NOTHING = Awaited([], True)


class Wait:
    """One that the main thread is in."""

    __slots__ = ("awaited", "look_at")

    def __init__(self, awaited: AwaitedCalls | None, look_at: float) -> None:
        self.awaited = awaited
        self.look_at = look_at


class Waits:
    """The main thread enters waits and leaves them; the control thread looks at the innermost."""

    def __init__(self, outbox: Outbox, clock: Callable[[], float] = time.perf_counter) -> None:
        self._outbox = outbox
        self._clock = clock
        self._open: list[Wait] = []
        self._told = NOTHING
        """What the worker has heard of the task that runs; under the outbox's lock."""

    def enter(self, awaited: AwaitedCalls | None) -> Wait:
        """`awaited`: see `blocking.waiting`."""
        wait = Wait(awaited, self._clock() + TOLD_AFTER)
        self._open.append(wait)
        return wait

    def leave(self, wait: Wait, number: int) -> None:
        """The task `number` has left that wait, and all within it."""
        with self._outbox.lock:
            if wait in self._open:
                del self._open[self._open.index(wait) :]
            self._tell(NOTHING, number)  # of one further out, if there is one, in time

    def interrupted(self) -> None:
        """The task is about to leave waits, and maybe without a word."""
        self._open.clear()

    def end(self) -> None:
        """The task ends, and with it what the worker knows of its waits."""
        if not self._open and self._told is NOTHING:
            return
        with self._outbox.lock:
            self._open.clear()
            self._told = NOTHING

    def look(self, number: int) -> float | None:
        """Tell the worker what the task `number` waits for, if that is due and has changed.

        Returns the seconds after which to look again; None means when a call is submitted.
        """
        wait = self._innermost()
        if wait is None:
            if self._told is not NOTHING:  # an interrupt has kept the main thread from saying so
                with self._outbox.lock:
                    if self._innermost() is None:
                        self._tell(NOTHING, number)
            return None
        now = self._clock()
        if now < wait.look_at:
            return wait.look_at - now
        wait.look_at = now + TOLD_AFTER
        calls = asked(wait)
        with self._outbox.lock:  # the main thread may have left it meanwhile
            if self._innermost() is wait:
                self._tell(calls, number)
        return TOLD_AFTER

    def _innermost(self) -> Wait | None:
        waits = self._open[-1:]  # in one step
        return waits[0] if waits else None

    def _tell(self, calls: Awaited, number: int) -> None:
        """With the lock held."""
        if calls != self._told:
            self._told = calls if calls.calls else NOTHING
            self._outbox.put([AWAITS, [number, *calls]])
            self._outbox.flush()


def asked(wait: Wait) -> Awaited:
    """What it is for; nothing, where that is not known, or is not worth telling."""
    try:
        awaited = None if wait.awaited is None else wait.awaited()
    except Exception:  # it asks objects that the task is at, or that are the task's own
        return NOTHING
    if awaited is None or (len(awaited.calls) > MAX_TOLD and not awaited.every):
        return NOTHING
    return Awaited(awaited.calls[:MAX_TOLD], awaited.every)
