"""The earliest of several deadlines; a pure function, which is called for every core in each turn."""

from __future__ import annotations

from collections.abc import Iterable


def earliest(times: Iterable[float | None]) -> float | None:
    """Return the first of these times; None if there are none except None."""
    first = None
    for time in times:
        if time is not None and (first is None or time < first):
            first = time
    return first
