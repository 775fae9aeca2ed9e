"""What ties a slot's process to its worker: it must never outlive it, whatever its task is doing."""

from __future__ import annotations

import fcntl
import os
import resource
import signal
import sys
from typing import NoReturn

PR_SET_PDEATHSIG = 1
FAILED = 70
"""Exit code when the slot itself fails; EX_SOFTWARE of sysexits.h."""


def die() -> NoReturn:
    """The worker is gone: end this process and all that its task has started."""
    os.killpg(0, signal.SIGKILL)
    os._exit(FAILED)


def fail() -> NoReturn:
    """The slot itself is broken: say why on the descriptor that still works, and leave."""
    import traceback

    os.write(2, traceback.format_exc().encode(errors="replace"))
    os._exit(FAILED)


def tie_group_to(lifeline: int) -> None:
    """Have the kernel kill this process group when the worker's end of the pipe `lifeline` closes.

    It needs neither a thread nor the GIL, and reaches what the task has started too. Only Linux can;
    elsewhere the control thread does it, as soon as the task releases the GIL.
    """
    if sys.platform == "linux":
        fcntl.fcntl(lifeline, fcntl.F_SETOWN, -os.getpgrp())
        fcntl.fcntl(lifeline, fcntl.F_SETSIG, signal.SIGKILL)
        fcntl.fcntl(lifeline, fcntl.F_SETFL, fcntl.fcntl(lifeline, fcntl.F_GETFL) | os.O_ASYNC)


def die_with_parent(parent: int) -> None:
    """For the case that a process which the worker forked holds its sockets and the lifeline open."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        die()


def out_of_the_way(fd: int) -> int:
    """Move `fd` to a high number, where a task that closes or replaces low descriptors does not hit it."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    base = 1000 if limit == resource.RLIM_INFINITY else min(1000, limit - 32)
    moved = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, base)
    os.close(fd)
    return moved
