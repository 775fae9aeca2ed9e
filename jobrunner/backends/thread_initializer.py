"""The program's initializer, as the threads of the "threads" backend run it."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any


class ThreadInitializer:
    """The program's initializer, which each thread runs once, before its first call."""

    def __init__(self, initializer: Callable[..., object] | None, initargs: tuple[Any, ...]) -> None:
        self._initializer = initializer
        self._initargs = initargs
        self._thread = threading.local()

    def run(self) -> BaseException | None:
        """Run the initializer, unless this thread has run it; return the exception that it raised, or None."""
        if self._initializer is None or getattr(self._thread, "initialized", False):
            return None
        try:
            self._initializer(*self._initargs)
        except BaseException as exc:
            log = logging.getLogger("concurrent.futures")  # the standard library's pools use this logger
            log.critical("Exception in initializer:", exc_info=True)
            return exc
        self._thread.initialized = True
        return None
