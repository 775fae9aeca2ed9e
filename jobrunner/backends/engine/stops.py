"""The stop of a call that runs in the main thread of an engine's worker, by its time limit or an interrupt.

A signal handler raises KeyboardInterrupt in the call. A call that swallows it is interrupted again each second, and in
the end its process is killed. If the call holds the interpreter's lock, the timer of faulthandler, which does not need
the lock, ends the process.
"""

from __future__ import annotations

import faulthandler
import os
import signal
import threading
from types import FrameType, TracebackType
from typing import Any

AGAIN = 1.0
"""Time in seconds between two interruptions."""

INTERRUPTIONS = 3
"""Number of interruptions after which the process is killed."""


class Stops:
    """A context manager around a call, which stops the call."""

    def __init__(self, timeout: float | None = None, *, install: bool = True) -> None:
        self.asked = False
        """Whether the call was asked to stop."""
        self.timed_out = False
        self._timeout = timeout
        self._install = install and threading.current_thread() is threading.main_thread()
        self._over = False
        self._interruptions = 0
        self._before: dict[int, Any] = {}

    @classmethod
    def none(cls) -> Stops:
        """Return the stops of a call that cannot be stopped."""
        return cls(install=False)

    def __enter__(self) -> None:
        if not self._install:
            return
        self._before[signal.SIGINT] = signal.signal(signal.SIGINT, self._on_interrupt)
        if self._timeout is not None:
            self._before[signal.SIGALRM] = signal.signal(signal.SIGALRM, self._on_alarm)
            last = self._timeout + AGAIN * (INTERRUPTIONS + 1)
            faulthandler.dump_traceback_later(last, exit=True)
            signal.setitimer(signal.ITIMER_REAL, self._timeout, AGAIN)

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over = True  # this comes first, because a handler may be called at each of the next lines
        if not self._install:
            return
        if self._timeout is not None:
            signal.setitimer(signal.ITIMER_REAL, 0)
            faulthandler.cancel_dump_traceback_later()
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _on_interrupt(self, _signum: int, _frame: FrameType | None) -> None:
        if self._over:
            return
        self.asked = True
        raise KeyboardInterrupt

    def _on_alarm(self, _signum: int, _frame: FrameType | None) -> None:
        if self._over:
            return
        self.asked = self.timed_out = True
        self._interruptions += 1
        if self._interruptions > INTERRUPTIONS:
            os._exit(1)
        raise KeyboardInterrupt
