"""What follows the end of an attempt; pure.

Two counts, kept apart: failures (the user's function raised, or ran out of time), which the option `retries` allows;
and crashes (the process or the worker died), which the crash limit allows. Nothing ever resets either count, so a task
that kills whatever it touches comes to an end.
"""

from __future__ import annotations

from typing import Final, Protocol

from jobrunner.protocol.wire.messages import CRASHED, ERROR, LOST, TIMED_OUT, Span, TaskOptions

FINISH: Final = 0
RETRY: Final = 1
"""Again, after `backoff` seconds."""
REQUEUE: Final = 2
"""Again, at once and before others: it was not its fault, or we cannot know."""

BACKOFF_START = 0.1
"""Seconds before the second attempt of a task that raised; doubled for each further one."""

BACKOFF_LIMIT = 30.0


def backoff(failures: int, start: float | None = None) -> float:
    """Seconds to wait after the given number of failures (from 1); `start` after the first of them."""
    if start is None:
        start = BACKOFF_START
    return min(start * 2.0 ** min(failures - 1, 20), max(start, BACKOFF_LIMIT))


class Attempted(Protocol):
    """What is asked of a task whose attempt has ended; its counts already include that attempt."""

    options: TaskOptions
    span: Span
    failures: int
    crashes: int
    cancel_asked: bool

    @property
    def elements(self) -> int: ...


def verdict(record: Attempted, status: int, crash_limit: int, *, final: bool = False) -> int:
    """Whether the task ends with this outcome.

    `final`: the exception is none after which it may be tried again.

    A chunk of several elements is not run again after its process died: the client splits it around the element that
    was running, which costs the others one repetition instead of three. A bundle is not run again as one either.
    """
    if record.cancel_asked or record.options.at_most_once or final:
        return FINISH
    if status == TIMED_OUT and not record.options.retry_timeouts:
        return FINISH
    if status in (ERROR, TIMED_OUT):
        return RETRY if record.failures <= record.options.retries else FINISH
    if isinstance(record.span, int) or (record.elements > 1 and status == CRASHED):
        return FINISH
    if status in (CRASHED, LOST):
        return REQUEUE if record.crashes < crash_limit else FINISH
    return FINISH
