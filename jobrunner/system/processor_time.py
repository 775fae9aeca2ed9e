"""The processor time of threads, and the decision whether they proceed or stand still."""

from __future__ import annotations

import time

LOOK_EVERY = 0.05
"""Time in seconds between two checks of threads that may stand still."""

STILL = 0.1
"""Maximum share of the time between two checks with which a task counts as standing still, because it checks something
now and then."""

MOVING = 0.25
"""Minimum share with which a task that stood still counts as proceeding again; it exceeds STILL, so that a value in
between does not alternate."""


def stands_still(taken: float, passed: float, before: bool) -> bool:
    """Return whether a task that took `taken` of `passed` seconds stands still; `before`: whether it did before."""
    return taken < passed * (MOVING if before else STILL)


def seconds_of_thread(thread: int) -> float:
    """Return the processor time of this process's thread with this kernel number; 0 if there is none (any more).

    `time.pthread_getcpuclockid` must not be called for a thread that may have ended. On Linux, the clock that it would
    return is this one, and the kernel checks whether the thread still exists.
    """
    try:
        return time.clock_gettime((~thread << 3) | 6)
    except OSError:
        return 0.0
