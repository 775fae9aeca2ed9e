"""The ties of a slot's process to its worker: the process never outlives the worker, whatever its task is doing."""

from __future__ import annotations

import fcntl
import os
import resource
import signal
import sys
from typing import NoReturn

from jobrunner.workers.streams import flush_quietly

PR_SET_PDEATHSIG = 1
FAILED = 70
"""Exit code if the slot itself fails; EX_SOFTWARE of sysexits.h."""


def die() -> NoReturn:
    """End this process and all processes that its task has started, because the worker is gone."""
    os.killpg(0, signal.SIGKILL)
    os._exit(FAILED)


def fail() -> NoReturn:
    """Report on a working descriptor that the slot itself is broken, and exit."""
    import traceback

    os.write(2, traceback.format_exc().encode(errors="replace"))
    os._exit(FAILED)


def end_fork(*, failed: bool) -> NoReturn:
    """End a process that a task has forked and in which the task has returned, too: it must not go on as a slot."""
    for stream in (sys.stdout, sys.stderr):
        flush_quietly(stream)
    os._exit(1 if failed else 0)


def tie_group_to(lifeline: int) -> None:
    """Make the kernel kill this process group when the worker's end of the pipe `lifeline` closes.

    This needs neither a thread nor the GIL, and it reaches the processes that the task has started. Only Linux can do
    this; elsewhere the control thread does it when the task releases the GIL.
    """
    if sys.platform == "linux":
        fcntl.fcntl(lifeline, fcntl.F_SETOWN, -os.getpgrp())
        fcntl.fcntl(lifeline, fcntl.F_SETSIG, signal.SIGKILL)
        fcntl.fcntl(lifeline, fcntl.F_SETFL, fcntl.fcntl(lifeline, fcntl.F_GETFL) | os.O_ASYNC)


def die_with_parent(parent: int) -> None:
    """Make this process die with its parent, even if a fork of the worker holds its sockets and the lifeline open."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        die()


def out_of_the_way(fd: int) -> int:
    """Move `fd` to a high number, where a task that closes or replaces low descriptors does not affect it."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    base = 1000 if limit == resource.RLIM_INFINITY else min(1000, limit - 32)
    moved = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, base)
    os.close(fd)
    return moved
