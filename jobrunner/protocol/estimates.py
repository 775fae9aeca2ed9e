"""Estimates of the duration of a function's calls; pure functions."""

from __future__ import annotations

ESTIMATE_DECAY = 0.9
"""The factor by which the estimate shrinks per shorter call; the estimate is the largest recent duration."""


def updated_estimate(estimate: float, duration: float) -> float:
    """Return the next estimate of a call's duration in seconds.

    It is deliberately high: one long call stops the batching of short ones.
    """
    return max(duration, estimate * ESTIMATE_DECAY)
