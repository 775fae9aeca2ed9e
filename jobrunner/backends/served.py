"""The backends of this process that tasks can join, by address.

A Future or an Executor that comes back from a task is unpickled in the thread that serves the tasks. It must not
connect to itself there: nobody would answer.
"""

from __future__ import annotations

import os
import weakref

from jobrunner.backends.base import Backend

_served: weakref.WeakValueDictionary[tuple[int, str], Backend] = weakref.WeakValueDictionary()
"""By process, too: in a forked child the parent's are backends of another process."""


def serve(address: str, backend: Backend) -> None:
    """Tasks can join `backend` there, from now on."""
    _served[os.getpid(), address] = backend


def served(address: str) -> Backend | None:
    """The backend of this process that tasks join there."""
    return _served.get((os.getpid(), address))
