"""A wakeup for a thread that sleeps in a poll: a file descriptor that becomes readable."""

from __future__ import annotations

import os

from jobrunner.system import forks


class Wakeup:
    """A descriptor that wakes a poll; any thread and any signal handler may call `set`."""

    def __init__(self) -> None:
        self._read, self._write = os.pipe()
        os.set_blocking(self._read, False)
        os.set_blocking(self._write, False)
        self._open = True
        # Reentrant, for a signal handler that comes while this thread is in `set`.
        self._lock = forks.lock()

    def fileno(self) -> int:
        return self._read

    def set(self) -> None:
        with self._lock:  # a closed descriptor's number may by now be somebody else's file
            if self._open:
                try:
                    os.write(self._write, b"\0")
                except BlockingIOError:
                    pass  # full: it is set already

    def clear(self) -> None:
        try:
            while len(os.read(self._read, 4096)) == 4096:
                pass
        except BlockingIOError:
            pass

    def close(self) -> None:
        with self._lock:
            if self._open:
                self._open = False
                os.close(self._read)
                os.close(self._write)
