"""The backends of this process that tasks can join, by address.

A Future or an Executor that comes back from a task is unpickled in the thread that serves the tasks. That thread must
not connect to itself, because it would wait for its own answer.
"""

from __future__ import annotations

import os
import weakref

from jobrunner.backends.base import Backend

_served: weakref.WeakValueDictionary[tuple[int, str], Backend] = weakref.WeakValueDictionary()
"""The backends by process and address, because in a forked child the parent's belong to another process."""


def serve(address: str, backend: Backend) -> None:
    """Let tasks join `backend` at this address from now on."""
    _served[os.getpid(), address] = backend


def served(address: str) -> Backend | None:
    """Return the backend of this process that tasks join at this address, or None."""
    return _served.get((os.getpid(), address))
