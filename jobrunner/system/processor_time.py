"""How much of a processor a thread has taken, and what that says: whether it goes on, or stands still."""

from __future__ import annotations

import time

LOOK_EVERY = 0.05
"""Seconds between two looks at what may stand still."""

STILL = 0.1
"""Share of the time between two looks up to which a task that is on a processor stands still: it looks now and then."""

MOVING = 0.25
"""Share from which on a task that stood still goes on; more than STILL, so that one in between does not flutter."""


def stands_still(taken: float, passed: float, before: bool) -> bool:
    """Whether what took so many of the seconds that passed stands still. `before`: whether it did already."""
    return taken < passed * (MOVING if before else STILL)


def seconds_of_thread(thread: int) -> float:
    """Processor time of the thread of this process that the kernel knows by this number; 0 if there is none (any more).

    `time.pthread_getcpuclockid` must not be asked for a thread that may have ended. The clock that it would name, on
    Linux, is this one, and the kernel looks whether its thread is still there.
    """
    try:
        return time.clock_gettime((~thread << 3) | 6)
    except OSError:
        return 0.0
