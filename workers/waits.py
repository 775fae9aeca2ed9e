"""Reports to the worker about the waits of a slot's task.

Only waits of this package in the main thread are reported (see `jobrunner.nested.wait_hooks`), because only their
purpose is known, and only those that nothing but the awaited calls can end. The worker hears of a wait that has lasted
`TOLD_AFTER`, so that calls of calls that are over soon cost no message.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from jobrunner.nested.wait_hooks import Awaited, AwaitedCalls
from jobrunner.workers.framing import AWAITS
from jobrunner.workers.outbox import Outbox

TOLD_AFTER = 1.0
"""Time in seconds from the beginning of a wait to its report, and between two looks at its purpose."""

MAX_TOLD = 1000
"""Maximum number of calls in a report; for a wait for more, the others are reported as these end."""

NOTHING = Awaited([], True)


class Wait:
    """A wait of the main thread."""

    __slots__ = ("awaited", "look_at")

    def __init__(self, awaited: AwaitedCalls | None, look_at: float) -> None:
        self.awaited = awaited
        self.look_at = look_at


class Waits:
    """The waits of a task.

    The main thread enters and leaves them, and the control thread looks at the innermost one.
    """

    def __init__(self, outbox: Outbox, clock: Callable[[], float] = time.perf_counter) -> None:
        self._outbox = outbox
        self._clock = clock
        self._open: list[Wait] = []
        self._told = NOTHING
        """The last report about the running task, under the outbox's lock."""

    def enter(self, awaited: AwaitedCalls | None) -> Wait:
        """Enter a wait; `awaited` is the argument of `wait_hooks.waiting`."""
        wait = Wait(awaited, self._clock() + TOLD_AFTER)
        self._open.append(wait)
        return wait

    def leave(self, wait: Wait, number: int) -> None:
        """Leave a wait of the task `number`, and all waits within it."""
        with self._outbox.lock:
            if wait in self._open:
                del self._open[self._open.index(wait) :]
            self._tell(NOTHING, number)  # an enclosing wait, if there is one, is reported at the next look

    def interrupted(self) -> None:
        """Note that the task is about to leave waits, perhaps without a report."""
        self._open.clear()

    def end(self) -> None:
        """End the task, and with it the worker's knowledge of its waits."""
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
            if self._told is not NOTHING:  # an interrupt kept the main thread from reporting it
                with self._outbox.lock:
                    if self._innermost() is None:
                        self._tell(NOTHING, number)
            return None
        now = self._clock()
        if now < wait.look_at:
            return wait.look_at - now
        wait.look_at = now + TOLD_AFTER
        calls = asked(wait)
        with self._outbox.lock:  # the main thread may have left the wait meanwhile
            if self._innermost() is wait:
                self._tell(calls, number)
        return TOLD_AFTER

    def _innermost(self) -> Wait | None:
        waits = self._open[-1:]  # this is atomic
        return waits[0] if waits else None

    def _tell(self, calls: Awaited, number: int) -> None:
        """Send a report; the caller holds the lock."""
        if calls != self._told:
            self._told = calls if calls.calls else NOTHING
            self._outbox.put([AWAITS, [number, *calls]])
            self._outbox.flush()


def asked(wait: Wait) -> Awaited:
    """Return the purpose of a wait, or NOTHING if it is unknown or not worth a report."""
    try:
        awaited = None if wait.awaited is None else wait.awaited()
    except Exception:  # objects of the task are asked, and may raise anything
        return NOTHING
    if awaited is None or (len(awaited.calls) > MAX_TOLD and not awaited.every):
        return NOTHING
    return Awaited(awaited.calls[:MAX_TOLD], awaited.every)
