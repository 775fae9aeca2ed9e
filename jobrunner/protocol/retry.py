"""The consequence of the end of an attempt; pure functions.

There are two separate counts: failures (the user's function raised, or exceeded its time limit), which the option
`retries` limits, and crashes (the process or the worker died), which the crash limit limits. Nothing ever resets
either count, so a task that kills every process comes to an end.
"""

from __future__ import annotations

from typing import Final, Protocol

from jobrunner.protocol.wire.kinds import Bundle
from jobrunner.protocol.wire.messages import CRASHED, ERROR, LOST, TIMED_OUT, CallBody

FINISH: Final = 0
RETRY: Final = 1
"""Run the task again, after `backoff` seconds."""
REQUEUE: Final = 2
"""Run the task again, at once and before others, because it was not at fault, or that is unknown."""

BACKOFF_START = 0.1
"""Default pause in seconds before the second attempt of a task that raised; it doubles for each further attempt."""

BACKOFF_LIMIT = 30.0


def backoff(failures: int, start: float | None = None) -> float:
    """Return the pause in seconds after this number of failures (from 1); `start` is the pause after the first one."""
    if start is None:
        start = BACKOFF_START
    return min(start * 2.0 ** min(failures - 1, 20), max(start, BACKOFF_LIMIT))


class Attempted(Protocol):
    """The facts about a task whose attempt has ended; its counts already include that attempt."""

    failures: int
    crashes: int
    cancel_asked: bool

    @property
    def body(self) -> CallBody: ...

    @property
    def elements(self) -> int: ...


def verdict(record: Attempted, status: int, crash_limit: int, *, final: bool = False) -> int:
    """Return whether the task ends with this outcome, or is run again.

    `final` tells that the exception is not one after which the task may be run again.

    A chunk of several elements is not run again after its process died: the client splits it around the element that
    was running, which costs the other elements one repetition instead of three. A bundle is not run again as a whole,
    either.
    """
    if record.cancel_asked or record.body.options.at_most_once or final:
        return FINISH
    if status == TIMED_OUT and not record.body.options.retry_timeouts:
        return FINISH
    if status in (ERROR, TIMED_OUT):
        return RETRY if record.failures <= record.body.options.retries else FINISH
    if isinstance(record.body.kind, Bundle) or (record.elements > 1 and status == CRASHED):
        return FINISH
    if status in (CRASHED, LOST):
        return REQUEUE if record.crashes < crash_limit else FINISH
    return FINISH
