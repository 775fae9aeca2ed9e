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


def until(condition: Callable[[], T], what: str = "the condition", *, bound: float = BOUND) -> T:
    """Look again and again until `condition()` is true, and return what it gave.

    Raises AssertionError, which names `what`, after `bound` seconds.
    """
    deadline = time.monotonic() + bound
    while not (value := condition()):
        assert time.monotonic() < deadline, f"{what} did not come true within {bound:g} s"
        time.sleep(PAUSE)
    return value
