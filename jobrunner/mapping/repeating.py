"""Which elements of a `map` run again after a chunk has ended badly. Pure.

A chunk of several elements is never repeated as a whole: the elements that may run again go into chunks of their own.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from jobrunner.calls.serialization import is_one_of
from jobrunner.errors import TaskLostError, TaskTimeoutError
from jobrunner.mapping.chunking import around, cut
from jobrunner.mapping.spans import Span
from jobrunner.protocol.retry import FINISH, Verdict, decide
from jobrunner.protocol.wire.messages import ERROR, TIMED_OUT, TaskOptions


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


def after_raising(span: Span, failure: Any, final: bool | None, options: TaskOptions) -> Verdict:
    """Return what follows when an element of a chunk has raised; if it runs again, then in a chunk of its own.

    `final` is what was said where it raised; None: nothing was said, and the exception is as it was raised.
    """
    if options.retry_on is None:
        final = False
    elif final is None:
        final = not is_one_of(failure, options.retry_on)
    return decide(options, ERROR, failures=_failures(span, options), final=final)


def _may_take_longer(span: Span, failure: BaseException, options: TaskOptions) -> bool:
    """Return whether an element that ran out of time may run again, which its backend took for a chunk."""
    if not span.divided or not isinstance(failure, TaskTimeoutError):
        return False
    return decide(options, TIMED_OUT, failures=_failures(span, options)) is not FINISH


def _failures(span: Span, options: TaskOptions) -> int:
    """Return how often each element of a chunk has failed, the present failure included."""
    return options.retries - span.retries + 1


def _parts(span: Span, parts: list[tuple[int, int]], retries: int) -> list[Span]:
    return [Span(span.pack, start, stop, retries) for start, stop in parts]
