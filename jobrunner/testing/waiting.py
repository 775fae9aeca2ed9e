"""How tests wait: for a condition, and never for a time."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

BOUND = 30.0
"""Seconds after which a wait has failed; one that succeeds takes a fraction of that."""

PAUSE = 0.005
"""Seconds between two looks."""


def until(
    condition: Callable[[], T],
    what: str | Callable[[], str] = "the condition",
    *,
    bound: float = BOUND,
    meanwhile: Callable[[], object] = lambda: time.sleep(PAUSE),
) -> T:
    """Look again and again until `condition()` is true, and return what it gave.

    Raises AssertionError, which names `what`, after `bound` seconds. `meanwhile` is called between two looks: where the
    condition needs the caller to do something, that is done there.
    """
    deadline = time.monotonic() + bound
    while not (value := condition()):
        if time.monotonic() >= deadline:
            raise AssertionError(
                f"{what if isinstance(what, str) else what()} did not come true within {bound:g} s"
            )
        meanwhile()
    return value
