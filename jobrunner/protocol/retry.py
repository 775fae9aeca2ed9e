"""The consequence of the end of an attempt; pure functions.

There are two separate counts: failures (the user's function raised, or exceeded its time limit), which the option
`retries` limits, and crashes (the process or the worker died), which the crash limit limits. Nothing ever resets
either count, so a task that kills every process comes to an end.
"""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple, TypeAlias

from jobrunner.protocol.wire.kinds import Bundle, Kind
from jobrunner.protocol.wire.messages import CRASHED, ERROR, LOST, TIMED_OUT, Status, TaskOptions


class Consequence(Enum):
    """The consequences that need no further word."""

    FINISH = 0
    """The task ends with this outcome."""
    REQUEUE = 1
    """Run the task again, at once and before others, because it was not at fault, or that is unknown."""


FINISH, REQUEUE = Consequence


class RetryAfter(NamedTuple):
    """Run the task again, after a pause in seconds."""

    seconds: float


Verdict: TypeAlias = "Consequence | RetryAfter"

BACKOFF_START = 0.1
"""Default pause in seconds before the second attempt of a task that raised; it doubles for each further attempt."""

BACKOFF_LIMIT = 30.0


def backoff(failures: int, start: float | None = None) -> float:
    """Return the pause in seconds after this number of failures (from 1); `start` is the pause after the first one."""
    if start is None:
        start = BACKOFF_START
    return min(start * 2.0 ** min(failures - 1, 20), max(start, BACKOFF_LIMIT))


def decide(
    options: TaskOptions,
    status: Status,
    *,
    failures: int = 0,
    crashes: int = 0,
    crash_limit: int = 1,
    final: bool = False,
    splits: bool = False,
) -> Verdict:
    """Return what follows the end of an attempt.

    Args:
        options: The options of the task.
        status: The status of the attempt's outcome, which is not a result.
        failures: The number of failures, including this one.
        crashes: The number of crashes, including this one.
        crash_limit: The number of crashes at which a task ends.
        final: Whether this outcome rules out another attempt: the exception is not one after which the task may be
            run again, or the task was to be cancelled.
        splits: Whether whoever has submitted the task splits it after this outcome, see `is_split_after`.
    """
    if options.at_most_once or final:
        return FINISH
    if status == TIMED_OUT and not options.retry_timeouts:
        return FINISH
    if status in (ERROR, TIMED_OUT):
        return RetryAfter(backoff(failures, options.backoff)) if failures <= options.retries else FINISH
    if status in (CRASHED, LOST) and not splits:
        return REQUEUE if crashes < crash_limit else FINISH
    return FINISH


def is_split_after(status: Status, kind: Kind, elements: int) -> bool:
    """Return whether a client splits a task after this outcome, instead of having it run again as a whole.

    After the death of its process it splits a chunk around the element that was running, which costs the other
    elements one repetition instead of three. A bundle is not run again as a whole, either.
    """
    return isinstance(kind, Bundle) or (elements > 1 and status == CRASHED)
