"""Conditions and events that Ctrl-C leaves whole, wherever it comes.

A signal handler runs between two steps of the main thread's Python code, and what it raises goes up from there. The
standard library's Condition enters and leaves `with` by functions in Python: raised at the end of the first or at the
beginning of the second, KeyboardInterrupt leaves the lock taken for ever, and every other thread that comes to it
stands still. Right after `wait` has released the lock it turns into a RuntimeError.
"""

from __future__ import annotations

import threading


class Condition(threading.Condition):
    """A Condition whose `with` statement takes and releases the lock in one step.

    The interpreter looks for the two methods in the class, finds descriptors, and gets the lock's own methods, which
    are none of Python's.
    """

    __slots__ = ("__enter__", "__exit__")

    def __init__(self, lock: threading.RLock | None = None) -> None:
        lock = threading.RLock() if lock is None else lock
        super().__init__(lock)
        self.__enter__ = lock.__enter__  # type: ignore[method-assign]
        self.__exit__ = lock.__exit__  # type: ignore[method-assign]

    def wait(self, timeout: float | None = None) -> bool:
        owned = self._is_owned()  # type: ignore[attr-defined]
        try:
            return super().wait(timeout)
        finally:
            if owned and not self._is_owned():  # type: ignore[attr-defined]
                self.acquire()


class Event(threading.Event):
    """An Event with such a Condition."""

    def __init__(self) -> None:
        super().__init__()
        self._cond = Condition()
