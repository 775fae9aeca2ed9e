"""The earliest of several deadlines; pure. Every core is asked for its next one in each turn."""

from __future__ import annotations

from collections.abc import Iterable


def earliest(times: Iterable[float | None]) -> float | None:
    """The first of these times; None where all are None, or there are none."""
    first = None
    for time in times:
        if time is not None and (first is None or time < first):
            first = time
    return first
