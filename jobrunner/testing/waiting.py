"""The way in which tests wait: for a condition, and never for a time."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

BOUND = 30.0
"""Maximum time in seconds of a wait; one that succeeds takes a fraction of that."""

PAUSE = 0.005
"""Time in seconds between two checks."""


def until(
    condition: Callable[[], T],
    what: str | Callable[[], str] = "the condition",
    *,
    bound: float = BOUND,
    meanwhile: Callable[[], object] = lambda: time.sleep(PAUSE),
) -> T:
    """Check repeatedly until `condition()` is true, and return its result.

    Raises AssertionError, which names `what`, after `bound` seconds. `meanwhile` is called between two checks, for
    conditions that need the caller to do something.
    """
    deadline = time.monotonic() + bound
    while not (value := condition()):
        if time.monotonic() >= deadline:
            raise AssertionError(
                f"{what if isinstance(what, str) else what()} did not come true within {bound:g} s"
            )
        meanwhile()
    return value
