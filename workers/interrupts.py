"""The task that runs in a slot, and the signal that stops it: SIGINT hits that task, or nothing."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

from jobrunner.workers.bundle import Bundle
from jobrunner.workers.chunk import Chunk
from jobrunner.workers.outbox import Outbox

IMPORTING = "<frozen importlib._bootstrap>"
"""The file of the code that imports modules, as its frames name it."""


class RunningTask:
    """The task that runs in this process, for both threads; only the TaskRunner sets the fields."""

    __slots__ = ("bundle", "chunk", "elements", "fields", "number")

    def __init__(self) -> None:
        self.number = 0
        """The number of the task while it may be interrupted, else 0."""
        self.fields: list[Any] = []
        """The fields of the last RUN entry that was begun."""
        self.bundle: Bundle | None = None
        """The bundle, if the task is one."""
        self.chunk: Chunk | None = None
        """The chunk, if the task is one."""
        self.elements: list[Any] = []
        """The elements of the chunk that have not begun; they are deleted in a process that one of them forks."""


class Interrupts:
    """The interrupts of the running task, at most one per task; `on_interrupt` is called before each.

    The handler runs in the main thread, in which this object has to be created.
    """

    def __init__(self, running: RunningTask, outbox: Outbox, on_interrupt: Callable[[], None]) -> None:
        self._running = running
        self._outbox = outbox
        self._on_interrupt = on_interrupt
        self._main_thread = threading.get_ident()
        self.handler = self.on_sigint
        """The handler of SIGINT as one object, which a task may have replaced."""
        self.target = 0
        """The task that the control thread has sent a signal for, until the signal arrives."""
        self.asked_to_stop = 0
        """The last task that the worker wanted to be interrupted."""
        self.interrupted = 0
        """The last task that was interrupted."""
        self.spoiled = False
        """Whether this process is to run nothing more, because an import was interrupted."""

    def interrupt(self, number: int) -> None:
        """Interrupt the task `number` if it runs; the control thread calls this."""
        if number == self._running.number:
            self.target = self.asked_to_stop = number
            signal.pthread_kill(self._main_thread, signal.SIGINT)

    def on_sigint(self, _signum: int, frame: FrameType | None) -> None:
        if self._outbox.busy:
            self._outbox.postpone_interrupt()
            return
        # If there is a target, the control thread has sent the signal, perhaps too late; otherwise the task itself has.
        target, self.target = self.target, 0
        number = self._running.number
        if not number or number == self.interrupted or target not in (0, number):
            return
        self.interrupted = number
        self._on_interrupt()
        self.spoiled = self.spoiled or imports(frame)
        raise KeyboardInterrupt

    def is_interrupt(self, exc: BaseException) -> bool:
        """Return whether an exception of the running task is its interrupt, and not the task's own."""
        return self.interrupted == self._running.number and isinstance(exc, KeyboardInterrupt)


def imports(frame: FrameType | None) -> bool:
    """Return whether an import has called this code, because an interrupt would leave half-imported modules."""
    while frame is not None:
        if frame.f_code.co_filename == IMPORTING:
            return True
        frame = frame.f_back
    return False
