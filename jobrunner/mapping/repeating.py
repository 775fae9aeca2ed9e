"""Which elements of a `map` run again after a chunk has ended badly. Pure.

A chunk of several elements is never repeated as a whole: the elements that may run again go into chunks of their own.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from jobrunner.calls.serialization import is_one_of
from jobrunner.errors import TaskLostError, TaskTimeoutError
from jobrunner.mapping.chunking import around, cut
from jobrunner.mapping.spans import Span
from jobrunner.protocol.wire.messages import TaskOptions


class Repetition(NamedTuple):
    """What follows a chunk that has ended without results."""

    again: list[Span]
    """The chunks that are to run instead."""
    failed: int
    """The number of elements, from the first one on, that have failed."""


def options_of(span: Span, options: TaskOptions) -> TaskOptions:
    """Return the options of a chunk: one of several elements is not repeated, and has the time of all of them."""
    count = len(span)
    if count == 1:
        return options if options.retries == span.retries else options._replace(retries=span.retries)
    if options.timeout is not None:
        return options._replace(retries=0, timeout=options.timeout * count)
    return options._replace(retries=0) if options.retries else options


def after_failure(span: Span, failure: BaseException, options: TaskOptions) -> Repetition:
    """Return what follows when a chunk has failed as a whole, in a map that goes on."""
    if len(span) > 1 and isinstance(failure, (TaskLostError, TaskTimeoutError)):
        guilty = getattr(failure, "element", None)
        most = getattr(failure, "detail", {}).get("most_calls")
        if most:  # it has not begun: where it was to run, a process makes so many calls at most
            return Repetition(_parts(span, cut(span.start, span.stop, most), span.retries), 0)
        if options.at_most_once:  # elements that may have run must not run again; later ones have not begun
            begun = span.stop if guilty is None else guilty + 1
            rest = [(begun, span.stop)] if begun < span.stop else []
            return Repetition(_parts(span, rest, span.retries), begun - span.start)
        return Repetition(_parts(span, around(guilty, span.start, span.stop), span.retries), 0)
    if _may_take_longer(span, failure, options):
        return Repetition(_parts(span, [(span.start, span.stop)], span.retries - 1), 0)
    return Repetition([], len(span))


def may_retry(failure: Any, final: bool | None, options: TaskOptions) -> bool:
    """Return whether an element that raised may run again.

    `final` is what was said where it raised; None: nothing was said, and the exception is as it was raised.
    """
    classes = options.retry_on
    return classes is None or (is_one_of(failure, classes) if final is None else not final)


def _may_take_longer(span: Span, failure: BaseException, options: TaskOptions) -> bool:
    """Return whether an element that ran out of time may run again, which its backend took for a chunk."""
    timed_out = span.divided and isinstance(failure, TaskTimeoutError)
    return timed_out and span.retries > 0 and options.retry_timeouts and not options.at_most_once


def _parts(span: Span, parts: list[tuple[int, int]], retries: int) -> list[Span]:
    return [Span(span.pack, start, stop, retries) for start, stop in parts]
